"""How fast is a model's C here, beside its LiteRT files? `python -m stages.lib.target.latency --help` shows the use.

Prints JSON: median and quartiles of one image in milliseconds, of the C and of each LiteRT file, all on one thread.
They take turns within one process, so that whatever slows the machine down slows all of them. No TensorFlow.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.errors import UserError
from stages.lib.litert.latency import NUM_THREADS, ROOT, summarize, time_runs
from stages.lib.litert.runtime import read_interpreter, set_images
from stages.lib.target.host import bind
from stages.lib.target.program import Program

NUM_TURNS = 10


def measure_in_turns(runs: Mapping[str, Callable[[], None]]) -> dict[str, dict[str, float]]:
    """Times each of `runs`, by name, in `NUM_TURNS` turns of 50 milliseconds or at least 3 calls, after a warm-up."""
    for run in runs.values():
        time_runs(run, seconds=0.1, min_runs=5, max_runs=1000)  # until caches and clock speed have settled
    times_ms: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(NUM_TURNS):
        for name, run in runs.items():
            times_ms[name] += time_runs(run, seconds=0.05, min_runs=3, max_runs=100)
    return {name: summarize(times) for name, times in times_ms.items()}


def measure_latency(
    library: Path, image_bytes: int, num_classes: int, buffer_bytes: int, files: Mapping[str, Path]
) -> dict[str, Any]:
    """Times the shared library of a `Program`, and LiteRT files, by name, on an image of noise."""
    rng = np.random.default_rng(0)
    image, logits = rng.integers(-128, 128, image_bytes, np.int8), np.empty(num_classes, np.int8)
    runs = {"c": bind(library, image, logits, np.empty(buffer_bytes, np.int8))}
    for name, path in files.items():
        interpreter = read_interpreter(path, 1, NUM_THREADS)
        set_images(interpreter, rng.integers(0, 256, interpreter.get_input_details()[0]["shape"], np.uint8))
        runs[name] = interpreter.invoke
    return {
        "compiler": f"ziglang {version('ziglang')}",
        "runtime": f"ai-edge-litert {version('ai-edge-litert')}",
        "num_threads": NUM_THREADS,
        **measure_in_turns(runs),
    }


def measure_latency_in_fresh_process(program: Program, library: bytes, files: Mapping[str, Path]) -> dict[str, Any]:
    """Measures as `measure_latency` does, in a process of its own.

    Args:
        program: what was built.
        library: what `stages.lib.target.build.build_for_host` built of it.
        files: LiteRT files, by the name that their times get.

    Raises:
        UserError: if that process fails, as it does on a file that is missing or no model.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.so"
        path.write_bytes(library)
        sizes = map(str, (program.image_bytes, program.num_classes, program.buffer_bytes))
        named = [f"{name}={file.resolve()}" for name, file in files.items()]
        command = [sys.executable, "-m", "stages.lib.target.latency", str(path), *sizes, *named]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = result.stderr.strip() or f"the process ended with {result.returncode}"
        raise UserError(f"model.c: its latency could not be measured: {reason}")
    return json.loads(result.stdout)


def main() -> None:
    """Measures what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path, help="a model.c that was built for this machine")
    parser.add_argument("image_bytes", type=int, help="int8 of its image")
    parser.add_argument("num_classes", type=int, help="int8 of its logits")
    parser.add_argument("buffer_bytes", type=int, help="of its working memory")
    parser.add_argument("files", nargs="*", metavar="NAME=FILE", help=".tflite files, and how to call them")
    given = vars(parser.parse_args())
    files = {name: Path(path) for name, _, path in (file.partition("=") for file in given.pop("files"))}
    try:
        print(json.dumps(measure_latency(**given, files=files), indent=2))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
