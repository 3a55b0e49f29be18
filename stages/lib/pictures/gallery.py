"""Pictures in rows, each below its text."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

NUM_COLUMNS = 4  # large letters at the width of a page


def plot_gallery(pictures: Sequence[np.ndarray], texts: Sequence[str], title: str) -> Figure:
    """Plots pictures of one size, any number of them, each below its text.

    They are uint8: (height, width), where 0 is drawn white, or (height, width, 3), red, green and blue as they are.
    """
    num_rows = max(1, math.ceil(len(pictures) / NUM_COLUMNS))
    height, width = pictures[0].shape[:2] if pictures else (1, 1)
    size_inches = (1.9 * NUM_COLUMNS, (1.9 * height / width + 0.3) * num_rows + 0.5)
    figure, axes = plt.subplots(num_rows, NUM_COLUMNS, figsize=size_inches, squeeze=False)
    figure.suptitle(title)
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, text in zip(axes.flat, pictures, texts, strict=False):
        axis.imshow(picture, cmap="gray_r", vmin=0, vmax=255)
        axis.set_title(text, fontsize=10)
    return figure
