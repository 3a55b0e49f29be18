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


def test_sizes_are_big_endian(path: Path) -> None:
    path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 1, 2]) + bytes(258))

    assert read_idx(path, num_dims=1).shape == (258,)


def test_rows_come_before_columns(path: Path) -> None:
    path.write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6]))

    assert read_idx(path, num_dims=2).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_the_array_can_be_changed(path: Path) -> None:
    path.write_bytes(LABELS)

    assert read_idx(path, num_dims=1).flags.writeable


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an IDX file, which starts with 0000; found ''"),
        (b"\0\0\x08", "expected an IDX file, which starts with 0000; found '000008'"),
        (b"\x1f\x8b\x08\x03" + IMAGES[4:], "starts with 0000; found '1f8b0803'"),
        (b"\0\0\x0d\x03" + IMAGES[4:], "expected type code 0x08 (unsigned byte), found 0x0d"),
        (LABELS, "expected 3 dimensions, found 1"),
        (IMAGES_HEADER[:9], "expected a header of 16 bytes, found 9"),
        (IMAGES[:-1], "expected 2 x 2 x 2 = 8 bytes after the header, found 7"),
        (IMAGES + b"\0", "expected 2 x 2 x 2 = 8 bytes after the header, found 9"),
        (IMAGES_HEADER, "expected 2 x 2 x 2 = 8 bytes after the header, found 0"),
        (IMAGES_HEADER[:4] + bytes(12), "expected sizes of at least 1, found 0 x 0 x 0"),
    ],
    ids=["empty", "no magic", "gzip", "type", "rank", "short header", "cut", "trailing", "no values", "zero images"],
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


def test_a_promise_that_no_memory_could_hold_is_refused(path: Path) -> None:
    path.write_bytes(b"\0\0\x08\x03" + b"\xff" * 12 + bytes(8))

    with pytest.raises(UserError, match=f"4294967295 = {(2**32 - 1) ** 3} bytes after the header, found 8"):
        read_idx(path, num_dims=3)


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


def test_images_of_another_size_are_refused(path: Path) -> None:
    path.write_bytes(IMAGES)

    with pytest.raises(
        UserError,
        match=r"expected images of 28 x 28 pixels, found 2 x 2; set dataset\.image_size_px",
    ):
        read_images(path, image_size_px=28)


def test_images_that_are_not_square_are_refused(path: Path) -> None:
    path.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes(6))

    with pytest.raises(UserError, match="expected images of 2 x 2 pixels, found 2 x 3"):
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
