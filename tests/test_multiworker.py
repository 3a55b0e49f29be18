"""Training on two workers: two real processes, on loopback or in networks of their own, on a crumb of the real data."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np
import pytest
from pipeline import dvc, edit_params, make_clone
from servers import find_free_ports

TOLERANCES = {"thin": 1e-5, "tiny": 0.02}
"""Norm of a kernel's difference, relative to the kernel's.

Replicas add up gradients in another order, which alone is harmless. Batch normalization over all replicas, which tiny
has, takes the variance as mean of squares minus square of mean: less precise than within one process.
"""


def train(name: str) -> list[str]:
    return [sys.executable, "-m", "stages.train", name, "strong", "42"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a clone with the data of a crumb."""
    folder = tmp_path_factory.mktemp("workers") / "clone"
    make_clone(folder)
    smooth = {"optimizer": "sgd", "learning_rate": 0.05, "weight_decay": 0, "precision": "float32"}
    edit_params(folder, train={"epochs": 1, "clean_epochs": 0, "batch_size": 64, **smooth})
    dvc(folder, "repro", "prepare")
    return folder


def start_workers(
    folder: Path,
    name: str = "tiny",
    addresses: Sequence[str] = (),
    hosts: Sequence[Sequence[str]] = ((), ()),
) -> list[subprocess.Popen[str]]:
    """Starts two workers, on loopback without `addresses`; the first one is the chief.

    `hosts` holds for each the start of a command line that runs the rest of it on that host.
    """
    workers = list(addresses) or [f"127.0.0.1:{port}" for port in find_free_ports(2)]
    pipe, processes = subprocess.PIPE, []
    for index, host in enumerate(hosts):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        environment = os.environ | {"TF_CONFIG": json.dumps(config)}
        command = [*host, *train(name)]
        processes.append(
            subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)
        )
    return processes


@pytest.fixture
def hosts() -> Iterator[list[list[str]]]:
    """Is two network namespaces, 10.0.0.1 and 10.0.0.2, with a cable between them: commands that run others in each."""
    hold = ("sh", "-c", "echo held; exec cat")
    inside = ("--user", "--net", "--preserve-credentials")
    with ExitStack() as stack:
        entries: list[list[str]] = []
        for start in (["unshare", "--map-root-user", "--net"], ["unshare", "--net"]):
            command = [*(entries[0] if entries else []), *start, *hold]
            holder = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            stack.callback(holder.kill)
            assert holder.stdout is not None
            if holder.stdout.readline() != b"held\n":
                pytest.skip("this system lets its users have no networks of their own")
            entries.append(["nsenter", f"--target={holder.pid}", *inside])
        first = (
            f"ip link add cable0 type veth peer name cable1 netns {holder.pid}",
            "ip addr add 10.0.0.1/24 dev cable0",
        )
        second = ("ip addr add 10.0.0.2/24 dev cable1",)
        for index, setup in enumerate((first, second)):
            for line in (*setup, f"ip link set cable{index} up", "ip link set lo up"):
                subprocess.run([*entries[index], *line.split()], check=True)
        yield entries


def finish(process: subprocess.Popen[str], seconds: float = 600) -> str:
    """Waits for a process and returns what it printed; kills it if it takes too long."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()  # closes its pipes, which a later test would be blamed for
        raise


def read_kernels(path: Path) -> dict[str, np.ndarray]:
    kernels = {}

    def add(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and "kernel" in name:
            kernels[name] = item[()]

    with h5py.File(path) as file:
        file["model_weights"].visititems(add)
    return kernels


def wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if text in line:
            return
    raise AssertionError(f"the run ended before it printed {text!r}:\n{printed}")


@pytest.mark.parametrize("name", ["thin", "tiny"])
def test_two_workers_train_the_model_that_one_trains_and_the_chief_alone_writes(folder: Path, name: str) -> None:
    finish(subprocess.Popen(train(name), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    outputs = folder / f"data/train/{name}-strong/42"
    alone = read_kernels(outputs / "model.h5")
    shutil.rmtree(outputs)
    before = {path for path in (folder / "data").rglob("*") if path.is_file()}

    chief, other = start_workers(folder, name)
    shown, silent = finish(chief), finish(other)

    assert (chief.returncode, other.returncode) == (0, 0), shown + silent
    assert "epoch 1/1" in shown
    assert silent == ""
    written = {path for path in (folder / "data").rglob("*") if path.is_file()} - before
    assert written == {outputs / name for name in ("history.csv", "metrics.json", "model.h5", "probabilities.npz")}
    together = read_kernels(outputs / "model.h5")
    assert sorted(together) == sorted(alone)
    for layer, kernel in together.items():
        difference = np.linalg.norm(kernel - alone[layer]) / np.linalg.norm(alone[layer])
        assert difference < TOLERANCES[name], layer


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_worker_ends_the_other_with_a_clear_error_and_the_next_run_goes_on(folder: Path, lost: int) -> None:
    edit_params(folder, train={"epochs": 60 + lost})
    workers = start_workers(folder)
    wait_for_line(workers[0], "epoch 2/")

    began = time.monotonic()
    workers[lost].send_signal(signal.SIGKILL)
    printed = finish(workers[1 - lost], seconds=60)

    assert time.monotonic() - began < 60
    assert workers[1 - lost].returncode == 1
    assert "error: train@tiny-strong-42: a worker that TF_CONFIG names was lost" in printed.splitlines()[-1]
    assert "Traceback" not in printed
    finish(workers[lost])
    workers = start_workers(folder)
    wait_for_line(workers[0], "goes on after epoch")
    for worker in workers:
        worker.kill()
        finish(worker)


@pytest.mark.skipif(not all(map(shutil.which, ("ip", "nsenter", "unshare"))), reason="needs iproute2 and util-linux")
def test_a_host_that_vanishes_from_the_network_ends_both_workers_with_a_clear_error(
    folder: Path, hosts: list[list[str]]
) -> None:
    edit_params(folder, train={"epochs": 62})
    workers = start_workers(folder, addresses=["10.0.0.1:12345", "10.0.0.2:12345"], hosts=hosts)
    wait_for_line(workers[0], "epoch 2/")

    try:
        for index, host in enumerate(hosts):  # packets go to a card that is not there: no end hears of it
            lost = f"ip neigh replace 10.0.0.{2 - index} lladdr 02:00:00:00:00:99 dev cable{index} nud permanent"
            subprocess.run([*host, *lost.split()], check=True)
        printed = [finish(worker) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()

    for worker, shown in zip(workers, printed, strict=True):
        assert worker.returncode == 1
        assert "error: train@tiny-strong-42: a worker that TF_CONFIG names was lost" in shown.splitlines()[-1]
        assert "Traceback" not in shown


def test_a_batch_that_does_not_split_evenly_is_refused_before_any_work(folder: Path) -> None:
    edit_params(folder, train={"epochs": 3, "batch_size": 63})

    for worker in start_workers(folder):
        printed = finish(worker)
        assert worker.returncode == 1
        assert "error: train.batch_size: expected a multiple of the 2 workers" in printed
        assert "Traceback" not in printed
