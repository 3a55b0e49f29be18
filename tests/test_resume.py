"""Trainings that are killed: real processes, real kills at random moments, on a crumb of the real data."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
import yaml
from pipeline import compute_checksums, dvc, edit_params, make_clone

from stages.lib.storage.files import write_arrays, write_bytes, write_json

NUM_KILLS = 6
STAGE = "train@tiny-strong-42"
TRAIN = [sys.executable, "-m", "stages.train", "tiny", "strong", "42"]
OUTPUT = "data/train/tiny-strong/42"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a clone with so many epochs that they take longer than the start."""
    folder = tmp_path_factory.mktemp("resume") / "clone"
    make_clone(folder)
    edit_params(folder, study={"keep_fraction": 1.0}, train={"epochs": 20, "batch_size": 64}, prune={"epochs": 10})
    dvc(folder, "repro", "prepare")
    return folder


class Undisturbed(NamedTuple):
    """What a training gives that nobody kills: its files, and the seconds that it takes."""

    files: dict[str, bytes]
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Undisturbed:
    """Returns what a training gives in `folder`."""
    began = time.monotonic()
    start(folder, *TRAIN).communicate(timeout=600)
    return Undisturbed(read_files(folder / OUTPUT), time.monotonic() - began)


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )


def hear_ctrl_c() -> None:
    """Undoes what a shell does to its background jobs, where these tests may run, too: they do not hear Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_for_epoch(process: subprocess.Popen[str], epoch: int, name: str = "") -> None:
    """Reads what a run prints until it has finished `epoch`, or a later one, of what is called `name`."""
    assert process.stdout is not None
    for line in process.stdout:
        if (found := re.search(rf"{re.escape(name)} epoch (\d+)/", line)) and int(found[1]) >= epoch:
            return
    raise AssertionError(f"the run ended before epoch {epoch} of {name or 'it'}")


def test_a_training_that_is_killed_at_random_moments_ends_with_the_bytes_of_an_undisturbed_one(
    folder: Path, undisturbed: Undisturbed
) -> None:
    outputs = folder / OUTPUT
    assert sorted(undisturbed.files) == ["history.csv", "metrics.json", "model.h5", "probabilities.npz"]

    draw, resumed_after = random.Random(0), set()  # noqa: S311  (no secret)
    num_kills = 0
    while num_kills < NUM_KILLS:
        shutil.rmtree(outputs, ignore_errors=True)
        while True:
            process = start(folder, *TRAIN)
            try:
                printed, _ = process.communicate(timeout=draw.uniform(0.3, 0.9) * undisturbed.seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                printed, _ = process.communicate()
                num_kills += 1
                shutil.rmtree(outputs, ignore_errors=True)  # as dvc does before it runs a stage again
            resumed_after |= set(re.findall(r"goes on after epoch (\d+)", printed))
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, printed
        assert read_files(outputs) == undisturbed.files
        assert list((folder / "data/checkpoints").iterdir()) == []
    assert len(resumed_after) > NUM_KILLS / 4  # the kills hit the training, and not only the start


def test_terminating_dvc_ends_the_training_and_the_next_repro_goes_on_with_it(
    folder: Path, undisturbed: Undisturbed
) -> None:
    process = start(folder, sys.executable, "-m", "dvc", "repro", "--force", "--single-item", STAGE)
    wait_for_epoch(process, 2)
    (training,) = (
        child for child in psutil.Process(process.pid).children(recursive=True) if "stages.train" in child.cmdline()
    )

    process.terminate()

    training.wait(timeout=5)
    process.communicate(timeout=5)
    assert "goes on after epoch" in dvc(folder, "repro", "--single-item", STAGE)
    assert read_files(folder / OUTPUT) == undisturbed.files


def test_a_second_trainer_of_a_stage_is_refused(folder: Path) -> None:
    first = start(folder, *TRAIN)
    wait_for_epoch(first, 1)
    os.killpg(first.pid, signal.SIGSTOP)  # else it may end while the second one starts

    second = start(folder, *TRAIN)
    try:
        printed, _ = second.communicate(timeout=60)
    finally:
        for process in (first, second):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    assert second.returncode == 1
    assert printed.strip().endswith(
        f"{STAGE}: already running here, as process {first.pid}; wait for it to end, or end it"
    )


def test_ctrl_c_ends_a_training_in_one_line_that_says_how_to_go_on(folder: Path) -> None:
    process = start(folder, *TRAIN)
    wait_for_epoch(process, 3)

    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=30)

    assert process.returncode == 130
    assert (
        printed.splitlines()[-1]
        == "interrupted: `dvc repro` goes on with this stage; a training resumes after its last finished epoch"
    )
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("section", "change"), [("train", {"learning_rate": 0.002}), ("train", {"epochs": 21}), ("augmentations", "strong")]
)
def test_a_checkpoint_of_other_params_is_never_resumed_from(
    folder: Path, tmp_path: Path, section: str, change: object
) -> None:
    process = start(folder, *TRAIN)
    wait_for_epoch(process, 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    copy = Path(shutil.copytree(folder, tmp_path / "copy", symlinks=True))
    if isinstance(change, dict):
        edit_params(copy, **{section: change})
    else:
        text = (copy / "params.yaml").read_text()
        (copy / "params.yaml").write_text(text.replace("rotation_degrees: 8", "rotation_degrees: 9"))

    printed, _ = start(copy, *TRAIN).communicate(timeout=600)

    assert "goes on after epoch" not in printed
    assert " epoch 1/" in printed


def test_pruning_that_is_killed_ends_with_the_bytes_of_an_undisturbed_one(
    folder: Path, undisturbed: Undisturbed
) -> None:
    output = folder / "data/prune/lamp/42"
    write_bytes(folder / "data/finish/42/model.h5", undisturbed.files["model.h5"])
    write_arrays(folder / "data/finish/42/losses.npz", train=np.arange(960, dtype=np.float32))
    params = yaml.safe_load((folder / "params.yaml").read_text())
    choice = {"architecture": params["models"]["tiny"], "augmentation_limits": params["augmentations"]["strong"]}
    write_json(folder / "data/select_model/choice.json", choice)
    prune = [sys.executable, "-m", "stages.prune", "finished-lamp", "42"]
    start(folder, *prune).communicate(timeout=600)
    expected = compute_checksums(output)
    assert len(expected) == 2 * 3

    for name, epoch in (("prune@lamp-0.5-42", 3), ("prune@lamp-0.75-42", 1), ("prune@lamp-0.75-42", 6)):
        shutil.rmtree(output, ignore_errors=True)  # as dvc does before it runs a stage again
        process = start(folder, *prune)
        wait_for_epoch(process, epoch, name)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    shutil.rmtree(output)
    printed, _ = start(folder, *prune).communicate(timeout=600)

    assert "prune@lamp-0.75-42: goes on after epoch" in printed
    assert compute_checksums(output) == expected
