"""What a training leaves: its model, what that is worth on validation images, and what it took."""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.network.keras2 import keras
from stages.lib.network.metrics import compute_cross_entropy_loss, compute_probabilities, measure_labels
from stages.lib.network.model import predict_logits, write_model
from stages.lib.storage.files import write_arrays, write_csv, write_json
from stages.lib.storage.selected import Rows
from stages.lib.training.checkpoint import PACKAGES
from stages.lib.training.precision import read_settings


def write_trained(
    folder: Path, model: keras.Model, rows: Sequence[Mapping[str, Any]], val_set: tuple[Rows, np.ndarray]
) -> dict[str, float]:
    """Writes model.h5, history.csv, probabilities.npz and metrics.json of a float32 model, and returns the last.

    Args:
        folder: for the files.
        model: from images in [0, 1] to logits.
        rows: of the learning curves; written anew, for a run that was killed after its last epoch has none to do it.
        val_set: (N, size, size) or (N, size, size, 3) uint8 validation images and (N,) labels.
    """
    images, labels = val_set
    logits = predict_logits(model, images)
    probabilities = compute_probabilities(logits)
    measured = measure_labels(labels, logits.argmax(axis=1), logits.shape[1])
    metrics = {f"val_{name}": value for name, value in measured.items()}
    metrics["val_loss"] = round(compute_cross_entropy_loss(labels, probabilities), 6)
    write_model(folder / "model.h5", model)
    write_csv(folder / "history.csv", rows)
    write_arrays(folder / "probabilities.npz", labels=labels, val=probabilities.astype(np.float16))
    write_json(folder / "metrics.json", metrics)
    return metrics


def describe_run(seconds: float, num_images: int, policy: str, cpu: str) -> dict[str, Any]:
    """Describes a training that passed `num_images` images, repeated ones included, on a CPU of that name."""
    return {
        "seconds": round(seconds, 1),
        "images_per_second": round(num_images / seconds),
        "policy": policy,
        "cpu": cpu,
        "num_cpus": len(os.sched_getaffinity(0)),
        "settings": read_settings(os.environ),
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        **{package: version(package) for package in (*PACKAGES, "dvc")},
    }
