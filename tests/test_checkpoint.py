import hashlib
import json
import math
import pickle
import platform
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sections import augmentation
from tiny import make_recipe

from stages.lib.network.keras2 import keras, tf
from stages.lib.network.model import StatelessDropout
from stages.lib.storage.files import write_arrays
from stages.lib.storage.variant import Variant, name_finished
from stages.lib.training import checkpoint as module
from stages.lib.training.checkpoint import Checkpoint, compute_fingerprint, locate_checkpoint
from stages.lib.training.muon import Muon
from stages.lib.training.precision import describe_machine

EPOCHS = 3
STEPS = 4
OPTIMIZERS: dict[str, Any] = {
    "adamw": lambda rate: keras.optimizers.AdamW(rate, weight_decay=0.01),
    "muon": lambda rate: Muon(rate, 0.01, last_kernel="logits"),
}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((STEPS * 8, 6)).astype(np.float32)
Y = np.eye(3, dtype=np.float32)[RNG.integers(3, size=len(X))]


class Killed(BaseException):
    """What ends a run from outside."""


class Rows(keras.callbacks.Callback):
    """Adds a row an epoch, and is killed amid the epoch after `num_epochs`."""

    def __init__(self, rows: list[dict[str, Any]], num_epochs: int) -> None:
        super().__init__()
        self.rows, self.num_epochs, self.epoch = rows, num_epochs, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002  (of Keras)
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002  (of Keras)
        if (self.epoch, batch) == (self.num_epochs, 1):
            raise Killed

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.rows.append({"epoch": epoch + 1, "loss": f"{logs['loss']:.17g}", "accuracy": float(logs["accuracy"])})


def make_model(seed: int = 1, optimizer: str = "adamw") -> Any:
    """Makes a compiled model with all that changes in training: weights, statistics, moments, dropout and a rate."""
    chosen = OPTIMIZERS[optimizer](keras.optimizers.schedules.CosineDecay(0.05, EPOCHS * STEPS))
    model = keras.Sequential(
        [
            keras.layers.InputLayer(input_shape=(6,)),
            keras.layers.Dense(5, kernel_initializer=keras.initializers.HeUniform(seed)),
            keras.layers.BatchNormalization(momentum=0.9),
            StatelessDropout(0.5, 7, lambda: chosen.iterations),
            keras.layers.Dense(3, kernel_initializer=keras.initializers.HeUniform(seed + 1), name="logits"),
        ]
    )
    model.compile(chosen, keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


def train(path: Path, model: Any, until: int = EPOCHS) -> Checkpoint:
    """Trains from where the checkpoint left it; a run that ends before the last epoch is killed amid the next one."""
    checkpoint = Checkpoint(path, "a")
    first_epoch = checkpoint.restore(model)
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    callbacks = [Rows(checkpoint.rows, until), checkpoint]
    try:
        model.fit(data, epochs=EPOCHS, initial_epoch=first_epoch, verbose=0, callbacks=callbacks)
    except Killed:
        assert until < EPOCHS
    return checkpoint


def store(path: Path, num_epochs: int = 1, fingerprint: str = "a", is_chief: bool = True) -> None:
    """Stores a checkpoint of an untrained model after each of some epochs."""
    checkpoint = Checkpoint(path, fingerprint, is_chief)
    model = make_model()
    checkpoint.restore(model)
    checkpoint.set_model(model)
    for epoch in range(num_epochs):
        checkpoint.rows.append({"epoch": epoch + 1})
        checkpoint.on_epoch_end(epoch)


def hash_state(model: Any) -> list[bytes]:
    values = [*model.get_weights(), *(variable.numpy() for variable in model.optimizer.variables)]
    return [hashlib.sha256(value.tobytes()).digest() for value in values]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run that was killed amid its second epoch."""
    path = tmp_path_factory.mktemp("killed") / "train.npz"
    train(path, make_model(), until=1)
    return path


@pytest.fixture
def path(killed: Path, tmp_path: Path) -> Path:
    """A copy of `killed`, to be spoiled."""
    copy = tmp_path / "checkpoints/train.npz"
    copy.parent.mkdir()
    copy.write_bytes(killed.read_bytes())
    return copy


# A run that goes on


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_that_was_killed_ends_as_an_undisturbed_one_bit_by_bit(tmp_path: Path, optimizer: str) -> None:
    undisturbed = make_model(optimizer=optimizer)
    rows = train(tmp_path / "undisturbed.npz", undisturbed).rows
    path = tmp_path / "killed.npz"

    train(path, make_model(optimizer=optimizer), until=1)
    train(path, make_model(2, optimizer), until=2)  # other initial weights, which the checkpoint replaces
    resumed = make_model(3, optimizer)
    checkpoint = train(path, resumed)

    assert hash_state(resumed) == hash_state(undisturbed)
    assert checkpoint.rows == rows
    assert [row["epoch"] for row in rows] == [1, 2, 3]


def test_all_that_changes_in_training_is_put_back(path: Path) -> None:
    trained, fresh = make_model(), make_model(2)
    Checkpoint(path, "a").restore(trained)

    Checkpoint(path, "a").restore(fresh)

    assert hash_state(fresh) == hash_state(trained)
    assert fresh.optimizer.iterations.numpy() == STEPS


def test_rows_keep_their_list_so_that_who_holds_it_sees_them(path: Path) -> None:
    checkpoint = Checkpoint(path, "a")
    held = checkpoint.rows

    checkpoint.restore(make_model())

    assert checkpoint.rows is held
    assert [row["epoch"] for row in held] == [1]


def test_the_seconds_before_a_run_was_killed_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    model, path = make_model(), tmp_path / "x.npz"
    for seconds, total in ((5.0, 5.0), (7.0, 12.0), (1.5, 13.5)):
        checkpoint = Checkpoint(path, "a")
        clock[0] += seconds
        checkpoint.restore(model)
        checkpoint.set_model(model)
        checkpoint.on_epoch_end(0)
        assert checkpoint.seconds == total
        clock[0] += 1000  # after the last checkpoint: lost with the process


# A run that starts anew


def assert_starts_anew(checkpoint: Checkpoint) -> None:
    model, untouched = make_model(2), make_model(2)
    untouched.optimizer.build(untouched.trainable_variables)

    assert checkpoint.restore(model) == 0
    assert hash_state(model) == hash_state(untouched)
    assert checkpoint.rows == []
    assert (checkpoint.epoch, checkpoint.seconds_before) == (0, 0)


def test_without_a_file_a_run_starts_anew_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_starts_anew(Checkpoint(tmp_path / "none.npz", "a"))

    assert capsys.readouterr() == ("", "")


def test_the_checkpoint_of_another_run_is_replaced(path: Path) -> None:
    store(path, fingerprint="b")

    assert Checkpoint(path, "b").restore(make_model()) == 1
    assert_starts_anew(Checkpoint(path, "a"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"CPUs": "1"}, "CPUs 2, here 1"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "ONEDNN_MAX_CPU_ISA none, here AVX2"),
        ({"CPU flag fpu": "no", "GPU 0": "H"}, "CPU flag fpu yes, here no; GPU 0 none, here H"),
    ],
)
def test_the_checkpoint_of_a_machine_that_rounds_differently_is_told_and_replaced(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
    told: str,
) -> None:
    path, machine = tmp_path / "train.npz", {"CPUs": "2", "CPU flag fpu": "yes"}
    monkeypatch.setattr(module, "describe_machine", lambda: machine)
    store(path)
    monkeypatch.setattr(module, "describe_machine", lambda: machine | changes)

    assert_starts_anew(Checkpoint(path, "a"))

    assert capsys.readouterr().err == f"{path}: made with {told}; starting anew\n"
    store(path)
    assert Checkpoint(path, "a").restore(make_model()) == 1


def make_state(**changes: Any) -> np.ndarray:
    state = {
        "fingerprint": "a",
        "machine": describe_machine(),
        "epoch": 2,
        "seconds": 1.0,
        "rows": [{"epoch": 1}],
    } | changes
    return np.frombuffer(json.dumps(state).encode(), np.uint8)


def flip_bit(path: Path) -> None:
    """Flips a bit in the data of the first variable."""
    content = path.read_bytes()
    start = content.index(b"0.npy") + 200
    path.write_bytes(content[:start] + bytes([content[start] ^ 1]) + content[start + 1 :])


WAYS_TO_SPOIL: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut at its end": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "flipped bit": flip_bit,
    "pickle": lambda path: path.write_bytes(pickle.dumps({"epoch": 2})),
    "images": lambda path: write_arrays(path, images=np.zeros((2, 28, 28), np.uint8)),
    "too few variables": lambda path: write_arrays(path, state=make_state(), **{"0": np.zeros(3, np.float32)}),
    "state without JSON": lambda path: write_arrays(path, state=np.arange(200, dtype=np.uint8)),
    "state of a list": lambda path: write_arrays(path, state=np.frombuffer(b"[1]", np.uint8)),
    "state whose machine is a list": lambda path: write_arrays(path, state=make_state(machine=["a CPU"])),
    "state without fingerprint": lambda path: write_arrays(path, state=np.frombuffer(b"{}", np.uint8)),
}


@pytest.mark.parametrize("spoil", WAYS_TO_SPOIL.values(), ids=WAYS_TO_SPOIL.keys())
def test_a_file_that_is_no_sound_checkpoint_is_told_in_a_line_and_a_run_starts_anew(
    path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], Any]
) -> None:
    spoil(path)

    assert_starts_anew(Checkpoint(path, "a"))

    shown = capsys.readouterr()
    assert re.fullmatch(rf"{re.escape(str(path))}: no checkpoint \(.+\); starting anew\n", shown.err)
    assert shown.out == ""
    store(path)
    assert Checkpoint(path, "a").restore(make_model()) == 1  # it is replaced by a sound one


class Payload:
    """Runs a command where it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return Path.touch, (self.victim,)


@pytest.mark.parametrize("name", ["state", "0"])
def test_what_is_pickled_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    victim, path = tmp_path / "victim", tmp_path / "x.npz"
    arrays: dict[str, Any] = {"state": make_state()} | {name: np.array([Payload(victim)], dtype=object)}
    np.savez(path, **arrays)

    assert_starts_anew(Checkpoint(path, "a"))

    assert not victim.exists()
    assert "Object arrays cannot be loaded" in capsys.readouterr().err


# Files


def test_the_file_is_gone_after_remove_and_may_be_removed_twice(path: Path) -> None:
    checkpoint = Checkpoint(path, "a")

    checkpoint.remove()
    checkpoint.remove()

    assert list(path.parent.iterdir()) == []


def test_who_is_not_the_chief_neither_reads_nor_writes_nor_removes_the_file(path: Path) -> None:
    before = path.read_bytes()

    assert_starts_anew(Checkpoint(path, "a", is_chief=False))
    store(path, num_epochs=2, is_chief=False)
    Checkpoint(path, "a", is_chief=False).remove()

    assert path.read_bytes() == before


def test_the_state_of_a_run_is_stored_under_a_name_that_no_other_stage_and_seed_has() -> None:
    for variant, name in (
        (Variant("train", "third", "flip", 42), "train@third-flip-42"),
        (name_finished(7), "finish@finished-7"),
        (Variant("prune", "lamp", 0.5, 42), "prune@lamp-0.5-42"),
    ):
        assert locate_checkpoint(variant) == Path(f"data/checkpoints/{name}.npz")


# Fingerprints


@dataclass(frozen=True)
class Choice:
    rate: float
    sizes: tuple[int, ...] = (1, 2)


@pytest.fixture
def data(tmp_path: Path) -> list[Path]:
    """Two small files."""
    paths = [tmp_path / "train.npz", tmp_path / "val.npz"]
    for path in paths:
        path.write_bytes(path.name.encode())
    return paths


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Loads a module of some name; returns its file."""

    def load_module(name: str) -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text("x = 1\n")
        module = ModuleType(name)
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, name, module)
        return path

    return load_module


CHOICES: list[Any] = [
    [Choice(0.1), 42, "float32"],
    [Choice(0.1), 43, "float32"],
    [Choice(math.nextafter(0.1, 1)), 42, "float32"],
    [Choice(0.1), 42, "mixed_bfloat16"],
    [Choice(0.1, (1, 3)), 42, "float32"],
    [Choice(0.1), 42],
    [42, Choice(0.1), "float32"],
    [[Choice(0.1), Choice(0.1)], 42, "float32"],
    [make_recipe(), 42, "float32"],
    [make_recipe(learning_rate=0.02), 42, "float32"],
    [make_recipe(limits=augmentation(shift_px=1)), 42, "float32"],
]


@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_another_choice_makes_another_fingerprint(data: list[Path], choices: list[Any]) -> None:
    others = [compute_fingerprint(each, data) for each in CHOICES if each is not choices]

    assert compute_fingerprint(choices, data) not in others
    assert re.fullmatch("[0-9a-f]{64}", compute_fingerprint(choices, data))


def test_other_bytes_or_another_order_of_the_data_make_another_fingerprint(data: list[Path]) -> None:
    before, turned = compute_fingerprint([1], data), compute_fingerprint([1], data[::-1])
    data[1].write_bytes(b"val.npy")

    assert len({before, turned, compute_fingerprint([1], data)}) == 3


@pytest.mark.parametrize(
    ("name", "is_other"),
    [
        ("stages.lib.extra", True),
        ("stages.lib.training.extra", True),
        ("__main__", True),
        ("stages.lib.errors", False),  # an edit of a message costs nothing
        ("stages.lib.params.extra", False),
        ("stages.lib.running.extra", False),
        ("stages_of_another_project", False),
    ],
)
def test_the_code_that_can_change_the_bytes_makes_another_fingerprint(
    data: list[Path], load: Callable[[str], Path], name: str, is_other: bool
) -> None:
    path = load(name)
    before = compute_fingerprint([1], data)

    path.write_text("x = 2\n")

    assert (compute_fingerprint([1], data) != before) is is_other


@pytest.mark.parametrize("package", ["tensorflow", "tf-keras", "tensorflow-model-optimization", "numpy", "python"])
def test_another_version_of_python_or_a_package_makes_another_fingerprint(
    data: list[Path], monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    before = compute_fingerprint([1], data)
    if package == "python":
        monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")
    else:
        monkeypatch.setattr(module, "version", lambda name: version(name) + ("+x" if name == package else ""))

    assert compute_fingerprint([1], data) != before


def test_times_places_and_the_order_of_imports_do_not_make_another_fingerprint(
    data: list[Path], load: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = load("stages.lib.extra")
    before = compute_fingerprint([Choice(0.1), 42], data)

    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setenv("HOME", "/elsewhere")
    monkeypatch.chdir(tmp_path)
    code.touch()
    moved = [path.rename(tmp_path / f"moved-{path.name}") for path in data]
    for name in [name for name in sys.modules if name.startswith("stages.")]:
        sys.modules[name] = sys.modules.pop(name)

    assert compute_fingerprint([Choice(0.1), 42], moved) == before
