"""The stages of the pipeline; importing this package makes Ctrl-C end a stage without a traceback, at any moment."""

import sys
from types import TracebackType


def report_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Reports an exception that ends the program: Ctrl-C during the imports, which take seconds, in one line."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted: nothing was changed", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = report_uncaught
