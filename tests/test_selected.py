from pathlib import Path

import numpy as np
import pytest

from stages.lib.errors import UserError
from stages.lib.storage.files import map_array, read_arrays, read_split, write_arrays
from stages.lib.storage.selected import Selected

ONE = np.arange(10 * 2 * 2, dtype=np.uint8).reshape(10, 2, 2)
OTHER = ONE[:6] + np.uint8(100)
PLACES = np.array([15, 0, 9, 10, 3, 3])
CHOSEN = np.concatenate([ONE, OTHER])[PLACES]


@pytest.mark.parametrize(
    "rows",
    [slice(None), slice(1, 4), slice(4, 100), slice(0, 0), np.array([5, 0, 0, 2]), np.array([], np.int64)],
    ids=["all", "some", "past the end", "none", "in an order", "no indices"],
)
def test_rows_of_several_arrays_are_read_in_the_order_in_which_they_are_asked_for(rows: slice | np.ndarray) -> None:
    selected = Selected([ONE, OTHER], PLACES)

    assert (len(selected), selected.shape, selected.ndim, selected.dtype) == (6, (6, 2, 2), 3, ONE.dtype)
    assert np.array_equal(selected[rows], CHOSEN[rows])
    assert selected[rows].dtype == np.uint8


def test_rows_can_be_selected_of_selected_rows() -> None:
    nested = Selected([Selected([ONE, OTHER], PLACES), ONE], np.array([6, 0, 5]))

    assert np.array_equal(nested[:], np.stack([ONE[0], CHOSEN[0], CHOSEN[5]]))


@pytest.mark.parametrize("rows_at_once", [1, 4, 6, 1024])
def test_selected_rows_are_written_as_the_array_that_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr("stages.lib.storage.files.ROWS_AT_ONCE", rows_at_once)
    write_arrays(tmp_path / "selected.npz", images=Selected([ONE, OTHER], PLACES), labels=PLACES)
    write_arrays(tmp_path / "array.npz", images=CHOSEN, labels=PLACES)

    assert (tmp_path / "selected.npz").read_bytes() == (tmp_path / "array.npz").read_bytes()


def test_images_of_a_split_stay_on_disk_and_are_those_that_were_written(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    write_arrays(path, labels=np.arange(10, dtype=np.uint8), images=ONE)

    images, labels = read_split(path)

    assert isinstance(images, np.memmap)
    assert not images.flags.writeable
    assert np.array_equal(images, ONE)
    assert np.array_equal(images, read_arrays(path, "images")[0])
    assert labels.tolist() == list(range(10))


def test_a_split_without_images_is_read(tmp_path: Path) -> None:
    write_arrays(tmp_path / "x.npz", images=ONE[:0], labels=np.array([], np.uint8))

    assert read_split(tmp_path / "x.npz")[0].shape == (0, 2, 2)


@pytest.mark.parametrize("kind", ["compressed", "columns first", "objects", "another name", "cut"])
def test_what_cannot_stay_on_disk_is_refused_with_the_remedy(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.npz"
    match kind:
        case "compressed":
            np.savez_compressed(path, images=ONE)
        case "columns first":
            np.savez(path, images=np.asfortranarray(np.ones((2, 3))))
        case "objects":
            np.savez(path, images=np.array([{}], dtype=object))
        case "another name":
            np.savez(path, pictures=ONE)
        case "cut":
            np.savez(path, images=ONE)
            path.write_bytes(path.read_bytes()[:150])

    with pytest.raises(UserError) as caught:
        map_array(path, "images")

    assert str(caught.value).startswith(f"{path}: expected an .npz with images as `dvc repro` writes it; ")
    assert str(caught.value).endswith("; remove it and run `dvc repro`")
