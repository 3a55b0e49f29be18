"""How a training run goes: a bar with the remaining time on a terminal, a line per epoch elsewhere; its early end."""

import math
import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

from stages.lib.network.keras2 import keras
from stages.lib.training.divergence import DivergedError


class Progress(keras.callbacks.Callback):
    """Shows epoch, accuracy and remaining time on stderr.

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
        """Prints the epoch where there is no bar."""
        if self.bar.disable and self.is_chief:
            done = epoch + 1 - self.first_epoch
            left = (time.perf_counter() - self.start) / done * (self.epochs - epoch - 1)
            shown = ", ".join(f"{key} {value:.4f}" for key, value in logs.items() if key.endswith("accuracy"))
            print(f"{self.name} epoch {epoch + 1}/{self.epochs}: {shown}, {left:.0f} s left", file=sys.stderr)

    def close(self) -> None:
        """Removes the bar; to be called however the training ended."""
        self.bar.close()


class EndDiverged(keras.callbacks.Callback):
    """Ends a run whose loss is no number any more: nothing can come of it.

    Args:
        name: what is trained.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Looks at the loss of the epoch.

        Raises:
            DivergedError: if it is not finite.
        """
        if not math.isfinite(logs["loss"]):
            raise DivergedError(self.name, logs["loss"], epoch + 1)
