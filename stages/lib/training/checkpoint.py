"""The state of a training run after each epoch, so that a run that was killed goes on and ends with the same bytes."""

import hashlib
import json
import platform
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.errors import UserError
from stages.lib.network.keras2 import keras, tf
from stages.lib.params.checking import Section
from stages.lib.storage.files import compute_sha256, read_arrays, write_arrays
from stages.lib.storage.variant import Variant
from stages.lib.training.precision import describe_machine
from stages.lib.training.workers import broadcast_from_chief

CHECKPOINTS = Path("data/checkpoints")
"""A file for each stage that is being trained; removed when it succeeds. No DVC output."""

PACKAGES = ("tensorflow", "tf-keras", "tensorflow-model-optimization", "numpy", "h5py")


CODE_WITHOUT_EFFECT = ("stages.lib.errors", "stages.lib.params.", "stages.lib.running.")
"""Starts of the names of modules that cannot change the bytes of a run: what they check is among the choices."""


def locate_checkpoint(variant: Variant) -> Path:
    """Returns where the state of a run is stored that makes one version of a model."""
    return CHECKPOINTS / f"{variant.run}.npz"


def compute_fingerprint(choices: Sequence[Any], data: Sequence[Path]) -> str:
    """Computes a SHA-256 of all that decides the bytes of a run on one machine, in hexadecimal digits.

    It covers `choices`, plain values and dataclasses; the bytes of the files in `data`, and should be called before
    they are read; the code of every module of this project that is loaded, but for that in `CODE_WITHOUT_EFFECT`; the
    versions of Python and of the packages that compute.
    """
    names = [name for name in sys.modules if name.startswith("stages.") and not name.startswith(CODE_WITHOUT_EFFECT)]
    code = {getattr(sys.modules[name], "__file__", None) for name in [*names, "__main__"]}
    parts = {
        "choices": choices,
        "files": [compute_sha256(path) for path in [*data, *sorted(Path(name) for name in code if name)]],
        "versions": [platform.python_version(), *map(version, PACKAGES)],
    }
    return hashlib.sha256(json.dumps(parts, default=_to_plain).encode()).hexdigest()


def list_differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """Lists in what two machines of `describe_machine` differ, at most three of it, as text.

    >>> list_differences({"CPUs": "2", "OMP_NUM_THREADS": "1"}, {"CPUs": "1"})
    ['CPUs 2, here 1', 'OMP_NUM_THREADS 1, here none']
    """
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    return [f"{name} {theirs.get(name, 'none')}, here {ours.get(name, 'none')}" for name in names[:3]]


def _to_plain(value: Any) -> dict[str, Any]:
    """Turns a layer or a section of params.yaml into what JSON knows."""
    return value.model_dump() if isinstance(value, Section) else asdict(value)


def list_variables(model: keras.Model) -> list[Any]:
    """Lists all that changes while a compiled model trains: weights, statistics, moments, the number of the step.

    All workers have to read them at the same point: where the value of one is the mean over the workers, as statistics
    of batch normalization are, each waits until all have asked for it.
    """
    return [*model.variables, *model.optimizer.variables]


class Checkpoint(keras.callbacks.Callback):
    """Stores weights, optimizer and learning curves after every epoch, and puts them back before the first.

    Must follow the callbacks that may refuse an epoch, such as `EndDiverged`: what it stores is resumed. A machine
    that rounds differently starts anew: with epochs of two machines, the bytes would be those of neither. Of several
    workers, the first one's machine is compared.

    Args:
        path: of the checkpoint, an .npz.
        fingerprint: of the run; a checkpoint with another one is never resumed from.
        is_chief: whether this process reads and writes the file; the others get its content from the chief.

    Attributes:
        rows: of the learning curves so far, which it stores and puts back; `History` adds to them.
    """

    def __init__(self, path: Path, fingerprint: str, is_chief: bool = True) -> None:
        super().__init__()
        self.path = path
        self.fingerprint = fingerprint
        self.is_chief = is_chief
        self.rows: list[dict[str, Any]] = []
        self.epoch = 0
        self.seconds_before = 0.0
        self.start = time.perf_counter()
        self.machine = describe_machine()

    @property
    def seconds(self) -> float:
        """Returns the seconds that the run took so far, those before it was killed included."""
        return self.seconds_before + time.perf_counter() - self.start

    def restore(self, model: keras.Model) -> int:
        """Puts a compiled model back to where its run was; returns the number of finished epochs.

        Raises:
            UserError: if this worker's run is not the chief's.
        """
        self._compare_with_chief(model.distribute_strategy)
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)
        variables = list_variables(model)
        values = [variable.numpy() for variable in variables]
        stored = self._read(len(variables)) if self.is_chief else None
        of_chief = [np.array(self.epoch, np.float32), *(stored or values)]
        epoch, *values = broadcast_from_chief(model.distribute_strategy, of_chief)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        self.epoch = int(epoch)
        return self.epoch

    def _compare_with_chief(self, strategy: tf.distribute.Strategy) -> None:
        number = np.array(zlib.crc32(self.fingerprint.encode()), np.int64)
        (of_chief,) = broadcast_from_chief(strategy, [number])
        if number != of_chief:
            raise UserError(
                "TF_CONFIG: expected the same params, data, code, versions and precision on every worker; those here "
                "are not the first one's; check out the same commit, copy data/prepare and set train.precision"
            )

    def _read(self, num_variables: int) -> list[np.ndarray] | None:
        """Reads the values of the variables, and what this object holds, if the file is this run's."""
        if not self.path.exists():
            return None
        try:
            (state_as_bytes,) = read_arrays(self.path, "state")
            state = json.loads(state_as_bytes.tobytes())
            if state["fingerprint"] != self.fingerprint:
                return None
            if differences := list_differences(state["machine"], self.machine):
                print(f"{self.path}: made with {'; '.join(differences)}; starting anew", file=sys.stderr)
                return None
            values = list(read_arrays(self.path, *map(str, range(num_variables))))
        except (UserError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"{self.path}: no checkpoint ({error}); starting anew", file=sys.stderr)
            return None
        self.epoch, self.seconds_before = state["epoch"], state["seconds"]
        self.rows[:] = state["rows"]
        return values

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:  # noqa: ARG002  (of Keras)
        """Replaces the checkpoint."""
        values = [variable.numpy() for variable in list_variables(self.model)]  # by all workers, though one writes
        self.epoch = epoch + 1
        state = {
            "fingerprint": self.fingerprint,
            "machine": self.machine,
            "epoch": epoch + 1,
            "seconds": self.seconds,
            "rows": self.rows,
        }
        if self.is_chief:
            arrays = {str(index): value for index, value in enumerate(values)}
            write_arrays(self.path, state=np.frombuffer(json.dumps(state).encode(), np.uint8), **arrays)

    def remove(self) -> None:
        """Removes the checkpoint of a run whose outputs are written."""
        if self.is_chief:
            self.path.unlink(missing_ok=True)
