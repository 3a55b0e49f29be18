"""Runs a stage: one clear message where the cause is the user's to mend, and a record of what the run took."""

import errno
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from stages.lib.errors import UserError
from stages.lib.running.followers import list_outdated, remove
from stages.lib.running.guard import check_experiment, end_with, find_dvc, hold_lock, name_lock
from stages.lib.running.machine import read_memory_mib
from stages.lib.storage.files import write_json

TIMING = Path("data/timing")
"""What each stage took when it last ran here. No DVC outputs: no two runs take the same time."""

ERRORS_OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def run_stage(main: Callable[[], None], writes: Callable[[], bool] = lambda: True) -> None:
    """Runs a stage, records what it took, and removes the numbers of later stages, which belong to earlier outputs.

    One process at a time runs a stage, and none outlives the `dvc` that started it. A `UserError`, a disk that is full
    or may not be written, or Ctrl-C becomes one line on stderr and a non-zero exit status; any other exception is a
    fault of the program and keeps its traceback.

    Args:
        main: does the work.
        writes: tells whether this process writes the stage's files. One that does not runs beside the one that does,
            without a lock and a record.
    """
    stage = name_stage(sys.argv)
    try:
        if dvc := find_dvc():
            end_with(dvc)
            check_experiment()
        if writes():
            with hold_lock(name_lock(stage), stage):
                outdated = list_outdated(stage.partition("@")[0])
                main()
                remove(outdated)
                write_timing(stage)
        else:
            main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno not in ERRORS_OF_THE_MACHINE:
            raise
        sys.exit(f"error: {error}; mend it and run `dvc repro` again")
    except KeyboardInterrupt:
        print(
            "interrupted: `dvc repro` goes on with this stage; a training resumes after its last finished epoch",
            file=sys.stderr,
        )
        sys.exit(130)  # 128 + SIGINT, as shells count


def name_stage(argv: list[str]) -> str:
    """Names a stage by its module and its arguments, from the command line that runs it.

    DVC has the same name for it, but where two stages share a module.

    >>> name_stage(["stages/train.py", "third", "flip"])
    'train@third-flip'
    """
    program, *arguments = argv
    return f"{Path(program).stem}@{'-'.join(arguments)}" if arguments else Path(program).stem


def write_timing(stage: str) -> None:
    """Writes the seconds since the process started, imports included, and the most memory that it held."""
    timing = {
        "stage": stage,
        "seconds": round(time.time() - psutil.Process().create_time(), 1),
        "peak_memory_mib": int(read_memory_mib("VmHWM")),
    }
    write_json(TIMING / f"{stage}.json", timing)
