"""Images as they are stored, and as networks take them. No TensorFlow."""

import numpy as np


def scale_pixels(values: np.ndarray) -> np.ndarray:
    """Scales stored values, uint8 in [0, 255] of any shape, to float32 in [0, 1]."""
    return values.astype(np.float32) / 255


def with_channels(images: np.ndarray) -> np.ndarray:
    """Gives grey images, which are stored without an axis for their one channel, that axis; others have it.

    Args:
        images: (N, height, width), or (N, height, width, channels).

    Returns:
        (N, height, width, channels), of the same dtype; 1 channel is grey, 3 are red, green and blue.
    """
    return images if images.ndim == 4 else images[..., np.newaxis]


def to_network_input(images: np.ndarray) -> np.ndarray:
    """Scales stored images, uint8 in [0, 255], to (N, height, width, channels) float32 in [0, 1].

    They are (N, height, width), which are grey, or (N, height, width, 3), which are red, green and blue.
    """
    return scale_pixels(with_channels(images))
