from pathlib import Path

import pytest


@pytest.fixture
def tmp_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is also the working directory, so that relative paths of the stages lead into it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
