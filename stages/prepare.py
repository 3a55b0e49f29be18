"""Which images train, which choose, which only test? Splits the training images, seeded and stratified.

Reads:
    data/download/: the four IDX files.

Writes:
    data/prepare/train.npz, val.npz, test.npz: `images` (N, 28, 28) uint8 in [0, 255], `labels` (N,) uint8.

Images are kept in the order of the files; shuffling belongs to training. The test images are only converted.
"""

from pathlib import Path

import numpy as np

from stages.lib.errors import UserError
from stages.lib.params.load import load_params
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import write_arrays
from stages.lib.storage.idx import read_images, read_labels

READS = (
    "seed",
    "dataset.image_size_px",
    "dataset.class_names",
    "prepare",
)
SOURCE = Path("data/download")
OUTPUT = Path("data/prepare")


def split_stratified(labels: np.ndarray, fraction: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Splits the indices of `labels` so that every class gives the same share to the second part.

    Args:
        labels: (N,) integers.
        fraction: share of the second part, in [0, 1]; rounded to whole images within each class.
        rng: source of the random choice.

    Returns:
        Two sorted int64 arrays, disjoint and together 0 to N - 1.
    """
    is_second = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        is_second[members[: round(len(members) * fraction)]] = True
    return np.flatnonzero(~is_second), np.flatnonzero(is_second)


def check_split(split: str, labels: np.ndarray, num_classes: int) -> None:
    """Checks that a split has an image of every class.

    Raises:
        UserError: if a class has none; everything after would measure nothing for it.
    """
    missing = np.setdiff1d(np.arange(num_classes), labels)
    if len(missing):
        raise UserError(
            f"params.yaml: prepare leaves {len(labels)} images in {split}, none of class "
            f"{', '.join(map(str, missing))}; raise prepare.keep_fraction, "
            "move prepare.val_fraction from 0 and 1, or mend dataset.class_names"
        )


def read_pair(name: str, image_size_px: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads images and labels of the files that start with `name`.

    Raises:
        UserError: if there are not as many labels as images.
    """
    images = read_images(SOURCE / f"{name}-images-idx3-ubyte", image_size_px)
    labels = read_labels(SOURCE / f"{name}-labels-idx1-ubyte", num_classes)
    if len(images) != len(labels):
        raise UserError(f"{SOURCE}: {name} has {len(images)} images but {len(labels)} labels; remove both, `dvc repro`")
    return images, labels


def split_dataset(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    val_fraction: float,
    keep_fraction: float,
    seed: int,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Splits (images, labels) into train, val and test, and keeps `keep_fraction` of each, stratified."""
    rng = np.random.default_rng(seed)
    train_indices, val_indices = split_stratified(train[1], val_fraction, rng)
    splits = {
        "train": (train[0][train_indices], train[1][train_indices]),
        "val": (train[0][val_indices], train[1][val_indices]),
        "test": test,
    }
    for split, (images, labels) in splits.items():
        _, kept = split_stratified(labels, keep_fraction, rng)
        splits[split] = images[kept], labels[kept]
    return splits


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    num_classes = len(params.dataset.class_names)
    train = read_pair("train", params.dataset.image_size_px, num_classes)
    test = read_pair("t10k", params.dataset.image_size_px, num_classes)
    splits = split_dataset(train, test, params.prepare.val_fraction, params.prepare.keep_fraction, params.seed)
    for split, (_, labels) in splits.items():
        check_split(split, labels, num_classes)
    for split, (images, labels) in splits.items():
        write_arrays(OUTPUT / f"{split}.npz", images=images, labels=labels)
    print(f"{OUTPUT}: " + ", ".join(f"{len(labels)} {split}" for split, (_, labels) in splits.items()) + " images")


if __name__ == "__main__":
    run_stage(main)
