"""Mistakes of its users; what it mends is in test_remotes.py."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pipeline import DVC, ROOT, run


def test_clone_without_a_remote_is_told_how_to_name_one(finished: Path) -> None:
    printed = run(finished, sys.executable, "-m", "stages.tools.remove_damaged", "remote", status=1)
    assert "dvc remote add -d" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("place", ["cache", "remote"])
def test_folder_that_is_no_clone_is_refused_in_one_message(tmp_path: Path, place: str) -> None:
    command = [sys.executable, str(ROOT / "stages/tools/remove_damaged.py"), place]
    environment = {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: you are not inside of a DVC repository")
    assert "Traceback" not in result.stderr


@pytest.fixture
def clone(finished: Path, tmp_path: Path) -> Path:
    """A clone with DVC's settings and the code alone."""
    run(tmp_path, "git", "init", "--quiet")
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    shutil.copytree(finished / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    return tmp_path


@pytest.mark.parametrize("url", ["ssh://127.0.0.1:1/data", "webdav://127.0.0.1:1/data"])
def test_remote_that_cannot_be_reached_ends_in_one_line(clone: Path, url: str) -> None:
    run(clone, *DVC, "remote", "add", "--default", "storage", url)

    printed = run(clone, sys.executable, "-m", "stages.tools.remove_damaged", "remote", status=1)

    assert "error: remote: " in printed
    assert "can be reached" in printed
    assert "Traceback" not in printed


def test_folder_that_is_not_mounted_is_not_called_sound(clone: Path) -> None:
    run(clone, *DVC, "remote", "add", "--default", "storage", str(clone / "mounted"))

    printed = run(clone, sys.executable, "-m", "stages.tools.remove_damaged", "remote", status=1)

    assert "error: remote: expected files in " in printed
    assert "damaged files" not in printed
