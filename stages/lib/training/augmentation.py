"""Random augmentation of image batches, inside the TensorFlow graph.

Rotation, shift by a share of the side, zoom and mirroring are one matrix and one resampling, so that pixels are
interpolated only once; mirroring alone, shifts by whole pixels and erased squares interpolate nothing. Brightness,
contrast and saturation change each pixel where it is.
"""

import math

from stages.lib.network.keras2 import tf
from stages.lib.params.sections import AugmentationParams

MEAN_PIXEL = 0.286
"""Of the 60,000 training images of Fashion-MNIST, in [0, 1]; with which erased squares are filled."""
GREY_SHARES = (0.299, 0.587, 0.114)
"""Of red, green and blue in the grey of a pixel: ITU-R BT.601, as Pillow has it."""


def keep_mirroring(limits: AugmentationParams) -> AugmentationParams:
    """Returns the limits of an augmentation that mirrors images as `limits` says, and does nothing else."""
    others = set(AugmentationParams.model_fields) - {"horizontal_flip"}
    return limits.model_copy(update=dict.fromkeys(others, 0))


def augment(x: tf.Tensor, seed: tf.Tensor, limits: AugmentationParams, mirrored: tf.Tensor | None = None) -> tf.Tensor:
    """Draws random transforms for each image and applies them.

    Args:
        x: (N, size, size, channels) float32, square images.
        seed: (2,) int64; the same seed and x give the same result, whatever ran before.
        limits: of what is drawn, one after the other:
            rotation_degrees: rotation about the centre is uniform in [-rotation_degrees, rotation_degrees].
            shift_fraction: shifts in x and in y are uniform in +/- this share of the side.
            zoom_fraction: x and y steps of the sampling grid are each scaled by a uniform draw from
                [1 - zoom_fraction, 1 + zoom_fraction]: below 1 the garment grows.
            horizontal_flip: images are mirrored.
            brightness_fraction, contrast_fraction, saturation_fraction: then each of the three changes by a factor that
                is uniform in 1 +/- its fraction. Source: Howard 2013, Some Improvements on Deep Convolutional Neural
                Network Based Image Classification, arXiv 1312.5402.
            shift_px: then shifts in x and in y by whole pixels, uniform in -shift_px ... shift_px.
            erase_px: then fills a square of this side, around a uniform pixel, with `MEAN_PIXEL`.
        mirrored: (N,) bool, which images are mirrored; without it, each one with probability 1/2.

    Returns:
        (N, size, size, channels) float32 in the range of x; in [0, 1] where light or colour are changed, which x has to
        be in then. All limits zero or false is the identity.
    """
    num_images, size = tf.shape(x)[0], x.shape[1]
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 8))

    def uniform(index: int, centre: float, radius: float) -> tf.Tensor:
        return tf.random.stateless_uniform([num_images], seeds[index], centre - radius, centre + radius)

    if mirrored is None:
        mirrored = tf.random.stateless_uniform([num_images], seeds[5]) < 0.5
    if limits.rotation_degrees or limits.shift_fraction or limits.zoom_fraction:
        transforms = affine_transforms(
            rotation=uniform(0, 0.0, math.radians(limits.rotation_degrees)),
            shift_x=uniform(1, 0.0, limits.shift_fraction * size),
            shift_y=uniform(2, 0.0, limits.shift_fraction * size),
            zoom_x=uniform(3, 1.0, limits.zoom_fraction),
            zoom_y=uniform(4, 1.0, limits.zoom_fraction),
            mirrored=mirrored & limits.horizontal_flip,
            size=size,
        )
        x = apply_transforms(x, transforms)
    elif limits.horizontal_flip:  # pixels only change places: exact, and much faster than resampling
        x = tf.where(mirrored[:, tf.newaxis, tf.newaxis, tf.newaxis], x[:, :, ::-1], x)
    changes = (
        (change_brightness, limits.brightness_fraction),
        (change_contrast, limits.contrast_fraction),
        (change_saturation, limits.saturation_fraction),
    )
    for number, (change, fraction) in enumerate(changes):
        if fraction:
            # Seeds of their own: with more parts of the split, its first ones might be others.
            light_seed = tf.random.experimental.stateless_fold_in(seed, number)
            x = change(x, tf.random.stateless_uniform([num_images], light_seed, 1 - fraction, 1 + fraction))
    if limits.shift_px:
        bounds = (-limits.shift_px, limits.shift_px + 1)
        shifts = tf.random.stateless_uniform([num_images, 2], seeds[6], *bounds, tf.int32)
        x = shift_whole_pixels(x, shifts)
    if limits.erase_px:
        centres = tf.random.stateless_uniform([num_images, 2], seeds[7], 0, size, tf.int32)
        x = erase_squares(x, centres, limits.erase_px)
    return x


def change_brightness(x: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Multiplies (N, size, size, channels) images in [0, 1] by (N,) factors; what would be above 1 is 1."""
    return tf.minimum(x * spread(factors), 1.0)


def change_contrast(x: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Multiplies the distance of pixels from the mean grey of their image by (N,) factors, and clips to [0, 1]."""
    mean = tf.reduce_mean(to_grey(x), axis=(1, 2), keepdims=True)
    return tf.clip_by_value(mean + (x - mean) * spread(factors), 0.0, 1.0)


def change_saturation(x: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Multiplies the distance of pixels from their own grey by (N,) factors, and clips to [0, 1]; grey images stay."""
    grey = to_grey(x)
    return tf.clip_by_value(grey + (x - grey) * spread(factors), 0.0, 1.0)


def spread(factors: tf.Tensor) -> tf.Tensor:
    """Makes (N,) factors of images (N, 1, 1, 1) ones of all their pixels."""
    return factors[:, tf.newaxis, tf.newaxis, tf.newaxis]


def to_grey(x: tf.Tensor) -> tf.Tensor:
    """Turns (N, size, size, channels) images to (N, size, size, 1) grey, by `GREY_SHARES`; grey ones stay."""
    return x if x.shape[-1] == 1 else tf.reduce_sum(x * tf.constant(GREY_SHARES), axis=-1, keepdims=True)


def shift_whole_pixels(x: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """Shifts (N, size, size, channels) images up and to the left; the border's pixels repeat.

    Args:
        x: images.
        shifts: (N, 2) int32, pixels in y and in x.
    """
    size = x.shape[1]
    rows, columns = (
        tf.clip_by_value(tf.range(size) + shifts[:, axis : axis + 1], 0, size - 1) for axis in (0, 1)
    )  # (N, size) each
    return tf.gather(tf.gather(x, rows, batch_dims=1), columns, axis=2, batch_dims=1)


def erase_squares(x: tf.Tensor, centres: tf.Tensor, side_px: int) -> tf.Tensor:
    """Fills a square of (N, size, size, channels) images with `MEAN_PIXEL`; what lies outside of the image is cut off.

    Source: DeVries and Taylor 2017, Improved Regularization of Convolutional Neural Networks with Cutout, arXiv
    1708.04552.

    Args:
        x: images in [0, 1].
        centres: (N, 2) int32, row and column; of an even side, the pixel right below the centre.
        side_px: of the square.
    """
    first = centres - side_px // 2
    in_rows, in_columns = (
        (tf.range(x.shape[1]) >= first[:, axis : axis + 1])
        & (tf.range(x.shape[1]) < first[:, axis : axis + 1] + side_px)
        for axis in (0, 1)
    )  # (N, size) each
    is_erased = in_rows[:, :, tf.newaxis, tf.newaxis] & in_columns[:, tf.newaxis, :, tf.newaxis]
    return tf.where(is_erased, MEAN_PIXEL, x)


def affine_transforms(
    rotation: tf.Tensor,
    shift_x: tf.Tensor,
    shift_y: tf.Tensor,
    zoom_x: tf.Tensor,
    zoom_y: tf.Tensor,
    mirrored: tf.Tensor,
    size: int,
) -> tf.Tensor:
    """Computes the matrices that map an output pixel to the input point it shows.

    About the image's centre: mirror, then zoom, then rotate; then shift.

    Args:
        rotation: (N,) float32, radians.
        shift_x: (N,) float32, pixels added to the x of the input point.
        shift_y: (N,) float32, pixels added to the y of the input point.
        zoom_x: (N,) float32, scale of the sampling grid in x.
        zoom_y: (N,) float32, scale of the sampling grid in y.
        mirrored: (N,) bool, left and right exchanged.
        size: side of the images in pixels.

    Returns:
        (N, 8) float32 rows a0, a1, a2, b0, b1, b2, 0, 0: output (x, y) shows input
        (a0 x + a1 y + a2, b0 x + b1 y + b2), the convention of ImageProjectiveTransformV3.
    """
    centre = (size - 1) / 2
    zoom_x = tf.where(mirrored, -zoom_x, zoom_x)
    cos, sin = tf.cos(rotation), tf.sin(rotation)
    a0, a1 = cos * zoom_x, -sin * zoom_y
    b0, b1 = sin * zoom_x, cos * zoom_y
    a2 = centre - (a0 + a1) * centre + shift_x
    b2 = centre - (b0 + b1) * centre + shift_y
    zero = tf.zeros_like(a0)
    return tf.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1)


def apply_transforms(x: tf.Tensor, transforms: tf.Tensor) -> tf.Tensor:
    """Resamples (N, size, size, channels) images bilinearly; points outside show the nearest border pixel."""
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=x,
        transforms=transforms,
        output_shape=x.shape[1:3],
        fill_value=0.0,  # not used by fill_mode NEAREST
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
