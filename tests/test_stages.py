"""The whole pipeline on a crumb of the real data: real commands, real `dvc repro`, in a temporary clone."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from pipeline import MODELS, dvc, edit_params, list_stages_to_run, run, run_commands


def test_every_declared_output_is_written_and_no_other(finished: Path) -> None:
    lock = yaml.safe_load((finished / "dvc.lock").read_text())["stages"]
    declared = {out["path"] for stage in lock.values() for out in stage.get("outs", [])}
    written = {path.relative_to(finished) for path in (finished / "data").rglob("*") if path.is_file()}
    outputs = {str(path) for path in written if not {str(path), *map(str, path.parents)} & declared}
    undeclared = {path for path in outputs if not path.startswith(("data/timing/", "data/running/"))}
    assert {path for path in declared if not (finished / path).exists()} == set()
    assert undeclared - {"data/recorded_times.json"} == set()


def test_second_repro_runs_nothing(finished: Path) -> None:
    assert list_stages_to_run(finished) == []
    assert "Data and pipelines are up to date" in dvc(finished, "repro")


def test_same_commit_gives_the_same_bytes(copy: Path) -> None:
    (copy / "a_change").touch()
    run(copy, "git", "add", "a_change")
    run_commands(copy, "again")
    assert (copy.parent / "again/dvc.lock").read_text() == (copy / "dvc.lock").read_text()


def test_plot_code_retrains_nothing(copy: Path) -> None:
    with (copy / "stages/lib/pictures/style.py").open("a") as file:
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


def test_metrics_of_the_comparison_are_numbers_and_words(finished: Path) -> None:
    shown = json.loads(dvc(finished, "metrics", "show", "--json").partition("\n")[0])
    metrics = shown[""]["data"]["data/compare/metrics.json"]["data"]
    assert {"chosen", "test_accuracy", "pruned_lamp_0.5_test_accuracy", "shipped_gzip_size_bytes"} <= set(metrics)
    assert all(isinstance(value, str | int | float) for value in metrics.values())


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
    finished: Path, command: tuple[str, ...], message: str
) -> None:
    module, *arguments = command
    printed = run(finished, sys.executable, "-m", f"stages.{module}", *arguments, status=1)
    assert message in printed
    assert "Traceback" not in printed
