import fcntl
import os
import shutil
import sys
from pathlib import Path

import pytest
from pipeline import commit, dvc, make_clone, run

# Tests start Git in folders of their own. Nothing may lead it into another repository, as hooks and `git rebase --exec`
# do by variables, and no settings of the user count. The checkout itself may be another user's.
for name in [name for name in os.environ if name.startswith("GIT_") and name != "GIT_EXEC_PATH"]:
    del os.environ[name]
os.environ |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
os.environ |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}


FIRST = ("resume", "stages", "search", "experiments", "remotes", "tasks", "multiworker")
"""The files that take longest. The first one makes its own clone, the second one that which most files need."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first, so that no process still runs one when the others are done."""
    places = {f"test_{name}.py": place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(FIRST)))


@pytest.fixture
def tmp_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is also the working directory, so that relative paths of the stages lead into it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Is a clone in which the whole pipeline has run on a crumb, committed. Tests leave it as they find it.

    Where several processes run the tests, the first one that asks makes it, and the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    with (shared / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = shared / "finished"
        if not folder.exists():
            unfinished = shared / "unfinished"
            make_clone(unfinished)
            dvc(unfinished, "repro")
            run(unfinished, sys.executable, "-m", "stages.tools.record_times")
            dvc(unfinished, "repro")  # what shows times shows the recorded ones
            commit(unfinished)
            unfinished.rename(folder)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """Is a copy of the finished clone, with a DVC cache of its own, to change at will."""
    return Path(shutil.copytree(finished, tmp_path / "copy", symlinks=True))
