import os
import select
import signal
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
from stages.lib.running.guard import end_with, find_dvc, hold_lock

ROOT = Path(__file__).parents[1]
HOLD = """
import sys
from stages.lib.running.guard import hold_lock
with hold_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
HOLD_WITH_CHILD = """
import subprocess, sys
from stages.lib.running.guard import hold_lock
with hold_lock(sys.argv[1]):
    child = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, close_fds=False)
    print(child.pid, flush=True)
    sys.stdin.read()
"""
WATCH = """
import os, sys, time
import psutil
from stages.lib.running.guard import end_with
end_with(psutil.Process(int(sys.argv[1])) if sys.argv[1:] else psutil.Process().parent())
print(os.getpid(), flush=True)
time.sleep(60)
"""
MESSAGE = "error: the `dvc` that started this stage has ended; `dvc repro` goes on with it\n"
START_WATCHER = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {WATCH!r}])"
FIND = "from stages.lib.running.guard import find_dvc; dvc = find_dvc(); print(dvc and dvc.pid)"


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """Runs a command until the block ends; its stderr is open until the last of its children is gone, too."""
    pipe = subprocess.PIPE
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def holding(stage: str, code: str = HOLD) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Runs a process that holds the lock of a stage; yields it and what it printed then."""
    with running(sys.executable, "-c", code, stage) as process:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert line, "the lock was not taken"
        yield process, line


@contextmanager
def watched() -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """Runs a parent with a child that ends with it; yields both."""
    with running(sys.executable, "-c", START_WATCHER) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        try:
            yield parent, child
        finally:
            if child.is_running():
                child.kill()


def lock(stage: str) -> None:
    with hold_lock(stage):
        pass


# One at a time


def test_a_second_process_is_refused_with_the_stage_and_the_process_that_runs_it(tmp_dir: Path) -> None:
    with holding("train@third-none") as (process, _), pytest.raises(UserError) as caught:
        lock("train@third-none")

    assert tmp_dir.is_dir()
    assert str(caught.value) == (
        f"train@third-none: already running here, as process {process.pid}; wait for it to end, or end it"
    )


@pytest.mark.usefixtures("tmp_dir")
def test_a_process_that_is_refused_leaves_the_lock_and_its_holder_as_they_are() -> None:
    messages = []
    with holding("train") as (process, _):
        for _ in range(2):
            with pytest.raises(UserError) as caught:
                lock("train")
            messages.append(str(caught.value))

    assert f"as process {process.pid};" in messages[0]
    assert messages[0] == messages[1]


@pytest.mark.usefixtures("tmp_dir")
def test_a_stage_can_run_again_after_it_was_killed() -> None:
    with holding("train") as (process, _):
        process.kill()
        process.wait()

        lock("train")


@pytest.mark.usefixtures("tmp_dir")
def test_a_child_that_outlives_a_killed_stage_does_not_keep_the_lock() -> None:
    with holding("train", HOLD_WITH_CHILD) as (process, printed):
        child = psutil.Process(int(printed))
        try:
            process.kill()
            process.wait()
            assert child.is_running()
            lock("train")
        finally:
            child.kill()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.usefixtures("tmp_dir")
def test_the_lock_is_free_again_after_a_failure(error: type[BaseException]) -> None:
    with pytest.raises(error), hold_lock("train"):
        raise error

    lock("train")


@pytest.mark.usefixtures("tmp_dir")
def test_two_stages_run_side_by_side() -> None:
    with holding("train@third-none"):
        lock("train@third-flip")


@pytest.mark.usefixtures("tmp_dir")
def test_a_mistyped_argument_with_a_slash_is_left_to_the_stage_to_refuse() -> None:
    with hold_lock("complexity@a/b"):
        pass


def test_the_lock_is_a_file_in_the_running_folder_that_names_its_holder_alone(tmp_dir: Path) -> None:
    path = tmp_dir / "data/running/train@third-none"
    path.parent.mkdir(parents=True)
    path.write_text("1234567890123\n")

    with hold_lock("train@third-none"):
        assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.usefixtures("tmp_dir")
def test_the_stage_fails_with_its_own_errors_while_it_holds_the_lock() -> None:
    with pytest.raises(BlockingIOError), hold_lock("train"):
        raise BlockingIOError


# The dvc that started it


def find_through(*shells: str, stage: str | None) -> str:
    """Prints the process id that `find_dvc` finds where this process runs it through shells, none of which exec."""
    command = f"{sys.executable} -c '{FIND}'; true"
    environment = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
    environment |= {"PYTHONPATH": str(ROOT)} | ({"DVC_STAGE": stage} if stage else {})
    for shell in shells[1:]:
        environment[f"INNER_{shell}"] = command
        command = f'{shell} -c "$INNER_{shell}"; true'
    return subprocess.run(
        [shells[0], "-c", command], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_without_dvc_there_is_no_process_to_end_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)

    assert find_dvc() is None


def test_without_dvc_no_process_is_found_through_a_shell_either() -> None:
    assert find_through("bash", stage=None) == "None"


@pytest.mark.parametrize("shells", [["bash"], ["sh"], ["bash", "sh"]], ids=" in ".join)
def test_dvc_is_the_first_ancestor_that_is_no_shell(shells: list[str]) -> None:
    assert find_through(*shells, stage="train@third-none") == str(os.getpid())


def test_dvc_is_the_parent_where_the_shell_has_become_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "train")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    result = subprocess.run([sys.executable, "-c", FIND], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == str(os.getpid())


# Not without it


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_a_child_ends_soon_after_its_parent_was_ended(number: signal.Signals) -> None:
    with watched() as (parent, _):
        parent.send_signal(number)
        parent.wait()

        assert parent.communicate(timeout=10)[1] == MESSAGE  # which is whole as soon as the child has ended


def test_a_child_ends_soon_after_its_parent_became_a_zombie() -> None:
    with watched() as (parent, _):
        parent.kill()  # it stays a zombie until this process waits for it
        assert parent.stderr is not None
        is_ended, _, _ = select.select([parent.stderr], [], [], 10)

        assert is_ended
        assert psutil.Process(parent.pid).status() == psutil.STATUS_ZOMBIE
        assert parent.communicate(timeout=10)[1] == MESSAGE


def test_a_child_lives_on_while_its_parent_lives() -> None:
    with watched() as (_, child):
        time.sleep(1.2)  # it looks at least twice

        assert child.status() in (psutil.STATUS_SLEEPING, psutil.STATUS_RUNNING)


def test_a_process_that_ends_so_has_the_status_of_a_terminated_one() -> None:
    with running("sleep", "60") as parent, running(sys.executable, "-c", WATCH, str(parent.pid)) as child:
        assert child.stdout is not None
        child.stdout.readline()
        parent.kill()
        parent.wait()

        assert child.wait(timeout=10) == 143


def vanish() -> str:
    raise psutil.NoSuchProcess(1234)


@pytest.mark.parametrize(
    ("is_running", "status"),
    [(True, vanish), (False, lambda: psutil.STATUS_RUNNING)],
    ids=["while it is looked at", "and another process has its number"],
)
def test_a_parent_that_ends_has_ended(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_running: bool,
    status: Callable[[], str],
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
    assert "has ended" in capsys.readouterr().err


def test_the_watch_does_not_keep_a_stage_that_is_done() -> None:
    started = time.monotonic()
    code = "import psutil; from stages.lib.running.guard import end_with; end_with(psutil.Process().parent())"

    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=10)

    assert time.monotonic() - started < 10
