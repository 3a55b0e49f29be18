"""Images as they are stored, and as networks take them. No TensorFlow."""

import numpy as np


def to_network_input(images: np.ndarray) -> np.ndarray:
    """Scales stored images, (N, height, width) uint8 in [0, 255], to (N, height, width, 1) float32 in [0, 1]."""
    return images[..., np.newaxis].astype(np.float32) / 255
