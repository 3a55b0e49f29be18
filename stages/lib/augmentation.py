"""Random affine augmentation of image batches, inside the TensorFlow graph.

One matrix an image and one resampling for all of the transforms together, so that pixels are interpolated only once.
"""

import math

from stages.lib.tf import tf


def augment(
    x: tf.Tensor,
    seed: tf.Tensor,
    rotation_degrees: float,
    shift_fraction: float,
    zoom_fraction: float,
    horizontal_flip: bool,
) -> tf.Tensor:
    """Draws one random transform for each image and applies it.

    Args:
        x: (N, size, size, 1) float32, square images.
        seed: (2,) int64; the same seed and x give the same result, whatever ran before.
        rotation_degrees: rotation about the centre is uniform in [-rotation_degrees, rotation_degrees].
        shift_fraction: shifts in x and in y are uniform in +/- this share of the side.
        zoom_fraction: x and y steps of the sampling grid are each scaled by a uniform draw from
            [1 - zoom_fraction, 1 + zoom_fraction]: below 1 the garment grows.
        horizontal_flip: mirror each image with probability 1/2.

    Returns:
        (N, size, size, 1) float32 in the range of x. All limits zero or false is the identity.
    """
    if not (rotation_degrees or shift_fraction or zoom_fraction or horizontal_flip):
        return x
    num_images, size = tf.shape(x)[0], x.shape[1]
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 6))

    def uniform(index: int, centre: float, radius: float) -> tf.Tensor:
        return tf.random.stateless_uniform([num_images], seeds[index], centre - radius, centre + radius)

    mirrored = tf.random.stateless_uniform([num_images], seeds[5]) < (0.5 if horizontal_flip else 0.0)
    transforms = affine_transforms(
        rotation=uniform(0, 0.0, math.radians(rotation_degrees)),
        shift_x=uniform(1, 0.0, shift_fraction * size),
        shift_y=uniform(2, 0.0, shift_fraction * size),
        zoom_x=uniform(3, 1.0, zoom_fraction),
        zoom_y=uniform(4, 1.0, zoom_fraction),
        mirrored=mirrored,
        size=size,
    )
    return apply_transforms(x, transforms)


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
    """Resamples (N, size, size, 1) images bilinearly; points outside show the nearest border pixel."""
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=x,
        transforms=transforms,
        output_shape=x.shape[1:3],
        fill_value=0.0,  # not used by fill_mode NEAREST
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
