"""Which images train, which choose, which only test? Splits the training images, seeded and stratified.

Reads:
    data/download/: the four IDX files.
    data/leave_out.csv, or what else `prepare.leave_out` names: images that no split gets; see `read_left_out`.

Writes:
    data/prepare/train.npz, val.npz, test.npz: `images` (N, 28, 28) uint8 in [0, 255], `labels` (N,) uint8.
    data/prepare/splits.npz: `train` (60000,) and `t10k` (10000,): of each image of the files with that beginning, the
    split that has it, or "".

Images are kept in the order of the files; shuffling belongs to training. The test images are only converted.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stages.lib.errors import UserError
from stages.lib.params.load import load_params
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import write_arrays
from stages.lib.storage.idx import read_images, read_labels
from stages.lib.storage.split import split_stratified

READS = ("seed", "dataset.image_size_px", "dataset.class_names", "prepare")
SOURCE = Path("data/download")
OUTPUT = Path("data/prepare")
FILE_OF = {"train": "train", "val": "train", "test": "t10k"}  # by split: how the names of its files begin


def check_split(split: str, labels: np.ndarray, num_classes: int) -> None:
    """Checks that a split has an image of every class.

    Raises:
        UserError: if a class has none: no later stage could measure anything for it.
    """
    missing = np.setdiff1d(np.arange(num_classes), labels)
    if len(missing):
        raise UserError(
            f"params.yaml: prepare leaves {len(labels)} images in {split}, none of class "
            f"{', '.join(map(str, missing))}; raise prepare.keep_fraction, move prepare.val_fraction from 0 and 1, "
            "mend dataset.class_names, or leave out fewer images"
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


def read_left_out(path: Path, num_images: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Reads which images no split gets: a CSV file with the columns `file`, train or t10k, and `index`, from 0 in it.

    An image is named by its file and not by its split, which changes with the seed. Other columns, and cells that stand
    below none, are not read, so that rows of data/audit/ can be copied whole.

    Args:
        path: of the CSV file.
        num_images: by file.

    Returns:
        By file, int64 indices.

    Raises:
        UserError: if there is no such file, it lacks a column, or a row names no image.
    """
    if not path.is_file():
        raise UserError(f"params.yaml: prepare.leave_out: expected a CSV file with the columns file,index; got {path}")
    try:
        reader = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
        rows = [(reader.line_num, row.get("file") or "", row.get("index") or "") for row in reader]
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: expected a CSV file in UTF-8; {error}") from error
    if not {"file", "index"} <= set(reader.fieldnames or ()):
        raise UserError(f"{path}: expected the columns file,index in its first line; got {reader.fieldnames}")
    left_out: dict[str, list[int]] = {name: [] for name in num_images}
    for line, name, index in rows:
        if name not in num_images or not index.isdecimal() or int(index) >= num_images[name]:
            known = " or ".join(f"{file} and an index from 0 to {count - 1}" for file, count in num_images.items())
            raise UserError(f"{path}, line {line}: expected {known}; got {name!r} and {index!r}")
        left_out[name].append(int(index))
    return {name: np.array(indices, np.int64) for name, indices in left_out.items()}


def split_dataset(
    labels: Mapping[str, np.ndarray],
    left_out: Mapping[str, np.ndarray],
    val_fraction: float,
    keep_fraction: float,
    seed: int,
) -> dict[str, np.ndarray]:
    """Splits the images of both files into train, val and test, and keeps `keep_fraction` of each, stratified.

    Images are left out at the end, so that the others stay where they would be without that.

    Args:
        labels: of the images, by file.
        left_out: indices of images that no split gets, by file.
        val_fraction: share of the training file that becomes val.
        keep_fraction: share of each split.
        seed: of the random choice.

    Returns:
        By split, sorted int64 indices in its file, which `FILE_OF` names.
    """
    rng = np.random.default_rng(seed)
    train_indices, val_indices = split_stratified(labels["train"], val_fraction, rng)
    splits = {"train": train_indices, "val": val_indices, "test": np.arange(len(labels["t10k"]))}
    for split, indices in splits.items():
        _, kept = split_stratified(labels[FILE_OF[split]][indices], keep_fraction, rng)
        splits[split] = np.setdiff1d(indices[kept], left_out[FILE_OF[split]])
    return splits


def list_splits(splits: Mapping[str, np.ndarray], num_images: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Lists by file the split of each image; "" where it is in none."""
    names = {file: np.full(count, "", "U5") for file, count in num_images.items()}
    for split, indices in splits.items():
        names[FILE_OF[split]][indices] = split
    return names


def describe_left_out(
    labels: Mapping[str, np.ndarray], left_out: Mapping[str, np.ndarray], class_names: tuple[str, ...]
) -> str:
    """Says how many images of which class are left out; "" if none.

    >>> describe_left_out({"train": np.array([1, 0, 1])}, {"train": np.array([0, 1, 2, 2])}, ("Shirt", "Bag"))
    '; left out 3: 1 Shirt, 2 Bag'
    """
    gone = np.concatenate([labels[file][np.unique(indices)] for file, indices in left_out.items()])
    counts = np.bincount(gone, minlength=len(class_names))
    listed = [f"{count} {name}" for name, count in zip(class_names, counts, strict=True) if count]
    return f"; left out {len(gone)}: {', '.join(listed)}" if listed else ""


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    size_px, class_names = params.dataset.image_size_px, params.dataset.class_names
    files = {name: read_pair(name, size_px, len(class_names)) for name in ("train", "t10k")}
    labels = {name: of_file for name, (_, of_file) in files.items()}
    num_images = {name: len(of_file) for name, of_file in labels.items()}
    left_out = read_left_out(Path(params.prepare.leave_out), num_images)
    splits = split_dataset(labels, left_out, params.prepare.val_fraction, params.prepare.keep_fraction, params.seed)
    for split, indices in splits.items():
        check_split(split, labels[FILE_OF[split]][indices], len(class_names))
    for split, indices in splits.items():
        images, of_file = files[FILE_OF[split]]
        write_arrays(OUTPUT / f"{split}.npz", images=images[indices], labels=of_file[indices])
    write_arrays(OUTPUT / "splits.npz", **list_splits(splits, num_images))
    counts = ", ".join(f"{len(indices)} {split}" for split, indices in splits.items())
    print(f"{OUTPUT}: {counts} images{describe_left_out(labels, left_out, class_names)}")


if __name__ == "__main__":
    run_stage(main)
