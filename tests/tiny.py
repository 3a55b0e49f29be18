"""Tiny images, networks and recipes, which tests train within seconds."""

from pathlib import Path
from typing import Any

import numpy as np
from sections import augmentation, replace

from stages.lib.network.keras2 import keras
from stages.lib.network.model import write_model
from stages.lib.params.sections import AugmentationParams, TrainParams
from stages.lib.training.recipe import Recipe

NONE = augmentation()
TRAIN = TrainParams(
    epochs=2,
    clean_epochs=0,
    batch_size=8,
    optimizer="adam",
    learning_rate=0.01,
    schedule="one_cycle",
    warmup_fraction=0.0,
    weight_decay=0.0,
    label_smoothing=0.0,
    class_weights="none",
    precision="float32",
)


def make_recipe(
    seed: int = 7,
    policy: str = "float32",
    limits: AugmentationParams = NONE,
    train: TrainParams = TRAIN,
    **changes: Any,
) -> Recipe:
    """Makes a recipe; `changes` are those of `train`."""
    return Recipe(replace(train, **changes), limits, seed, policy)


def make_images(num_images: int, seed: int, size: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Makes noisy images of three classes: two rows of each image are bright, by its label."""
    labels = (np.arange(num_images) % 3).astype(np.uint8)
    images = np.random.default_rng(seed).integers(0, 100, (num_images, size, size), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 120
    return images, labels


def read_bytes_of(model: keras.Model, folder: Path) -> bytes:
    """Reads the bytes of the file that a model is written to."""
    write_model(folder / "some.h5", model)
    return (folder / "some.h5").read_bytes()
