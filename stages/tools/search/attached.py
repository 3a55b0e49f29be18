"""Runs dvc so that it ends with the process that started it, even where that one is killed: Linux only.

Run by path, as `python -P attached.py PARENT ARGUMENT...`, with the number of the process that starts it: its folder is
another clone than that of this file. The stages that dvc runs end when it does: `stages.lib.running.guard`.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that this process gets when the thread that started it ends."""


def main() -> None:
    """Runs dvc."""
    parent, *arguments = sys.argv[1:]
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it ended before the line above
        sys.exit(1)
    from dvc.cli import main as run_dvc  # takes a second, in which the parent may end

    sys.exit(run_dvc(arguments))


if __name__ == "__main__":
    main()
