import numpy as np
import pytest

from stages.lib.network.pixels import scale_pixels, to_network_input, with_channels


@pytest.mark.parametrize(("shape", "expected"), [((2, 4, 5), (2, 4, 5, 1)), ((2, 4, 5, 3), (2, 4, 5, 3))])
def test_grey_images_get_one_channel_and_others_keep_theirs(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    x = to_network_input(images)

    assert (x.shape, x.dtype) == (expected, np.dtype(np.float32))
    np.testing.assert_array_equal(x.ravel(), images.ravel().astype(np.float32) / 255)
    assert np.array_equal(with_channels(images).ravel(), images.ravel())
    assert with_channels(images).dtype == np.uint8


def test_black_is_0_and_white_is_1() -> None:
    assert scale_pixels(np.array([0, 51, 255], np.uint8)).tolist() == [0, np.float32(0.2), 1]
