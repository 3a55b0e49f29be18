import io
import sys
import time

import numpy as np
import pytest

from stages.lib.errors import UserError
from stages.lib.progress import Progress
from stages.lib.tf import keras


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 1000.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.seconds)


def train(progress: Progress, learning_rate: float = 0.01, epochs: int = 2) -> None:
    model = keras.Sequential([keras.layers.InputLayer(input_shape=(2,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(learning_rate), "mse", metrics=["accuracy"])
    x, y = np.ones((4, 2), np.float32), np.array([[1, 0]] * 4, np.float32)
    model.fit(x, y, batch_size=2, epochs=epochs, validation_data=(x, y), verbose=0, callbacks=[progress])


def test_where_there_is_no_terminal_each_epoch_prints_a_line_with_the_remaining_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    progress = Progress("third-none", epochs=3, steps_per_epoch=5)

    for epoch in range(3):
        clock.seconds += 10
        progress.on_epoch_end(epoch, {"accuracy": 0.51236, "loss": 1.5, "val_accuracy": 0.25, "val_loss": 2.0})

    shown = capsys.readouterr()
    assert shown.err.splitlines() == [
        "third-none epoch 1/3: accuracy 0.5124, val_accuracy 0.2500, 20 s left",
        "third-none epoch 2/3: accuracy 0.5124, val_accuracy 0.2500, 10 s left",
        "third-none epoch 3/3: accuracy 0.5124, val_accuracy 0.2500, 0 s left",
    ]
    assert shown.out == ""


def test_a_real_run_without_a_terminal_prints_a_line_an_epoch_and_nothing_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(Progress("tiny", epochs=2, steps_per_epoch=2))

    shown = capsys.readouterr()
    assert [line.split(":")[0] for line in shown.err.splitlines()] == ["tiny epoch 1/2", "tiny epoch 2/2"]
    assert "val_accuracy" in shown.err
    assert shown.out == ""


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
    progress.on_train_end()

    assert shown.startswith("tiny epoch 2/2:  12%|")
    assert "1/8 [" in shown
    assert "<" in shown  # elapsed < remaining
    assert "accuracy=0.5124" in shown
    assert "\n" not in terminal.getvalue()


def test_the_bar_counts_every_batch_and_goes_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress("tiny", epochs=2, steps_per_epoch=2)

    train(progress)

    assert (progress.bar.n, progress.bar.total) == (4, 4)
    assert terminal.getvalue().split("\r")[-2].strip() == ""


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_is_refused_with_the_epoch_and_the_remedy(loss: float) -> None:
    progress = Progress("third-none", epochs=8, steps_per_epoch=5)

    with pytest.raises(UserError) as caught:
        progress.on_epoch_end(4, {"accuracy": 0.1, "loss": loss})

    assert str(caught.value) == (
        f"third-none: the loss became {loss} in epoch 5; lower the learning_rate of this stage in params.yaml"
    )


def test_a_run_that_diverges_stops_in_that_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^tiny: the loss became (nan|inf) in epoch [1-4]; lower the learning_rate"):
        train(Progress("tiny", epochs=200, steps_per_epoch=2), learning_rate=1e30, epochs=200)

    assert "200/200" not in capsys.readouterr().err


def test_a_loss_that_is_no_number_removes_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress("tiny", epochs=2, steps_per_epoch=2)
    progress.on_epoch_begin(0)

    with pytest.raises(UserError):
        progress.on_epoch_end(0, {"accuracy": 0.1, "loss": float("nan")})

    assert terminal.getvalue().split("\r")[-2].strip() == ""
