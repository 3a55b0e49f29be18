"""Reads the IDX format, in which the data set is published, and refuses any file that is not exactly what it promises.

An IDX file is a magic number (two zero bytes, a type code, the number of dimensions), then one big-endian 32-bit size
per dimension, then the values, last dimension fastest. Source: LeCun, Cortes and Burges, "The MNIST database",
section "The IDX file format", http://yann.lecun.com/exdb/mnist/. No TensorFlow.
"""

import math
import struct
from pathlib import Path

import numpy as np

from stages.lib.errors import UserError
from stages.lib.storage.files import check_exists

UINT8_CODE = 0x08
REMEDY = "remove it and run `dvc repro` again"


def read_idx(path: Path, num_dims: int) -> np.ndarray:
    """Reads an IDX file of unsigned bytes into a uint8 array with `num_dims` dimensions.

    The sizes in the header are compared with the size of the file before any value is read, so that a damaged header
    cannot make it take memory for values that are not there.

    Raises:
        UserError: if there is no such file, or it is not IDX, holds another type or number of dimensions, or is too
            short or too long.
    """
    check_exists(path)
    magic = bytes([0, 0, UINT8_CODE, num_dims])
    header_bytes = 4 + 4 * num_dims
    with path.open("rb") as file:
        header = file.read(header_bytes)
        if header[:4] != magic:
            raise UserError(
                f"{path}: expected an IDX file of unsigned bytes in {num_dims} dimensions, which starts with "
                f"{magic.hex()}; found {header[:4].hex()!r}; {REMEDY}"
            )
        if len(header) < header_bytes:
            raise UserError(f"{path}: expected a header of {header_bytes} bytes, found {len(header)}; {REMEDY}")
        shape = struct.unpack(f">{num_dims}I", header[4:])
        if 0 in shape:
            raise UserError(f"{path}: expected sizes of at least 1, found {format_shape(shape)}; {REMEDY}")
        promised_bytes, found_bytes = math.prod(shape), path.stat().st_size - header_bytes
        if promised_bytes != found_bytes:
            raise UserError(
                f"{path}: expected {format_shape(shape)} = {promised_bytes} bytes after the header, "
                f"found {found_bytes}; {REMEDY}"
            )
        return np.fromfile(file, dtype=np.uint8).reshape(shape)


def read_images(path: Path, image_size_px: int) -> np.ndarray:
    """Reads square images into (N, image_size_px, image_size_px) uint8, rows x columns, 0 to 255.

    Raises:
        UserError: if `read_idx` refuses the file, or the images have another size.
    """
    images = read_idx(path, num_dims=3)
    expected = (image_size_px, image_size_px)
    if images.shape[1:] != expected:
        found = format_shape(images.shape[1:])
        raise UserError(
            f"{path}: expected images of {format_shape(expected)} pixels, found {found}; "
            f"set dataset.image_size_px in params.yaml, or {REMEDY}"
        )
    return images


def read_labels(path: Path, num_classes: int) -> np.ndarray:
    """Reads labels into (N,) uint8, each from 0 to `num_classes` - 1.

    Raises:
        UserError: if `read_idx` refuses the file, or a label is out of range.
    """
    labels = read_idx(path, num_dims=1)
    highest = labels.max()
    if highest >= num_classes:
        raise UserError(
            f"{path}: expected labels from 0 to {num_classes - 1}, found {highest}; "
            f"name every class in dataset.class_names of params.yaml, or {REMEDY}"
        )
    return labels


def format_shape(shape: tuple[int, ...]) -> str:
    """Writes a shape for a message.

    >>> format_shape((60000, 28, 28))
    '60000 x 28 x 28'
    """
    return " x ".join(str(size) for size in shape)
