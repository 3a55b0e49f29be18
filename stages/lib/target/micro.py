"""Runs a LiteRT file under TensorFlow Lite Micro (TFLM), the interpreter for microcontrollers, here on this machine."""

import os
import re
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tflite_micro import runtime

from stages.lib.errors import UserError

ARENA_BYTES = 64 * 1024**2  # more than any model of this project needs


@dataclass(frozen=True)
class Arena:
    """The memory that TFLM asks its caller for.

    Attributes:
        head_bytes: activations, and what a kernel needs while it runs; the same on every processor.
        tail_bytes: what describes tensors and kernels as long as the model lives. Measured on a 64-bit machine, whose
            pointers are twice as large: a microcontroller needs less.
    """

    head_bytes: int
    tail_bytes: int

    @property
    def total_bytes(self) -> int:
        """Adds both."""
        return self.head_bytes + self.tail_bytes


def measure_arena(content: bytes) -> Arena:
    """Measures the arena of a LiteRT file under TFLM.

    Raises:
        UserError: if TFLM cannot run the file.
    """
    interpreter = _read(content)
    _invoke(interpreter)
    printed = _capture_stderr(interpreter.print_allocations)
    sizes = dict(re.findall(r"Arena allocation (head|tail) (\d+) bytes", printed))
    return Arena(int(sizes["head"]), int(sizes["tail"]))


def run_on_micro(content: bytes, images: np.ndarray) -> np.ndarray:
    """Runs an int8 LiteRT file under TFLM on (N, size, size, 1) int8 images; returns (N, classes) int8 logits.

    Raises:
        UserError: if TFLM cannot run the file.
    """
    interpreter = _read(content)
    answers = []
    for image in images:
        interpreter.set_input(image[np.newaxis], 0)
        _invoke(interpreter)
        answers.append(interpreter.get_output(0)[0])
    return np.stack(answers)


def _read(content: bytes) -> runtime.Interpreter:
    try:
        return runtime.Interpreter.from_bytes(content, arena_size=ARENA_BYTES)
    except (RuntimeError, TypeError, ValueError, struct.error) as error:  # what a damaged file raises
        raise _refusal(error) from error


def _invoke(interpreter: runtime.Interpreter) -> None:
    try:
        interpreter.invoke()
    except RuntimeError as error:
        raise _refusal(error) from error


def _refusal(error: Exception) -> UserError:
    return UserError(
        f"TensorFlow Lite Micro: expected a LiteRT file that it can run in {ARENA_BYTES // 1024**2} MiB; got: {error}; "
        "run `dvc repro` to make the file anew"
    )


def _capture_stderr(write: Callable[[], None]) -> str:
    """Returns what `write` writes to stderr, native code included; it does not reach the screen."""
    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            write()
        finally:
            os.dup2(screen, 2)
            os.close(screen)
        held.seek(0)
        return held.read().decode(errors="replace")
