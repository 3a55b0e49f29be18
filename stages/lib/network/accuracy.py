"""The accuracy of a Keras model on images as they are stored."""

import numpy as np

from stages.lib.network.keras2 import keras
from stages.lib.network.metrics import compute_accuracy
from stages.lib.network.model import predict_logits, to_network_input


def measure_accuracy(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    """Measures the share of (N, size, size) uint8 images that a model gives their (N,) labels."""
    return compute_accuracy(labels, predict_logits(model, to_network_input(images)).argmax(axis=1))
