"""How much memory do `prepare` and `train` take of data sets that are larger and larger, and how fast are they?

Run as `python tests/benchmarks/memory.py` at the top of the repository. Prints Markdown.

Each size is a set of its own: random pixels in colour in one uncompressed .npz, with splits that are given. On it run
`python -m stages.prepare` and `python -m stages.train MODEL none 42`, each in a process of its own, one epoch of
`--train-images` images, as many for each set; so a row differs from another in what lies on disk alone.

Memory is the most that a process held, in MiB, read from /proc every 20 ms. Anonymous memory (RssAnon) is what it asked
for and the system cannot take back. All resident memory (VmHWM) counts pages of files, too, which are mapped and which
the system drops as soon as anybody needs the space: it grows with the set as long as there is some.

Images a second are those of the whole process for `prepare`, the start of Python included, and those of the epoch
alone, as data/timing/ has them, for `train`.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import psutil
import yaml
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for `python tests/benchmarks/memory.py`

from benchmark_training import ROOT, build_environment, format_table, positive_int, positive_number

from stages.lib.errors import UserError
from stages.lib.params.yaml_1_2 import read_yaml
from stages.lib.running.machine import read_cpu_name, read_memory_mib
from stages.lib.running.runner import TIMING
from stages.lib.storage.files import read_json
from stages.lib.storage.variant import Variant

NUM_CLASSES = 10
NUM_HELD_OUT = 512  # images for validation, and as many for testing
SEED = 42
IMAGES_AT_ONCE = 1024
COPIES = 3  # of a set on disk at once: the source, the inputs of prepare, the splits
SPARE_BYTES = 10**9  # of the disk, that stay free
SECONDS_BETWEEN_LOOKS = 0.02
HEADER = (
    *("set", "images", "`prepare`: anonymous MiB", "all MiB", "images/s"),
    *("`train`: anonymous MiB", "all MiB", "images/s"),
)


@dataclass
class Usage:
    """What a process took."""

    seconds: float = 0.0
    anonymous_mib: float = 0.0
    resident_mib: float = 0.0


def read_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--gigabytes", type=positive_number, nargs="+", default=[1, 2, 5, 10], help="of each set (default: 1 2 5 10)")
    add("--side", type=positive_int, default=96, help="pixels on a side of an image (default: 96)")
    add("--model", default="first", help="a model of params.yaml (default: first)")
    add("--train-images", type=positive_int, default=2048, help="of the epoch (default: 2048)")
    add("--folder", type=Path, default=Path("/var/tmp"), help="on a disk, not in memory (default: /var/tmp)")  # noqa: S108
    return parser.parse_args()


def count_images(gigabytes: float, side: int) -> int:
    """Counts the images in colour that take so many gigabytes of 1e9 bytes.

    >>> count_images(1, 96)
    36169
    """
    return round(gigabytes * 1e9 / (side * side * 3))


def check_arguments(gigabytes: Sequence[float], side: int, num_trained: int, folder: Path) -> None:
    """Checks that sets have enough images, and the disk enough space for the largest.

    Raises:
        UserError: if not.
    """
    least = num_trained + 2 * NUM_HELD_OUT
    if (found := count_images(min(gigabytes), side)) < least:
        raise UserError(f"--gigabytes: expected sets of at least {least:,} images; got {found:,}; make them larger")
    if not folder.is_dir():
        raise UserError(f"--folder: expected a folder; got {folder}; name another one")
    needed, free = COPIES * max(gigabytes) * 1e9 + SPARE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: expected {needed / 1e9:.1f} GB of free space; got {free / 1e9:.1f} GB; name another --folder, "
            "or take smaller sets"
        )


def write_set(path: Path, num_images: int, side: int) -> None:
    """Writes an .npz as `numpy.savez` does, without having its images in memory."""
    rng = np.random.default_rng(SEED)
    path.parent.mkdir()
    counts = [num_images - 2 * NUM_HELD_OUT, NUM_HELD_OUT, NUM_HELD_OUT]
    others = {
        "labels": rng.integers(0, NUM_CLASSES, num_images, np.uint8),
        "split": np.repeat(["train", "val", "test"], counts),
    }
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("images.npy", "w", force_zip64=True) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (num_images, side, side, 3)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, num_images, IMAGES_AT_ONCE):
                file.write(rng.bytes(min(IMAGES_AT_ONCE, num_images - start) * side * side * 3))
        for name, array in others.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)


def write_params(path: Path, model: str, side: int, keep_fraction: float) -> None:
    """Writes params.yaml for one short training on the set."""
    params = read_yaml(ROOT / "params.yaml")
    params["dataset"] |= {
        "name": "noise",
        "source": "source",
        "image_size_px": side,
        "channels": 3,
        "fit": "pad",
        "class_names": [f"class {number}" for number in range(NUM_CLASSES)],
        "files": None,
    }
    params["prepare"] |= {"keep_fraction": 1.0, "leave_out": "leave_out.csv"}
    params["study"] |= {"models": [model], "augmentations": ["none"], "seeds": [SEED], "keep_fraction": keep_fraction}
    params["train"] |= {"epochs": 1, "clean_epochs": 0}
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def run_measured(command: Sequence[str], folder: Path) -> Usage:
    """Runs a command, and measures its time and its memory; its failure ends the program."""
    usage, start = Usage(), time.perf_counter()
    with (folder / "log.txt").open("w+") as log:
        with subprocess.Popen(
            command, cwd=folder, env=build_environment(), stdout=log, stderr=subprocess.STDOUT
        ) as process:
            status = Path(f"/proc/{process.pid}/status")
            while process.poll() is None:
                with suppress(ValueError, OSError):  # it has just ended
                    usage.anonymous_mib = max(usage.anonymous_mib, read_memory_mib("RssAnon", status))
                    usage.resident_mib = read_memory_mib("VmHWM", status)
                time.sleep(SECONDS_BETWEEN_LOOKS)
        usage.seconds = time.perf_counter() - start
        if process.returncode:
            log.seek(0)
            sys.exit(f"{log.read()}error: {' '.join(command)} failed with status {process.returncode}")
    return usage


def measure_set(gigabytes: float, side: int, model: str, num_trained: int, folder: Path) -> list[str]:
    """Makes a set in an empty folder and measures both stages on it; returns its row of the table."""
    num_images = count_images(gigabytes, side)
    write_set(folder / "source/noise.npz", num_images, side)
    write_params(folder / "params.yaml", model, side, num_trained / (num_images - 2 * NUM_HELD_OUT))
    (folder / "leave_out.csv").write_text("file,index\n")
    prepared = run_measured([sys.executable, "-m", "stages.prepare"], folder)
    trained = run_measured([sys.executable, "-m", "stages.train", model, "none", str(SEED)], folder)
    timing = read_json(folder / TIMING / f"training/{Variant('train', model, 'none', SEED).run}.json")
    return [
        f"{gigabytes:g} GB",
        f"{num_images:,}",
        f"{prepared.anonymous_mib:,.0f}",
        f"{prepared.resident_mib:,.0f}",
        f"{num_images / prepared.seconds:,.0f}",
        f"{trained.anonymous_mib:,.0f}",
        f"{trained.resident_mib:,.0f}",
        f"{timing['images_per_second']:,}",
    ]


def main() -> None:
    """Measures what the command line asks for and prints it."""
    arguments = read_arguments()
    side, model, num_trained = arguments.side, arguments.model, arguments.train_images
    try:
        check_arguments(arguments.gigabytes, side, num_trained, arguments.folder)
        rows = []
        for gigabytes in tqdm(arguments.gigabytes, unit="set", leave=False, disable=None):
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                rows.append(measure_set(gigabytes, side, model, num_trained, Path(folder)))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT, as shells count
    memory_gib = psutil.virtual_memory().total / 2**30
    print(
        f"{format_table(HEADER, rows)}\n\nImages of {side} x {side} pixels in colour; model {model}, one epoch of "
        f"{num_trained:,} images, {NUM_HELD_OUT} for validation.\n\n{read_cpu_name()}, {len(os.sched_getaffinity(0))} "
        f"CPUs, {memory_gib:.0f} GiB of memory, {date.today().isoformat()}."
    )


if __name__ == "__main__":
    main()
