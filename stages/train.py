"""How well does one model learn under one augmentation? Trains it; run as `python -m stages.train MODEL AUGMENTATION`.

Reads:
    data/prepare/train.npz, val.npz: `images` (N, 28, 28) uint8, `labels` (N,) uint8.

Writes, in data/train/<model>-<augmentation>/:
    model.h5: the float32 Keras model after the last epoch, from images in [0, 1] to logits.
    history.csv: a row per epoch and split, written anew after every epoch.
    metrics.json: accuracy and loss of model.h5 on the validation images.
and, no DVC output, because no two runs take the same time:
    data/timing/training/<model>-<augmentation>.json: what the training took.

Never opens the test images.
"""

import hashlib
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.architecture import Layer, list_layers
from stages.lib.arguments import parse_names
from stages.lib.batches import count_steps, training_batches, validation_batches
from stages.lib.files import read_split, write_csv, write_json
from stages.lib.hardware import choose_policy, read_cpu_name
from stages.lib.metrics import compute_accuracy, compute_cross_entropy_loss, compute_probabilities
from stages.lib.model import build_model, predict_logits, to_network_input, write_model
from stages.lib.params import AugmentationParams, TrainParams, load_params
from stages.lib.progress import Progress
from stages.lib.runner import TIMING, run_stage
from stages.lib.tf import keras, tf

SOURCE = Path("data/prepare")
OUTPUT = Path("data/train")
PACKAGES = ("tensorflow", "tf-keras", "tensorflow-model-optimization", "numpy", "dvc")


class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate that rises linearly to `peak`, then falls to 0 along a half cosine.

    Source: Smith and Topin 2017, Super-Convergence, arXiv 1708.07120; the cosine fall is Loshchilov and Hutter's (2016,
    SGDR, arXiv 1608.03983, equation 5).
    """

    def __init__(self, peak: float, total_steps: int, warmup_fraction: float) -> None:
        super().__init__()
        self.peak = peak
        self.total_steps = total_steps
        self.warmup_steps = warmup_fraction * total_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the rate of update number `step`, counted from 0, as a float32 scalar; the first one is above 0."""
        step = tf.cast(step, tf.float32)
        rise = tf.minimum((step + 1) / max(self.warmup_steps, 1.0), 1.0)
        fall = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return self.peak * tf.where(step < self.warmup_steps, rise, 0.5 * (1 + tf.cos(math.pi * fall)))


def build_optimizer(train: TrainParams, total_steps: int) -> keras.optimizers.Optimizer:
    """Builds the optimizer that params.yaml describes, for a run of `total_steps` updates."""
    rate = train.learning_rate
    if train.schedule == "one_cycle":
        rate = OneCycle(train.learning_rate, total_steps, train.warmup_fraction)
    match train.optimizer:
        case "adam":
            return keras.optimizers.Adam(rate)
        case "adamw":
            return keras.optimizers.AdamW(rate, weight_decay=train.weight_decay)
        case "sgd":
            return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
        case _:
            raise ValueError(f"unknown optimizer {train.optimizer!r}")


class History(keras.callbacks.Callback):
    """Writes the learning curves anew after every epoch, so that they can be plotted while the model trains."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Adds a row for each split; the learning rate is that of the epoch's last update."""
        for split, prefix in (("train", ""), ("val", "val_")):
            values = {
                "accuracy": logs[prefix + "accuracy"],
                "loss": logs[prefix + "loss"],
                "learning_rate": float(self.model.optimizer.learning_rate),
            }
            shown = {key: f"{value:.6g}" for key, value in values.items()}
            self.rows.append({"epoch": epoch + 1, "split": split} | shown)
        write_csv(self.path, self.rows)


def train_model(
    train_set: tuple[np.ndarray, np.ndarray],
    val_set: tuple[np.ndarray, np.ndarray],
    layers: Sequence[Layer],
    augmentation: AugmentationParams,
    train: TrainParams,
    seed: int,
    policy: str,
    history_path: Path,
) -> keras.Model:
    """Trains the model of `layers` on (images, labels) pairs; returns it in float32, whatever it was trained in."""
    num_classes = layers[-1].output_shape[0]
    steps = count_steps(len(train_set[0]), train.batch_size)
    model = build_model(layers, seed, policy)
    model.compile(
        build_optimizer(train, train.epochs * steps),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=train.label_smoothing),
        metrics=["accuracy"],
    )
    model.fit(
        training_batches(
            *train_set,
            num_classes,
            train.batch_size,
            train.epochs,
            train.clean_epochs,
            seed,
            **asdict(augmentation),
        ),
        epochs=train.epochs,
        steps_per_epoch=steps,
        validation_data=validation_batches(*val_set, num_classes, 500),
        verbose=0,
        callbacks=[Progress(history_path.parent.name, train.epochs, steps), History(history_path)],
    )
    float32_model = build_model(layers, seed)
    float32_model.set_weights(model.get_weights())
    return float32_model


def measure(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Measures validation accuracy and loss (cross-entropy in nats) of a model."""
    logits = predict_logits(model, to_network_input(images))
    return {
        "val_accuracy": compute_accuracy(labels, logits.argmax(axis=1)),
        "val_loss": round(compute_cross_entropy_loss(labels, compute_probabilities(logits)), 6),
    }


def describe_run(seconds: float, num_images: int, policy: str, model_path: Path) -> dict[str, Any]:
    """Describes a run and what it took; the checksum tells which model that belongs to."""
    return {
        "seconds": round(seconds, 1),
        "images_per_second": round(num_images / seconds),
        "policy": policy,
        "cpu": read_cpu_name(),
        "num_cpus": len(os.sched_getaffinity(0)),
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "model_sha256": hashlib.sha256(model_path.read_bytes()).hexdigest(),
    }


def main() -> None:
    """Runs the stage."""
    params = load_params()
    name, augmentation_name = parse_names(__doc__, model=params.models, augmentation=params.augmentations)
    augmentation = params.augmentations[augmentation_name]
    layers = list_layers(params.dataset.image_size_px, len(params.dataset.class_names), **asdict(params.models[name]))
    output, start = OUTPUT / f"{name}-{augmentation_name}", time.perf_counter()
    train, val = (read_split(SOURCE / f"{split}.npz") for split in ("train", "val"))
    policy, history_path = choose_policy(params.train.precision), output / "history.csv"
    model = train_model(train, val, layers, augmentation, params.train, params.seed, policy, history_path)
    seconds, metrics = time.perf_counter() - start, measure(model, *val)
    write_model(output / "model.h5", model)
    write_json(output / "metrics.json", metrics)
    run = describe_run(seconds, params.train.epochs * len(train[0]), policy, output / "model.h5")
    write_json(TIMING / "training" / f"{output.name}.json", run)
    print(f"{output}: validation accuracy {metrics['val_accuracy']:.4f} after {seconds:.0f} s")


if __name__ == "__main__":
    run_stage(main)
