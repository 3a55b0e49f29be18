"""What are the models worth as files that are deployed? Exports those of one stage; `python -m stages.export SOURCE`.

Each model becomes two LiteRT files: float32, and int8 throughout, whose ranges are measured on training images and
whose weights are rounded, so that it compresses better. Every accuracy of a file is measured through the runtime that
would serve it.

Reads:
    data/<source>/.../model.h5, metrics.json, for a source of train, prune or shrink: of train, every model of the study
        with the chosen augmentation; of the others, whatever params.yaml lists for them.
    data/select_model/choice.json: the chosen augmentation, for train only.
    data/prepare/train.npz, val.npz, test.npz.

Writes, in data/export/<source>/<name>/, where the name is that of the model's folder, with - for /:
    float32.tflite, int8.tflite.
    metrics.json: accuracy of both, and of the Keras model as its stage measured it; size raw and gzipped.
and, no DVC outputs:
    data/timing/latency/<source>/<name>-<precision>.json: how long the file takes and how much memory; no two runs
        take the same.

A conversion that costs more validation accuracy than `export` in params.yaml allows is refused. The test accuracy is
only reported.
"""

import os
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.lib.errors import UserError
from stages.lib.litert.convert import convert_to_float32, convert_to_int8
from stages.lib.litert.latency import measure_in_fresh_process
from stages.lib.litert.runtime import predict_logits, read_interpreter
from stages.lib.network.metrics import compute_accuracy
from stages.lib.network.model import read_model
from stages.lib.params.load import load_params
from stages.lib.params.sections import PruneParams, ShrinkParams, StudyParams
from stages.lib.running.arguments import parse_names
from stages.lib.running.machine import read_cpu_name
from stages.lib.running.runner import TIMING, run_stage
from stages.lib.storage.files import compute_gzip_size_bytes, read_json, read_split, replacing, write_json

READS = (
    "seed",
    "study.models",
    "prune.rankings",
    "prune.sparsities",
    "shrink.filters",
    "shrink.macs_shares",
    "export",
)
DATA = Path("data")
CHOICE = Path("data/select_model/choice.json")
OUTPUT = Path("data/export")
SOURCES = ("train", "prune", "shrink")
BATCH_SIZE = 20


def list_folders(source: str, study: StudyParams, prune: PruneParams, shrink: ShrinkParams) -> list[str]:
    """Lists the folders within data/<source>/ of the models to export."""
    if source == "train":
        augmentation = read_json(CHOICE)["augmentation"]
        return [f"{model}-{augmentation}" for model in study.models]
    if source == "prune":
        return [f"{ranking}/{sparsity}" for ranking in prune.rankings for sparsity in prune.sparsities]
    return [f"{filters}/{share}" for filters in shrink.filters for share in shrink.macs_shares]


def sample_images(images: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draws `count` of the images, each at most once; all of them, in another order, if there are no more."""
    return np.random.default_rng(seed).permutation(images)[:count]


def measure_accuracy_of_file(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Measures the accuracy of a LiteRT file on (N, size, size) uint8 images, on all CPUs that this process may use."""
    interpreter = read_interpreter(path, BATCH_SIZE, num_threads=len(os.sched_getaffinity(0)))
    return compute_accuracy(labels, predict_logits(interpreter, images).argmax(axis=1))


def check_loss(path: Path, keras_val_accuracy: float, val_accuracy: float, max_loss: float) -> None:
    """Checks what a conversion cost.

    Raises:
        UserError: if it is more than `max_loss`, a difference of accuracies.
    """
    slack = 1e-9  # for binary rounding; one image more or less is far more
    if keras_val_accuracy - val_accuracy > max_loss + slack:
        raise UserError(
            f"{path}: expected the conversion to cost at most {max_loss:g} of validation accuracy "
            f"(export.max_loss_{path.stem} in params.yaml), got {keras_val_accuracy - val_accuracy:.4f}: "
            f"{keras_val_accuracy:.4f} fell to {val_accuracy:.4f}; raise that limit if this is good enough"
            + (", or export.calibration_images or export.weight_bits" if path.stem == "int8" else "")
        )


def export_model(
    source: Path,
    folder: Path,
    representative: np.ndarray,
    weight_bits: int,
    val: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    max_losses: dict[str, float],
) -> dict[str, float]:
    """Writes both files of the Keras model `source`, and measures them on (images, labels) pairs.

    Args:
        source: the model's HDF5 file, beside which metrics.json says its validation accuracy.
        folder: where the files go.
        representative: (N, size, size) uint8 images from which the ranges of int8 are measured.
        weight_bits: that int8 weights are rounded to.
        val: what the conversion is checked on.
        test: what is only reported.
        max_losses: of validation accuracy, by precision.
    """
    model = read_model(source)
    metrics = {"keras_val_accuracy": read_json(source.with_name("metrics.json"))["val_accuracy"]}
    contents = {"float32": convert_to_float32(model), "int8": convert_to_int8(model, representative, weight_bits)}
    for precision, content in contents.items():
        path = folder / f"{precision}.tflite"
        with replacing(path) as temporary:  # a refused file never gets its name
            temporary.write_bytes(content)
            val_accuracy = measure_accuracy_of_file(temporary, *val)
            check_loss(path, metrics["keras_val_accuracy"], val_accuracy, max_losses[precision])
        metrics[f"{precision}_val_accuracy"] = val_accuracy
        metrics[f"{precision}_test_accuracy"] = measure_accuracy_of_file(path, *test)
        metrics[f"{precision}_size_bytes"] = len(content)
        metrics[f"{precision}_gzip_size_bytes"] = compute_gzip_size_bytes(content)
    write_json(folder / "metrics.json", metrics)
    return metrics


def write_latency(path: Path, output: Path) -> None:
    """Measures the latency of a LiteRT file and writes it, with what identifies file and machine."""
    identity = {"sha256": sha256(path.read_bytes()).hexdigest(), "cpu": read_cpu_name()}
    write_json(output, identity | measure_in_fresh_process(path))


def main() -> None:
    """Runs the stage."""
    (source,) = parse_names(__doc__, source=SOURCES)
    params = load_params(reads=READS)
    export, timing = params.export, TIMING / "latency" / source
    train, val, test = (read_split(DATA / f"prepare/{split}.npz") for split in ("train", "val", "test"))
    representative = sample_images(train[0], export.calibration_images, params.seed)
    max_losses = {"float32": export.max_loss_float32, "int8": export.max_loss_int8}
    how = (representative, export.weight_bits, val, test, max_losses)
    folders = list_folders(source, params.study, params.prune, params.shrink)
    for folder in tqdm(folders, f"export {source}", leave=False, unit="model", disable=not sys.stderr.isatty()):
        output = OUTPUT / source / folder.replace("/", "-")
        metrics = export_model(DATA / source / folder / "model.h5", output, *how)
        for precision in max_losses:
            write_latency(output / f"{precision}.tflite", timing / f"{output.name}-{precision}.json")
        shown = ", ".join(f"{name} {metrics[f'{name}_val_accuracy']:.4f}" for name in ("keras", *max_losses))
        tqdm.write(f"{output}: validation accuracy {shown}")


if __name__ == "__main__":
    run_stage(main)
