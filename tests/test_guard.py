import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from stages.lib.errors import UserError
from stages.lib.running.guard import end_with, find_dvc, hold_lock, name_lock

ROOT = Path(__file__).parents[1]
LOCK = Path("locks/train")
HOLD_WITH_CHILD = """
import subprocess, sys
from pathlib import Path
from stages.lib.running.guard import hold_lock
with hold_lock(Path("locks/train"), "train"):
    child = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, close_fds=False)
    print(child.pid, flush=True)
    sys.stdin.read()
"""
WATCH = """
import sys, time
import psutil
from stages.lib.running.guard import end_with
end_with(psutil.Process(int(sys.argv[1])))
print("watching", flush=True)
time.sleep(60)
"""
MESSAGE = "error: the `dvc` that started this stage has ended; `dvc repro` goes on with it\n"
FIND = "from stages.lib.running.guard import find_dvc; dvc = find_dvc(); print(dvc and dvc.pid)"


@contextmanager
def running(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Runs a command until the block ends; yields it and the first line that it printed."""
    pipe = subprocess.PIPE
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@contextmanager
def holding() -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """Runs a process that holds the lock, and has a child that inherits the open file; yields both."""
    with running(sys.executable, "-c", HOLD_WITH_CHILD) as (process, line):
        child = psutil.Process(int(line))
        try:
            yield process, child
        finally:
            child.kill()


@contextmanager
def watched() -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str]]]:
    """Runs a process, and another one that ends with it; yields both."""
    with (
        running("bash", "-c", "echo; exec cat") as (parent, _),
        running(sys.executable, "-c", WATCH, str(parent.pid)) as (child, _),
    ):
        yield parent, child


def lock() -> None:
    with hold_lock(LOCK, "train"):
        pass


# One at a time


@pytest.mark.usefixtures("tmp_dir")
def test_every_process_but_the_first_is_refused_with_the_name_and_the_process_that_holds_the_lock() -> None:
    with holding() as (process, _):
        for _ in range(2):  # the first refusal leaves the lock as it is
            with pytest.raises(UserError) as caught:
                lock()
            assert str(caught.value) == (
                f"train: already running here, as process {process.pid}; wait for it to end, or end it"
            )


@pytest.mark.usefixtures("tmp_dir")
def test_a_killed_process_frees_its_lock_even_where_a_child_of_it_lives_on() -> None:
    with holding() as (process, child):
        process.kill()
        process.wait()

        lock()

        assert child.is_running()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, BlockingIOError])
@pytest.mark.usefixtures("tmp_dir")
def test_a_failure_passes_through_and_frees_the_lock(error: type[BaseException]) -> None:
    with pytest.raises(error), hold_lock(LOCK, "train"):
        raise error

    lock()


@pytest.mark.usefixtures("tmp_dir")
def test_the_file_names_the_process_that_holds_it_alone() -> None:
    LOCK.parent.mkdir()
    LOCK.write_text("1234567890123\n")

    with hold_lock(LOCK, "train"):
        assert LOCK.read_text() == f"{os.getpid()}\n"


@pytest.mark.usefixtures("tmp_dir")
def test_a_tool_says_its_own_remedy() -> None:
    with (
        holding(),
        pytest.raises(UserError, match=r"^search: already .*; use another clone$"),
        hold_lock(LOCK, "search", remedy="use another clone"),
    ):
        pass


def test_each_stage_has_a_file_of_its_own_whatever_its_arguments_are() -> None:
    assert name_lock("train@third-none") == Path("data/running/train@third-none")
    assert name_lock("complexity@../x") == Path("data/running/complexity@.._x")


# The dvc that started it


def find_through(*shells: str, stage: str | None) -> str:
    """Prints the process id that `find_dvc` finds where this process runs it through shells, none of which exec."""
    environment = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
    environment |= {"PYTHONPATH": str(ROOT)} | ({"DVC_STAGE": stage} if stage else {})
    command = [sys.executable, "-c", FIND]
    for shell in shells:
        command = [shell, "-c", '"$@"; true', shell, *command]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("shells", [(), ("bash",), ("bash", "sh")], ids=["no shell", "bash", "sh in bash"])
def test_dvc_is_the_first_ancestor_that_is_no_shell(shells: tuple[str, ...]) -> None:
    assert find_through(*shells, stage="train@third-none") == str(os.getpid())


def test_without_dvc_there_is_no_process_to_end_with() -> None:
    assert find_through("bash", stage=None) == "None"


def test_a_dvc_that_has_ended_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "train")
    monkeypatch.setattr(psutil.Process, "parents", lambda _: [])

    with pytest.raises(UserError, match=r"^the `dvc` that started this stage has ended; run `dvc repro` again$"):
        find_dvc()


# Not without it


def test_a_process_ends_soon_after_the_one_that_it_watches_with_the_status_of_a_terminated_one() -> None:
    with watched() as (parent, child):
        parent.kill()
        parent.wait()

        assert child.communicate(timeout=10)[1] == MESSAGE
        assert child.returncode == 143


def test_a_zombie_has_ended() -> None:
    with watched() as (parent, child):
        parent.kill()  # it stays a zombie until this process waits for it

        assert child.wait(timeout=10) == 143
        assert psutil.Process(parent.pid).status() == psutil.STATUS_ZOMBIE


def test_a_process_lives_on_while_the_one_that_it_watches_lives() -> None:
    with watched() as (_, child):
        time.sleep(1.2)  # it looks at least twice

        assert child.poll() is None


def vanish() -> str:
    raise psutil.NoSuchProcess(1234)


@pytest.mark.parametrize(
    ("is_running", "status"),
    [(True, vanish), (False, lambda: psutil.STATUS_RUNNING)],
    ids=["while it is looked at", "and another process has its number"],
)
def test_a_parent_that_ends_has_ended(
    monkeypatch: pytest.MonkeyPatch, is_running: bool, status: Callable[[], str]
) -> None:
    parent: Any = SimpleNamespace(is_running=lambda: is_running, status=status)
    statuses: list[int] = []
    ended = threading.Event()

    def note(status: int) -> None:
        statuses.append(status)
        ended.set()

    monkeypatch.setattr(os, "_exit", note)

    end_with(parent)

    assert ended.wait(timeout=10)
    assert statuses == [143]


def test_the_watch_does_not_keep_a_stage_that_is_done() -> None:
    code = "import psutil; from stages.lib.running.guard import end_with; end_with(psutil.Process().parent())"

    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=10)
