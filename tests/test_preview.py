import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from sections import augmentation, replace

from stages import preview as stage
from stages.lib.errors import UserError
from stages.lib.params.load import load_params
from stages.lib.params.sections import PreviewParams
from stages.lib.running import arguments
from stages.lib.storage.files import write_arrays
from stages.preview import describe, find_first_of_each_class, make_versions, plot_preview

STRONG = augmentation(rotation_degrees=8, shift_fraction=0.2, zoom_fraction=0.2)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 6, 6), np.uint8)
CLASS_NAMES = ("Trouser", "Coat", "Bag")


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def test_the_first_image_of_each_class_is_found_in_the_order_of_the_labels() -> None:
    assert find_first_of_each_class(np.array([2, 0, 1, 0, 2, 1])).tolist() == [1, 2, 0]


def test_the_original_comes_first_and_is_unchanged() -> None:
    result = make_versions(IMAGES, STRONG, 2, seed=1)

    assert result.shape == (3, 3, 6, 6, 1)
    assert np.array_equal(result[:, 0, ..., 0], IMAGES.astype(np.float32) / 255)


def test_each_version_is_drawn_anew() -> None:
    result = make_versions(IMAGES, STRONG, 3, seed=1)

    for i in range(4):
        for j in range(i):
            assert not np.array_equal(result[:, i], result[:, j])


def test_more_versions_leave_the_first_ones_as_they_are() -> None:
    assert np.array_equal(make_versions(IMAGES, STRONG, 4, seed=1)[:, :3], make_versions(IMAGES, STRONG, 2, seed=1))


@pytest.mark.parametrize(
    ("limits", "title"),
    [
        ({}, "images as they are"),
        ({"shift_fraction": 0.07}, "shift up to 7 %"),  # 100 x 0.07 is 7.000000000000001
        (
            {"rotation_degrees": 7.5, "zoom_fraction": 0.2, "horizontal_flip": True},
            "rotation up to 7.5°, zoom up to 20 %, half of the images mirrored",
        ),
        ({"shift_px": 2, "erase_px": 8}, "shift up to 2 px, a square of 8 px erased"),
        (
            {"brightness_fraction": 0.1, "contrast_fraction": 0.25, "saturation_fraction": 0.5},
            "brightness up to 10 %, contrast up to 25 %, saturation up to 50 %",
        ),
    ],
)
def test_a_title_names_every_limit_that_is_not_zero(limits: dict[str, float], title: str) -> None:
    assert describe("some", augmentation(**limits)) == f"some: {title}"


def test_the_picture_shows_image_i_in_row_i_and_version_j_in_column_j() -> None:
    versions = make_versions(IMAGES, STRONG, 3, seed=1)

    grid = np.asarray(plot_preview(versions, CLASS_NAMES, "").axes[0].images[0].get_array())

    for row, column in np.ndindex(3, 4):
        tile = grid[8 * row + 1 : 8 * row + 7, 8 * column + 1 : 8 * column + 7]
        assert np.array_equal(tile, versions[row, column, ..., 0])


@pytest.mark.parametrize("versions", [1, 7])
def test_a_title_of_many_limits_stays_within_the_picture(versions: int) -> None:
    everything = augmentation(
        rotation_degrees=22.5,
        shift_fraction=0.25,
        zoom_fraction=0.25,
        shift_px=12,
        erase_px=16,
        brightness_fraction=0.25,
        contrast_fraction=0.25,
        saturation_fraction=0.25,
        horizontal_flip=True,
    )
    images = make_versions(np.zeros((10, 6, 6), np.uint8), augmentation(), versions, seed=1)

    figure = plot_preview(images, ("a class of some letters",) * 10, describe("everything", everything))

    figure.canvas.draw()
    (title,) = (text.get_window_extent() for text in figure.texts)
    assert figure.bbox.x0 <= title.x0 < title.x1 <= figure.bbox.x1
    assert title.y1 <= figure.bbox.y1


def test_coloured_images_are_shown_in_their_colours() -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 6, 6, 3), np.uint8)
    versions = make_versions(images, augmentation(), 1, seed=1)

    grid = np.asarray(plot_preview(versions, CLASS_NAMES, "").axes[0].images[0].get_array())

    assert grid.shape == (24, 16, 3)
    for row, column in np.ndindex(3, 2):
        tile = grid[8 * row + 1 : 8 * row + 7, 8 * column + 1 : 8 * column + 7]
        np.testing.assert_allclose(tile, images[row] / 255, atol=1e-6)
    assert (grid[::8] == 1).all()  # white between them


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    params = load_params()
    params = replace(
        params,
        dataset=replace(params.dataset, class_names=CLASS_NAMES),
        augmentations={"strong": STRONG},
        preview=PreviewParams(versions=2),
    )
    monkeypatch.setattr(stage, "load_params", lambda **_: params)
    monkeypatch.setattr(arguments, "load_params", lambda: params)
    monkeypatch.chdir(tmp_path)
    write_arrays(Path("data/prepare/train.npz"), images=IMAGES, labels=np.array([2, 0, 1], np.uint8))
    return tmp_path


def test_the_stage_writes_one_picture_named_after_the_augmentation(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["preview", "strong"])

    stage.main()

    assert [path.name for path in (folder / "data/preview").iterdir()] == ["strong.png"]
    assert (folder / "data/preview/strong.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("folder")
def test_the_stage_refuses_an_unknown_augmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["preview", "stong"])

    with pytest.raises(UserError, match="unknown name 'stong'; did you mean 'strong'"):
        stage.main()
