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
from stages.lib.network.model import predict_logits, write_model
from stages.lib.network.pixels import to_network_input
from stages.lib.params.load import load_params
from stages.lib.running.arguments import parse_names
from stages.lib.running.machine import read_cpu_name
from stages.lib.running.runner import TIMING, run_stage
from stages.lib.storage.files import compute_sha256, read_split, write_csv, write_json
from stages.lib.storage.variant import Variant
from stages.lib.training.checkpoint import PACKAGES, Checkpoint, compute_fingerprint, locate_checkpoint
from stages.lib.training.cluster import check_divisible, read_cluster
from stages.lib.training.loop import train_model
from stages.lib.training.precision import choose_policy, read_settings
from stages.lib.training.recipe import Recipe

READS = ("seed", "dataset.image_size_px", "dataset.class_names", "models", "augmentations", "train")
SOURCES = (Path("data/prepare/train.npz"), Path("data/prepare/val.npz"))


def measure_validation(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
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
        "settings": read_settings(os.environ),
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        **{package: version(package) for package in (*PACKAGES, "dvc")},
    }


def write_outputs(
    variant: Variant,
    model: keras.Model,
    metrics: Mapping[str, float],
    rows: Sequence[Mapping[str, Any]],
    run: Mapping[str, Any],
) -> None:
    """Writes the model, what it is worth, its learning curves and what it took."""
    folder = variant.folder
    write_model(folder / "model.h5", model)
    write_json(folder / "metrics.json", metrics)
    write_csv(folder / "history.csv", rows)  # anew: a run that was killed after its last epoch has no epoch to write it
    timing = {**run, "model_sha256": compute_sha256(folder / "model.h5")}
    write_json(TIMING / "training" / f"{variant.name}.json", timing)


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    model_name, augmentation_name = parse_names(__doc__, model="models", augmentation="augmentations")
    variant = Variant("train", model_name, augmentation_name)
    layers = list_layers(
        params.dataset.image_size_px, len(params.dataset.class_names), **params.models[model_name].model_dump()
    )
    recipe = Recipe(
        train=params.train,
        augmentation=params.augmentations[augmentation_name],
        seed=params.seed,
        policy=choose_policy(params.train.precision),
    )
    cluster = read_cluster()
    fingerprint = compute_fingerprint([layers, recipe, cluster.num_workers], SOURCES)
    checkpoint = Checkpoint(locate_checkpoint(variant), fingerprint, cluster.is_chief)
    train_set, val_set = map(read_split, SOURCES)
    check_divisible(len(train_set[0]), params.train.batch_size, cluster.num_workers)
    model = train_model(
        layers=layers,
        recipe=recipe,
        train_set=train_set,
        val_set=val_set,
        history_path=variant.folder / "history.csv",
        checkpoint=checkpoint,
        cluster=cluster,
    )
    if not cluster.is_chief:
        return
    run = describe_run(checkpoint.seconds, params.train.epochs * len(train_set[0]), recipe.policy)
    metrics = measure_validation(model, *val_set)
    write_outputs(variant, model, metrics, checkpoint.rows, run)
    checkpoint.remove()
    print(f"{variant.folder}: validation accuracy {metrics['val_accuracy']:.4f} after {run['seconds']:.0f} s")


if __name__ == "__main__":
    run_stage(main, writes=lambda: read_cluster().is_chief)
