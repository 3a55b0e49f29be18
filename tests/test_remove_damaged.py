"""Mistakes of its users; what it mends is in test_remotes.py."""

import subprocess
import sys
from pathlib import Path

import pytest
from pipeline import ROOT, run


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
