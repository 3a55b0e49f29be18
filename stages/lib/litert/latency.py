"""How fast is a LiteRT file here, and how much memory does it take? Run as `python -m stages.lib.litert.latency FILE`.

Prints JSON: for batches of 1 and of 32 images the median and quartiles in milliseconds, on one thread; and the most
memory that the process held, in MiB. It is a process of its own, so that nothing else adds to this memory. No
TensorFlow.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.errors import UserError
from stages.lib.litert.runtime import read_interpreter, set_images
from stages.lib.running.machine import read_memory_mib

ROOT = Path(__file__).parents[3]
BATCH_SIZES = (1, 32)
NUM_THREADS = 1


def time_runs(run: Callable[[], None], seconds: float, min_runs: int, max_runs: int) -> list[float]:
    """Calls `run` for `seconds`, but `min_runs` to `max_runs` times; returns what each call took, in milliseconds."""
    times_ms: list[float] = []
    start = time.perf_counter_ns()
    end = start
    while len(times_ms) < max_runs and (len(times_ms) < min_runs or end - start < seconds * 1e9):
        begin = time.perf_counter_ns()
        run()
        end = time.perf_counter_ns()
        times_ms.append((end - begin) / 1e6)
    return times_ms


def summarize(times_ms: Sequence[float]) -> dict[str, float]:
    """Computes median and quartiles of times in milliseconds, and counts them."""
    p25, median, p75 = (round(float(value), 4) for value in np.percentile(times_ms, [25, 50, 75]))
    return {"median_ms": median, "p25_ms": p25, "p75_ms": p75, "runs": len(times_ms)}


def measure_batch(path: Path, batch_size: int) -> dict[str, float]:
    """Measures how long a LiteRT file takes for a batch of noise; setting the images does not count."""
    interpreter = read_interpreter(path, batch_size, NUM_THREADS)
    shape = interpreter.get_input_details()[0]["shape"]
    set_images(interpreter, np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    time_runs(interpreter.invoke, seconds=0.2, min_runs=5, max_runs=1000)  # until caches and clock speed have settled
    return summarize(time_runs(interpreter.invoke, seconds=1, min_runs=30, max_runs=1000))


def measure_latency(path: Path) -> dict[str, Any]:
    """Measures times and memory of a LiteRT file; `runtime_memory_mib` is how much the process grew at most."""
    before = read_memory_mib("VmRSS")
    timings = {f"batch_{batch_size}": measure_batch(path, batch_size) for batch_size in BATCH_SIZES}
    peak = read_memory_mib("VmHWM")
    return {
        "runtime": f"ai-edge-litert {version('ai-edge-litert')}",
        "num_threads": NUM_THREADS,
        **timings,
        "peak_memory_mib": round(peak, 1),
        "runtime_memory_mib": round(peak - before, 1),
    }


def measure_latency_in_fresh_process(path: Path) -> dict[str, Any]:
    """Measures one LiteRT file as `measure_latency` does, in a process of its own.

    Raises:
        UserError: if that process fails, as it does on a file that is missing or no model.
    """
    command = [sys.executable, "-m", "stages.lib.litert.latency", str(path.resolve())]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(f"{path}: its latency could not be measured: {result.stderr.strip()}")
    return json.loads(result.stdout)


def main() -> None:
    """Measures the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a .tflite file")
    try:
        print(json.dumps(measure_latency(parser.parse_args().file), indent=2))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
