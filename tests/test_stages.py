"""The whole pipeline on a crumb of the real data: real commands, real `dvc repro`, in a temporary clone."""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from pipeline import ROOT, dvc, edit_params, run, run_commands

from stages.lib.errors import UserError


def test_every_declared_output_is_written_and_no_other(finished: Path) -> None:
    lock = yaml.safe_load((finished / "dvc.lock").read_text())["stages"]
    declared = {out["path"] for stage in lock.values() for out in stage.get("outs", [])}
    written = {path.relative_to(finished) for path in (finished / "data").rglob("*") if path.is_file()}
    outputs = {str(path) for path in written if not {str(path), *map(str, path.parents)} & declared}
    undeclared = {path for path in outputs if not path.startswith(("data/timing/", "data/running/"))}
    assert {path for path in declared if not (finished / path).exists()} == set()
    assert undeclared - {"data/recorded_times.json", "data/leave_out.csv"} == set()


def test_a_users_settings_of_keras_and_matplotlib_change_no_model_and_no_picture(copy: Path, tmp_path: Path) -> None:
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras/keras.json").write_text('{"image_data_format": "channels_first", "floatx": "float16"}')
    (tmp_path / "matplotlibrc").write_text("savefig.dpi: 50\ntext.usetex: True\n")
    variables = {"KERAS_HOME": ".keras", "MPLCONFIGDIR": "", "MATPLOTLIBRC": "matplotlibrc"}
    settings = [f"HOME={tmp_path}", *(f"{name}={tmp_path / path}" for name, path in variables.items())]
    outputs = [copy / "data/train/tiny-none/42/model.h5", copy / "data/preview/none.png"]
    before = [path.read_bytes() for path in outputs]
    for stage in ("train tiny none 42", "preview none"):
        run(copy, "env", *settings, "python", "-m", *f"stages.{stage}".split())
    assert [path.read_bytes() for path in outputs] == before


def test_second_repro_runs_nothing(finished: Path) -> None:
    assert "Data and pipelines are up to date" in dvc(finished, "repro")


@pytest.fixture(scope="module")
def again(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Is a fresh clone of the finished one in which the whole pipeline has run anew."""
    base = tmp_path_factory.mktemp("again")
    first = Path(shutil.copytree(finished, base / "first", symlinks=True))
    (first / "a_change").touch()
    run(first, "git", "add", "a_change")
    run_commands(first, "again")
    return base / "again"


def test_same_commit_gives_the_same_bytes(again: Path) -> None:
    assert (again / "dvc.lock").read_text() == (again.parent / "first/dvc.lock").read_text()


def test_a_run_leaves_git_clean(again: Path) -> None:
    assert run(again, "git", "status", "--porcelain") == ""


def test_tables_of_the_guides_are_renewed_from_a_run(copy: Path) -> None:
    shutil.copy(ROOT / "data/README.md", copy / "data")
    run_commands(copy, "renew-tables")
    assert "tiny" in (copy / "README.md").read_text()


def test_shorter_list_of_models_is_chosen_from_anew_without_training(copy: Path) -> None:
    chosen = json.loads((copy / "data/select_model/choice.json").read_text())["model"]
    (other,) = {"tiny", "thin"} - {chosen}
    edit_params(copy, study={"models": [other]})
    printed = dvc(copy, "repro", "select_model")
    assert "stages.train" not in printed
    assert json.loads((copy / "data/select_model/choice.json").read_text())["model"] == other
    assert chosen not in (copy / "data/select_model/comparison.csv").read_text()


def test_another_seed_is_trained_beside_the_first_and_the_mean_is_chosen_by(copy: Path) -> None:
    edit_params(copy, study={"models": ["tiny"], "augmentations": ["none"], "seeds": [42, 7]})
    printed = dvc(copy, "repro", "select_model")
    assert re.findall(r"^> python -m stages\.(train .*)$", printed, re.M) == ["train tiny none 7"]
    accuracies = [
        json.loads((copy / f"data/train/tiny-none/{seed}/metrics.json").read_text())["val_accuracy"] for seed in (42, 7)
    ]
    found = json.loads((copy / "data/select_model/metrics.json").read_text())
    assert (found["seeds"], found["val_accuracy"]) == ("42 7", pytest.approx(sum(accuracies) / 2, abs=1e-6))


def test_experiment_writes_small_numbers_that_a_stage_reads_as_numbers(copy: Path) -> None:
    dvc(copy, "exp", "run", "--set-param", "train.learning_rate=0.00001", "validate")
    assert "1e-05" in (copy / "params.yaml").read_text()


def test_unknown_name_in_the_study_stops_before_any_work(copy: Path) -> None:
    edit_params(copy, study={"models": ["tiny", "thinn"]})
    printed = dvc(copy, "repro", status=255)
    assert "study.models: unknown name 'thinn'; did you mean 'thin'?" in printed
    assert "Traceback" not in printed
    assert "stages.prepare" not in printed


def test_metrics_of_the_comparison_are_numbers_and_words(finished: Path) -> None:
    shown = json.loads(dvc(finished, "metrics", "show", "--json").partition("\n")[0])
    metrics = shown[""]["data"]["data/compare/metrics.json"]["data"]
    assert {
        "chosen",
        "test_accuracy",
        "finished_test_accuracy",
        "pruned_lamp_0.5_test_accuracy",
        "pruned_magnitude-0.5-cost_0.5_test_accuracy",
        "shipped_gzip_size_bytes",
    } <= set(metrics)
    assert all(isinstance(value, str | int | float) for value in metrics.values())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("train", "tinny", "none", "42"), "model: unknown name 'tinny'; did you mean 'tiny'?"),
        (("train", "tiny", "none", "43"), "seed: unknown name '43'; known: 42"),
        (("finish", "43"), "seed: unknown name '43'; known: 42"),
        (("evaluate", "tiny-nine", "42"), "candidate: unknown name 'tiny-nine'; did you mean 'tiny-none'?"),
        (("prune", "finished-lamb", "42"), "ladder: unknown name 'finished-lamb'; did you mean 'finished-lamp'?"),
        (("prune", "magnitude-0.5-lamp", "42"), "did you mean 'magnitude-0.5-cost'?"),
        (("shrink", "norm", "42"), "filters: unknown name 'norm'"),
        (("export", "evaluate"), "source: unknown name 'evaluate'"),
        (("complexity", "huge"), "model: unknown name 'huge'"),
    ],
)
def test_unknown_name_on_the_command_line_is_one_clear_message(
    finished: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(finished)
    monkeypatch.setattr(sys, "argv", list(command))
    main = importlib.import_module(f"stages.{command[0]}").main
    with pytest.raises(UserError, match=re.escape(message)):
        main()
