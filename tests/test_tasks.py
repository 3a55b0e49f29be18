"""The tasks of the guides, each by its own commands, as written, in a clone on a crumb of data."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pipeline import MODELS, commit, dvc, edit_params, list_stages_to_run, read_block, run, run_commands

from stages.lib.storage.files import read_csv

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.fixture
def small(copy: Path) -> Path:
    """Is a copy of the finished clone whose study is one tiny network under a name of the guides' commands."""
    edit_params(
        copy,
        models={"third": MODELS["tiny"]},
        study={"models": ["third"], "augmentations": ["flip"]},
        train={"epochs": 1, "clean_epochs": 0},
    )
    commit(copy)
    return copy


def write_idx(path: Path, array: np.ndarray) -> None:
    """Writes an IDX file of unsigned bytes: magic number, sizes, values."""
    sizes = np.array(array.shape, ">u4").tobytes()
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


def test_a_model_is_changed(small: Path) -> None:
    run_commands(small, "change-model")

    layers = read_csv(small / "data/complexity/third/layers.csv")
    assert [row["layer"] for row in layers if row["kind"] == "conv"] == ["conv1", "conv2", "conv3"]


def test_a_dataset_of_the_same_format_takes_the_place_of_the_first(small: Path) -> None:
    rng = np.random.default_rng(0)
    letters = small.parent / "letters"
    letters.mkdir()
    for images, labels, num_images in ((*NAMES[:2], 600), (*NAMES[2:], 90)):
        classes = (np.arange(num_images) % 3).astype(np.uint8)
        pixels = rng.integers(0, 60, (num_images, 28, 28), np.uint8)
        for image, label in zip(pixels, classes, strict=True):
            image[8 * label : 8 * label + 8] += 150
        write_idx(letters / images, pixels)
        write_idx(letters / labels, classes)
    edit_params(small, prepare={"keep_fraction": 1.0})

    run_commands(small, "dataset")

    with np.load(small / "data/prepare/train.npz") as train:
        assert (len(train["images"]), sorted(set(train["labels"]))) == (480, [0, 1, 2])
    assert json.loads((small / "data/select_model/choice.json").read_text())["model"] == "third"


def test_a_stage_is_added(copy: Path) -> None:
    (copy / "stages/hardest.py").write_text(read_block("content: stages/hardest.py"))
    stages, entry = (copy / "dvc.yaml").read_text(), read_block("content: dvc.yaml")
    (copy / "dvc.yaml").write_text(stages.replace("\nstages:\n", f"\nstages:\n{entry}\n", 1))

    run_commands(copy, "add-stage")

    candidates = [row["candidate"] for row in read_csv(copy / "data/hardest/hardest.csv")]
    assert candidates == ["tiny-none", "tiny-strong", "thin-none", "thin-strong"]
    assert list_stages_to_run(copy) == []
    run(copy, "git", "add", "--all")  # the contract with .gitignore is checked against Git
    contracts = "hardest and not tensorflow"
    run(copy, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_pipeline.py", "-k", contracts)


def test_a_file_is_shipped_within_a_budget(copy: Path) -> None:
    before = json.loads((copy / "data/ship/model.json").read_text())["reason"]

    run_commands(copy, "ship")

    after = json.loads((copy / "data/ship/model.json").read_text())["reason"]
    assert ("of all int8 files" in before, "at most 65,536 bytes of flash" in after) == (True, True)
    assert "smaller" in dvc(copy, "exp", "list")


def test_after_a_failure_repro_goes_on(copy: Path) -> None:
    (copy / "data/prune/lamp/42/0.5/model.h5").unlink()
    (copy / "data/evaluate/tiny-none/42/metrics.json").write_text("half a fi")

    run_commands(copy, "go-on")

    assert list_stages_to_run(copy) == []
    assert subprocess.run(["git", "diff", "--exit-code", "dvc.lock"], cwd=copy).returncode == 0


def test_going_back_leaves_the_commit_and_its_outputs(copy: Path) -> None:
    edit_params(copy, train={"epochs": 1})
    run(copy, "git", "add", "params.yaml")  # as a `dvc exp run` that is killed leaves it
    (copy / "data/prepare/val.npz").unlink()
    (copy / "data/train/tiny-none/42/history.csv").unlink()  # a link into the cache
    (copy / "data/train/tiny-none/42/history.csv").write_text("half a curve, which is in no cache")
    (copy / "data/select_model/metrics.json").write_text("{}")

    run_commands(copy, "go-back")

    assert run(copy, "git", "status", "--porcelain") == ""
    assert list_stages_to_run(copy) == []
