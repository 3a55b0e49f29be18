"""The stages of the pipeline: each module is one, run as `python -m stages.NAME`.

Importing this package has two effects, on purpose: Ctrl-C ends the program with one line in place of a traceback, and
the settings that a user made for other work of Keras and matplotlib are not read: they would change models and
pictures. Only what Python runs before the imports of a stage, which take seconds, can see to that: this file, or the
same lines above them in every stage.
"""

import os
import sys
from types import TracebackType


def report_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Reports an exception that ends the program: Ctrl-C in one line. `run_stage` sees to it from `main` on."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted: nothing was changed", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = report_uncaught
os.environ["KERAS_HOME"] = os.devnull  # no keras.json: it sets the type and the axes of every array
os.environ["MATPLOTLIBRC"] = os.devnull  # an empty file of settings
