"""What images look like, where that tells of a mistake: their range of levels, and what is light on what."""

from collections.abc import Sequence

import numpy as np

from stages.lib.sources.parts import list_parts
from stages.lib.storage.selected import Rows

DARK, LIGHT = 85, 170  # thirds of the range


def measure_borders(images: np.ndarray) -> np.ndarray:
    """Measures the background of each image: the median of its outermost pixels.

    Args:
        images: (N, size, size) or (N, size, size, 3) uint8.

    Returns:
        (N,) float64. Their median is the level of the background of all.
    """
    is_border = np.ones(images.shape[1:], dtype=bool)
    is_border[1:-1, 1:-1] = False
    levels: np.ndarray = np.median(images[:, is_border], axis=1)
    return levels


def tell_polarity(border: float) -> str:
    """Tells what is light on what, from the level of the background.

    >>> [tell_polarity(border) for border in (0, 128, 255)]
    ['light on dark', 'on neither dark nor light', 'dark on light']
    """
    if border < DARK:
        return "light on dark"
    return "dark on light" if border > LIGHT else "on neither dark nor light"


def list_warnings(images: Rows, fit: str) -> Sequence[str]:
    """Lists what is unusual about inputs, a line each. Looks at all of them, a part at a time.

    Args:
        images: (N, size, size) or (N, size, size, 3) uint8, one at least.
        fit: how pictures become inputs.
    """
    warnings = []
    looks = [(int(part.min()), int(part.max()), measure_borders(part)) for part in list_parts(images)]
    lows, highs, borders = zip(*looks, strict=True)
    low, high, border = min(lows), max(highs), float(np.median(np.concatenate(borders)))
    if high - low < 128:
        warnings.append(
            f"levels from {low} to {high}, where 0 to 255 are usual: such a network learns badly, and pictures that "
            "predict is given have to have the same levels; scale them"
        )
    if tell_polarity(border) == "dark on light":
        mended = "" if fit != "garment" else ", but dataset.fit garment makes what predict is given light on dark"
        warnings.append(
            f"dark on light (the background is about {border:.0f} of 255): predict, the demo and the C have to be "
            f"given the like{mended}{'; set dataset.fit to pad' if mended else ''}"
        )
    return warnings
