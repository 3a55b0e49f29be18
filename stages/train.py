"""How well does one model learn under one augmentation? Trains it; run as `python -m stages.train MODEL AUGMENTATION`.

Reads:
    data/prepare/train.npz, val.npz: `images` (N, 28, 28) uint8, `labels` (N,) uint8.

Writes, in data/train/<model>-<augmentation>/:
    model.h5: the float32 Keras model after the last epoch, from images in [0, 1] to logits.
    history.csv: a row per epoch and split, written anew after every epoch.
    metrics.json: accuracy and loss of model.h5 on the validation images.
and, no DVC outputs:
    data/timing/training/<model>-<augmentation>.json: what the training took; no two runs take the same time.
    data/checkpoints/train@<model>-<augmentation>.npz: its state after every epoch, until it succeeds. A run that was
        killed goes on from there, and ends with the same bytes.

Where TF_CONFIG names several workers, each runs this command and they train one model; the first one writes all files.
Never opens the test images.
"""

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.network.architecture import list_layers
from stages.lib.network.keras2 import keras
from stages.lib.network.metrics import compute_accuracy, compute_cross_entropy_loss, compute_probabilities
from stages.lib.network.model import predict_logits, to_network_input, write_model
from stages.lib.params.load import load_params
from stages.lib.running.arguments import parse_names
from stages.lib.running.machine import read_cpu_name
from stages.lib.running.runner import TIMING, run_stage
from stages.lib.storage.files import read_split, write_csv, write_json
from stages.lib.training.checkpoint import CHECKPOINTS, PACKAGES, Checkpoint, compute_fingerprint
from stages.lib.training.cluster import check_divisible, read_cluster
from stages.lib.training.loop import train_model
from stages.lib.training.precision import choose_policy

READS = (
    "seed",
    "dataset.image_size_px",
    "dataset.class_names",
    "models",
    "augmentations",
    "train",
)
SOURCES = (Path("data/prepare/train.npz"), Path("data/prepare/val.npz"))
OUTPUT = Path("data/train")


def measure(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Measures validation accuracy and loss (cross-entropy in nats) of a model."""
    logits = predict_logits(model, to_network_input(images))
    return {
        "val_accuracy": compute_accuracy(labels, logits.argmax(axis=1)),
        "val_loss": round(compute_cross_entropy_loss(labels, compute_probabilities(logits)), 6),
    }


def describe_run(seconds: float, num_images: int, policy: str) -> dict[str, Any]:
    """Describes a run of `num_images` images and what it took."""
    return {
        "seconds": round(seconds, 1),
        "images_per_second": round(num_images / seconds),
        "policy": policy,
        "cpu": read_cpu_name(),
        "num_cpus": len(os.sched_getaffinity(0)),
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        **{package: version(package) for package in (*PACKAGES, "dvc")},
    }


def write_outputs(
    folder: Path,
    model: keras.Model,
    val_set: tuple[np.ndarray, np.ndarray],
    rows: Sequence[Mapping[str, Any]],
    run: dict[str, Any],
) -> None:
    """Writes the model, what it is worth, its learning curves and what it took."""
    metrics = measure(model, *val_set)
    write_model(folder / "model.h5", model)
    write_json(folder / "metrics.json", metrics)
    write_csv(folder / "history.csv", rows)  # anew: a run that was killed after its last epoch has no epoch to write it
    run["model_sha256"] = hashlib.sha256((folder / "model.h5").read_bytes()).hexdigest()
    write_json(TIMING / "training" / f"{folder.name}.json", run)
    print(f"{folder}: validation accuracy {metrics['val_accuracy']:.4f} after {run['seconds']:.0f} s")


def main() -> None:
    """Runs the stage."""
    params, cluster = load_params(reads=READS), read_cluster()
    name, augmentation_name = parse_names(__doc__, model="models", augmentation="augmentations")
    augmentation, train, output = params.augmentations[augmentation_name], params.train, f"{name}-{augmentation_name}"
    layers = list_layers(
        params.dataset.image_size_px, len(params.dataset.class_names), **params.models[name].model_dump()
    )
    policy = choose_policy(train.precision)
    fingerprint = compute_fingerprint([layers, augmentation, train, params.seed, policy, cluster.num_workers], SOURCES)
    train_set, val_set = map(read_split, SOURCES)
    check_divisible(len(train_set[0]), train.batch_size, cluster.num_workers)
    checkpoint = Checkpoint(CHECKPOINTS / f"train@{output}.npz", fingerprint, cluster.is_chief)
    what = (train_set, val_set, layers, augmentation, train, params.seed, policy)
    model = train_model(*what, OUTPUT / output / "history.csv", checkpoint, cluster)
    if cluster.is_chief:
        run = describe_run(checkpoint.seconds, train.epochs * len(train_set[0]), policy)
        write_outputs(OUTPUT / output, model, val_set, checkpoint.rows, run)
        checkpoint.remove()


if __name__ == "__main__":
    run_stage(main)
