"""A change costs what it changes: what `dvc repro` would run after an edit, asked of DVC on a crumb that has run."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from pipeline import MODELS, ROOT, dvc, edit_params, list_stages_to_run, run

ALL = set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
DEAR = {"train", "finish", "prune", "prune_shrunk", "shrink", "export"}
"""The stages that take minutes."""


@pytest.fixture(scope="module")
def clone(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Is a clone in which everything has run. Each test leaves its edit, which the next one takes back."""
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


def test_the_lock_the_runner_the_errors_and_the_tools_rerun_nothing(clone: Path) -> None:
    restore(clone)
    for path in ("lib/running/guard.py", "lib/running/runner.py", "lib/errors.py", "tools/demo.py"):
        append(clone / "stages" / path)

    assert list_names(clone) == set()


def test_a_message_about_bad_params_reruns_their_check_alone(clone: Path) -> None:
    restore(clone)
    append(clone / "stages/lib/params/checking.py")

    assert list_names_at_worst(clone) == {"validate"}


def test_a_chart_redraws_and_neither_trains_nor_prunes_nor_exports(clone: Path) -> None:
    restore(clone)
    append(clone / "stages/lib/figures/another_chart.json")

    names = list_names_at_worst(clone)
    assert "report" in names
    assert names & DEAR == set()


def test_a_template_of_the_report_rewrites_pages_alone(clone: Path) -> None:
    restore(clone)
    append(next(path for path in (clone / "stages/lib/report").rglob("*.*") if path.suffix not in (".py", ".pyc")))

    # compare puts the shipped file beside others
    assert list_names_at_worst(clone) == {"ship", "verify", "compare", "report"}


def test_training_code_trains_anew_and_what_follows(clone: Path) -> None:
    restore(clone)
    append(clone / "stages/lib/training/loop.py")

    assert list_names_at_worst(clone) == ALL - {"validate", "download", "prepare", "complexity"}


def test_cost_code_counts_anew_prunes_and_shrinks_and_what_follows_but_trains_nothing(clone: Path) -> None:
    restore(clone)
    append(clone / "stages/lib/cost/macs.py")

    assert list_names_at_worst(clone) == ALL - {"download", "prepare", "preview", "train", "evaluate"}


def test_an_image_to_leave_out_prepares_anew_and_what_follows(clone: Path) -> None:
    restore(clone)
    with (clone / "data/leave_out.csv").open("a") as file:
        file.write("train,0\n")

    assert list_names(clone) == {"prepare"}
    assert list_names_at_worst(clone) == ALL - {"validate", "download"}


def test_filters_of_one_model_retrain_that_model_alone(clone: Path) -> None:
    restore(clone)
    edit_params(clone, models={"tiny": MODELS["tiny"] | {"blocks": [[6], [8]]}})

    stages = list_stages_to_run(clone)
    assert [stage for stage in stages if stage.startswith("train")] == ["train@tiny-none-42", "train@tiny-strong-42"]
    assert [stage for stage in stages if stage.startswith("complexity")] == ["complexity@tiny"]


def test_one_regime_retrains_its_candidates_alone(clone: Path) -> None:
    restore(clone)
    strong = yaml.safe_load((clone / "params.yaml").read_text())["augmentations"]["strong"]
    edit_params(clone, augmentations={"strong": strong | {"rotation_degrees": 9}})

    stages = [stage for stage in list_stages_to_run(clone) if stage.startswith(("train", "preview"))]
    assert stages == ["preview@strong", "train@tiny-strong-42", "train@thin-strong-42"]


def test_a_longer_last_training_finishes_anew_and_what_follows_and_trains_no_candidate(clone: Path) -> None:
    restore(clone)
    edit_params(clone, finish={"epochs": 3})

    following = {
        "finish",
        "evaluate_finished",
        "audit",
        "prune",
        "prune_shrunk",
        "shrink",
        "export",
        "deploy",
        "frontier",
    }
    assert list_names_at_worst(clone) == {"validate", *following, "ship", "verify", "compare", "report"}


def list_changed_stages(folder: Path) -> list[str]:
    """Lists the stages that DVC calls changed: a dry run ends where an output of a new stage is missing."""
    return list(json.loads(dvc(folder, "status", "--json")))


def test_another_seed_trains_and_measures_its_own_models_and_repeats_none(clone: Path) -> None:
    restore(clone)
    edit_params(clone, study={"seeds": [42, 7]})

    stages = list_changed_stages(clone)
    seeded = ("train", "evaluate", "finish", "evaluate_finished", "prune", "prune_shrunk", "shrink")
    keys = [f"{model}-{regime}" for model in ("tiny", "thin") for regime in ("none", "strong")]
    expected = {"finish@7", "evaluate_finished@7", *(f"{stage}@{key}-7" for stage in seeded[:2] for key in keys)}
    assert {stage for stage in stages if stage.partition("@")[0] in seeded} == expected
    assert "select_model" in stages


def test_a_seed_that_is_shrunk_and_pruned_too_makes_its_own_models_alone(clone: Path) -> None:
    restore(clone)
    edit_params(clone, study={"seeds": [42, 7]}, prune={"seeds": [42, 7]}, shrink={"seeds": [42, 7]})

    stages = list_changed_stages(clone)
    expected = {"prune@lamp-7", "shrink@magnitude-7", "prune_shrunk@0.5-cost-7"}
    assert {stage for stage in stages if stage.startswith(("prune", "shrink"))} == expected


def test_a_new_key_of_a_late_stage_reruns_that_stage_and_what_follows(clone: Path) -> None:
    restore(clone)
    edit_params(clone, ship={"another_key": 0.5})
    path = clone / "stages/lib/params/sections.py"
    old = "    answered_accuracy: Fraction\n"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, f"{old}    another_key: Fraction\n"))

    run(clone, sys.executable, "-m", "stages.validate")
    assert list_names_at_worst(clone) == {"validate", "ship", "verify", "compare", "report"}
