"""Reads images that one file holds: an .npz, or the IDX files of MNIST."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stages.lib.errors import UserError
from stages.lib.sources.listing import SPLIT_OF, Entry, Source, check_classes, find_split
from stages.lib.storage.files import map_array
from stages.lib.storage.idx import read_idx, read_images, read_labels
from stages.lib.storage.selected import Selected

IDX_OF = {"train": "train", "test": "t10k"}  # by split: how the names of its files begin
IDX_FILES = tuple(
    f"{name}-{kind}-ubyte" for name in IDX_OF.values() for kind in ("images-idx3", "labels-idx1")
)  # all four
NEEDED = ("images", "labels")
OPTIONAL = ("split", "group")
BYTES_AT_ONCE = 2**20  # of a file whose checksum is compared


def read_pair(folder: Path, name: str, image_size_px: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads images and labels of the IDX files that start with `name`.

    Raises:
        UserError: if one is missing or damaged, or there are not as many labels as images.
    """
    images = read_images(folder / f"{name}-images-idx3-ubyte", image_size_px)
    labels = read_labels(folder / f"{name}-labels-idx1-ubyte", num_classes)
    if len(images) != len(labels):
        raise UserError(f"{folder}: {name} has {len(images)} images but {len(labels)} labels; remove both, `dvc repro`")
    return images, labels


def read_idx_files(folder: Path, class_names: Sequence[str] | None, image_size_px: int | None) -> Source:
    """Reads the four IDX files, whose training and test images are given.

    Args:
        folder: that holds them.
        class_names: those of params.yaml, or None: the labels themselves, from 0 to the highest.
        image_size_px: of params.yaml, or None: whatever it is.

    Raises:
        UserError: as `read_pair`.
    """
    if class_names is None or image_size_px is None:
        first = f"{IDX_OF['train']}-images-idx3-ubyte"
        image_size_px = read_idx(folder / first, num_dims=3).shape[2]
        highest = max(int(read_idx(folder / f"{name}-labels-idx1-ubyte", 1).max()) for name in IDX_OF.values())
        class_names = [str(label) for label in range(highest + 1)]
    pairs = {split: read_pair(folder, name, image_size_px, len(class_names)) for split, name in IDX_OF.items()}
    entries = [
        Entry(IDX_OF[split], index, class_names[label], split, "")
        for split, (_, labels) in pairs.items()
        for index, label in enumerate(labels.tolist())
    ]
    images = Selected([images for images, _ in pairs.values()], np.arange(len(entries)))  # no copy of them in one array
    return Source(folder, "idx", entries, [], [], images)


def read_packed(path: Path, class_names: Sequence[str] | None) -> Source:
    """Reads an .npz with `images` and `labels`, and where wanted `split` and `group`; pickled objects are refused.

    Images stay on disk where they can; see `open_images`.

    Args:
        path: of the file. `images` are (N, height, width), or (N, height, width, channels) with 1, 3 or 4 channels, of
            a type that `turn_uint8` knows; `labels` (N,) integers from 0, or names of classes; `split` (N,) and
            `group` (N,) words or numbers.
        class_names: those of params.yaml, or None: all labels, as they are named there or numbered.

    Raises:
        UserError: if anything is wrong.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            lacking = [name for name in NEEDED if name not in stored]
            if lacking:
                raise UserError(f"{path}: expected arrays images and labels; got {', '.join(stored) or 'none'}")
            arrays = {name: stored[name] for name in (*NEEDED[1:], *OPTIONAL) if name in stored}
            images = open_images(path, stored)
    except UserError:
        raise
    except (OSError, EOFError, TypeError, AttributeError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: expected an .npz with the arrays images and labels, without Python objects; {error}; write it "
            "anew by numpy.savez"
        ) from error
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3, 4)) or 0 in images.shape:
        raise UserError(
            f"{path}: expected images (N, height, width), or (N, height, width, 1, 3 or 4); got {images.shape}"
        )
    for name, array in arrays.items():
        if array.shape != (len(images),):
            raise UserError(f"{path}: expected {name} ({len(images)},), as there are images; got {array.shape}")
    labels = name_labels(arrays["labels"], class_names, path)
    if class_names is not None:
        check_classes(sorted(set(labels)), class_names, path, "label")
    words = {name: [str(word) for word in arrays[name].tolist()] if name in arrays else None for name in OPTIONAL}
    splits = [find_split(word) for word in words["split"] or [""] * len(images)]
    if None in splits:
        found = (words["split"] or [])[splits.index(None)]
        raise UserError(f"{path}: expected split as {', '.join(SPLIT_OF)} or an empty word; got {found!r}")
    groups = words["group"] or [""] * len(images)
    entries = [
        Entry(path.name, index, label, split or "", group)
        for index, (label, split, group) in enumerate(zip(labels, splits, groups, strict=True))
    ]
    check_levels(images, path)
    has_one_channel = images.ndim == 4 and images.shape[3] == 1
    return Source(path.parent, "packed", entries, [], [], images[..., 0] if has_one_channel else images)


def open_images(path: Path, stored: np.lib.npyio.NpzFile) -> np.ndarray:
    """Opens the array `images` of an .npz: on disk, read where it is indexed, if it lies there as it is.

    So `numpy.savez` writes it. What is compressed, as `numpy.savez_compressed` writes it, or lies in Fortran order is
    read: one copy of all images, as they are stored, has to fit into the memory.

    Args:
        path: of the file.
        stored: the same, open.

    Raises:
        zipfile.BadZipFile: if the images are not those that were written, by their checksum.
        ValueError: if they hold Python objects.
    """
    try:
        images = map_array(path, "images")
    except UserError:  # it tells what is compressed by that, too; what is wrong, numpy says then
        read: np.ndarray = stored["images"]
        return read
    with zipfile.ZipFile(path) as archive, archive.open("images.npy") as file:
        while file.read(BYTES_AT_ONCE):
            pass
    return images


def check_levels(images: np.ndarray, path: Path) -> None:
    """Checks that `turn_uint8` knows what is black and what is white in images.

    Raises:
        UserError: if they are of a type that it does not know, or floats beyond 0 and 1.
    """
    remedy = "scale them to 0 to 255 and store them as uint8"
    if images.dtype in (np.uint8, np.uint16, np.bool_):
        return
    if not np.issubdtype(images.dtype, np.floating):
        raise UserError(f"{path}: expected images of uint8, uint16, bool or floats; got {images.dtype}; {remedy}")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise UserError(f"{path}: expected floats from 0 to 1 in images; got {low:g} to {high:g}; {remedy}")


def turn_uint8(levels: np.ndarray) -> np.ndarray:
    """Turns levels into uint8: uint8 are kept, uint16 scaled from 0 to 65535, floats from 0 to 1, and bool is 0 or 255.

    >>> turn_uint8(np.array([0, 32896, 65535], np.uint16)).tolist(), turn_uint8(np.array([0, 0.5, 1])).tolist()
    ([0, 128, 255], [0, 128, 255])
    """
    if levels.dtype == np.uint8:
        return levels
    if levels.dtype == np.bool_:
        return levels.astype(np.uint8) * np.uint8(255)
    if levels.dtype == np.uint16:
        return np.rint(levels / np.float32(257)).astype(np.uint8)
    return np.rint(levels.astype(np.float32) * 255).astype(np.uint8)


def name_labels(labels: np.ndarray, class_names: Sequence[str] | None, path: Path) -> list[str]:
    """Names the class of each label: of integers by their place in `class_names`, or by themselves.

    Raises:
        UserError: if they are neither integers from 0 nor words, or a number has no class.
    """
    if labels.dtype.kind == "U":
        return [str(label).strip() for label in labels.tolist()]
    if labels.dtype.kind not in "iu":
        raise UserError(f"{path}: expected labels that are integers or words; got {labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    most = len(class_names) if class_names is not None else 256
    if low < 0 or high >= most:
        raise UserError(
            f"{path}: expected labels from 0 to {most - 1}, a number for each of dataset.class_names; got {low} to "
            f"{high}; name every class in dataset.class_names of params.yaml, or number them from 0"
        )
    return [class_names[label] if class_names is not None else str(label) for label in labels.tolist()]
