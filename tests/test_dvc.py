"""What the guides say of DVC itself: its messages, and what it leaves where it is killed; in a pipeline that waits."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from pipeline import DVC, ROOT, commit, dvc, run, run_commands

PIPELINE = """
stages:
  train:
    matrix:
      model: ${study.models}
    cmd: echo ${train.epochs} > curve.csv; sleep ${train.seconds}
    params: [train, "models.${item.model}"]
    outs: [curve.csv]
"""
PARAMS = "{study: {models: [third]}, models: {third: 1}, train: {epochs: 7, seconds: 0}}"
SLIPS = (  # in the order of the table that explains them
    ("-S", "trian.epochs=2"),
    ("-S", "train.epochs"),
    ("-S", "study.models=[third"),
    ("-S", "study.models=[nothere]"),
    ("train@nothere",),
)


def read_explained() -> list[list[str]]:
    """Reads the words of each message that stages/README.md explains, in the order of its table."""
    _, _, section = (ROOT / "stages/README.md").read_text().partition("\n## Messages of DVC\n")
    rows = [line.split(" | ")[0] for line in section.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    return [re.findall("`(.+?)`", row) for row in rows]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Is a repository on the branch `work`, in which all has run. Tests leave it as they find it."""
    folder = tmp_path_factory.mktemp("dvc")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "params.yaml").write_text(PARAMS)
    (folder / ".gitignore").write_text("/curve.csv\n")
    run(folder, "git", "init", "--quiet", "--initial-branch", "work")
    dvc(folder, "init", "--quiet")
    dvc(folder, "repro")
    commit(folder, "init")
    return folder


@pytest.fixture
def pipeline(made: Path, tmp_path: Path) -> Path:
    """Is a copy of that repository, to change at will."""
    return Path(shutil.copytree(made, tmp_path / "copy", symlinks=True))


def read_curve(folder: Path) -> str:
    """Reads what the stage wrote; nothing while DVC has removed it."""
    path = folder / "curve.csv"
    return path.read_text() if path.exists() else ""


def test_every_slip_is_explained() -> None:
    assert len(read_explained()) == len(SLIPS)


@pytest.mark.parametrize("slip", SLIPS)
def test_a_message_of_dvc_has_the_words_that_are_explained(pipeline: Path, slip: tuple[str, ...]) -> None:
    printed = " ".join(dvc(pipeline, "exp", "run", *slip, status=255).split())

    assert [words for words in read_explained()[SLIPS.index(slip)] if words not in printed] == [], printed


@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_killed_experiment_leaves_is_undone_by_the_commands_of_the_guides(pipeline: Path, ended_by: int) -> None:
    command = [*DVC, "exp", "run", "-S", "train.epochs=9", "-S", "train.seconds=60"]
    with subprocess.Popen(command, cwd=pipeline, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        while read_curve(pipeline) != "9\n" and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(ended_by)
        process.wait(timeout=20)
        os.killpg(process.pid, signal.SIGKILL)  # `sleep`, which no stage of this project outlives

    assert run(pipeline, "git", "status", "--porcelain").split() == ["M", "params.yaml"]
    run(pipeline, "git", "add", "params.yaml")  # which it sometimes leaves staged
    assert run(pipeline, "git", "branch", "--show-current") == ""
    run_commands(pipeline, "switch-back")
    assert run(pipeline, "git", "branch", "--show-current") == "work\n"
    assert "epochs: 9" in (pipeline / "params.yaml").read_text()  # with which a run may go on

    run_commands(pipeline, "go-back")

    assert run(pipeline, "git", "status", "--porcelain") == ""
    assert (pipeline / "params.yaml").read_text() == PARAMS
    assert read_curve(pipeline) == "7\n"
