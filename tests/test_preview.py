import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from sections import replace

from stages import preview as stage
from stages.lib.errors import UserError
from stages.lib.params.load import load_params
from stages.lib.params.sections import AugmentationParams, PreviewParams
from stages.lib.storage.files import write_arrays
from stages.preview import describe, find_first_of_each_class, make_versions, plot_preview

NONE = AugmentationParams(
    rotation_degrees=0, shift_fraction=0, zoom_fraction=0, shift_px=0, erase_px=0, horizontal_flip=False
)
STRONG = AugmentationParams(
    rotation_degrees=8, shift_fraction=0.2, zoom_fraction=0.2, shift_px=0, erase_px=0, horizontal_flip=False
)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 6, 6), np.uint8)
CLASS_NAMES = ("Trouser", "Coat", "Bag")


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def test_the_first_image_of_each_class_is_found_in_the_order_of_the_labels() -> None:
    assert find_first_of_each_class(np.array([2, 0, 1, 0, 2, 1])).tolist() == [1, 2, 0]


@pytest.mark.parametrize("versions", [1, 4])
def test_each_image_comes_with_its_versions(versions: int) -> None:
    result = make_versions(IMAGES, STRONG, versions, seed=1)

    assert result.shape == (3, 1 + versions, 6, 6)
    assert result.dtype == np.float32


def test_versions_stay_in_the_range_of_the_network() -> None:
    result = make_versions(IMAGES, STRONG, 5, seed=1)

    assert result.min() >= 0
    assert result.max() <= 1
    assert result.max() > 0.5


def test_the_original_comes_first_and_is_unchanged() -> None:
    result = make_versions(IMAGES, STRONG, 2, seed=1)

    assert np.array_equal(result[:, 0], IMAGES.astype(np.float32) / 255)


def test_each_version_is_drawn_anew() -> None:
    result = make_versions(IMAGES, STRONG, 3, seed=1)

    for i in range(4):
        for j in range(i):
            assert not np.array_equal(result[:, i], result[:, j])


def test_no_augmentation_shows_the_original_throughout() -> None:
    result = make_versions(IMAGES, NONE, 4, seed=1)

    assert all(np.array_equal(result[:, version], result[:, 0]) for version in range(5))


def test_the_same_seed_draws_the_same_versions() -> None:
    assert np.array_equal(make_versions(IMAGES, STRONG, 2, seed=1), make_versions(IMAGES, STRONG, 2, seed=1))


def test_another_seed_draws_other_versions() -> None:
    one, two = make_versions(IMAGES, STRONG, 2, seed=1), make_versions(IMAGES, STRONG, 2, seed=2)

    assert not np.array_equal(one[:, 1], two[:, 1])


def test_more_versions_leave_the_first_ones_as_they_are() -> None:
    assert np.array_equal(make_versions(IMAGES, STRONG, 4, seed=1)[:, :3], make_versions(IMAGES, STRONG, 2, seed=1))


@pytest.mark.parametrize(
    ("augmentation", "title"),
    [
        (NONE, "some: images as they are"),
        (
            AugmentationParams(
                rotation_degrees=7.5, shift_fraction=0, zoom_fraction=0, shift_px=0, erase_px=0, horizontal_flip=False
            ),
            "some: rotation up to 7.5°",
        ),
        (
            AugmentationParams(
                rotation_degrees=0, shift_fraction=0.07, zoom_fraction=0, shift_px=0, erase_px=0, horizontal_flip=False
            ),
            "some: shift up to 7 %",
        ),  # 100 x 0.07 is 7.000000000000001
        (
            AugmentationParams(
                rotation_degrees=0, shift_fraction=0, zoom_fraction=0.1, shift_px=0, erase_px=0, horizontal_flip=False
            ),
            "some: zoom up to 10 %",
        ),
        (
            AugmentationParams(
                rotation_degrees=0, shift_fraction=0, zoom_fraction=0, shift_px=0, erase_px=0, horizontal_flip=True
            ),
            "some: half of the images mirrored",
        ),
        (
            AugmentationParams(
                rotation_degrees=8, shift_fraction=0.02, zoom_fraction=0.2, shift_px=0, erase_px=0, horizontal_flip=True
            ),
            "some: rotation up to 8°, shift up to 2 %, zoom up to 20 %, half of the images mirrored",
        ),
    ],
)
def test_a_title_names_every_limit_that_is_not_zero(augmentation: AugmentationParams, title: str) -> None:
    assert describe("some", augmentation) == title


def test_the_picture_has_a_row_for_each_class_name() -> None:
    axis = plot_preview(make_versions(IMAGES, STRONG, 2, seed=1), CLASS_NAMES, "a title").axes[0]

    grid = axis.images[0].get_array()
    assert grid is not None
    assert grid.shape == (3 * 8, 3 * 8)  # 3 rows of 3 images of 6 pixels, each framed by 1 pixel
    assert [label.get_text() for label in axis.get_yticklabels()] == list(CLASS_NAMES)
    assert [int(tick // 8) for tick in axis.get_yticks()] == [0, 1, 2]
    assert axis.get_title() == "a title"


def test_the_picture_shows_image_i_in_row_i_and_version_j_in_column_j() -> None:
    versions = make_versions(IMAGES, STRONG, 3, seed=1)

    grid = np.asarray(plot_preview(versions, CLASS_NAMES, "").axes[0].images[0].get_array())

    for row, column in np.ndindex(3, 4):
        tile = grid[8 * row + 1 : 8 * row + 7, 8 * column + 1 : 8 * column + 7]
        assert np.array_equal(tile, versions[row, column])


def test_a_line_parts_the_original_from_its_versions() -> None:
    axis = plot_preview(make_versions(IMAGES, NONE, 3, seed=1), CLASS_NAMES, "").axes[0]

    assert np.asarray(axis.lines[0].get_xdata()).tolist() == [7.5, 7.5]  # between pixels 7 and 8


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    params = load_params()
    params = replace(
        params,
        dataset=replace(params.dataset, class_names=CLASS_NAMES),
        augmentations={"none": NONE, "strong": STRONG},
        preview=PreviewParams(versions=2),
    )
    monkeypatch.setattr(stage, "load_params", lambda **_: params)
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
