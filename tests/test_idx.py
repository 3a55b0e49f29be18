import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from stages.lib.errors import UserError
from stages.lib.storage.idx import read_idx, read_images, read_labels

IMAGES_HEADER = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2])  # two images of 2 x 2 unsigned bytes
IMAGES = IMAGES_HEADER + bytes([0, 1, 2, 3, 252, 253, 254, 255])
LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 3, 9, 0, 4])  # three labels


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some-idx-file"


def test_two_images_are_read_row_by_row(path: Path) -> None:
    path.write_bytes(IMAGES)

    images = read_images(path, image_size_px=2)

    assert images.dtype == np.uint8
    assert images.tolist() == [[[0, 1], [2, 3]], [[252, 253], [254, 255]]]


def test_labels_are_read_in_order(path: Path) -> None:
    path.write_bytes(LABELS)

    labels = read_labels(path, num_classes=10)

    assert labels.dtype == np.uint8
    assert labels.tolist() == [9, 0, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an IDX file of unsigned bytes in 3 dimensions, which starts with 00000803; found ''"),
        (b"\0\0\x08", "which starts with 00000803; found '000008'"),
        (b"\x1f\x8b\x08\x03" + IMAGES[4:], "which starts with 00000803; found '1f8b0803'"),
        (b"\0\0\x0d\x03" + IMAGES[4:], "which starts with 00000803; found '00000d03'"),
        (LABELS, "which starts with 00000803; found '00000801'"),
        (IMAGES_HEADER[:9], "expected a header of 16 bytes, found 9"),
        (IMAGES[:-1], "expected 2 x 2 x 2 = 8 bytes after the header, found 7"),
        (IMAGES + b"\0", "expected 2 x 2 x 2 = 8 bytes after the header, found 9"),
        (IMAGES_HEADER, "expected 2 x 2 x 2 = 8 bytes after the header, found 0"),
        (IMAGES_HEADER[:4] + bytes(12), "expected sizes of at least 1, found 0 x 0 x 0"),
        (IMAGES_HEADER[:4] + b"\xff" * 12, f"4294967295 = {(2**32 - 1) ** 3} bytes after the header, found 0"),
    ],
    ids=[
        "empty",
        "no magic",
        "gzip",
        "type",
        "rank",
        "short header",
        "cut",
        "trailing",
        "no values",
        "zero images",
        "huge",
    ],
)
def test_an_error_names_the_file_what_was_expected_and_found_and_the_remedy(
    path: Path, content: bytes, message: str
) -> None:
    path.write_bytes(content)

    with pytest.raises(UserError) as caught:
        read_idx(path, num_dims=3)

    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert str(caught.value).endswith("; remove it and run `dvc repro` again")


def test_a_false_promise_costs_no_memory(path: Path) -> None:
    path.write_bytes(b"\0\0\x08\x01" + struct.pack(">I", 2**26) + bytes(8))

    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="expected 67108864 = 67108864 bytes after the header, found 8"):
            read_idx(path, num_dims=1)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak_bytes < 2**20


@pytest.mark.parametrize(("rows", "columns"), [(28, 28), (2, 3)])
def test_images_of_another_size_are_refused(path: Path, rows: int, columns: int) -> None:
    path.write_bytes(IMAGES_HEADER[:7] + bytes([1, 0, 0, 0, rows, 0, 0, 0, columns]) + bytes(rows * columns))

    message = rf"expected images of 2 x 2 pixels, found {rows} x {columns}; set dataset\.image_size_px"
    with pytest.raises(UserError, match=message):
        read_images(path, image_size_px=2)


def test_the_highest_label_is_one_less_than_the_number_of_classes(path: Path) -> None:
    path.write_bytes(LABELS)

    with pytest.raises(
        UserError,
        match=r"expected labels from 0 to 8, found 9; name every class in dataset\.class_names",
    ):
        read_labels(path, num_classes=9)


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(UserError, match="some-idx-file: not found; run `dvc repro` to make it"):
        read_idx(path, num_dims=1)
