"""Measures the machine's peak with matrix products in TensorFlow, and names the hardware. Part of the benchmark."""

import os
import time
from typing import Any

from measuring import print_result, read_task

SIZE = 2048
"""Rows and columns of the matrices."""
REPETITIONS = 10


def measure_peak(tf: Any, dtype: str) -> float:
    """Measures GFLOP/s (1e9 floating point operations a second) of a square matrix product: the best of several."""
    a = tf.cast(tf.random.stateless_normal((SIZE, SIZE), (0, 1)), dtype)
    b = tf.cast(tf.random.stateless_normal((SIZE, SIZE), (0, 2)), dtype)
    multiply = tf.function(tf.linalg.matmul)
    seconds = []
    for _ in range(2 + REPETITIONS):
        start = time.perf_counter()
        multiply(a, b)[0, 0].numpy()  # waits for the product
        seconds.append(time.perf_counter() - start)
    return 2 * SIZE**3 / min(seconds[2:]) / 1e9


def main() -> None:
    """Prints peaks in GFLOP/s, the precision that the pipeline would choose, and the hardware."""
    from stages.lib.network.keras2 import tf
    from stages.lib.running.machine import read_cpu_name
    from stages.lib.training.precision import choose_policy

    task = read_task()
    print_result(
        {
            "peak_gflops": {dtype: measure_peak(tf, dtype) for dtype in ("float32", "bfloat16")},
            "precision": choose_policy(task["precision"]).removeprefix("mixed_"),
            "cpu": read_cpu_name(),
            "num_cpus": len(os.sched_getaffinity(0)),
            "gpus": [device.name for device in tf.config.list_physical_devices("GPU")],
        }
    )


if __name__ == "__main__":
    main()
