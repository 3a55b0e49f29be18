"""What are the models worth as files that are deployed? Exports those of one stage; `python -m stages.export SOURCE`.

Each model becomes two LiteRT files: float32, and int8 throughout. For int8, the range of every activation is measured
on training images, and weights are rounded so that the file compresses better. Accuracies of a file are measured with
the LiteRT runtime, which would run it where it is deployed.

Reads:
    data/<source>/.../model.h5, metrics.json, for a source of train, finish, prune or shrink, of the first seed: of
        train, every model of the study with the chosen augmentation; of the others, all that params.yaml lists.
    data/select_model/choice.json: the chosen augmentation, for train only.
    data/prepare/train.npz, val.npz, test.npz.

Writes, in data/export/<source>/<name>/, where the name is that of the variant, such as lamp-0.95:
    float32.tflite, int8.tflite: but for one whose conversion costs more validation accuracy than `export` in
        params.yaml allows. That is left out, and what reads these folders goes on without it.
    metrics.json: accuracies of both, balanced ones and macro-F1 too, and that of the Keras model, which its stage
        measured; bytes, raw and gzipped. Of a file that is left out only its validation accuracy.
    predictions.npz: `labels` of the test images, and what `float32` and `int8` predict, where they are not left out:
        each (N,) uint8.
and, which are no DVC outputs, since no two runs take the same time:
    data/timing/latency/<source>/<name>-<precision>.json: how long the file takes, and how much memory.

The test accuracy is only reported.
"""

import os
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.lib.litert.convert import convert_to_float32, convert_to_int8
from stages.lib.litert.latency import measure_latency_in_fresh_process
from stages.lib.litert.runtime import predict_logits, read_interpreter
from stages.lib.network.metrics import compute_accuracy, is_loss_within, measure_labels
from stages.lib.network.model import read_model
from stages.lib.params.load import load_params
from stages.lib.params.sections import PruneParams, ShrinkParams, StudyParams
from stages.lib.running.arguments import parse_names
from stages.lib.running.machine import read_cpu_name
from stages.lib.running.runner import TIMING, run_stage
from stages.lib.storage.files import (
    compute_gzip_size_bytes,
    compute_sha256,
    read_json,
    read_split,
    write_arrays,
    write_bytes,
    write_json,
)
from stages.lib.storage.variant import Variant, name_finished

READS = (
    "seed",
    "study.models",
    "study.seeds",
    "prune.rankings",
    "prune.shrunk_shares",
    "prune.shrunk_rankings",
    "prune.sparsities",
    "shrink.filters",
    "shrink.macs_shares",
    "export",
)
PREPARED = Path("data/prepare")
CHOICE = Path("data/select_model/choice.json")
SOURCES = ("train", "finish", "prune", "shrink")
BATCH_SIZE = 20


def list_variants(source: str, study: StudyParams, prune: PruneParams, shrink: ShrinkParams) -> list[Variant]:
    """Lists the models of a stage that are exported: those of the first seed."""
    seed = study.seeds[0]
    match source:
        case "train":
            augmentation = read_json(CHOICE)["augmentation"]
            return [Variant(source, model, augmentation, seed) for model in study.models]
        case "finish":
            return [name_finished(seed)]
        case "prune":
            return [Variant(source, *named, seed) for named in product(prune.ways, prune.sparsities)]
        case _:
            return [Variant(source, *named, seed) for named in product(shrink.filters, shrink.macs_shares)]


def sample_images(images: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draws `count` of the images, each at most once; all of them, in another order, if there are no more."""
    return np.random.default_rng(seed).permutation(images)[:count]


def predict_labels(path: Path, images: np.ndarray) -> np.ndarray:
    """Predicts with a LiteRT file (N,) uint8 labels of N uint8 images, on all CPUs that are allowed."""
    interpreter = read_interpreter(path, BATCH_SIZE, num_threads=len(os.sched_getaffinity(0)))
    return predict_logits(interpreter, images).argmax(axis=1).astype(np.uint8)


def explain_refusal(path: Path, keras_val_accuracy: float, val_accuracy: float, max_loss: float) -> str:
    """Says why a file is left out: its conversion cost more than `max_loss`, a difference of accuracies."""
    return (
        f"{path}: left out: expected the conversion to cost at most {max_loss:g} of validation accuracy "
        f"(export.max_loss_{path.stem} in params.yaml), got {keras_val_accuracy - val_accuracy:.4f}: "
        f"{keras_val_accuracy:.4f} fell to {val_accuracy:.4f}; raise that limit if this is good enough"
        + (", or export.calibration_images or export.weight_bits" if path.stem == "int8" else "")
    )


def export_model(
    variant: Variant,
    calibration_images: np.ndarray,
    weight_bits: int,
    max_losses: Mapping[str, float],
    val: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
) -> dict[str, float]:
    """Writes the LiteRT files of a model whose conversion loses no more than it may, their worth and predictions.

    Args:
        variant: the model; the metrics.json beside it holds its validation accuracy.
        calibration_images: uint8, on which the ranges of the int8 activations are measured.
        weight_bits: that int8 weights are rounded to.
        max_losses: largest loss of validation accuracy by the conversion, by precision.
        val: images and labels on which the loss is measured.
        test: images and labels on which the accuracy is only reported.

    Returns:
        The content of metrics.json.
    """
    model = read_model(variant.folder / "model.h5")
    (val_images, val_labels), (test_images, test_labels) = val, test
    metrics = {"keras_val_accuracy": read_json(variant.folder / "metrics.json")["val_accuracy"]}
    predicted: dict[str, np.ndarray] = {}
    contents = {"float32": convert_to_float32(model), "int8": convert_to_int8(model, calibration_images, weight_bits)}
    for precision, content in contents.items():
        path = variant.exported / f"{precision}.tflite"
        write_bytes(path, content)
        val_predicted = predict_labels(path, val_images)
        val_accuracy = compute_accuracy(val_labels, val_predicted)
        metrics[f"{precision}_val_accuracy"] = val_accuracy
        if not is_loss_within(metrics["keras_val_accuracy"], val_accuracy, max_losses[precision]):
            path.unlink()
            refusal = explain_refusal(path, metrics["keras_val_accuracy"], val_accuracy, max_losses[precision])
            tqdm.write(refusal, file=sys.stderr)
            continue
        predicted[precision] = predict_labels(path, test_images)
        for split, y_true, y_pred in (
            ("val", val_labels, val_predicted),
            ("test", test_labels, predicted[precision]),
        ):
            measured = measure_labels(y_true, y_pred, model.output_shape[-1])
            metrics |= {f"{precision}_{split}_{name}": value for name, value in measured.items()}
        metrics[f"{precision}_size_bytes"] = len(content)
        metrics[f"{precision}_gzip_size_bytes"] = compute_gzip_size_bytes(content)
    write_arrays(variant.exported / "predictions.npz", labels=test_labels, **predicted)
    write_json(variant.exported / "metrics.json", metrics)
    return metrics


def write_latency(variant: Variant, precision: str) -> None:
    """Measures the latency of a LiteRT file and writes it, with what identifies file and machine."""
    path = variant.exported / f"{precision}.tflite"
    identity = {"sha256": compute_sha256(path), "cpu": read_cpu_name()}
    output = TIMING / "latency" / variant.source / f"{variant.name}-{precision}.json"
    write_json(output, identity | measure_latency_in_fresh_process(path))


def main() -> None:
    """Runs the stage."""
    (source,) = parse_names(__doc__, source=SOURCES)
    params = load_params(reads=READS)
    train_images, _ = read_split(PREPARED / "train.npz")
    val, test = read_split(PREPARED / "val.npz"), read_split(PREPARED / "test.npz")
    calibration_images = sample_images(train_images, params.export.calibration_images, params.seed)
    max_losses = {"float32": params.export.max_loss_float32, "int8": params.export.max_loss_int8}
    variants = list_variants(source, params.study, params.prune, params.shrink)
    for variant in tqdm(variants, f"export {source}", leave=False, unit="model", disable=not sys.stderr.isatty()):
        metrics = export_model(
            variant,
            calibration_images=calibration_images,
            weight_bits=params.export.weight_bits,
            max_losses=max_losses,
            val=val,
            test=test,
        )
        for precision in max_losses:
            if (variant.exported / f"{precision}.tflite").exists():
                write_latency(variant, precision)
        shown = ", ".join(f"{name} {metrics[f'{name}_val_accuracy']:.4f}" for name in ("keras", *max_losses))
        tqdm.write(f"{variant.exported}: validation accuracy {shown}")


if __name__ == "__main__":
    run_stage(main)
