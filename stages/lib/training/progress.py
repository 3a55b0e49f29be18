"""Progress of a training run: a bar with the remaining time on a terminal, a line per epoch elsewhere."""

import math
import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

from stages.lib.errors import UserError
from stages.lib.network.keras2 import keras


class Progress(keras.callbacks.Callback):
    """Shows epoch, accuracy and remaining time on stderr; stops a run whose loss is no number any more.

    Args:
        name: what is trained.
        epochs: passes over the images.
        steps_per_epoch: batches of each pass.
        first_epoch: number of passes that were made before, by a run that was killed.
        is_chief: whether this process shows anything.
    """

    def __init__(
        self, name: str, epochs: int, steps_per_epoch: int, first_epoch: int = 0, is_chief: bool = True
    ) -> None:
        super().__init__()
        self.name = name
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.first_epoch = first_epoch
        self.is_chief = is_chief
        self.epoch = first_epoch
        self.start = time.perf_counter()
        self.bar = tqdm(
            total=epochs * steps_per_epoch,
            initial=first_epoch * steps_per_epoch,
            unit="batch",
            leave=False,
            disable=not (sys.stderr.isatty() and is_chief),
        )
        if first_epoch and is_chief:
            tqdm.write(f"{name}: goes on after epoch {first_epoch} of {epochs}", file=sys.stderr)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:  # noqa: ARG002  (of Keras)
        """Names the epoch."""
        self.epoch = epoch
        self.bar.set_description(f"{self.name} epoch {epoch + 1}/{self.epochs}")

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float]) -> None:
        """Moves the bar to the batch; the accuracy is that of the epoch so far."""
        if not self.bar.disable:
            self.bar.set_postfix(accuracy=f"{logs['accuracy']:.4f}", refresh=False)
            self.bar.update(self.epoch * self.steps_per_epoch + batch + 1 - self.bar.n)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Prints the epoch where there is no bar.

        Raises:
            UserError: if the loss is not finite.
        """
        if not math.isfinite(logs["loss"]):
            self.bar.close()
            raise UserError(
                f"{self.name}: the loss became {logs['loss']} in epoch {epoch + 1}; "
                "lower the learning_rate of this stage in params.yaml"
            )
        if self.bar.disable and self.is_chief:
            done = epoch + 1 - self.first_epoch
            left = (time.perf_counter() - self.start) / done * (self.epochs - epoch - 1)
            shown = ", ".join(f"{key} {value:.4f}" for key, value in logs.items() if key.endswith("accuracy"))
            print(f"{self.name} epoch {epoch + 1}/{self.epochs}: {shown}, {left:.0f} s left", file=sys.stderr)

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:  # noqa: ARG002  (of Keras)
        """Removes the bar."""
        self.bar.close()
