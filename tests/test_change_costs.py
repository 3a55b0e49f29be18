"""A change costs what it changes: what `dvc repro` would run after an edit, asked of DVC on a crumb that has run."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml
from pipeline import MODELS, ROOT, edit_params, list_stages_to_run, run

ALL = set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
DEAR = {"train", "prune", "shrink", "export"}
"""The stages that take minutes."""


@pytest.fixture(scope="module")
def clone(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Is a clone in which everything has run; each test leaves it edited, and the next one begins with `restore`."""
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("costs") / "clone", symlinks=True))


def append(path: Path) -> None:
    """Changes the bytes of a text file and nothing else; makes it where it is missing."""
    with path.open("a") as file:
        file.write("\n")


def restore(folder: Path) -> None:
    """Takes back the edit of the test before."""
    run(folder, "git", "reset", "--quiet", "--hard")
    run(folder, "git", "clean", "--quiet", "--force", "stages")


def list_names(folder: Path, *options: str) -> set[str]:
    """Names the stages that would run, those of a matrix once, where each of them gives the outputs that it gave."""
    return {stage.partition("@")[0] for stage in list_stages_to_run(folder, *options)}


def list_names_at_worst(folder: Path) -> set[str]:
    """Names the stages that would run where each one that runs changes its outputs."""
    return list_names(folder, "--force-downstream")


@pytest.mark.parametrize("path", ["lib/running/guard.py", "lib/running/runner.py", "lib/errors.py", "tools/demo.py"])
def test_how_a_stage_is_started_and_locked_reruns_nothing(clone: Path, path: str) -> None:
    restore(clone)
    append(clone / "stages" / path)

    assert list_names(clone) == set()


def test_a_message_about_bad_params_reruns_their_check_alone(clone: Path) -> None:
    restore(clone)
    append(clone / "stages/lib/params/checking.py")

    assert list_names_at_worst(clone) == {"validate"}


def test_a_chart_redraws_and_neither_trains_nor_prunes_nor_exports(clone: Path) -> None:
    restore(clone)
    append(clone / "stages/lib/figures/another_chart.json")

    names = list_names(clone)
    assert "report" in names
    assert names & DEAR == set()


def test_a_template_of_the_report_rewrites_pages_alone(clone: Path) -> None:
    restore(clone)
    append(next(path for path in (clone / "stages/lib/report").rglob("*") if path.suffix in (".html", ".css")))

    assert list_names(clone) == {"report", "ship"}
    assert list_names_at_worst(clone) == {"report", "ship", "compare"}  # which puts the shipped file beside the others


def test_training_code_trains_anew_and_what_follows(clone: Path) -> None:
    restore(clone)
    append(clone / "stages/lib/training/loop.py")

    assert list_names(clone) == {"preview", "train", "evaluate", "prune", "shrink"}
    assert list_names_at_worst(clone) == ALL - {"validate", "download", "prepare", "complexity"}


def test_cost_code_counts_anew_prunes_and_shrinks_and_what_follows_but_trains_nothing(clone: Path) -> None:
    restore(clone)
    append(clone / "stages/lib/cost/macs.py")

    assert list_names(clone) == {"validate", "complexity", "prune", "shrink"}
    assert list_names_at_worst(clone) == ALL - {"download", "prepare", "preview", "train", "evaluate"}


def test_filters_of_one_model_retrain_that_model_alone(clone: Path) -> None:
    restore(clone)
    edit_params(clone, models={"tiny": MODELS["tiny"] | {"blocks": [[6], [8]]}})

    stages = list_stages_to_run(clone)
    assert [stage for stage in stages if stage.startswith("train")] == ["train@tiny-none", "train@tiny-strong"]
    assert [stage for stage in stages if stage.startswith("complexity")] == ["complexity@tiny"]


def test_one_regime_retrains_its_candidates_alone(clone: Path) -> None:
    restore(clone)
    strong = yaml.safe_load((clone / "params.yaml").read_text())["augmentations"]["strong"]
    edit_params(clone, augmentations={"strong": strong | {"rotation_degrees": 9}})

    stages = [stage for stage in list_stages_to_run(clone) if stage.startswith(("train", "preview"))]
    assert stages == ["preview@strong", "train@tiny-strong", "train@thin-strong"]


def test_a_new_key_of_a_late_stage_reruns_that_stage_and_what_follows(clone: Path) -> None:
    restore(clone)
    edit_params(clone, ship={"another_key": 0.5})
    path = clone / "stages/lib/params/sections.py"
    old = "    max_loss: Fraction\n"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, f"{old}    another_key: Fraction\n"))

    run(clone, sys.executable, "-m", "stages.validate")
    assert list_names(clone) == {"validate", "ship"}
    assert list_names_at_worst(clone) == {"validate", "ship", "compare", "report"}
