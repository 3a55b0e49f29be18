import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from stages.lib.errors import UserError
from stages.lib.running import runner
from stages.lib.running.guard import hold_lock
from stages.lib.running.runner import run_stage

ROOT = Path(__file__).parents[1]


def run_failing(error: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a stage that raises `error`, a Python expression, as a process of its own."""
    (folder / "fail.py").write_text(
        "from stages.lib.errors import UserError\n"
        "from stages.lib.running.runner import run_stage\n"
        "def main():\n"
        f"    raise {error}\n"
        "run_stage(main)\n"
    )
    return subprocess.run(
        [sys.executable, "fail.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        ("UserError('train.epochs: got 0')", 1, "error: train.epochs: got 0\n"),
        ("UserError('no source:\\n  - one\\n  - two')", 1, "error: no source:\n  - one\n  - two\n"),
        (
            "OSError(28, 'No space left on device', 'data/x')",
            1,
            "error: [Errno 28] No space left on device: 'data/x'; mend it and run `dvc repro` again\n",
        ),
        (
            "PermissionError(13, 'Permission denied', 'y')",
            1,
            "error: [Errno 13] Permission denied: 'y'; mend it and run `dvc repro` again\n",
        ),
        (
            "KeyboardInterrupt",
            130,
            "interrupted: `dvc repro` goes on with this stage; a training resumes after its last finished epoch\n",
        ),
    ],
)
def test_what_the_user_can_mend_is_a_message_without_traceback_and_a_status(
    tmp_path: Path, error: str, status: int, message: str
) -> None:
    result = run_failing(error, tmp_path)

    assert (result.returncode, result.stderr, result.stdout) == (status, message, "")


@pytest.mark.parametrize(
    "error",
    [
        "ValueError('shape (3,)')",
        "KeyError('shape (3,)')",
        "FileNotFoundError(2, 'shape (3,)')",
        "OSError('shape (3,)')",
    ],
)
def test_a_fault_of_the_program_keeps_its_traceback(tmp_path: Path, error: str) -> None:
    result = run_failing(error, tmp_path)

    assert result.returncode == 1
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert "in main\n" in result.stderr
    assert "shape (3,)" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("error", ["UserError('x')", "OSError('x')", "KeyboardInterrupt", "ValueError('x')"])
def test_a_stage_that_fails_leaves_no_record(tmp_path: Path, error: str) -> None:
    run_failing(error, tmp_path)

    assert not (tmp_path / "data/timing").exists()


def test_a_stage_that_succeeds_goes_on(tmp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(sys, "argv", ["stages/train.py"])

    run_stage(lambda: calls.append("main"))

    assert calls == ["main"]
    assert (tmp_dir / "data/timing/train.json").is_file()


@pytest.mark.parametrize(
    ("argv", "stage"),
    [
        (["/somewhere/stages/prepare.py"], "prepare"),
        (["stages/preview.py", "mild"], "preview@mild"),
        (["stages/train.py", "third", "none"], "train@third-none"),
        (["stages/prune.py", "0.5"], "prune@0.5"),
    ],
)
def test_the_record_is_named_as_dvc_names_the_stage(
    tmp_dir: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], stage: str
) -> None:
    monkeypatch.setattr(sys, "argv", argv)

    run_stage(lambda: None)

    assert [str(path.relative_to(tmp_dir)) for path in tmp_dir.rglob("*.json")] == [f"data/timing/{stage}.json"]
    assert json.loads((tmp_dir / f"data/timing/{stage}.json").read_text())["stage"] == stage


def test_the_record_holds_seconds_since_the_process_started_and_peak_memory(
    tmp_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = psutil.Process().create_time()
    monkeypatch.setattr(sys, "argv", ["stages/train.py"])
    monkeypatch.setattr(time, "time", lambda: started + 12.34)
    monkeypatch.setattr(runner, "read_memory_mib", lambda name: {"VmHWM": 3.99}[name])

    run_stage(lambda: None)

    assert json.loads((tmp_dir / "data/timing/train.json").read_text()) == {
        "stage": "train",
        "seconds": 12.3,
        "peak_memory_mib": 3,
    }


def test_the_memory_is_that_of_the_stage_and_not_of_the_dvc_that_started_it(tmp_dir: Path) -> None:
    """Through bash, which becomes the command, and so hands on what `ru_maxrss` remembers."""
    script = "from stages.lib.running.runner import run_stage; run_stage(lambda: bytearray(30 * 2**20))"
    (tmp_dir / "train.py").write_text(script)
    mine = bytearray(300 * 2**20)

    command = ["bash", "-c", f"{sys.executable} train.py"]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})

    recorded_mib = json.loads((tmp_dir / "data/timing/train.json").read_text())["peak_memory_mib"]
    assert 30 < recorded_mib < len(mine) / 2**20


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO"])
@pytest.mark.usefixtures("tmp_dir")
def test_an_error_of_the_machine_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail() -> None:
        raise OSError(getattr(errno, name), "no")

    monkeypatch.setattr(sys, "argv", ["stages/train.py"])

    with pytest.raises(SystemExit, match=r"^error: .*; mend it and run `dvc repro` again$"):
        run_stage(fail)


@pytest.mark.usefixtures("tmp_dir")
def test_a_record_that_does_not_fit_on_the_disk_is_an_error_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, _: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(runner, "write_json", fail)
    monkeypatch.setattr(sys, "argv", ["stages/train.py"])

    with pytest.raises(SystemExit, match=r"^error: .*No space left on device: 'data/timing/train\.json'") as caught:
        run_stage(lambda: None)

    assert isinstance(caught.value.code, str)  # which Python prints, and then exits with status 1


def test_a_user_error_is_a_value_error() -> None:
    assert issubclass(UserError, ValueError)


# One at a time


def test_a_stage_holds_its_lock_while_it_runs_and_not_after(tmp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["stages/train.py", "third", "none"])
    refused = []

    def main() -> None:
        with pytest.raises(UserError) as caught, hold_lock("train@third-none"):
            pass
        refused.append(str(caught.value))

    run_stage(main)

    assert [message.split(";")[0] for message in refused] == [
        f"train@third-none: already running here, as process {os.getpid()}"
    ]
    assert [path.name for path in (tmp_dir / "data/running").iterdir()] == ["train@third-none"]
    with hold_lock("train@third-none"):
        pass


@pytest.mark.usefixtures("tmp_dir")
def test_the_lock_is_held_until_the_record_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["stages/train.py"])

    def write(*_: object) -> None:
        with pytest.raises(UserError, match="already running"), hold_lock("train"):
            pass

    monkeypatch.setattr(runner, "write_json", write)

    run_stage(lambda: None)


def test_a_stage_that_runs_already_is_refused_before_it_does_anything(
    tmp_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["stages/train.py", "third", "none"])
    calls: list[str] = []

    with (
        hold_lock("train@third-none"),
        pytest.raises(SystemExit, match=r"^error: train@third-none: already running here, as process \d+; wait"),
    ):
        run_stage(lambda: calls.append("main"))

    assert calls == []
    assert not (tmp_dir / "data/timing").exists()


@pytest.mark.usefixtures("tmp_dir")
def test_a_stage_runs_beside_the_same_stage_of_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["stages/train.py", "third", "none"])
    calls: list[str] = []

    with hold_lock("train@third-flip"):
        run_stage(lambda: calls.append("main"))

    assert calls == ["main"]


# Workers


def set_worker(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    config = {"cluster": {"worker": ["host0:1", "host1:1"]}, "task": {"type": "worker", "index": index}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    monkeypatch.setattr(sys, "argv", ["stages/train.py"])


def test_the_first_worker_takes_the_lock_and_writes_the_record(tmp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_worker(monkeypatch, 0)

    run_stage(lambda: None)

    files = [str(path.relative_to(tmp_dir)) for path in tmp_dir.rglob("*") if path.is_file()]
    assert sorted(files) == ["data/running/train", "data/timing/train.json"]


def test_another_worker_runs_beside_the_first_and_writes_nothing(
    tmp_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_worker(monkeypatch, 1)
    calls: list[str] = []

    with hold_lock("train"):
        run_stage(lambda: calls.append("main"))

    assert calls == ["main"]
    assert [path.name for path in tmp_dir.rglob("*") if path.is_file()] == ["train"]


@pytest.mark.usefixtures("tmp_dir")
def test_a_bad_tf_config_is_a_message_before_the_stage_does_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", "worker 1")
    calls: list[str] = []

    with pytest.raises(SystemExit, match=r"^error: TF_CONFIG: expected workers and a task.*; got worker 1 "):
        run_stage(lambda: calls.append("main"))

    assert calls == []


# Not without dvc


def test_a_stage_that_dvc_runs_ends_with_it_and_frees_its_lock(tmp_dir: Path) -> None:
    (tmp_dir / "wait.py").write_text(
        "import os, time\n"
        "from stages.lib.running.runner import run_stage\n"
        "def main():\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "run_stage(main)\n"
    )
    like_dvc = f"import subprocess; subprocess.run(['bash', '-c', '{sys.executable} wait.py; true'])"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DVC_STAGE": "wait"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", like_dvc], env=environment, stdout=pipe, stderr=pipe, text=True
    ) as dvc:
        assert dvc.stdout is not None
        stage = int(dvc.stdout.readline())
        try:
            with pytest.raises(UserError, match=f"^wait: already running here, as process {stage};"), hold_lock("wait"):
                pass
            dvc.kill()
            _, shown = dvc.communicate(timeout=10)  # the stage holds the other ends of the pipes
        finally:
            dvc.kill()
            with suppress(ProcessLookupError):
                os.kill(stage, signal.SIGKILL)

    assert shown == "error: the `dvc` that started this stage has ended; `dvc repro` goes on with it\n"
    with hold_lock("wait"):
        pass


def test_a_stage_that_dvc_runs_is_watched_and_another_one_is_not(
    tmp_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tmp_dir.is_dir()
    monkeypatch.setattr(sys, "argv", ["stages/train.py"])
    watched: list[object] = []
    monkeypatch.setattr(runner, "end_with", watched.append)
    for dvc in (None, psutil.Process()):
        monkeypatch.setattr(runner, "find_dvc", lambda dvc=dvc: dvc)
        run_stage(lambda: None)

    assert watched == [psutil.Process()]
