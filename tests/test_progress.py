import io
import sys
import time
from collections.abc import Mapping

import numpy as np
import pytest

from stages.lib.network.keras2 import keras
from stages.lib.training.divergence import DivergedError
from stages.lib.training.progress import EndDiverged, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def train(
    callback: keras.callbacks.Callback,
    learning_rate: float = 0.01,
    epochs: int = 2,
    batch_size: int = 2,
    steps_per_execution: int = 1,
    first_epoch: int = 0,
) -> None:
    model = keras.Sequential([keras.layers.InputLayer(input_shape=(2,)), keras.layers.Dense(2)])
    model.compile(
        keras.optimizers.SGD(learning_rate), "mse", metrics=["accuracy"], steps_per_execution=steps_per_execution
    )
    x, y = np.ones((4, 2), np.float32), np.array([[1, 0]] * 4, np.float32)
    model.fit(
        x,
        y,
        batch_size=batch_size,
        epochs=epochs,
        initial_epoch=first_epoch,
        validation_data=(x, y),
        verbose=0,
        callbacks=[callback],
    )


def test_a_terminal_gets_a_bar_with_epoch_accuracy_and_remaining_time_and_no_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress("tiny", epochs=2, steps_per_epoch=4)

    progress.on_epoch_begin(1)
    progress.on_train_batch_end(0, {"accuracy": 0.51236, "loss": 1.0})
    progress.bar.refresh()
    shown = terminal.getvalue().split("\r")[-1]
    progress.on_epoch_end(1, {"accuracy": 0.5, "loss": 1.0})
    progress.close()

    assert shown.startswith("tiny epoch 2/2:  62%|")
    assert "5/8 [" in shown
    assert "<" in shown  # elapsed < remaining
    assert "accuracy=0.5124" in shown
    assert "\n" not in terminal.getvalue()


def test_batches_that_are_run_at_once_count_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress("tiny", epochs=2, steps_per_epoch=4)
    seen: list[float] = []
    real = progress.on_train_batch_end

    def note(batch: int, logs: Mapping[str, float]) -> None:
        real(batch, logs)
        seen.append(progress.bar.n)

    monkeypatch.setattr(progress, "on_train_batch_end", note)

    train(progress, batch_size=1, steps_per_execution=3)

    assert seen == [3, 4, 7, 8]  # the last execution of an epoch is shorter


def test_without_a_terminal_each_epoch_prints_a_line_with_the_seconds_left_by_the_speed_of_this_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    progress = Progress("third-none", epochs=8, steps_per_epoch=5, first_epoch=5)

    for epoch in range(5, 8):
        clock[0] += 10
        progress.on_epoch_end(epoch, {"accuracy": 0.51236, "loss": 1.5, "val_accuracy": 0.25, "val_loss": 2.0})

    assert capsys.readouterr() == (
        "",
        "third-none: goes on after epoch 5 of 8\n"
        "third-none epoch 6/8: accuracy 0.5124, val_accuracy 0.2500, 20 s left\n"
        "third-none epoch 7/8: accuracy 0.5124, val_accuracy 0.2500, 10 s left\n"
        "third-none epoch 8/8: accuracy 0.5124, val_accuracy 0.2500, 0 s left\n",
    )


def test_the_bar_starts_where_a_run_goes_on_counts_every_batch_and_goes_when_it_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress("tiny", epochs=4, steps_per_epoch=2, first_epoch=3)
    before = progress.bar.n

    train(progress, epochs=4, first_epoch=3)
    progress.close()

    assert (before, progress.bar.n, progress.bar.total) == (6, 8, 8)
    assert "tiny: goes on after epoch 3 of 4\n" in terminal.getvalue()
    assert terminal.getvalue().split("\r")[-2].strip() == ""


# Several workers


@pytest.mark.parametrize("stream", [Terminal, io.StringIO], ids=["terminal", "file"])
def test_a_worker_that_is_not_the_chief_shows_nothing(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]
) -> None:
    shown = stream()
    monkeypatch.setattr(sys, "stderr", shown)

    train(Progress("tiny", epochs=2, steps_per_epoch=2, first_epoch=1, is_chief=False), first_epoch=1)

    assert shown.getvalue() == ""


# A loss that is no number


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_ends_the_run_with_the_epoch_and_the_remedy(loss: float) -> None:
    with pytest.raises(DivergedError) as caught:
        EndDiverged("third-none").on_epoch_end(4, {"accuracy": 0.1, "loss": loss})

    assert str(caught.value) == (
        f"third-none: the loss became {loss} in epoch 5; lower the learning_rate of this stage in params.yaml"
    )
    assert DivergedError.SIGN in str(caught.value)


def test_a_run_that_diverges_stops_in_that_epoch() -> None:
    with pytest.raises(DivergedError, match=r"^tiny: the loss became (nan|inf) in epoch [1-4];"):
        train(EndDiverged("tiny"), learning_rate=1e30, epochs=200)
