"""Trains a model: the optimizer and its schedule, and the run through the epochs that can be killed and resumed."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.errors import UserError
from stages.lib.network.architecture import Layer
from stages.lib.network.keras2 import keras, tf
from stages.lib.network.model import build_model
from stages.lib.params.sections import TrainParams
from stages.lib.storage.files import write_csv
from stages.lib.storage.selected import Rows
from stages.lib.training.batches import count_seen, count_steps, training_batches, validation_batches
from stages.lib.training.checkpoint import Checkpoint
from stages.lib.training.cluster import ALONE, Cluster
from stages.lib.training.muon import Muon
from stages.lib.training.progress import EndDiverged, Progress
from stages.lib.training.recipe import Recipe
from stages.lib.training.workers import LOST_WORKER_ERRORS, build_strategy

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

    Their losses, in nats, are those that are minimized: with label smoothing, which `metrics.json` leaves out. Losses
    and accuracies of the training images are weighted as those images are.

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
    build: Callable[[Callable[[], tf.Tensor]], keras.Model],
    train: TrainParams,
    total_steps: int,
    strategy: tf.distribute.Strategy,
) -> keras.Model:
    """Builds a model as it is trained in `total_steps` updates, by every worker of `strategy` alike.

    `build` builds it before that; it is given a function that returns the number of the step, for dropout.
    """
    with strategy.scope():
        optimizer = build_optimizer(train, total_steps)
        model = build(lambda: optimizer.iterations)
        model.compile(
            optimizer,
            keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=train.label_smoothing),
            weighted_metrics=["accuracy"],
            steps_per_execution=STEPS_PER_EXECUTION,
        )
    return model


def fit_model(
    build: Callable[[Callable[[], tf.Tensor]], keras.Model],
    recipe: Recipe,
    train_set: tuple[Rows, np.ndarray],
    checkpoint: Checkpoint,
    callbacks: Sequence[keras.callbacks.Callback],
    val_set: tuple[Rows, np.ndarray] | None = None,
    cluster: Cluster = ALONE,
    is_easy: np.ndarray | None = None,
) -> keras.Model:
    """Trains what `build` builds, from where `checkpoint` left it: the loop of training, pruning and shrinking.

    Args:
        build: builds the model, as in `build_compiled_model`.
        recipe: how it is trained.
        train_set: (N, size, size) or (N, size, size, 3) uint8 images and (N,) labels.
        checkpoint: of this run; the name of its file names the run where progress is shown.
        callbacks: that act before the checkpoint is written.
        val_set: the same of other images, which are looked at after every epoch; none without.
        cluster: the workers that train together.
        is_easy: which images are seen in every other epoch only, as in `training_batches`.

    Returns:
        The trained model, as it was built.

    Raises:
        DivergedError: if the loss is no number any more.
        UserError: if another worker is lost.
    """
    train, name = recipe.train, checkpoint.path.stem
    steps = count_steps(count_seen(len(train_set[0]), is_easy), train.batch_size)
    progress = None
    try:
        strategy = build_strategy(cluster)
        model = build_compiled_model(build, train, train.epochs * steps, strategy)
        num_classes = model.output_shape[-1]
        first_epoch = checkpoint.restore(model)
        progress = Progress(name, train.epochs, steps, first_epoch, cluster.is_chief)
        validation = {}
        if val_set is not None:
            validation = {
                "validation_data": strategy.distribute_datasets_from_function(
                    lambda _: validation_batches(*val_set, num_classes, VAL_BATCH_SIZE, cluster)
                ),
                "validation_steps": count_steps(len(val_set[0]), VAL_BATCH_SIZE),
            }
        model.fit(
            strategy.distribute_datasets_from_function(
                lambda _: training_batches(*train_set, num_classes, recipe, first_epoch, cluster, is_easy)
            ),
            initial_epoch=first_epoch,
            epochs=train.epochs,
            steps_per_epoch=steps,
            verbose=0,
            callbacks=[EndDiverged(name), *callbacks, progress, checkpoint],
            **validation,
        )
    except LOST_WORKER_ERRORS as error:
        if cluster.num_workers == 1:
            raise
        raise UserError(
            f"{name}: a worker that TF_CONFIG names was lost, or could not be reached ({type(error).__name__}: "
            f"{error.message.splitlines()[0]}); start all of them again: the training goes on from its last finished "
            "epoch"
        ) from error
    finally:
        if progress:
            progress.close()
    return model


def train_model(
    layers: Sequence[Layer],
    recipe: Recipe,
    train_set: tuple[Rows, np.ndarray],
    val_set: tuple[Rows, np.ndarray],
    history_path: Path,
    checkpoint: Checkpoint,
    cluster: Cluster = ALONE,
    initial_weights: Sequence[np.ndarray] | None = None,
    is_easy: np.ndarray | None = None,
) -> keras.Model:
    """Trains the network of `layers`, and writes its learning curves to `history_path`, as CSV.

    It starts from `initial_weights`, in the order of Keras's `get_weights`; from random ones without. The other
    arguments and the errors are those of `fit_model`. The returned model is float32, whatever it was trained in.
    """

    def build(step: Callable[[], tf.Tensor]) -> keras.Model:
        model = build_model(layers, recipe.seed, recipe.policy, step, synchronized=cluster.num_workers > 1)
        if initial_weights is not None:
            model.set_weights(initial_weights)
        return model

    history = History(history_path, checkpoint.rows, cluster.is_chief)
    model = fit_model(
        build, recipe, train_set, checkpoint, callbacks=[history], val_set=val_set, cluster=cluster, is_easy=is_easy
    )
    float32_model = build_model(layers, recipe.seed)
    float32_model.set_weights(model.get_weights())
    return float32_model
