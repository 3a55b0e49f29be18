"""How well does one model learn under one augmentation? Trains it; run as `python -m stages.train MODEL AUGMENTATION`.

Reads:
    data/prepare/train.npz, val.npz: `images` (N, 28, 28) uint8, `labels` (N,) uint8.

Writes, in data/train/<model>-<augmentation>/:
    model.h5: the float32 Keras model after the last epoch, from images in [0, 1] to logits.
    history.csv: a row per epoch and split, written anew after every epoch.
    metrics.json: accuracy and loss of model.h5 on the validation images.
and, no DVC outputs:
    data/timing/training/<model>-<augmentation>.json: what the training took; no two runs take the same time.
    data/checkpoints/train@<model>-<augmentation>.npz: its state after every epoch, until it succeeds. A run that was
        killed goes on from there, and ends with the same bytes.

Where TF_CONFIG names several workers, each runs this command and they train one model; the first one writes all files.
Never opens the test images.
"""

import hashlib
import math
import os
import platform
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
from stages.lib.checkpoint import CHECKPOINTS, PACKAGES, Checkpoint, compute_fingerprint
from stages.lib.cluster import Cluster, check_divisible, read_cluster
from stages.lib.errors import UserError
from stages.lib.files import read_split, write_csv, write_json
from stages.lib.hardware import choose_policy, read_cpu_name
from stages.lib.metrics import compute_accuracy, compute_cross_entropy_loss, compute_probabilities
from stages.lib.model import build_model, predict_logits, to_network_input, write_model
from stages.lib.muon import Muon
from stages.lib.params import AugmentationParams, TrainParams, load_params
from stages.lib.progress import Progress
from stages.lib.runner import TIMING, run_stage
from stages.lib.tf import keras, tf
from stages.lib.workers import LOST_WORKER_ERRORS, build_strategy

SOURCES = (Path("data/prepare/train.npz"), Path("data/prepare/val.npz"))
OUTPUT = Path("data/train")
STEPS_PER_EXECUTION = 10
"""Updates between two returns to Python, which cost a small network a visible share of its time."""
VAL_BATCH_SIZE = 500


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
        case "muon":
            return Muon(rate, train.weight_decay, last_kernel="logits")
        case "sgd":
            return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
        case _:
            raise ValueError(f"unknown optimizer {train.optimizer!r}")


class History(keras.callbacks.Callback):
    """Writes the learning curves anew after every epoch, so that they can be plotted while the model trains.

    Their losses, in nats, are those that are minimized: with label smoothing, which `metrics.json` leaves out.

    Args:
        path: of the CSV file.
        rows: of the epochs so far; an epoch adds its own.
        is_chief: whether this process writes the file.
    """

    def __init__(self, path: Path, rows: list[dict[str, Any]], is_chief: bool = True) -> None:
        super().__init__()
        self.path = path
        self.rows = rows
        self.is_chief = is_chief

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Adds a row for each split; the learning rate is that of the epoch's last update."""
        for split, prefix in (("train", ""), ("val", "val_")):
            values = {
                "accuracy": logs[prefix + "accuracy"],
                "loss": logs[prefix + "loss"],
                "learning_rate": float(self.model.optimizer.learning_rate.numpy()),
            }
            shown = {key: f"{value:.6g}" for key, value in values.items()}
            self.rows.append({"epoch": epoch + 1, "split": split} | shown)
        if self.is_chief:
            write_csv(self.path, self.rows)


def build_compiled_model(
    layers: Sequence[Layer],
    train: TrainParams,
    total_steps: int,
    seed: int,
    policy: str,
    strategy: tf.distribute.Strategy,
) -> keras.Model:
    """Builds the model of `layers` as it is trained, by every worker of `strategy` alike."""
    with strategy.scope():
        optimizer = build_optimizer(train, total_steps)
        is_alone = strategy.num_replicas_in_sync == 1
        model = build_model(layers, seed, policy, step=lambda: optimizer.iterations, synchronized=not is_alone)
        model.compile(
            optimizer,
            keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=train.label_smoothing),
            metrics=["accuracy"],
            steps_per_execution=STEPS_PER_EXECUTION,
        )
    return model


def train_model(
    train_set: tuple[np.ndarray, np.ndarray],
    val_set: tuple[np.ndarray, np.ndarray],
    layers: Sequence[Layer],
    augmentation: AugmentationParams,
    train: TrainParams,
    seed: int,
    policy: str,
    history_path: Path,
    checkpoint: Checkpoint,
    cluster: Cluster,
) -> keras.Model:
    """Trains the model of `layers` on (images, labels) pairs, from where `checkpoint` left it.

    Returns:
        The model in float32, whatever it was trained in.

    Raises:
        UserError: if the loss is no number any more, or another worker is lost.
    """
    num_classes = layers[-1].output_shape[0]
    steps = count_steps(len(train_set[0]), train.batch_size)
    try:
        strategy = build_strategy(cluster)
        model = build_compiled_model(layers, train, train.epochs * steps, seed, policy, strategy)
        first_epoch = checkpoint.restore(model)
        model.fit(
            strategy.distribute_datasets_from_function(
                lambda _: training_batches(
                    *train_set,
                    num_classes,
                    train.batch_size,
                    train.epochs,
                    train.clean_epochs,
                    seed,
                    **asdict(augmentation),
                    first_epoch=first_epoch,
                    worker=cluster.index,
                    num_workers=cluster.num_workers,
                )
            ),
            initial_epoch=first_epoch,
            epochs=train.epochs,
            steps_per_epoch=steps,
            validation_data=strategy.distribute_datasets_from_function(
                lambda _: validation_batches(
                    *val_set, num_classes, VAL_BATCH_SIZE, worker=cluster.index, num_workers=cluster.num_workers
                )
            ),
            validation_steps=count_steps(len(val_set[0]), VAL_BATCH_SIZE),
            verbose=0,
            callbacks=[
                Progress(history_path.parent.name, train.epochs, steps, first_epoch, cluster.is_chief),
                History(history_path, checkpoint.rows, cluster.is_chief),
                checkpoint,
            ],
        )
    except LOST_WORKER_ERRORS as error:
        if cluster.num_workers == 1:
            raise
        raise UserError(
            f"{history_path.parent.name}: a worker that TF_CONFIG names was lost, or could not be reached "
            f"({type(error).__name__}: {error.message.splitlines()[0]}); start all of them again: the training goes on "
            "from its last finished epoch"
        ) from error
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


def describe_run(seconds: float, num_images: int, policy: str) -> dict[str, Any]:
    """Describes a run of `num_images` images and what it took."""
    return {
        "seconds": round(seconds, 1),
        "images_per_second": round(num_images / seconds),
        "policy": policy,
        "cpu": read_cpu_name(),
        "num_cpus": len(os.sched_getaffinity(0)),
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        **{package: version(package) for package in (*PACKAGES, "dvc")},
    }


def write_outputs(
    folder: Path,
    model: keras.Model,
    val_set: tuple[np.ndarray, np.ndarray],
    rows: Sequence[Mapping[str, Any]],
    run: dict[str, Any],
) -> None:
    """Writes the model, what it is worth, its learning curves and what it took."""
    metrics = measure(model, *val_set)
    write_model(folder / "model.h5", model)
    write_json(folder / "metrics.json", metrics)
    write_csv(folder / "history.csv", rows)  # anew: a run that was killed after its last epoch has no epoch to write it
    run["model_sha256"] = hashlib.sha256((folder / "model.h5").read_bytes()).hexdigest()
    write_json(TIMING / "training" / f"{folder.name}.json", run)
    print(f"{folder}: validation accuracy {metrics['val_accuracy']:.4f} after {run['seconds']:.0f} s")


def main() -> None:
    """Runs the stage."""
    params, cluster = load_params(), read_cluster()
    name, augmentation_name = parse_names(__doc__, model=params.models, augmentation=params.augmentations)
    augmentation, train, output = params.augmentations[augmentation_name], params.train, f"{name}-{augmentation_name}"
    layers = list_layers(params.dataset.image_size_px, len(params.dataset.class_names), **asdict(params.models[name]))
    policy = choose_policy(train.precision)
    fingerprint = compute_fingerprint([layers, augmentation, train, params.seed, policy, cluster.num_workers], SOURCES)
    train_set, val_set = map(read_split, SOURCES)
    check_divisible(len(train_set[0]), train.batch_size, cluster.num_workers)
    checkpoint = Checkpoint(CHECKPOINTS / f"train@{output}.npz", fingerprint, cluster.is_chief)
    what = (train_set, val_set, layers, augmentation, train, params.seed, policy)
    model = train_model(*what, OUTPUT / output / "history.csv", checkpoint, cluster)
    if cluster.is_chief:
        run = describe_run(checkpoint.seconds, train.epochs * len(train_set[0]), policy)
        write_outputs(OUTPUT / output, model, val_set, checkpoint.rows, run)
        checkpoint.remove()


if __name__ == "__main__":
    run_stage(main)
