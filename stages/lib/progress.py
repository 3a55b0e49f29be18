"""Progress of a training run: a bar with the remaining time on a terminal, a line per epoch elsewhere."""

import math
import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

from stages.lib.errors import UserError
from stages.lib.tf import keras


class Progress(keras.callbacks.Callback):
    """Shows epoch, accuracy and remaining time on stderr; stops a run whose loss is no number any more.

    Args:
        name: what is trained.
        epochs: passes over the images.
        steps_per_epoch: batches of each pass.
    """

    def __init__(self, name: str, epochs: int, steps_per_epoch: int) -> None:
        super().__init__()
        self.name = name
        self.epochs = epochs
        self.start = time.perf_counter()
        self.bar = tqdm(total=epochs * steps_per_epoch, unit="batch", leave=False, disable=not sys.stderr.isatty())

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:  # noqa: ARG002  (of Keras)
        """Names the epoch."""
        self.bar.set_description(f"{self.name} epoch {epoch + 1}/{self.epochs}")

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float]) -> None:
        """Moves the bar; the accuracy is that of the epoch so far."""
        if batch % 10 == 0:
            self.bar.set_postfix(accuracy=f"{logs['accuracy']:.4f}", refresh=False)
        self.bar.update()

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
        if self.bar.disable:
            left = (time.perf_counter() - self.start) / (epoch + 1) * (self.epochs - epoch - 1)
            shown = ", ".join(f"{key} {value:.4f}" for key, value in logs.items() if key.endswith("accuracy"))
            print(f"{self.name} epoch {epoch + 1}/{self.epochs}: {shown}, {left:.0f} s left", file=sys.stderr)

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:  # noqa: ARG002  (of Keras)
        """Removes the bar."""
        self.bar.close()
