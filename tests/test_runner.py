import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from stages import report_uncaught
from stages.lib.errors import UserError
from stages.lib.running import runner
from stages.lib.running.guard import hold_lock, name_lock
from stages.lib.running.runner import name_stage, run_stage
from stages.lib.storage.files import write_bytes

ROOT = Path(__file__).parents[1]
SECOND_WORKER = {"cluster": {"worker": ["host0:1", "host1:1"]}, "task": {"type": "worker", "index": 1}}


@pytest.fixture(autouse=True)
def stage(tmp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Is the name of the stage that this process seems to run, in an empty folder."""
    assert tmp_dir.is_dir()
    monkeypatch.setattr(sys, "argv", ["stages/train.py", "third", "none"])
    return "train@third-none"


def do_nothing() -> None:
    """Does the work of a stage."""


def failing(error: BaseException) -> Callable[[], None]:
    """Is the work of a stage that fails."""

    def main() -> None:
        raise error

    return main


def refuse_lock(stage: str) -> None:
    """Asserts that the lock of a stage is held."""
    with pytest.raises(UserError, match="already running"), hold_lock(name_lock(stage), stage):
        pass


def list_files() -> list[str]:
    return sorted(str(path) for path in Path("data").rglob("*") if path.is_file())


# Errors


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("train.epochs: got 0"), "error: train.epochs: got 0"),
        (UserError("no source:\n  - one\n  - two"), "error: no source:\n  - one\n  - two"),
        *(
            (
                OSError(number, "No", "data/x"),
                f"error: [Errno {number}] No: 'data/x'; mend it and run `dvc repro` again",
            )
            for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
        ),
    ],
)
def test_what_the_user_can_mend_is_one_message_and_leaves_no_record(error: Exception, message: str, stage: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run_stage(failing(error))

    assert caught.value.code == message  # which Python prints, and then exits with status 1
    assert list_files() == [f"data/running/{stage}"]


def test_ctrl_c_is_a_line_that_says_how_to_go_on(capsys: pytest.CaptureFixture[str], stage: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run_stage(failing(KeyboardInterrupt()))

    assert caught.value.code == 130
    assert capsys.readouterr().err == (
        "interrupted: `dvc repro` goes on with this stage; a training resumes after its last finished epoch\n"
    )
    assert list_files() == [f"data/running/{stage}"]


def test_ctrl_c_while_a_stage_still_imports_is_a_line_too(tmp_dir: Path) -> None:
    (tmp_dir / "numpy.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)")
    with subprocess.Popen(
        [sys.executable, "-m", "stages.prepare"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_dir)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a job in the background has none
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=20)

    assert (process.returncode, shown) == (-signal.SIGINT, "interrupted: nothing was changed\n")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("import no_such_package.module", "error: no_such_package is not installed for "),
        ("raise MemoryError", "error: memory is short; end other programs, or raise its limit"),
        ("raise ImportError('x.so: failed to map segment from shared object')", "error: memory is short; end"),
    ],
)
def test_what_the_user_can_mend_while_a_stage_still_imports_is_a_line_too(tmp_dir: Path, fault: str, said: str) -> None:
    (tmp_dir / "numpy.py").write_text(fault)

    result = subprocess.run(
        [sys.executable, "-m", "stages.prepare"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_dir)},
        capture_output=True,
        text=True,
    )

    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith(said)


def test_the_command_that_installs_is_that_of_the_readme_and_a_missing_stage_is_a_fault(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("stages.absent", "_sqlite3", "yaml"):
        report_uncaught(ModuleNotFoundError, ModuleNotFoundError("No module", name=name), None)

    *faults, line = capsys.readouterr().err.splitlines()
    assert faults == ["ModuleNotFoundError: No module"] * 2
    assert line.startswith("error: yaml is not installed for ")
    assert f"\n{line.split('`')[-2]} && " in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), FileNotFoundError(2, "x"), OSError("x")])
def test_a_fault_of_the_program_keeps_its_traceback(error: Exception, stage: str) -> None:
    with pytest.raises(type(error)) as caught:
        run_stage(failing(error))

    assert caught.value is error
    assert list_files() == [f"data/running/{stage}"]


def test_a_record_that_does_not_fit_on_the_disk_is_an_error_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, _: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(runner, "write_json", fail)

    with pytest.raises(SystemExit, match=r"^error: .*No space left on device: 'data/timing/train@third-none\.json'"):
        run_stage(do_nothing)


# The record


@pytest.mark.parametrize(
    ("argv", "stage"),
    [
        (["/somewhere/stages/prepare.py"], "prepare"),
        (["stages/preview.py", "mild"], "preview@mild"),
        (["stages/train.py", "third", "none", "42"], "train@third-none-42"),
        (["stages/evaluate.py", "third-none", "42"], "evaluate@third-none-42"),
    ],
)
def test_a_stage_is_named_as_dvc_names_it(argv: list[str], stage: str) -> None:
    assert name_stage(argv) == stage


def test_the_record_holds_seconds_since_the_process_started_and_peak_memory(
    monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    started = psutil.Process().create_time()
    monkeypatch.setattr(time, "time", lambda: started + 12.34)
    monkeypatch.setattr(runner, "read_memory_mib", lambda name: {"VmHWM": 3.99}[name])

    run_stage(do_nothing)

    record = json.loads(Path(f"data/timing/{stage}.json").read_text())
    assert record == {"stage": stage, "seconds": 12.3, "peak_memory_mib": 3}


# One at a time


def test_a_stage_holds_its_lock_until_its_record_is_written_and_not_after(
    monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(runner, "write_json", lambda *_: refuse_lock(stage))

    run_stage(lambda: refuse_lock(stage))

    with hold_lock(name_lock(stage), stage):
        pass


def test_a_stage_that_runs_already_is_refused_before_it_does_anything(
    monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setenv("TF_CONFIG", json.dumps(SECOND_WORKER))  # which says nothing to a stage that has no workers
    calls: list[str] = []

    with (
        hold_lock(name_lock(stage), stage),
        pytest.raises(SystemExit, match=r"^error: train@third-none: already running here, as process \d+; wait"),
    ):
        run_stage(lambda: calls.append("main"))

    assert calls == []
    assert list_files() == [f"data/running/{stage}"]


def test_a_stage_runs_beside_the_same_stage_of_another_model() -> None:
    calls: list[str] = []

    with hold_lock(name_lock("train@third-flip"), "train@third-flip"):
        run_stage(lambda: calls.append("main"))

    assert calls == ["main"]


def test_a_process_that_writes_no_files_runs_beside_the_one_that_does_and_leaves_no_record(stage: str) -> None:
    calls: list[str] = []

    with hold_lock(name_lock(stage), stage):
        run_stage(lambda: calls.append("main"), writes=lambda: False)

    assert calls == ["main"]
    assert list_files() == [f"data/running/{stage}"]


def test_a_process_that_cannot_tell_whether_it_writes_is_refused_before_it_does_anything() -> None:
    calls: list[str] = []

    def read_place() -> bool:
        raise UserError("TF_CONFIG: got worker 1")

    with pytest.raises(SystemExit, match=r"^error: TF_CONFIG: got worker 1$"):
        run_stage(lambda: calls.append("main"), writes=read_place)

    assert calls == []


# Not without dvc


def test_a_stage_that_dvc_runs_ends_with_it_and_frees_its_lock() -> None:
    Path("wait.py").write_text(
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
            refuse_lock("wait")
            dvc.kill()
            _, shown = dvc.communicate(timeout=10)  # the stage holds the other ends of the pipes
        finally:
            dvc.kill()
            with suppress(ProcessLookupError):
                os.kill(stage, signal.SIGKILL)

    assert shown == "error: the `dvc` that started this stage has ended; `dvc repro` goes on with it\n"
    with hold_lock(name_lock("wait"), "wait"):
        pass


def test_a_stage_that_dvc_runs_is_watched_and_another_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[object] = []
    monkeypatch.setattr(runner, "end_with", watched.append)
    for dvc in (None, psutil.Process()):
        monkeypatch.setattr(runner, "find_dvc", lambda dvc=dvc: dvc)
        run_stage(do_nothing)

    assert watched == [psutil.Process()]


# Numbers of later stages


@pytest.mark.parametrize(
    ("arguments", "is_kept"),
    [
        (["stages/train.py", "third", "none"], {"select_model": False, "frontier": False, "compare": False}),
        (["stages/select_model.py"], {"select_model": True, "frontier": False, "compare": False}),
        (["stages/finish.py", "42"], {"select_model": True, "frontier": False, "compare": False}),
        (["stages/evaluate.py", "finished", "42"], {"select_model": True, "frontier": False, "compare": False}),
        (["stages/prune.py", "finished-lamp", "42"], {"select_model": True, "frontier": False, "compare": False}),
        (["stages/ship.py"], {"select_model": True, "frontier": True, "compare": False}),
        (["stages/report.py"], {"select_model": True, "frontier": True, "compare": True}),
    ],
)
def test_numbers_of_stages_that_follow_are_removed_and_no_others(
    arguments: list[str], is_kept: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", arguments)
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    numbers = {
        "select_model": ["metrics.json"],
        "frontier": ["frontier.csv"],
        "compare": ["metrics.json", "curves.csv"],
    }
    files = [Path("data", stage, name) for stage, names in numbers.items() for name in names]
    for path in [*files, Path("data/compare/grid.md")]:
        write_bytes(path, b"of an earlier model")

    run_stage(do_nothing)

    assert [path.exists() for path in files] == [is_kept[path.parent.name] for path in files]
    assert Path("data/compare/grid.md").exists()


def test_stage_that_fails_removes_no_numbers() -> None:
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    write_bytes(Path("data/compare/metrics.json"), b"of the model that still is there")

    with pytest.raises(SystemExit):
        run_stage(failing(UserError("train.epochs: got 0")))

    assert Path("data/compare/metrics.json").exists()


def test_a_stage_that_has_done_its_work_succeeds_whatever_became_of_the_pipeline_meanwhile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["stages/train.py", "third", "none"])
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    Path("data/compare/metrics.json").mkdir(parents=True)  # nothing that can be removed as a file

    run_stage(lambda: write_bytes(Path("dvc.yaml"), b"stages: [half"))

    assert (
        "data/compare/metrics.json: belongs to an earlier run, but cannot be removed: Is a dir"
        in capsys.readouterr().err
    )
    assert Path("data/timing/train@third-none.json").exists()


def test_a_broken_pipeline_ends_a_stage_before_its_work() -> None:
    Path("dvc.yaml").write_text("stages: [half")
    with pytest.raises(SystemExit, match=r"dvc\.yaml"):
        run_stage(failing(AssertionError("it has begun")))
