"""The accuracy of a Keras model on images as they are stored, and the size of its file."""

from pathlib import Path

import numpy as np

from stages.lib.network.keras2 import keras
from stages.lib.network.metrics import compute_accuracy
from stages.lib.network.model import predict_logits, to_network_input
from stages.lib.storage.files import compute_gzip_size_bytes


def measure_accuracy(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    """Measures the share of (N, size, size) uint8 images that a model gives their (N,) labels."""
    return compute_accuracy(labels, predict_logits(model, to_network_input(images)).argmax(axis=1))


def measure_stored_model(
    path: Path,
    model: keras.Model,
    val_set: tuple[np.ndarray, np.ndarray],
    test_set: tuple[np.ndarray, np.ndarray],
) -> dict[str, float]:
    """Measures the accuracy of a model on (images, labels) pairs, and the bytes of its file, as it is and gzipped."""
    content = path.read_bytes()
    return {
        "val_accuracy": measure_accuracy(model, *val_set),
        "test_accuracy": measure_accuracy(model, *test_set),
        "size_bytes": len(content),
        "gzip_size_bytes": compute_gzip_size_bytes(content),
    }
