"""Makes an image such as the data set holds out of a photo of one garment on a plain background. No TensorFlow.

The steps are those that made the data set: Xiao, Rasul, Vollgraf 2017, Fashion-MNIST: a Novel Image Dataset for
Benchmarking Machine Learning Algorithms, section 2, https://arxiv.org/abs/1708.07747. Two are not in that section.
Contrast is stretched: in the data set the lightest pixel of every image is 254 or 255, in dim ones exactly one pixel.
And the background may be of any colour: a pixel's value is its distance from the background, which on white is the
published negative, and on black leaves an image as it is.
"""

import math

import numpy as np
from PIL import Image

from stages.lib.errors import UserError

PHOTO_SIZE_PX = 224
"""Longest edge to which a photo is reduced before it is looked at: 8 times that of the data set's images, so that
a garment may fill an eighth of the photo, and the noise of single pixels is averaged away."""

BORDER_FRACTION = 0.02
"""Width of the frame that shows the background, as a fraction of the longest edge."""

TRIM_TOLERANCE = 0.05 * 255
"""Largest distance from the background's colour, in levels of any channel, that is cut off, as published."""

NOISE_DEVIATIONS = 5
"""Distance, in median absolute deviations of the frame from its median, up to which a pixel is the background's."""

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in grey: ITU-R BT.601."""


def prepare_photo(photo: np.ndarray, image_size_px: int) -> np.ndarray:
    """Trims, scales, sharpens, centres and negates a photo, as the data set's images were.

    A photo of the network's own size is framed already: only its background is removed and its contrast stretched,
    which leaves an image of the data set as it is.

    Args:
        photo: (height, width, 3) uint8 red, green and blue in [0, 255].
        image_size_px: height and width of the result.

    Returns:
        (image_size_px, image_size_px) uint8; the background is 0, the strongest pixel 255.

    Raises:
        UserError: if nothing stands out from the background, or only something too small to recognise.
    """
    distance, intensity, limit = measure_distance(photo)
    top, bottom, left, right = find_box(distance)
    if photo.shape[:2] != (image_size_px, image_size_px):
        height, width = bottom - top, right - left
        if max(height, width) * image_size_px < max(photo.shape):
            raise UserError(
                f"expected a garment, found only a speck of {width} x {height} of {photo.shape[1]} x {photo.shape[0]} "
                "pixels on one colour; photograph it from nearer"
            )
        intensity = resize(intensity[top:bottom, left:right], image_size_px)
        intensity = pad_to_square(sharpen(intensity), image_size_px)
    intensity = intensity.clip(0, limit)
    return np.rint(intensity * 255 / intensity.max()).astype(np.uint8)


def measure_distance(photo: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Measures how far the pixels of a photo are from its background, the median colour of its frame.

    Args:
        photo: (height, width, 3) uint8.

    Returns:
        (height, width) float64, the largest difference in any channel; 0 where it is within the frame's noise.
        (height, width) float64, the difference in grey; 0 in the same places. No channel offsets another, so what
        differs in colour alone does not vanish.
        The largest difference in grey that any colour has from this background.
    """
    border_px = max(1, round(BORDER_FRACTION * max(photo.shape[:2])))
    is_border = np.ones(photo.shape[:2], dtype=bool)
    is_border[border_px:-border_px, border_px:-border_px] = False
    background = np.median(photo[is_border], axis=0)
    differences = np.abs(photo - background)
    distance = differences.max(axis=2)
    noise = NOISE_DEVIATIONS * np.median(distance[is_border])
    is_background = distance <= noise
    limit = float(np.maximum(background, 255 - background) @ LUMA)
    return np.where(is_background, 0, distance), np.where(is_background, 0, differences @ LUMA), limit


def find_box(distance: np.ndarray) -> tuple[int, int, int, int]:
    """Finds the smallest box around all that is further than `TRIM_TOLERANCE` from the background.

    Returns:
        First row, row after the last, first column, column after the last.

    Raises:
        UserError: if nothing is.
    """
    box = Image.fromarray(distance > TRIM_TOLERANCE).getbbox()
    if box is None:
        raise UserError("expected a garment on a plain background, found nothing that stands out from it")
    left, top, right, bottom = box
    return top, bottom, left, right


def resize(image: np.ndarray, longest_px: int) -> np.ndarray:
    """Resizes a (height, width) image to float64 whose longest edge is `longest_px`; keeps the aspect ratio."""
    height, width = (max(1, round(edge * longest_px / max(image.shape))) for edge in image.shape)
    resized = Image.fromarray(image.astype(np.float32)).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized, dtype=np.float64)


def sharpen(image: np.ndarray) -> np.ndarray:
    """Sharpens a (height, width) image with a Gaussian of radius and standard deviation 1.0, as ImageMagick does.

    The 3 x 3 kernel is a negative Gaussian whose centre is twice the Gaussian's sum, divided by its own sum; beyond
    the edges the outermost pixels repeat.
    """
    side, corner = math.exp(-1 / 2), math.exp(-1)
    total = 1 + 4 * side + 4 * corner
    padded = np.pad(image, 1, mode="edge")
    sides = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    corners = padded[:-2, :-2] + padded[:-2, 2:] + padded[2:, :-2] + padded[2:, 2:]
    return (2 * total * image - side * sides - corner * corners) / (total + 1)


def pad_to_square(image: np.ndarray, size_px: int) -> np.ndarray:
    """Centres a (height, width) image, neither edge longer than `size_px`, on zeros; an odd pixel goes below or right.

    >>> pad_to_square(np.array([[5, 6]]), 2).tolist()
    [[5, 6], [0, 0]]
    """
    margins = [size_px - edge for edge in image.shape]
    return np.pad(image, [(margin // 2, margin - margin // 2) for margin in margins])
