"""What the rows of the benchmark share: a task as JSON on stdin, a clock, a result as JSON on stdout. Needs only numpy.

All heavy imports of the rows stand inside their functions, so that collecting these files costs nothing.
"""

import json
import sys
import time
from typing import Any

import numpy as np


class Clock:
    """Times whole epochs; the first one is the warm-up and does not count.

    Args:
        seconds: to measure for, at least; the epoch in which they pass is the last one.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.ends: list[float] = []

    def end_epoch(self) -> bool:
        """Notes that an epoch has ended; tells whether the time is up."""
        self.ends.append(time.perf_counter())
        return self.ends[-1] - self.ends[0] >= self.seconds

    def report(self, num_images: int) -> dict[str, float]:
        """Returns the speed of training, for epochs of `num_images`, over all epochs but the first."""
        epochs, seconds = len(self.ends) - 1, self.ends[-1] - self.ends[0]
        return {"images_per_second": epochs * num_images / seconds, "epochs": epochs, "seconds": seconds}


def read_task() -> dict[str, Any]:
    """Reads what to do."""
    task: dict[str, Any] = json.load(sys.stdin)
    return task


def print_result(result: dict[str, Any]) -> None:
    """Prints the result as the last line."""
    print(json.dumps(result), flush=True)


def read_images(path: str, num_images: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Reads the first images of a split: (N, size, size, 1) float32 in [0, 1], and (N,) int64 labels."""
    with np.load(path) as split:
        x, y = split["images"][:num_images], split["labels"][:num_images]
    return x[..., np.newaxis].astype(np.float32) / 255, y.astype(np.int64)
