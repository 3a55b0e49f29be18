"""The stages of the pipeline: each module is one, run as `python -m stages.NAME`.

Importing this package sees, on purpose, to what else would end a program with a traceback, or without its answer, or
with another one: how it ends, where it prints, and that the settings which a user made for other work of Keras and
matplotlib are not read, for they would change models and pictures. A stage spends seconds in its imports, and only what
Python runs before them can see to that: this file, or the same lines above the imports of every stage.
"""

import io
import os
import sys
from types import TracebackType

INSTALL = "python3 -m venv .venv && . .venv/bin/activate && pip install --quiet --require-hashes -r requirements.txt"


def report_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Reports an exception that ends the program: in one line where the user can mend it.

    Ctrl-C, which `run_stage` sees to from `main` on; a package that is not installed; and short memory.
    """
    package = (error.name or "stages").partition(".")[0] if isinstance(error, ModuleNotFoundError) else "stages"
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted: nothing was changed", file=sys.stderr)
    elif package not in {"stages", *sys.stdlib_module_names}:
        print(
            f"error: {package} is not installed for {sys.executable}; run `. .venv/bin/activate` at the top of the "
            f"repository, or, to install it there, `{INSTALL}`",
            file=sys.stderr,
        )
    elif issubclass(kind, MemoryError) or "failed to map segment" in str(error):  # the second of shared libraries
        print("error: memory is short; end other programs, or raise its limit (see `ulimit -v`)", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


def open_streams() -> None:
    """Opens what is closed of stdin, stdout and stderr, on nothing, and lets the rest print whatever its encoding.

    The next file to be opened would take the place of a closed one, and native code would print into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout, sys.stderr = sys.stdout or os.fdopen(1, "w"), sys.stderr or os.fdopen(2, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


sys.excepthook = report_uncaught
open_streams()
os.environ["KERAS_HOME"] = os.devnull  # no keras.json: it sets the type and the axes of every array
os.environ["MATPLOTLIBRC"] = os.devnull  # an empty file of settings
