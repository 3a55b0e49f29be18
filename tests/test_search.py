"""The search on a crumb of the real data: real trainings, real kills, a real database."""

import csv
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
import psycopg
import pytest
from optuna.storages._rdb.models import TrialModel
from pipeline import commit, dvc, edit_params, require_program, run, run_commands

from stages.tools.search import open_storage, open_study
from stages.tools.search.space import SearchParams
from stages.tools.search.trial import is_diverged

ROOT = Path(__file__).parents[1]
SEARCH = [sys.executable, "-m", "stages.tools.search"]
HOPELESS = 1e-09


@dataclass(frozen=True)
class Searched:
    """A clone in which a search with two workers was killed in the middle of two trainings, and then run again."""

    folder: Path
    survivors: list[str]
    resumed: set[str]
    printed: str


@contextmanager
def searching(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Starts a search, and ends it after the block in any case."""
    process = subprocess.Popen(
        [*SEARCH, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def hear_ctrl_c() -> None:
    """Undoes what a shell does to its background jobs, where these tests may run, too: they do not hear Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_until(holds: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def list_running(folder: Path) -> list[str]:
    """Lists the processes that work on the trials of `folder`."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.cwd().startswith(str(folder / ".dvc/tmp/search")):
                found.append(" ".join(process.cmdline()))
    return found


def find_trainings(folder: Path) -> list[psutil.Process]:
    """Finds the trainings of the trials of `folder` that have saved a checkpoint."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            trial = Path(process.cwd())
            is_training = trial.parent == folder / ".dvc/tmp/search" and "stages.train" in process.cmdline()
            if is_training and any((trial / "data/checkpoints").glob("train@*.npz")):
                found.append(process)
    return found


def suspend_trainings(folder: Path) -> int:
    """Suspends those trainings, so that one that is ahead waits for the others; counts them."""
    trainings = find_trainings(folder)
    for training in trainings:
        training.suspend()
    return len(trainings)


def has_started(folder: Path) -> bool:
    return any("stages.train" in command for command in list_running(folder))


def find_slowly(cls: Any, trial_id: int, session: Any, for_update: bool = False) -> Any:
    """Reads a trial as Optuna does; others have time to read it, too, before it is changed."""
    query = session.query(cls).filter(cls.trial_id == trial_id)
    trial = (query.with_for_update() if for_update else query).one()
    time.sleep(0.2)
    return trial


def read_trials(folder: Path) -> list[dict[str, str]]:
    with (folder / "data/search/trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def configure(folder: Path, epochs: int, **search: object) -> None:
    """Commits a space of two parameters, one value of which is hopeless."""
    space = {"train.learning_rate": [0.003, HOPELESS], "models.tiny.dense": [[16], [24]]}
    edit_params(folder, train={"epochs": epochs}, search={"candidate": "tiny-none", "space": space, **search})
    commit(folder)


@pytest.fixture(scope="module")
def searched(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    folder = tmp_path_factory.mktemp("search") / "clone"
    shutil.copytree(finished, folder, symlinks=True)
    # With this seed the first two draws are good and the third is hopeless; trials 0 and 1 are made again as 2 and 3.
    # Two trials have to be whole before one is stopped: else the better of the two good ones could stop the other.
    configure(folder, epochs=20, trials=3, seed=2, startup_trials=2, warmup_fraction=0)
    try:
        with searching(folder, "--workers", "2"):
            wait_until(lambda: suspend_trainings(folder) == 2)
    finally:
        for training in find_trainings(folder):
            training.resume()  # else it could not even end
    with suppress(AssertionError):
        wait_until(lambda: not list_running(folder), seconds=5)
    survivors = list_running(folder)

    resumed = set()
    with searching(folder, "--workers", "2") as process:
        while process.poll() is None:
            for log in folder.glob(".dvc/tmp/search/*.log"):
                with suppress(FileNotFoundError):
                    if "goes on after epoch" in log.read_text():
                        resumed.add(log.stem.split("-")[-1])
            time.sleep(0.2)
        printed = process.communicate()[0]
    assert process.returncode == 0, printed
    return Searched(folder, survivors, resumed, printed)


def test_no_training_outlives_a_search_that_is_killed(searched: Searched) -> None:
    assert searched.survivors == []
    assert list_running(searched.folder) == []


def test_a_killed_search_goes_on_with_its_trials_and_makes_as_many_as_were_asked_for(searched: Searched) -> None:
    assert [row["trial"] for row in read_trials(searched.folder)] == ["2", "3", "4"]
    assert searched.resumed == {"2", "3"}


def test_a_hopeless_training_is_stopped_early(searched: Searched) -> None:
    first, second, hopeless = read_trials(searched.folder)
    assert (first["state"], second["state"], hopeless["state"]) == ("complete", "complete", "pruned")
    assert float(hopeless["train.learning_rate"]) == HOPELESS
    assert re.fullmatch(r"below the median after \d+ % of the training", hopeless["reason"])
    assert float(hopeless["val_accuracy"]) < float(first["val_accuracy"])


def test_every_whole_trial_is_an_experiment_with_its_parameters_and_its_accuracy(searched: Searched) -> None:
    shown = dvc(searched.folder, "exp", "show", "--csv")
    experiments = {row["Experiment"]: row for row in csv.DictReader(shown.splitlines()) if row["Experiment"]}
    whole = [row for row in read_trials(searched.folder) if row["state"] == "complete"]
    assert {name for name in experiments if name.startswith("search-")} == {row["experiment"] for row in whole}
    for row in whole:
        experiment = experiments[row["experiment"]]
        assert float(experiment["data/select_model/metrics.json:val_accuracy"]) == pytest.approx(
            float(row["val_accuracy"]), abs=1e-5
        )
        assert json.loads(experiment["models.tiny.dense"]) == json.loads(row["models.tiny.dense"])
        assert experiment["train.learning_rate"] == row["train.learning_rate"]


def test_the_best_trial_is_applied_by_the_command_that_is_printed_and_needs_no_training(
    searched: Searched, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(searched.folder, tmp_path / "copy", symlinks=True))
    best = max(read_trials(copy), key=lambda row: (row["state"] == "complete", float(row["val_accuracy"])))
    (command,) = re.findall(r"^to have its parameters and its model: dvc (exp apply .*)$", searched.printed, re.M)
    assert command.endswith(best["experiment"])

    dvc(copy, *command.split())

    printed = dvc(copy, "repro", "train@tiny-none")
    assert "Data and pipelines are up to date" in printed
    metrics = json.loads((copy / "data/train/tiny-none/metrics.json").read_text())
    assert metrics["val_accuracy"] == float(best["val_accuracy"])


def test_output_that_is_no_terminal_is_a_line_for_each_trial(searched: Searched) -> None:
    trials = [line for line in searched.printed.splitlines() if line.startswith("trial ")]
    assert sorted(line.split(":")[0] for line in trials) == ["trial 2", "trial 3", "trial 4"]
    assert "\r" not in searched.printed
    assert "Warning" not in searched.printed


def test_pictures_are_drawn_anew_on_request(searched: Searched) -> None:
    folder = searched.folder / "data/search"
    before = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    assert sorted(before) == ["history.png", "importances.png", "slices.png"]
    for name in before:
        (folder / name).unlink()

    printed = run(searched.folder, *SEARCH, "--plots")

    assert {path.name: path.read_bytes() for path in folder.glob("*.png")} == before
    assert "trial 4" not in printed


@pytest.mark.parametrize("command", ["search", "search-workers"])
def test_a_search_that_is_complete_starts_nothing_and_says_what_came_out(searched: Searched, command: str) -> None:
    printed = run_commands(searched.folder, command).splitlines()
    assert printed == ["goes on with 3 of 3 trials", *searched.printed.splitlines()[-2:]]


@pytest.mark.usefixtures("tmp_dir")
@pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed", "ignore::optuna.exceptions.ExperimentalWarning")
def test_a_trial_that_waits_is_given_to_one_worker_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrialModel, "find_or_raise_by_id", classmethod(find_slowly))
    workers = 4
    study = optuna.create_study(storage=open_storage(None))
    for number in range(workers):
        study.enqueue_trial({"number": number})

    def take() -> int:
        return optuna.load_study(study_name=study.study_name, storage=open_storage(None)).ask().number

    with ThreadPoolExecutor(workers) as pool:
        taken = [pool.submit(take) for _ in range(workers)]

    assert sorted(future.result() for future in taken) == list(range(workers))


@pytest.mark.usefixtures("tmp_dir")
@pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed", "ignore::optuna.exceptions.ExperimentalWarning")
def test_no_trial_is_stopped_within_the_share_of_the_training_that_says_little() -> None:
    search = SearchParams("tiny-none", trials=2, seed=0, startup_trials=1, warmup_fraction=0.25, space={})
    study = open_study(open_storage(None), "some", search)
    good, bad = study.ask(), study.ask()
    for step in range(1, 11):
        good.report(0.9, step)
    study.tell(good, 0.9)

    is_stopped = []
    for step in range(1, 4):  # tenths of the training
        bad.report(0.1, step)
        is_stopped.append(bad.should_prune())

    assert is_stopped == [False, False, True]


def test_a_search_leaves_nothing_in_git(searched: Searched) -> None:
    assert run(searched.folder, "git", "status", "--porcelain") == ""
    assert not (searched.folder / ".dvc/tmp/search").exists()


def test_a_trial_that_fails_ends_the_search_and_is_given_up_when_it_fails_again(copy: Path) -> None:
    (copy / "stages/train.py").write_text("raise SystemExit('error: out of memory')\n")
    configure(copy, epochs=2, trials=1)

    printed = run(copy, *SEARCH, status=1)
    assert printed.startswith("error: trial 0: out of memory; what it printed is in .dvc/tmp/search/search-tiny-none-")

    printed = run(copy, *SEARCH)
    assert re.search("^trial 1: stopped early: out of memory, ", printed, re.M)
    assert [(row["trial"], row["state"], row["reason"]) for row in read_trials(copy)] == [
        ("1", "pruned", "out of memory")
    ]


def test_ctrl_c_ends_the_trainings_and_says_how_to_go_on(copy: Path) -> None:
    configure(copy, epochs=1000, trials=2)
    with searching(copy, "--workers", "2") as process:
        wait_until(lambda: has_started(copy))
        process.send_signal(signal.SIGINT)
        printed = process.communicate(timeout=60)[0]

    assert process.returncode == 130
    assert printed == "interrupted: the same command goes on with this search\n"
    assert list_running(copy) == []


@pytest.fixture
def database() -> Iterator[str]:
    """Is the URL of a PostgreSQL of its own, with a password."""
    initdb, postgres = (require_program(name, "postgresql") for name in ("initdb", "postgres"))
    folder = Path(tempfile.mkdtemp())  # not in tmp_path, which other users may not enter
    user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses root
    if user:
        shutil.chown(folder, user)
    (folder / "password").write_text("secret")
    (folder / "password").chmod(0o644)
    options = ["--username=search", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync"]
    subprocess.run([initdb, *options, folder / "data"], check=True, capture_output=True, user=user, cwd=folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-c", f"port={port}"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [postgres, "-D", folder / "data", *settings], stdout=log, stderr=log, user=user, cwd=folder
        )
    address = f"search:secret@127.0.0.1:{port}/postgres"

    def answers() -> bool:
        with suppress(psycopg.OperationalError), psycopg.connect(f"postgresql://{address}"):
            return True
        return False

    try:
        wait_until(answers, seconds=30)
        yield f"postgresql+psycopg://{address}"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)
        shutil.rmtree(folder)


def test_machines_share_a_search_and_one_makes_again_what_another_does_not_go_on_with(
    copy: Path, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(copy, epochs=3, trials=2)  # other parameters than those that the commit has trained with
    other = Path(shutil.copytree(copy, tmp_path / "other", symlinks=True))
    with searching(copy, "--storage", database) as asleep:
        wait_until(lambda: has_started(copy))
        asleep.send_signal(signal.SIGSTOP)
        with searching(other, "--storage", database) as awake:
            wait_until(lambda: has_started(other))
            with psycopg.connect(  # ten minutes later
                database.replace("+psycopg", ""), options="-c statement_timeout=60s"
            ) as connection:
                connection.execute(
                    "UPDATE trial_heartbeats SET heartbeat = heartbeat - interval '10 minutes' "
                    "WHERE trial_id = (SELECT min(trial_id) FROM trials)"
                )
            printed = awake.communicate(timeout=600)[0]
        asleep.send_signal(signal.SIGCONT)
        printed_late = asleep.communicate(timeout=60)[0]

    assert awake.returncode == 0, printed
    assert asleep.returncode == 0, printed_late
    assert "search-" not in run(copy, "git", "for-each-ref", "refs/exps")
    trials = read_trials(other)
    assert [row["state"] for row in trials] == ["complete", "complete"]
    assert {row["place"] for row in trials} == {f"{socket.gethostname()}:{other}"}
    assert [row["trial"] for row in trials] == ["1", "2"]  # 0 is made again as 2
    monkeypatch.setenv("SEARCH_DATABASE", database)
    printed = run_commands(copy, "search-machines")
    assert read_trials(copy) == trials
    assert re.search(
        rf"it is on \S+:{other}: there `dvc exp push REMOTE search-\S+`, here `dvc exp pull REMOTE", printed
    )


def test_machines_that_start_at_once_do_not_stumble_over_the_tables_of_each_other(
    tmp_path: Path, database: str
) -> None:
    code = f"""
import sys
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, {str(ROOT)!r})
from stages.tools.search import open_storage
with ThreadPoolExecutor(4) as pool:
    print([storage.get_all_studies() for storage in pool.map(open_storage, [{database!r}] * 4)])
"""
    assert run(tmp_path, sys.executable, "-W", "ignore", "-c", code) == "[[], [], [], []]\n"


def test_a_database_that_does_not_answer_is_one_line_without_the_password(copy: Path) -> None:
    printed = run(copy, *SEARCH, "--storage", "postgresql+psycopg://me:secret@127.0.0.1:1/db", status=1)
    assert printed.startswith("error: --storage: postgresql+psycopg://me:***@127.0.0.1:1/db: connection failed")
    assert "secret" not in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgres", "error: --storage: the URL: Could not parse SQLAlchemy URL"),
        ("mysql://me:secret@host/db", "error: --storage: mysql://me:***@host/db: No module named 'MySQLdb'"),
    ],
)
def test_a_url_that_names_no_database_is_refused_in_one_line(finished: Path, url: str, message: str) -> None:
    printed = run(finished, *SEARCH, "--storage", url, "--plots", status=1)
    assert printed.startswith(message)
    assert "secret" not in printed
    assert len(printed.splitlines()) == 1


def test_changes_that_trials_would_not_see_are_refused(copy: Path) -> None:
    edit_params(copy, train={"epochs": 3})
    (copy / "stages/new.py").touch()
    printed = run(copy, *SEARCH, status=1)
    assert printed == (
        "error: params.yaml, stages/new.py: changed since the last commit, which is what trials run; "
        "commit the change or undo it\n"
    )


def test_images_that_are_not_in_the_cache_are_asked_for_before_any_trial(copy: Path) -> None:
    shutil.rmtree(copy / ".dvc/cache")
    assert run(copy, *SEARCH, status=1).startswith("error: data/prepare: not in the DVC cache; run `dvc repro prepare`")


def test_a_folder_that_is_no_repository_is_refused(tmp_path: Path, copy: Path) -> None:
    shutil.copytree(copy / "stages", tmp_path / "plain/stages")
    shutil.copy(copy / "params.yaml", tmp_path / "plain")
    printed = run(tmp_path / "plain", *SEARCH, status=1)
    assert printed == "error: no Git and DVC repository here; run this from the top of the clone\n"


def test_a_second_search_in_a_clone_is_refused(copy: Path) -> None:
    with (copy / ".dvc/tmp/search.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        printed = run(copy, *SEARCH, status=1)
    assert printed == "error: a search runs here already; use its --workers, or another clone\n"


def test_an_unknown_candidate_is_refused(copy: Path) -> None:
    edit_params(copy, search={"candidate": "tinny-none"})
    printed = run(copy, *SEARCH, status=1)
    assert "search.candidate: unknown name 'tinny'; did you mean 'tiny'?" in printed
    assert "Traceback" not in printed


def test_a_training_whose_loss_is_no_number_is_told_from_other_failures() -> None:
    from stages.lib.errors import UserError
    from stages.lib.training.progress import Progress

    with pytest.raises(UserError) as caught:
        Progress("tiny-none", 2, 3).on_epoch_end(0, {"loss": float("nan")})
    assert is_diverged(str(caught.value))
    assert not is_diverged("[Errno 28] No space left on device")
