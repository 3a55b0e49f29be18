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

RUNNING = Path("data/running")
"""A file for each stage that ever ran here, locked while it runs. Neither outputs nor inputs of any stage."""

SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh", "csh", "tcsh"}
TERMINATED = 128 + 15
"""Exit status of a process that SIGTERM ended, as shells count."""


@contextmanager
def hold_lock(stage: str) -> Iterator[None]:
    """Holds the lock of a stage; the operating system frees it however this process ends.

    Raises:
        UserError: if another process holds it: two writers would spoil each other's outputs.
    """
    RUNNING.mkdir(parents=True, exist_ok=True)
    with (RUNNING / stage.replace("/", "_")).open("a+") as file:  # a mistyped argument is refused later
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{stage}: already running here, as process {file.read().strip()}; wait for it to end, or end it"
            ) from None
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
