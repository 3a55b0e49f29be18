"""The stages of the pipeline: each module is one, run as `python -m stages.NAME`.

Importing this package has one effect, on purpose: Ctrl-C ends the program with one line in place of a traceback. A
stage spends seconds in its imports, and only what Python runs before them can see to that: this file, or the same
lines above the imports of every stage.
"""

import sys
from types import TracebackType


def report_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Reports an exception that ends the program: Ctrl-C in one line. `run_stage` sees to it from `main` on."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted: nothing was changed", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = report_uncaught
