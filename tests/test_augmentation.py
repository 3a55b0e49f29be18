import itertools
import math
from typing import Any

import numpy as np
import pytest
from sections import augmentation

from stages.lib.network.keras2 import tf
from stages.lib.params.sections import AugmentationParams
from stages.lib.training import augmentation as module
from stages.lib.training.augmentation import (
    MEAN_PIXEL,
    affine_transforms,
    apply_transforms,
    augment,
    change_brightness,
    change_contrast,
    change_saturation,
    erase_squares,
    keep_mirroring,
    shift_whole_pixels,
)

IMAGE = np.arange(16, dtype=np.float32).reshape(4, 4)
STRONG: dict[str, Any] = {
    "rotation_degrees": 30.0,
    "shift_fraction": 0.2,
    "zoom_fraction": 0.3,
    "shift_px": 1,
    "erase_px": 2,
    "brightness_fraction": 0.3,
    "contrast_fraction": 0.3,
    "horizontal_flip": True,
}
LIGHT = {"brightness_fraction": 0.3, "contrast_fraction": 0.3, "saturation_fraction": 0.3}
EVERYTHING = augmentation(**STRONG)
EACH = [augmentation(**{key: value}) for key, value in STRONG.items()]
SEED = (3, 5)


def transform(images: np.ndarray, **changes: float) -> np.ndarray:
    """Applies one transform to (N, size, size) images; what `changes` does not name stays neutral."""
    neutral = {"rotation": 0.0, "shift_x": 0.0, "shift_y": 0.0, "zoom_x": 1.0, "zoom_y": 1.0}
    values = {key: tf.fill([len(images)], float(changes.get(key, value))) for key, value in neutral.items()}
    mirrored = tf.fill([len(images)], bool(changes.get("mirrored", False)))
    matrices = affine_transforms(**values, mirrored=mirrored, size=images.shape[1])
    return np.asarray(apply_transforms(tf.constant(images[..., np.newaxis]), matrices))[..., 0]


def augmented(
    images: np.ndarray, limits: AugmentationParams, seed: tuple[int, int] = SEED, mirrored: Any = None
) -> np.ndarray:
    return np.asarray(augment(tf.constant(images), tf.constant(seed, tf.int64), limits, mirrored))


def drawn(monkeypatch: pytest.MonkeyPatch, num_images: int = 2000, size: int = 4, **limits: Any) -> np.ndarray:
    """Returns the (N, 8) matrices that `augment` draws."""
    matrices = []

    def keep_matrices(x: Any, transforms: Any) -> Any:
        matrices.append(transforms)
        return x

    monkeypatch.setattr(module, "apply_transforms", keep_matrices)
    augmented(np.zeros((num_images, size, size, 1), np.float32), augmentation(**limits))
    return np.asarray(matrices[0])


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).random((8, 6, 6, 1), np.float32)


# One transform, by hand


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, IMAGE.tolist()),
        # A shift shows what lay to the right, or below, and repeats the border.
        ({"shift_x": 1}, [[1, 2, 3, 3], [5, 6, 7, 7], [9, 10, 11, 11], [13, 14, 15, 15]]),
        ({"shift_y": 1}, [[4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15], [12, 13, 14, 15]]),
        ({"shift_x": -2, "shift_y": -1}, [[0, 0, 0, 1], [0, 0, 0, 1], [4, 4, 4, 5], [8, 8, 8, 9]]),
        ({"shift_x": 4}, [[3, 3, 3, 3], [7, 7, 7, 7], [11, 11, 11, 11], [15, 15, 15, 15]]),
        ({"shift_x": 0.5}, (IMAGE + np.array([0.5, 0.5, 0.5, 0])).tolist()),
        ({"mirrored": True}, IMAGE[:, ::-1].tolist()),
        ({"rotation": math.pi / 2}, [[3, 7, 11, 15], [2, 6, 10, 14], [1, 5, 9, 13], [0, 4, 8, 12]]),
        ({"rotation": math.pi}, IMAGE[::-1, ::-1].tolist()),
        # A zoom below 1 enlarges the middle, one above 1 shows the border around the image.
        ({"zoom_x": 0.5, "zoom_y": 0.5}, [[3.75 + 2 * row + column / 2 for column in range(4)] for row in range(4)]),
        ({"zoom_x": 3}, [[row, row, row + 3, row + 3] for row in (0, 4, 8, 12)]),
        # Mirror, then zoom, then turn, then shift.
        ({"rotation": math.pi / 2, "mirrored": True}, np.rot90(IMAGE)[:, ::-1].tolist()),
        (
            {"rotation": math.pi / 2, "zoom_x": 1 / 3},
            [[7 - i + 4 * j / 3 for j in range(4)] for i in range(4)],
        ),
        ({"rotation": math.pi, "shift_x": 1}, [[15, 15, 14, 13], [11, 11, 10, 9], [7, 7, 6, 5], [3, 3, 2, 1]]),
    ],
    ids=str,
)
def test_a_transform_of_16_numbers_is_that_by_hand(changes: dict[str, float], expected: list[list[float]]) -> None:
    np.testing.assert_allclose(transform(IMAGE[np.newaxis], **changes)[0], expected, atol=1e-4)


def test_a_transform_agrees_with_sampling_pixel_by_pixel() -> None:
    size, angle, shift, zoom = 5, 0.4, (0.7, -0.3), (0.8, 1.1)
    image = np.random.default_rng(0).random((size, size)).astype(np.float32)
    expected = np.zeros((size, size))
    for row, column in itertools.product(range(size), repeat=2):
        dx, dy = (column - 2) * zoom[0], (row - 2) * zoom[1]
        x = 2 + math.cos(angle) * dx - math.sin(angle) * dy + shift[0]
        y = 2 + math.sin(angle) * dx + math.cos(angle) * dy + shift[1]
        for i, j in itertools.product((0, 1), repeat=2):
            near_x, near_y = math.floor(x) + i, math.floor(y) + j
            weight = (1 - abs(x - near_x)) * (1 - abs(y - near_y))
            expected[row, column] += weight * image[np.clip(near_y, 0, size - 1), np.clip(near_x, 0, size - 1)]

    found = transform(
        image[np.newaxis], rotation=angle, shift_x=shift[0], shift_y=shift[1], zoom_x=zoom[0], zoom_y=zoom[1]
    )

    np.testing.assert_allclose(found[0], expected, atol=1e-5)


# Random transforms: what stays


def test_zero_strength_is_the_identity_whichever_images_may_be_mirrored(x: np.ndarray) -> None:
    for mirrored in (None, tf.ones([len(x)], tf.bool)):
        np.testing.assert_array_equal(augmented(x, augmentation(), mirrored=mirrored), x)


def test_only_the_mirroring_is_kept() -> None:
    assert keep_mirroring(EVERYTHING) == augmentation(horizontal_flip=True)
    assert keep_mirroring(augmentation(shift_px=2)) == augmentation()


@pytest.mark.parametrize("limits", [*EACH, EVERYTHING])
def test_any_strength_changes_images_but_not_their_shape_dtype_and_range(
    x: np.ndarray, limits: AugmentationParams
) -> None:
    found = augmented(x, limits)

    assert not np.array_equal(found, x)
    assert (found.shape, found.dtype) == (x.shape, np.dtype(np.float32))
    changes_light = limits.brightness_fraction or limits.contrast_fraction
    low, high = (0, 1) if changes_light else (x.min(), x.max())
    assert low - 1e-6 <= found.min()
    assert found.max() <= high + 1e-6


def test_a_flip_leaves_each_image_as_it_is_or_mirrors_it_exactly(x: np.ndarray) -> None:
    found = augmented(x, augmentation(horizontal_flip=True))

    is_mirrored = [np.array_equal(after, before[:, ::-1]) for before, after in zip(x, found, strict=True)]
    is_same = [np.array_equal(after, before) for before, after in zip(x, found, strict=True)]
    assert all(mirrored != same for mirrored, same in zip(is_mirrored, is_same, strict=True))
    assert 0 < sum(is_mirrored) < len(x)


def test_the_images_to_mirror_can_be_given(x: np.ndarray) -> None:
    mirrored = np.arange(len(x)) % 3 == 0

    found = augmented(x, augmentation(horizontal_flip=True), mirrored=tf.constant(mirrored))

    np.testing.assert_array_equal(found, np.where(mirrored[:, None, None, None], x[:, :, ::-1], x))


def test_images_to_mirror_are_left_alone_where_flips_are_off(x: np.ndarray) -> None:
    turned = augmentation(rotation_degrees=30.0)

    assert augmented(x, turned, mirrored=tf.ones([len(x)], tf.bool)).tobytes() == augmented(x, turned).tobytes()


@pytest.mark.parametrize(
    ("shift", "rows"),
    [
        ((0, 0), [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]),
        ((1, 0), [[4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15], [12, 13, 14, 15]]),
        ((0, -2), [[0, 0, 0, 1], [4, 4, 4, 5], [8, 8, 8, 9], [12, 12, 12, 13]]),
        ((-1, 3), [[3, 3, 3, 3], [3, 3, 3, 3], [7, 7, 7, 7], [11, 11, 11, 11]]),
    ],
)
def test_whole_pixels_are_shifted_and_the_border_repeats(shift: tuple[int, int], rows: list[list[int]]) -> None:
    found = shift_whole_pixels(tf.constant(IMAGE[np.newaxis, ..., np.newaxis]), tf.constant([shift]))

    assert np.asarray(found)[0, ..., 0].tolist() == rows


@pytest.mark.parametrize(
    ("centre", "side_px", "rows", "columns"),
    [
        ((1, 1), 1, [1], [1]),
        ((1, 2), 2, [0, 1], [1, 2]),
        ((0, 3), 3, [0, 1], [2, 3]),
        ((3, 0), 4, [1, 2, 3], [0, 1]),
    ],
)
def test_a_square_is_filled_with_the_mean_and_cut_off_at_the_border(
    centre: tuple[int, int], side_px: int, rows: list[int], columns: list[int]
) -> None:
    expected = IMAGE / 16
    expected[np.ix_(rows, columns)] = MEAN_PIXEL

    found = erase_squares(tf.constant(IMAGE[np.newaxis, ..., np.newaxis] / 16), tf.constant([centre]), side_px)

    np.testing.assert_array_equal(np.asarray(found)[0, ..., 0], expected)


def test_shifts_by_whole_pixels_are_uniform_within_their_limit() -> None:
    middle = np.zeros((2000, 9, 9, 1), np.float32)
    middle[:, 4, 4] = 1

    rows, columns = np.nonzero(augmented(middle, augmentation(shift_px=2))[..., 0])[1:]

    for places in (rows, columns):
        assert sorted(set(places)) == [2, 3, 4, 5, 6]
        assert np.abs(np.bincount(places - 2) - 400).max() < 90  # 5 sigma
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.12


def test_erased_squares_lie_anywhere_in_the_image() -> None:
    erased = augmented(np.zeros((2000, 6, 6, 1), np.float32), augmentation(erase_px=1))[..., 0] > 0

    assert (erased.sum(axis=(1, 2)) == 1).all()
    counts = erased.sum(axis=0)
    assert np.abs(counts - 2000 / 36).max() < 40  # 5 sigma


def test_the_size_of_the_batch_may_be_unknown(x: np.ndarray) -> None:
    def run(images: tf.Tensor) -> tf.Tensor:
        return augment(images, tf.constant(SEED, tf.int64), EVERYTHING)

    traced = tf.function(run, input_signature=[tf.TensorSpec([None, 6, 6, 1], tf.float32)])

    np.testing.assert_allclose(np.asarray(traced(x)), augmented(x, EVERYTHING), atol=1e-5)


# Light and colour

RED, GREEN, GREY = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.5, 0.5, 0.5)


def change(function: Any, pixels: Any, factor: float) -> np.ndarray:
    """Changes one image that is a row of pixels, given by their channels; returns them."""
    image = tf.constant(np.asarray(pixels, np.float32)[np.newaxis, np.newaxis])
    return np.asarray(function(image, tf.constant([factor], tf.float32)))[0, 0]


def test_brightness_multiplies_each_channel_and_stops_at_white() -> None:
    np.testing.assert_allclose(change(change_brightness, [(0.0, 0.2, 0.8)], 1.5), [(0, 0.3, 1)], atol=1e-6)
    np.testing.assert_allclose(change(change_brightness, [(0.4,), (0.8,)], 0.5), [(0.2,), (0.4,)], atol=1e-6)


def test_contrast_spreads_pixels_around_the_mean_grey_of_their_image_and_stops_at_black_and_white() -> None:
    np.testing.assert_allclose(change(change_contrast, [(0.2,), (0.6,)], 0.5), [(0.3,), (0.5,)], atol=1e-6)
    np.testing.assert_allclose(change(change_contrast, [(0.0,), (1.0,)], 1.5), [(0,), (1,)], atol=1e-6)
    # Red has a grey of 0.299, green one of 0.587: their mean is 0.443.
    expected = [(0.7215, 0.2215, 0.2215), (0.2215, 0.7215, 0.2215)]
    np.testing.assert_allclose(change(change_contrast, [RED, GREEN], 0.5), expected, atol=1e-6)


def test_saturation_moves_each_pixel_from_its_own_grey_and_leaves_grey_ones() -> None:
    found = change(change_saturation, [RED, GREEN, GREY, (0.6, 0.5, 0.5)], 0.5)
    expected = [(0.6495, 0.1495, 0.1495), (0.2935, 0.7935, 0.2935), GREY, (0.56495, 0.51495, 0.51495)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert change(change_saturation, [(0.3,)], 0.5).tolist() == [[np.float32(0.3)]]


@pytest.mark.parametrize("key", LIGHT)
def test_factors_of_light_and_colour_are_uniform_within_their_limit_and_drawn_apart(key: str) -> None:
    pixels = np.tile(np.array([[(0.2, 0.5, 0.4), (0.4, 0.5, 0.6)]], np.float32), (2000, 1, 1, 1))

    found = augmented(pixels, augmentation(**{key: 0.2}))

    if key == "brightness_fraction":
        factors = found[:, 0, 0, 0] / 0.2
    elif key == "contrast_fraction":
        factors = (found[:, 0, 1, 2] - found[:, 0, 0, 2]) / 0.2
    else:
        factors = (found[:, 0, 1, 2] - found[:, 0, 1, 0]) / 0.2
    assert_uniform(factors, 0.8, 1.2)


def test_limits_of_light_and_colour_leave_the_other_draws_as_they_are() -> None:
    colored = np.full((500, 6, 6, 3), 0.5, np.float32)
    others = {key: value for key, value in STRONG.items() if key not in LIGHT}
    marked = colored.copy()
    marked[:, 2, 3] = 1.0

    moved = augmented(marked, augmentation(**others | {"erase_px": 0}))
    brighter = augmented(marked, augmentation(**others | {"erase_px": 0, "brightness_fraction": 0.3}))

    np.testing.assert_array_equal(moved.argmax(axis=2), brighter.argmax(axis=2))
    factors = brighter[:, 0, 0, 0] / moved[:, 0, 0, 0]
    assert factors.std() > 0.1


@pytest.mark.parametrize("limits", [augmentation(**{k: v for k, v in STRONG.items() if k not in LIGHT})])
def test_every_channel_of_an_image_is_moved_alike(x: np.ndarray, limits: AugmentationParams) -> None:
    found = augmented(np.repeat(x, 3, axis=3), limits)

    np.testing.assert_array_equal(found, np.repeat(augmented(x, limits), 3, axis=3))


def test_saturation_alone_leaves_grey_images_as_they_are(x: np.ndarray) -> None:
    saturated = augmentation(saturation_fraction=0.9)

    np.testing.assert_array_equal(augmented(x, saturated), x)
    colored = np.random.default_rng(2).random((8, 6, 6, 3), np.float32)
    assert not np.allclose(augmented(colored, saturated), colored, atol=1e-2)


# Random transforms: the seed


@pytest.mark.parametrize("limits", EACH)
def test_the_seed_alone_decides_what_is_drawn_whatever_ran_before(x: np.ndarray, limits: AugmentationParams) -> None:
    before = augmented(x, limits)
    others = [augmented(x, limits, seed=seed) for seed in ((3, 6), (4, 5), (5, 3))]
    tf.random.uniform([3])

    assert augmented(x, limits).tobytes() == before.tobytes()
    assert not any(np.array_equal(other, before) for other in others)


@pytest.mark.parametrize("limits", EACH[:3])
def test_equal_images_of_a_batch_are_drawn_apart(limits: AugmentationParams) -> None:
    images = np.tile(IMAGE[np.newaxis, ..., np.newaxis], (5, 1, 1, 1))

    assert len({image.tobytes() for image in augmented(images, limits)}) == 5


# Random transforms: the limits


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    """Checks the ends and the quarters of 2,000 draws: each within 5 % of the width, which is over 5 sigma."""
    width = high - low
    assert low - 1e-5 <= values.min() <= low + 0.01 * width
    assert high - 0.01 * width <= values.max() <= high + 1e-5
    np.testing.assert_allclose(
        np.quantile(values, [0.25, 0.5, 0.75]), low + width * np.array([0.25, 0.5, 0.75]), atol=0.05 * width
    )


def test_rotation_is_uniform_within_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = drawn(monkeypatch, rotation_degrees=30.0)

    assert_uniform(np.degrees(np.arctan2(matrices[:, 3], matrices[:, 0])), -30, 30)
    np.testing.assert_allclose(np.hypot(matrices[:, 0], matrices[:, 3]), 1, atol=1e-5)  # no zoom


@pytest.mark.parametrize("column", [2, 5], ids=["x", "y"])
def test_a_shift_is_uniform_within_its_share_of_the_side(monkeypatch: pytest.MonkeyPatch, column: int) -> None:
    matrices = drawn(monkeypatch, size=10, shift_fraction=0.2)

    assert_uniform(matrices[:, column], -2, 2)
    np.testing.assert_array_equal(matrices[:, [0, 1, 3, 4]], np.tile([[1, 0, 0, 1]], (2000, 1)))


@pytest.mark.parametrize("column", [0, 4], ids=["x", "y"])
def test_a_zoom_is_uniform_within_its_limits(monkeypatch: pytest.MonkeyPatch, column: int) -> None:
    matrices = drawn(monkeypatch, zoom_fraction=0.3)

    assert_uniform(matrices[:, column], 0.7, 1.3)
    np.testing.assert_array_equal(matrices[:, [1, 3]], 0)


@pytest.mark.parametrize("horizontal_flip", [True, False])
def test_half_of_the_images_are_mirrored_and_none_where_flips_are_off(
    monkeypatch: pytest.MonkeyPatch, horizontal_flip: bool
) -> None:
    matrices = drawn(monkeypatch, zoom_fraction=1e-9, horizontal_flip=horizontal_flip)

    assert set(matrices[:, 0].tolist()) == ({-1, 1} if horizontal_flip else {1})
    assert not horizontal_flip or abs(matrices[:, 0].mean()) < 0.12  # 5 sigma of 2,000 draws
    assert set(matrices[:, 4].tolist()) == {1}


def test_the_draws_of_one_image_do_not_depend_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = drawn(monkeypatch, size=10, shift_fraction=0.2, zoom_fraction=0.3)
    zoom_x, zoom_y = matrices[:, 0], matrices[:, 4]
    shift_x, shift_y = matrices[:, 2] - 4.5 * (1 - zoom_x), matrices[:, 5] - 4.5 * (1 - zoom_y)
    turned = drawn(monkeypatch, rotation_degrees=30.0, horizontal_flip=True)
    is_mirrored = turned[:, 4] * turned[:, 0] < 0

    draws = [zoom_x, zoom_y, shift_x, shift_y, turned[:, 1], is_mirrored]

    np.testing.assert_allclose(np.corrcoef(draws), np.eye(6), atol=0.12)  # 5 sigma of 2,000 draws
