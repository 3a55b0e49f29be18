"""Batches of training images: order and augmentation depend on the seed, the epoch and the step, never on timing."""

import math

import numpy as np

from stages.lib.augmentation import augment
from stages.lib.tf import tf


def count_steps(num_images: int, batch_size: int) -> int:
    """Counts the batches of one epoch; the last one may be smaller.

    >>> count_steps(10, 4)
    3
    """
    return math.ceil(num_images / batch_size)


def training_batches(
    images: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    batch_size: int,
    epochs: int,
    clean_epochs: int,
    seed: int,
    rotation_degrees: float,
    shift_fraction: float,
    zoom_fraction: float,
    horizontal_flip: bool,
) -> tf.data.Dataset:
    """Builds all batches of a training run, `epochs` passes over the images, each pass in an order of its own.

    Args:
        images: (N, size, size) uint8.
        labels: (N,) integers.
        num_classes: length of the one-hot labels.
        batch_size: images in a batch.
        epochs: passes over the images.
        clean_epochs: number of last passes without augmentation.
        seed: of the order and of the augmentation.
        rotation_degrees: this and the following are the limits of `stages.lib.augmentation.augment`.
        shift_fraction: see there.
        zoom_fraction: see there.
        horizontal_flip: see there.

    Returns:
        A dataset of ((batch, size, size, 1) float32 in [0, 1], (batch, num_classes) float32 one-hot).
    """
    all_images, all_labels = tf.constant(images[..., np.newaxis]), tf.constant(labels.astype(np.int32))
    order_seed, augmentation_seed = tf.unstack(tf.random.experimental.stateless_split([seed, 0], 2))
    first_clean_step = (epochs - clean_epochs) * count_steps(len(images), batch_size)

    fold_in = tf.random.experimental.stateless_fold_in

    def order_of_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(tf.range(len(images)), seed=fold_in(order_seed, epoch))
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size)

    def make_batch(step: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = tf.cast(tf.gather(all_images, indices), tf.float32) / 255
        augmented = tf.cond(
            step < first_clean_step,
            lambda: augment(
                x,
                fold_in(augmentation_seed, step),
                rotation_degrees,
                shift_fraction,
                zoom_fraction,
                horizontal_flip,
            ),
            lambda: x,
        )
        return augmented, tf.one_hot(tf.gather(all_labels, indices), num_classes)

    batches = tf.data.Dataset.range(epochs).flat_map(order_of_epoch).enumerate().map(make_batch).prefetch(2)
    return batches.with_options(without_autotune())


def validation_batches(images: np.ndarray, labels: np.ndarray, num_classes: int, batch_size: int) -> tf.data.Dataset:
    """Builds one pass over the images in their order; the arguments and elements are as in `training_batches`."""
    all_images, all_labels = tf.constant(images[..., np.newaxis]), tf.constant(labels.astype(np.int32))
    batches = (
        tf.data.Dataset.from_tensor_slices((all_images, all_labels))
        .batch(batch_size)
        .map(lambda x, y: (tf.cast(x, tf.float32) / 255, tf.one_hot(y, num_classes)))
        .prefetch(1)
    )
    return batches.with_options(without_autotune())


def without_autotune() -> tf.data.Options:
    """Builds options that switch the tuner off: at the end of an epoch it would be waited for, for up to minutes."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    return options
