"""What images look like, where that tells of a mistake: their range of levels, and what is light on what."""

from collections.abc import Sequence

import numpy as np

DARK, LIGHT = 85, 170  # thirds of the range


def measure_border(images: np.ndarray) -> float:
    """Measures the level of the background: the median over images of the median of the outermost pixels.

    Args:
        images: (N, size, size) uint8.
    """
    is_border = np.ones(images.shape[1:], dtype=bool)
    is_border[1:-1, 1:-1] = False
    return float(np.median(np.median(images[:, is_border], axis=1)))


def tell_polarity(border: float) -> str:
    """Tells what is light on what, from the level of the background.

    >>> [tell_polarity(border) for border in (0, 128, 255)]
    ['light on dark', 'on neither dark nor light', 'dark on light']
    """
    if border < DARK:
        return "light on dark"
    return "dark on light" if border > LIGHT else "on neither dark nor light"


def list_warnings(images: np.ndarray, fit: str) -> Sequence[str]:
    """Lists what is unusual about inputs, a line each.

    Args:
        images: (N, size, size) uint8, one at least.
        fit: how pictures become inputs.
    """
    warnings = []
    low, high = int(images.min()), int(images.max())
    if high - low < 128:
        warnings.append(
            f"levels from {low} to {high}, where 0 to 255 are usual: such a network learns badly, and pictures that "
            "predict is given have to have the same levels; scale them"
        )
    border = measure_border(images)
    if tell_polarity(border) == "dark on light":
        mended = "" if fit != "garment" else ", but dataset.fit garment makes what predict is given light on dark"
        warnings.append(
            f"dark on light (the background is about {border:.0f} of 255): predict, the demo and the C have to be "
            f"given the like{mended}{'; set dataset.fit to pad' if mended else ''}"
        )
    return warnings
