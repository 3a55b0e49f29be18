"""Does the shipped model answer on a small device as it does here? Runs its C on every test image.

Reads:
    data/ship/model.c, model.h: the shipped C; model.tflite: the file that it was made of.
    data/prepare/test.npz: `images` uint8, `labels` (N,) uint8.

Writes, in data/verify/:
    metrics.json: how many images there are, and on how many the C differs in any logit from LiteRT's reference kernels,
        which say what every integer has to be; the accuracy of the C; on how many LiteRT's usual kernels (XNNPACK)
        differ from the reference in any logit, and in the class; and on how many of the first `NUM_EMULATED` TensorFlow
        Lite Micro does.

The stage fails, and writes nothing, if the C differs from the reference on any image, or if on one of the first
`NUM_EMULATED` a Cortex-M4 or Cortex-M0+, emulated, differs from the C on this machine.
"""

import os
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stages.lib.errors import UserError
from stages.lib.litert.runtime import predict_outputs, read_interpreter, to_model_input
from stages.lib.network.metrics import compute_accuracy
from stages.lib.params.load import load_params
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import check_exists, read_split, write_json
from stages.lib.target.build import PROCESSORS, Optimization, build_for_host, build_for_processor
from stages.lib.target.emulator import run_on_processor
from stages.lib.target.host import run_on_host
from stages.lib.target.micro import run_on_micro
from stages.lib.target.program import Program

READS = ("deploy.prefer",)
SHIP = Path("data/ship")
SHIPPED = SHIP / "model.tflite"
TEST_SET = Path("data/prepare/test.npz")
OUTPUT = Path("data/verify")

NUM_EMULATED = 100
NUM_PARTS = 20
BATCH_SIZE = 20


def run_on_all_cpus(run: Callable[[np.ndarray], np.ndarray], images: np.ndarray, shown: str) -> np.ndarray:
    """Runs images in `NUM_PARTS` parts, as many at a time as there are CPUs; joins the answers in order.

    Args:
        run: from (N, ...) images to (N, classes) answers; it may be called by several threads at once.
        images: at least one.
        shown: what the progress bar says.
    """
    parts = np.array_split(images, min(NUM_PARTS, len(images)))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        answers = pool.map(run, parts)
        bar = tqdm(answers, shown, total=len(parts), leave=False, unit="part", disable=not sys.stderr.isatty())
        return np.concatenate(list(bar))


def run_on_litert(images: np.ndarray, is_reference: bool) -> np.ndarray:
    """Runs the shipped file on uint8 images; returns (N, classes) int8 logits."""
    return predict_outputs(read_interpreter(SHIPPED, BATCH_SIZE, num_threads=1, is_reference=is_reference), images)


def find_different(answers: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Finds the images whose logits, one a row, are not all as expected; returns their indices."""
    return np.flatnonzero((answers != expected).any(axis=1))


def check_same(name: str, answers: np.ndarray, other: str, expected: np.ndarray) -> None:
    """Checks that `name` gives the logits, one a row, that `other` gives.

    Raises:
        UserError: if not; the message names the first image that differs.
    """
    different = find_different(answers, expected)
    if different.size:
        first = different[0]
        raise UserError(
            f"{SHIPPED}: expected {name} to give on every test image what {other} gives; got other logits on "
            f"{different.size} of {len(answers)}, first on image {first}: {answers[first].tolist()} in place of "
            f"{expected[first].tolist()}; do not deploy it"
        )


def read_program() -> Program:
    """Reads the shipped C.

    Raises:
        UserError: if a file is missing, or model.h does not say what a caller has to know.
    """
    for name in ("model.c", "model.h"):
        check_exists(SHIP / name)
    source, header = ((SHIP / name).read_text(encoding="utf-8") for name in ("model.c", "model.h"))
    defined = {name: int(value) for name, value in re.findall(r"#define MODEL_(\w+) (\d+)", header)}
    missing = {"IMAGE_SIZE_PX", "NUM_CHANNELS", "NUM_CLASSES", "BUFFER_BYTES"} - set(defined)
    if missing:
        raise UserError(f"{SHIP / 'model.h'}: expected to find MODEL_{min(missing)} defined; run `dvc repro`")
    return Program(
        source,
        header,
        image_bytes=defined["IMAGE_SIZE_PX"] ** 2 * defined["NUM_CHANNELS"],
        num_classes=defined["NUM_CLASSES"],
        buffer_bytes=defined["BUFFER_BYTES"],
    )


def measure(images: np.ndarray, labels: np.ndarray, prefer: Optimization) -> dict[str, Any]:
    """Runs the shipped C and the file that it was made of everywhere; returns the content of metrics.json.

    Args:
        images: uint8.
        labels: (N,) uint8.
        prefer: what the compiler aims at.

    Raises:
        UserError: as `check_same`, of the C, here and on each processor.
    """
    given = to_model_input(read_interpreter(SHIPPED, 1, num_threads=1), images)
    program = read_program()
    answers = run_on_host(program, build_for_host(program), given)
    reference = run_on_all_cpus(partial(run_on_litert, is_reference=True), images, "reference kernels")
    check_same("the C", answers, "the reference", reference)
    some, expected = given[:NUM_EMULATED], answers[:NUM_EMULATED]
    for processor in PROCESSORS:
        run = partial(run_on_processor, program, build_for_processor(program, processor, prefer), processor)
        check_same(f"the C on {processor}", run_on_all_cpus(run, some, processor), "the C here", expected)
    usual = run_on_all_cpus(partial(run_on_litert, is_reference=False), images, "usual kernels")
    return {
        "images": len(images),
        "different_from_reference": find_different(answers, reference).size,
        "test_accuracy": compute_accuracy(labels, answers.argmax(axis=1)),
        "xnnpack_different_logits": find_different(usual, reference).size,
        "xnnpack_different_classes": int((usual.argmax(axis=1) != reference.argmax(axis=1)).sum()),
        "emulated_images": len(some),
        "tflite_micro_different_logits": find_different(
            run_on_micro(SHIPPED.read_bytes(), some), reference[:NUM_EMULATED]
        ).size,
    }


def main() -> None:
    """Runs the stage."""
    prefer = load_params(reads=READS).deploy.prefer
    images, labels = read_split(TEST_SET)
    metrics = measure(images, labels, prefer)
    write_json(OUTPUT / "metrics.json", metrics)
    print(
        f"{OUTPUT}: the C gives on all {metrics['images']:,} test images what the reference gives; LiteRT's usual "
        f"kernels differ on {metrics['xnnpack_different_logits']:,}, in the class on "
        f"{metrics['xnnpack_different_classes']:,}"
    )


if __name__ == "__main__":
    run_stage(main)
