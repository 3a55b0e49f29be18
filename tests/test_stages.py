"""The whole pipeline on a crumb of the real data: real commands, real `dvc repro`, in a temporary clone."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from pipeline import MODELS, commit, dvc, edit_params, list_stages_to_run, make_clone, run
from test_pipeline import OUTPUTS_OUTSIDE_DVC


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a clone in which the whole pipeline has run, committed. Tests leave it as they find it."""
    folder = tmp_path_factory.mktemp("pipeline") / "clone"
    make_clone(folder)
    dvc(folder, "repro")
    commit(folder)
    return folder


@pytest.fixture
def copy(clone: Path, tmp_path: Path) -> Path:
    """Returns a copy of the clone to change at will."""
    return Path(shutil.copytree(clone, tmp_path / "copy", symlinks=True))


def test_every_declared_output_is_written_and_no_other(clone: Path) -> None:
    lock = yaml.safe_load((clone / "dvc.lock").read_text())["stages"]
    declared = {out["path"] for stage in lock.values() for out in stage.get("outs", [])}
    written = {path.relative_to(clone) for path in (clone / "data").rglob("*") if path.is_file()}
    outputs = {str(path) for path in written if not {str(path), *map(str, path.parents)} & declared}
    undeclared = {path for path in outputs if not path.startswith(("data/timing/", "data/running/"))}
    assert {path for path in declared if not (clone / path).exists()} == set()
    assert undeclared == {f"data/{stage}/{name}" for stage, names in OUTPUTS_OUTSIDE_DVC.items() for name in names}


def test_second_repro_runs_nothing(clone: Path) -> None:
    assert list_stages_to_run(clone) == []
    assert "Data and pipelines are up to date" in dvc(clone, "repro")


def test_same_commit_gives_the_same_bytes(clone: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    make_clone(again)
    dvc(again, "repro")
    assert (again / "dvc.lock").read_text() == (clone / "dvc.lock").read_text()


def test_plot_code_retrains_nothing(copy: Path) -> None:
    with (copy / "stages/lib/plots.py").open("a") as file:
        file.write("# a comment\n")
    stages = list_stages_to_run(copy)
    assert "evaluate@tiny-none" in stages
    assert [stage for stage in stages if stage.startswith(("train", "prune", "prepare", "download"))] == []


def test_filters_of_one_model_retrain_that_model_alone(copy: Path) -> None:
    edit_params(copy, models={"tiny": MODELS["tiny"] | {"blocks": [[6], [8]]}})
    stages = list_stages_to_run(copy)
    assert [stage for stage in stages if stage.startswith("train")] == ["train@tiny-none", "train@tiny-strong"]
    assert [stage for stage in stages if stage.startswith("complexity")] == ["complexity@tiny"]


def test_one_regime_retrains_its_candidates_alone(copy: Path) -> None:
    params = yaml.safe_load((copy / "params.yaml").read_text())
    strong = params["augmentations"]["strong"] | {"rotation_degrees": 9}
    edit_params(copy, augmentations={"strong": strong})
    stages = [stage for stage in list_stages_to_run(copy) if stage.startswith(("train", "preview"))]
    assert stages == ["preview@strong", "train@tiny-strong", "train@thin-strong"]


def test_shorter_list_of_models_is_chosen_from_anew_without_training(copy: Path) -> None:
    chosen = json.loads((copy / "data/select_model/choice.json").read_text())["model"]
    (other,) = {"tiny", "thin"} - {chosen}
    edit_params(copy, study={"models": [other]})
    printed = dvc(copy, "repro", "select_model")
    assert "stages.train" not in printed
    assert json.loads((copy / "data/select_model/choice.json").read_text())["model"] == other
    assert chosen not in (copy / "data/select_model/comparison.csv").read_text()


def test_experiment_writes_small_numbers_that_the_next_stage_reads_as_numbers(copy: Path) -> None:
    dvc(copy, "exp", "run", "--set-param", "train.learning_rate=0.00001", "train@thin-none")
    assert "1e-05" in (copy / "params.yaml").read_text()


def test_unknown_name_in_the_study_stops_before_any_work(copy: Path) -> None:
    edit_params(copy, study={"models": ["tiny", "thinn"]})
    printed = dvc(copy, "repro", status=255)
    assert "study.models: unknown name 'thinn'; did you mean 'thin'?" in printed
    assert "Traceback" not in printed
    assert "stages.prepare" not in printed


def test_commands_that_compare_give_readable_answers(copy: Path) -> None:
    edit_params(copy, train={"epochs": 3, "batch_size": 64})
    dvc(copy, "repro")
    assert "train.epochs" in dvc(copy, "params", "diff")
    shown = json.loads(dvc(copy, "metrics", "show", "--json").partition("\n")[0])
    metrics = shown[""]["data"]["data/compare/metrics.json"]["data"]
    assert {"chosen", "test_accuracy", "pruned_lamp_0.5_test_accuracy", "shipped_gzip_size_bytes"} <= set(metrics)
    assert all(isinstance(value, str | int | float) for value in metrics.values())
    assert "test_accuracy" in dvc(copy, "metrics", "diff")
    assert "train.epochs" in dvc(copy, "exp", "show", "--csv")
    for command in ("show", "diff"):
        dvc(copy, "plots", command, "--out", f"page_{command}")
        page = (copy / f"page_{command}/index.html").read_text()
        assert "Learning curves of all candidates" in page
        assert "Confusion matrix of the chosen model" in page
        assert "comparison.png" in page


def test_killed_stage_leaves_no_half_written_output(copy: Path) -> None:
    shutil.rmtree(copy / "data/select_model")
    (copy / "data/train/tiny-none/metrics.json").write_text("{")
    printed = run(copy, sys.executable, "-m", "stages.select_model", status=1)
    assert "data/train/tiny-none/metrics.json: expected a JSON object" in printed
    assert not (copy / "data/select_model").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("train", "tinny", "none"), "model: unknown name 'tinny'; did you mean 'tiny'?"),
        (("evaluate", "tiny", "nine"), "augmentation: unknown name 'nine'; did you mean 'none'?"),
        (("prune", "lamb"), "ranking: unknown name 'lamb'; did you mean 'lamp'?"),
        (("shrink", "norm"), "filters: unknown name 'norm'"),
        (("export", "evaluate"), "source: unknown name 'evaluate'"),
        (("complexity", "huge"), "model: unknown name 'huge'"),
    ],
)
def test_unknown_name_on_the_command_line_is_one_clear_message(
    clone: Path, command: tuple[str, ...], message: str
) -> None:
    module, *arguments = command
    printed = run(clone, sys.executable, "-m", f"stages.{module}", *arguments, status=1)
    assert message in printed
    assert "Traceback" not in printed
