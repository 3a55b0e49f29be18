"""Runs a model's C on the CPU of this machine."""

import ctypes
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stages.lib.errors import UserError
from stages.lib.target.program import Program


def run_on_host(program: Program, library: bytes, images: np.ndarray) -> np.ndarray:
    """Runs a model on (N, ...) int8 images, N >= 1; returns (N, classes) int8 logits.

    Args:
        program: what was built.
        library: what `stages.lib.target.build.build_for_host` built of it. Nothing guards its memory: a fault ends this
            process.
        images: `program.image_bytes` of int8 each.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.so"
        path.write_bytes(library)
        image, logits = np.empty(program.image_bytes, np.int8), np.empty(program.num_classes, np.int8)
        run = bind(path, image, logits, np.empty(program.buffer_bytes, np.int8))
        answers = []
        for given in images:
            image[:] = given.ravel()
            run()
            answers.append(logits.copy())
    return np.stack(answers)


def bind(library: Path, image: np.ndarray, logits: np.ndarray, buffer: np.ndarray) -> Callable[[], None]:
    """Returns a function without arguments that runs the model of a shared library on what `image` holds.

    `image`, `logits` and `buffer` are int8 and contiguous.

    Raises:
        UserError: if the library cannot be loaded.
    """
    try:
        model_run = ctypes.CDLL(str(library)).model_run
    except OSError as error:
        raise UserError(
            f"model.c: could not be loaded here: {error}; it may call nothing that it does not hold"
        ) from None
    model_run.restype = None
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (image, logits, buffer)]  # which keep the arrays
    return lambda: model_run(*pointers)
