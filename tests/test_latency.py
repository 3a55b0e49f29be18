import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from stages.lib.errors import UserError
from stages.lib.litert import latency
from stages.lib.litert.convert import convert_to_float32
from stages.lib.litert.latency import measure_latency, measure_latency_in_fresh_process, summarize, time_runs
from stages.lib.network.keras2 import keras


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layers = [keras.layers.InputLayer(input_shape=(2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    path = tmp_path_factory.mktemp("latency") / "model.tflite"
    path.write_bytes(convert_to_float32(keras.Sequential(layers)))
    return path


class Clock:
    """A clock that goes on by the milliseconds of each run, and by nothing else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *runs_ms: float) -> None:
        self.ns = 1_000_000_000
        self.runs_ms = list(runs_ms)
        self.num_runs = 0
        monkeypatch.setattr("time.perf_counter_ns", lambda: self.ns)

    def run(self) -> None:
        self.ns += int(1e6 * self.runs_ms[self.num_runs % len(self.runs_ms)])
        self.num_runs += 1


# Timing


def test_each_run_is_timed_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 2, 0.5, 7)

    assert time_runs(clock.run, seconds=0.001, min_runs=3, max_runs=10) == [2, 0.5, 7]


@pytest.mark.parametrize(
    ("run_ms", "num_runs"),
    [
        (10, 100),  # until a second has passed
        (10.1, 100),  # the run in which it passes counts
        (500, 30),  # at least
        (0.001, 1000),  # at most
    ],
)
def test_runs_are_repeated_for_the_time_within_the_limits_of_their_number(
    monkeypatch: pytest.MonkeyPatch, run_ms: float, num_runs: int
) -> None:
    clock = Clock(monkeypatch, run_ms)

    assert len(time_runs(clock.run, seconds=1, min_runs=30, max_runs=1000)) == num_runs
    assert clock.num_runs == num_runs


def test_median_and_quartiles_are_not_moved_by_one_slow_run() -> None:
    assert summarize([1.0, 2.0, 3.0, 4.0, 1000.0]) == {"median_ms": 3.0, "p25_ms": 2.0, "p75_ms": 4.0, "runs": 5}


def test_the_warm_up_is_no_part_of_the_measurement(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def note(_run: object, seconds: float, min_runs: int, max_runs: int) -> list[float]:
        calls.append((seconds, min_runs, max_runs))
        return [float(len(calls))] * min_runs

    monkeypatch.setattr(latency, "time_runs", note)

    assert latency.measure_batch(path, 2) == {"median_ms": 2.0, "p25_ms": 2.0, "p75_ms": 2.0, "runs": 30}
    assert calls == [(0.2, 5, 1000), (1, 30, 1000)]


# Memory


def test_what_the_file_takes_is_the_peak_less_the_memory_before_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure_batch(_path: Path, batch_size: int) -> dict[str, float]:
        memory["VmHWM"] += 10 * batch_size
        return {}

    memory = {"VmRSS": 40.25, "VmHWM": 50.0}
    monkeypatch.setattr(latency, "read_memory_mib", lambda name: memory[name])
    monkeypatch.setattr(latency, "measure_batch", measure_batch)

    measured = measure_latency(path)

    assert measured["peak_memory_mib"] == 50 + 330
    assert measured["runtime_memory_mib"] == round(50 + 330 - 40.25, 1)


# A process of its own


def test_a_file_is_measured_in_batches_of_1_and_32_on_one_thread(path: Path) -> None:
    measured = measure_latency_in_fresh_process(path)

    times = ["median_ms", "p25_ms", "p75_ms", "runs"]
    assert {name: list(value) if isinstance(value, dict) else None for name, value in measured.items()} == {
        "runtime": None,
        "num_threads": None,
        "batch_1": times,
        "batch_32": times,
        "peak_memory_mib": None,
        "runtime_memory_mib": None,
    }
    assert measured["runtime"] == f"ai-edge-litert {version('ai-edge-litert')}"
    assert measured["num_threads"] == 1
    for batch in ("batch_1", "batch_32"):
        assert 0 <= measured[batch]["p25_ms"] <= measured[batch]["median_ms"] <= measured[batch]["p75_ms"]
        assert 30 <= measured[batch]["runs"] <= 1000
    assert 0 < measured["runtime_memory_mib"] < measured["peak_memory_mib"] < 300


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.tflite: its latency could not be measured: error: .*: not found"):
        measure_latency_in_fresh_process(tmp_path / "none.tflite")


def test_the_command_line_prints_json_and_an_error_in_one_line(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stages.lib.litert.latency"]

    good = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True)
    bad = subprocess.run([*command, str(tmp_path / "none")], capture_output=True, text=True, check=False)

    assert json.loads(good.stdout)["num_threads"] == 1
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr == f"error: {tmp_path}/none: not found; run `dvc repro` to make it\n"
