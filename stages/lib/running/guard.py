"""Guards a running stage: one at a time, and none without the `dvc` that started it."""

import fcntl
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from stages.lib.errors import UserError
from stages.lib.running.git import check_commits

RUNNING = Path("data/running")
"""A file for each stage that ever ran here, locked while it runs. Neither outputs nor inputs of any stage."""

SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh", "csh", "tcsh"}
TERMINATED = 128 + 15  # exit status of a process that SIGTERM ended, as shells count


def name_lock(stage: str) -> Path:
    """Names the lock file of a stage, whatever a mistyped argument holds: the stage refuses that later."""
    return RUNNING / stage.replace("/", "_")


@contextmanager
def hold_lock(path: Path, name: str, remedy: str = "wait for it to end, or end it") -> Iterator[None]:
    """Holds the lock of a stage or tool; the operating system frees it however this process ends.

    Args:
        path: of the file that is locked, and says which process holds it; it is made where it is missing.
        name: of the stage or tool, for the message.
        remedy: what the message tells the user to do.

    Raises:
        UserError: if another process holds it: two writers would spoil each other's outputs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{name}: already running here, as process {file.read().strip()}; {remedy}") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def find_dvc() -> psutil.Process | None:
    """Finds the `dvc` that started this process, through the shell that it runs commands in; None without one.

    Raises:
        UserError: if it ended before it could be found; this process then belongs to the machine's first one.
    """
    if "DVC_STAGE" not in os.environ:  # which dvc sets for the commands that it runs
        return None
    with suppress(psutil.NoSuchProcess):
        for parent in psutil.Process().parents():
            if parent.name() not in SHELLS and (parent.pid != 1 or any("dvc" in word for word in parent.cmdline())):
                return parent
    raise UserError("the `dvc` that started this stage has ended; run `dvc repro` again")


def check_experiment() -> None:
    """Checks, where `dvc exp run --temp` or `--queue` made this folder, that it can take the experiment back.

    Raises:
        UserError: if it could not, and would say nothing.
    """
    origin = Path(os.environ.get("DVC_ROOT", "."))  # the user's clone, says dvc
    if origin.resolve() != Path.cwd():
        check_commits(origin)


def end_with(parent: psutil.Process) -> None:
    """Ends this process within a second of `parent`'s end, whatever ended that.

    A stage whose `dvc` was terminated would train on for hours beside the next `dvc repro`.
    """

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):  # if it ends between the two questions
            while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.5)
        print("error: the `dvc` that started this stage has ended; `dvc repro` goes on with it", file=sys.stderr)
        os._exit(TERMINATED)

    threading.Thread(target=watch, daemon=True).start()
