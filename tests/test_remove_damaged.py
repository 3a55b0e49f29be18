"""Mistakes of its users; what it mends is in test_remotes.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from dvc_data.hashfile.db import HashFileDB
from pipeline import DVC, ROOT, run

from stages.lib.errors import UserError
from stages.tools.remove_damaged import remove_damaged


def refuse(folder: Path, place: str) -> str:
    """Runs the tool, which cannot do its work; returns the one message that it gives."""
    command = [sys.executable, "-m", "stages.tools.remove_damaged", place]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert "Traceback" not in result.stderr
    assert "s3cret" not in result.stderr
    return result.stderr


@pytest.mark.parametrize("place", ["cache", "remote"])
def test_a_folder_that_is_no_clone_is_refused(tmp_path: Path, place: str) -> None:
    assert refuse(tmp_path, place).startswith("error: you are not inside of a DVC repository")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "dvc remote add -d"),
        ("ssh://127.0.0.1:1/data", "can be reached"),
        ("webdav://127.0.0.1:1/data", "can be reached"),
        ("/not/mounted", "error: remote: expected files in "),
        ("https://me:s3cret@127.0.0.1:1/data", "https://***@127.0.0.1:1/data"),
        ("webdav://me:p@s3cret/word@127.0.0.1:1/data", "http://***@127.0.0.1:1/data"),
        ("ssh://me:p@s3cret/word@127.0.0.1:1/data", "ssh://***@127.0.0.1:1/data"),
        ("ssh://me:s3cret/word@127.0.0.1:1/data", "error: remote: cannot read its URL"),
    ],
)
def test_a_remote_that_cannot_be_read_is_named_and_never_called_sound(tmp_path: Path, url: str, message: str) -> None:
    run(tmp_path, "git", "init", "--quiet")
    (tmp_path / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/config", tmp_path / ".dvc")
    if url:
        run(tmp_path, *DVC, "remote", "add", "--default", "storage", url)

    assert message in refuse(tmp_path, "remote")


def test_what_a_library_says_of_its_settings_is_shown_without_their_secrets() -> None:
    def fail(_: str) -> None:
        raise OSError("no access with s3cr/et or s3cr%2Fet")

    files = SimpleNamespace(exists=fail, unstrip_protocol=str, config={"user": "me", "password": "s3cr/et", "port": 1})
    with pytest.raises(UserError, match=r"^remote: OSError: no access with \*\*\* or \*\*\*; check that data can"):
        remove_damaged(cast(HashFileDB, SimpleNamespace(fs=files, path="data")), "remote")
