"""Training on two workers: two real processes on loopback, on a crumb of the real data."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from pipeline import dvc, edit_params, make_clone

TOLERANCES = {"thin": 1e-5, "tiny": 0.02}
"""Norm of a kernel's difference, relative to the kernel's.

Replicas add up gradients in another order, which alone is harmless. Batch normalization over all replicas, which tiny
has, takes the variance as mean of squares minus square of mean: less precise than within one process.
"""


def train(name: str) -> list[str]:
    return [sys.executable, "-m", "stages.train", name, "strong"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a clone with the data of a crumb."""
    folder = tmp_path_factory.mktemp("workers") / "clone"
    make_clone(folder)
    smooth = {"optimizer": "sgd", "learning_rate": 0.05, "weight_decay": 0, "precision": "float32"}
    edit_params(folder, train={"epochs": 1, "clean_epochs": 0, "batch_size": 64, **smooth})
    dvc(folder, "repro", "prepare")
    return folder


def start_workers(folder: Path, name: str = "tiny") -> list[subprocess.Popen[str]]:
    """Starts two workers on free ports of loopback; the first one is the chief."""
    sockets = [socket.socket() for _ in range(2)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in sockets]
    for free in sockets:
        free.close()
    processes = []
    for index in range(2):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = os.environ | {"TF_CONFIG": json.dumps(config)}
        pipe = subprocess.PIPE
        processes.append(
            subprocess.Popen(train(name), cwd=folder, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)
        )
    return processes


def finish(process: subprocess.Popen[str], seconds: float = 120) -> str:
    """Waits for a process and returns what it printed; kills it if it takes too long."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.kill()
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
    outputs = folder / f"data/train/{name}-strong"
    alone = read_kernels(outputs / "model.h5")
    shutil.rmtree(outputs)
    before = {path for path in (folder / "data").rglob("*") if path.is_file()}

    chief, other = start_workers(folder, name)
    shown, silent = finish(chief), finish(other)

    assert (chief.returncode, other.returncode) == (0, 0), shown + silent
    assert "epoch 1/1" in shown
    assert silent == ""
    written = {path for path in (folder / "data").rglob("*") if path.is_file()} - before
    assert written == {outputs / name for name in ("history.csv", "metrics.json", "model.h5")}
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
    assert "error: tiny-strong: a worker that TF_CONFIG names was lost" in printed.splitlines()[-1]
    assert "Traceback" not in printed
    finish(workers[lost])
    workers = start_workers(folder)
    wait_for_line(workers[0], "goes on after epoch")
    for worker in workers:
        worker.kill()
        finish(worker)


def test_a_batch_that_does_not_split_evenly_is_refused_before_any_work(folder: Path) -> None:
    edit_params(folder, train={"epochs": 3, "batch_size": 63})

    for worker in start_workers(folder):
        printed = finish(worker)
        assert worker.returncode == 1
        assert "error: train.batch_size: expected a multiple of the 2 workers" in printed
        assert "Traceback" not in printed
