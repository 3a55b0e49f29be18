"""Images that stay on disk, one after the other: a data set may be larger than the memory."""

from collections.abc import Iterator

import numpy as np

from stages.lib.storage.files import ROWS_AT_ONCE
from stages.lib.storage.selected import Rows


def list_parts(images: Rows) -> Iterator[np.ndarray]:
    """Reads images in their order, at most `ROWS_AT_ONCE` of them at a time."""
    for start in range(0, len(images), ROWS_AT_ONCE):
        yield np.asarray(images[start : start + ROWS_AT_ONCE])


def list_images(images: Rows) -> Iterator[np.ndarray]:
    """Reads images in their order, each by itself; no more than a part of them is in memory."""
    for part in list_parts(images):
        yield from part
