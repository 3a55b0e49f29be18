import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from servers import find_free_ports

from stages.lib.network.keras2 import tf
from stages.lib.training.cluster import Cluster
from stages.lib.training.workers import broadcast_from_chief, build_strategy

ROOT = Path(__file__).parents[1]
NAMES = ("image", "step", "scalar", "extremes", "empty", "after")
SHARE = """
import json, sys
import numpy as np
from stages.lib.training.cluster import read_cluster
from stages.lib.training.workers import broadcast_from_chief, build_strategy
from test_workers import make_values
cluster = read_cluster()
strategy = build_strategy(cluster)
values = broadcast_from_chief(strategy, make_values(cluster.index))
np.savez(sys.argv[1], **{str(index): value for index, value in enumerate(values)})
print(json.dumps([type(strategy).__name__, strategy.num_replicas_in_sync]))
"""


def make_values(worker: int) -> list[np.ndarray]:
    """Makes what a worker holds before the chief tells what it holds; the values differ, shapes and dtypes agree."""
    rng = np.random.default_rng(worker)
    tiny, huge = np.finfo(np.float32).tiny, np.finfo(np.float32).max
    extremes = [[-0.0, np.nan, np.inf, tiny, huge, 0.1], [np.nan, -np.inf, 1.0, -huge, np.nan, -0.0]][worker]
    return [
        rng.standard_normal((3, 2, 4)).astype(np.float32),
        np.array([2**53 - 1 - worker, -(2**53) + 1 + worker, worker]),
        np.array(10**15 + 1 - worker),
        np.array(extremes, np.float32),
        np.zeros((0, 3), np.float32),
        rng.standard_normal(1).astype(np.float32),
    ]


# One worker


def test_one_worker_uses_the_default_strategy() -> None:
    assert build_strategy(Cluster()) is tf.distribute.get_strategy()
    assert build_strategy(Cluster()).num_replicas_in_sync == 1


def test_one_worker_keeps_its_values() -> None:
    values = make_values(0)

    shared = broadcast_from_chief(build_strategy(Cluster()), tuple(values))

    assert isinstance(shared, list)
    assert all(ours is theirs for ours, theirs in zip(shared, values, strict=True))


# Two workers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file and a line of output of each of two processes that have shared their values."""
    folder = tmp_path_factory.mktemp("workers")
    hosts = [f"127.0.0.1:{port}" for port in find_free_ports(2)]
    processes = []
    for index in range(2):
        config = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        environment = os.environ | {"TF_CONFIG": json.dumps(config), "PYTHONPATH": f"{ROOT}:{ROOT}/tests"}
        command = [sys.executable, "-c", SHARE, str(folder / f"{index}.npz")]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))
    try:
        for index, process in enumerate(processes):
            shown, errors = process.communicate(timeout=180)
            assert process.returncode == 0, errors
            (folder / f"{index}.json").write_text(shown)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return folder


@pytest.mark.parametrize("worker", [0, 1])
def test_each_of_two_workers_is_one_of_two_replicas(folder: Path, worker: int) -> None:
    shown = json.loads((folder / f"{worker}.json").read_text())

    assert shown == [tf.distribute.MultiWorkerMirroredStrategy.__name__, 2]


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_each_of_two_workers_gets_the_values_of_the_chief_bit_by_bit(folder: Path, index: int) -> None:
    expected, other = make_values(0)[index], make_values(1)[index]

    assert expected.size == 0 or expected.tobytes() != other.tobytes()
    for worker in (0, 1):
        value = np.load(folder / f"{worker}.npz")[str(index)]
        assert (value.shape, value.dtype) == (expected.shape, expected.dtype)
        assert value.tobytes() == expected.tobytes()
