"""What does an augmentation do to the images? Draws originals beside augmented versions, one row a class.

Run as `python -m stages.preview AUGMENTATION`.

Reads:
    data/prepare/train.npz: `images`, `labels`; the first image of each class is shown.

Writes:
    data/preview/<augmentation>.png.
"""

import textwrap
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from stages.lib.network.keras2 import tf
from stages.lib.network.pixels import to_network_input
from stages.lib.params.load import load_params
from stages.lib.params.sections import AugmentationParams
from stages.lib.pictures.style import COLORS, write_figure
from stages.lib.running.arguments import parse_names
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import read_split
from stages.lib.training.augmentation import augment

READS = ("seed", "dataset.class_names", "augmentations", "preview")
SOURCE = Path("data/prepare/train.npz")
OUTPUT = Path("data/preview")
LETTERS_PER_INCH = 12  # of the title, a few less than have room


def find_first_of_each_class(labels: np.ndarray) -> np.ndarray:
    """Returns the index of the first image of each label, by label."""
    return np.unique(labels, return_index=True)[1]


def make_versions(images: np.ndarray, augmentation: AugmentationParams, versions: int, seed: int) -> np.ndarray:
    """Augments each image `versions` times.

    Args:
        images: (N, size, size) or (N, size, size, 3) uint8.
        augmentation: limits of the random transforms.
        versions: number of draws.
        seed: of the draws; the same for every regime.

    Returns:
        (N, 1 + versions, size, size, channels) float32 in [0, 1]; the original comes first.
    """
    x = to_network_input(images)
    draws = [
        augment(tf.constant(x), tf.constant([seed, version], tf.int64), augmentation).numpy()
        for version in range(versions)
    ]
    return np.stack([x, *draws], axis=1)


def plot_preview(versions: np.ndarray, class_names: tuple[str, ...], title: str) -> Figure:
    """Plots (classes, 1 + versions, size, size, channels) images in [0, 1]: a row a class, the original on the left."""
    num_rows, num_columns, size, _, channels = versions.shape
    tile = size + 2
    white = 0 if channels == 1 else 1  # one channel is drawn dark on white
    framed = np.pad(versions, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=white)
    grid = framed.transpose(0, 2, 1, 3, 4).reshape(num_rows * tile, num_columns * tile, channels)
    width_inches = 0.55 * num_columns + 1.4
    figure, axis = plt.subplots(figsize=(width_inches, 0.55 * num_rows + 0.8))
    axis.imshow(grid, cmap="gray_r", vmin=0, vmax=1)  # three channels need no map
    axis.axvline(tile - 0.5, color=COLORS[1], linewidth=2)
    axis.set_xticks([tile / 2, tile * (num_columns + 1) / 2], ["original", "augmented, drawn anew each time"])
    axis.set_yticks([(row + 0.5) * tile for row in range(num_rows)], class_names)
    axis.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axis.spines[:].set_visible(False)
    figure.suptitle(textwrap.fill(title, int(LETTERS_PER_INCH * width_inches)))
    return figure


def describe(name: str, augmentation: AugmentationParams) -> str:
    """Describes a regime in the title of its picture.

    >>> describe("mild", load_params(reads=READS).augmentations["mild"])
    'mild: rotation up to 8°, shift up to 2 %, zoom up to 20 %'
    """
    limits = (
        (augmentation.rotation_degrees, f"rotation up to {augmentation.rotation_degrees:g}°"),
        (augmentation.shift_fraction, f"shift up to {100 * augmentation.shift_fraction:g} %"),
        (augmentation.zoom_fraction, f"zoom up to {100 * augmentation.zoom_fraction:g} %"),
        (augmentation.brightness_fraction, f"brightness up to {100 * augmentation.brightness_fraction:g} %"),
        (augmentation.contrast_fraction, f"contrast up to {100 * augmentation.contrast_fraction:g} %"),
        (augmentation.saturation_fraction, f"saturation up to {100 * augmentation.saturation_fraction:g} %"),
        (augmentation.shift_px, f"shift up to {augmentation.shift_px} px"),
        (augmentation.erase_px, f"a square of {augmentation.erase_px} px erased"),
        (augmentation.horizontal_flip, "half of the images mirrored"),
    )
    return f"{name}: {', '.join(text for limit, text in limits if limit) or 'images as they are'}"


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    (name,) = parse_names(__doc__, augmentation="augmentations")
    augmentation = params.augmentations[name]
    images, labels = read_split(SOURCE)
    examples = images[find_first_of_each_class(labels)]
    versions = make_versions(examples, augmentation, params.preview.versions, params.seed)
    figure = plot_preview(versions, params.dataset.class_names, describe(name, augmentation))
    write_figure(OUTPUT / f"{name}.png", figure)
    print(f"{OUTPUT / name}.png: {len(examples)} classes, {params.preview.versions} augmented versions of each")


if __name__ == "__main__":
    run_stage(main)
