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
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
import psutil
import psycopg
import pytest
import yaml
from optuna.storages._rdb.models import TrialModel
from pipeline import commit, dvc, edit_params, read_block, require_program, run, run_commands
from sections import replace
from servers import find_free_ports

from stages.lib.errors import UserError
from stages.lib.training.divergence import DivergedError
from stages.tools.search.__main__ import main
from stages.tools.search.clone import open_repository
from stages.tools.search.space import load_search_params
from stages.tools.search.study import name_study, open_storage, open_study

ROOT = Path(__file__).parents[1]
SEARCH = [sys.executable, "-m", "stages.tools.search"]
HOPELESS = 1e-09
NO_URL = "expected a URL as postgresql+psycopg://user:password@host:port/name"
pytestmark = pytest.mark.filterwarnings(
    "ignore:Heartbeat of storage is supposed", "ignore::optuna.exceptions.ExperimentalWarning"
)


@dataclass(frozen=True)
class Searched:
    """A clone in which a search with two workers was killed in the middle of two trainings, and then run again."""

    folder: Path
    survivors: list[psutil.Process]
    resumed: set[str]
    printed: str


@contextmanager
def searching(folder: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """Starts a search, and ends it after the block in any case."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
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


def wait_until(holds: Callable[[], bool], seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def list_processes(folder: Path, module: str = "") -> list[psutil.Process]:
    """Lists the processes that work on the trials of `folder`, or those of them that run a module."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if Path(process.cwd()).is_relative_to(folder / ".dvc/tmp/search") and module in " ".join(process.cmdline()):
                found.append(process)
    return found


def suspend_trainings(folder: Path) -> int:
    """Suspends the trainings that have saved a checkpoint, so that those that are ahead wait; counts them."""
    ahead = [
        process
        for process in list_processes(folder, "stages.train")
        if list(Path(process.cwd()).glob("data/checkpoints/train@*.npz"))
    ]
    for training in ahead:
        training.suspend()
    return len({training.cwd() for training in ahead})


def find_slowly(cls: Any, trial_id: int, session: Any, for_update: bool = False) -> Any:
    """Reads a trial as Optuna does; others have time to read it, too, before it is changed."""
    query = session.query(cls).filter(cls.trial_id == trial_id)
    trial = (query.with_for_update() if for_update else query).one()
    time.sleep(0.2)
    return trial


def read_trials(folder: Path) -> list[dict[str, str]]:
    with (folder / "data/search/trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def configure(folder: Path, epochs: int, more: Mapping[str, Any] | None = None, **search: Any) -> None:
    """Commits a space of two learning rates, one of which is hopeless, and `more` parameters."""
    space = {"train.learning_rate": [0.003, HOPELESS], **(more or {})}
    edit_params(folder, train={"epochs": epochs}, search={"candidate": "tiny-none", "space": space, **search})
    commit(folder)


@pytest.fixture(scope="module")
def searched(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    folder = tmp_path_factory.mktemp("search") / "clone"
    shutil.copytree(finished, folder, symlinks=True)
    # With this seed the first two draws are good and the third is hopeless; trials 0 and 1 are made again as 2 and 3.
    # Two trials have to be whole before one is stopped: else the better of the two good ones could stop the other.
    widths = {"models.tiny.dense": [[16], [24]]}
    edit_params(folder, study={"seeds": [42, 7]})  # of which trials have the first
    configure(folder, epochs=20, more=widths, trials=3, seed=2, startup_trials=2, warmup_fraction=0)
    try:
        with searching(folder, *SEARCH, "--workers", "2"):
            wait_until(lambda: suspend_trainings(folder) == 2)
    finally:
        for training in list_processes(folder, "stages.train"):
            training.resume()  # else it could not even end
    with suppress(AssertionError):
        wait_until(lambda: not list_processes(folder), seconds=5)
    survivors = list_processes(folder)

    resumed = set()
    with searching(folder, "bash", "-c", read_block("command: search-workers")) as process:
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
    assert list_processes(searched.folder) == []


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
        assert [json.loads(experiment[f"{section}.seeds"]) for section in ("study", "prune", "shrink")] == [[42]] * 3
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

    assert "Data and pipelines are up to date" in dvc(copy, "repro", "train@tiny-none-42")
    metrics = json.loads((copy / "data/train/tiny-none/42/metrics.json").read_text())
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


def test_a_search_that_is_complete_starts_nothing_and_says_what_came_out(searched: Searched) -> None:
    printed = run_commands(searched.folder, "search").splitlines()
    assert printed == ["goes on with 3 of 3 trials", *searched.printed.splitlines()[-2:]]


def test_a_search_leaves_nothing_in_git(searched: Searched) -> None:
    assert run(searched.folder, "git", "status", "--porcelain") == ""
    assert not (searched.folder / ".dvc/tmp/search").exists()


@pytest.mark.usefixtures("tmp_dir")
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
def test_no_trial_is_stopped_within_the_share_of_the_training_that_says_little() -> None:
    search = replace(load_search_params(ROOT / "params.yaml"), startup_trials=1, warmup_fraction=0.25)
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


def test_a_study_goes_on_while_nothing_changes_that_a_training_depends_on(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy)

    def name() -> str:
        return name_study(load_search_params(), yaml.safe_load(Path("params.yaml").read_text()))

    names = [name()]
    edit_params(copy, search={"trials": 9}, preview={"versions": 3}, export={"weight_bits": 4})
    (copy / "stages/report.py").write_text("")
    commit(copy)
    assert name() == names[0]
    edit_params(copy, study={"seeds": [42, 7]})  # a trial has the first one alone
    assert name() == names[0]
    edit_params(copy, study={"seeds": [7, 42]}, prune={"seeds": [7]}, shrink={"seeds": [7]})
    names.append(name())
    edit_params(copy, study={"keep_fraction": 0.4})
    names.append(name())
    edit_params(copy, search={"seed": 9})
    names.append(name())
    edit_params(copy, train={"learning_rate": 0.002})
    names.append(name())
    for path in ("stages/train.py", "data/leave_out.csv"):
        (copy / path).write_text("")
        commit(copy)
        names.append(name())
    assert len(set(names)) == len(names)


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


def test_a_training_whose_loss_is_no_number_is_told_from_other_failures() -> None:
    assert DivergedError.SIGN in str(DivergedError("tiny-none", float("nan"), 1))
    assert DivergedError.SIGN not in "[Errno 28] No space left on device"


def test_ctrl_c_ends_the_trainings_and_says_how_to_go_on(copy: Path) -> None:
    configure(copy, epochs=1000, trials=2)
    with searching(copy, *SEARCH, "--workers", "2") as process:
        wait_until(lambda: bool(list_processes(copy, "stages.train")))
        process.send_signal(signal.SIGINT)
        printed = process.communicate(timeout=60)[0]

    assert process.returncode == 130
    assert printed == "interrupted: the same command goes on with this search\n"
    assert list_processes(copy) == []


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
    (port,) = find_free_ports(1)
    settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-c", f"port={port}"]
    address = f"search:secret@127.0.0.1:{port}/postgres"

    def answers() -> bool:
        with suppress(psycopg.OperationalError), psycopg.connect(f"postgresql://{address}"):
            return True
        return False

    command, quiet = [postgres, "-D", str(folder / "data"), *settings], subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, user=user, cwd=folder) as server:
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
    with searching(copy, *SEARCH, "--storage", database) as asleep:
        wait_until(lambda: bool(list_processes(copy, "stages.train")))
        asleep.send_signal(signal.SIGSTOP)
        with searching(other, *SEARCH, "--storage", database) as awake:
            wait_until(lambda: bool(list_processes(other, "stages.train")))
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
from stages.tools.search.study import open_storage
with ThreadPoolExecutor(4) as pool:
    print([storage.get_all_studies() for storage in pool.map(open_storage, [{database!r}] * 4)])
"""
    assert run(tmp_path, sys.executable, "-W", "ignore", "-c", code) == "[[], [], [], []]\n"


@pytest.mark.usefixtures("tmp_dir")
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql+psycopg://me:secret@127.0.0.1:1/db", "postgresql+psycopg://me:***@127.0.0.1:1/db: connection"),
        ("mysql://me:secret@host/db", "mysql://me:***@host/db: No module named 'MySQLdb'"),
        ("postgresql+psycopg://127.0.0.1:1/db?password=secret", "postgresql+psycopg://127.0.0.1:1/db: connection"),
        ("mysql://host/{db}?password=secret", "mysql://host/%7Bdb%7D: No module named"),
        ("postgres", NO_URL),
        ("postgresql+psycopg://me:p@secret/word@127.0.0.1:1/db", NO_URL),
        ("postgresql+psycopg://me:se@cr:secret@127.0.0.1:1/db", NO_URL),
        ("postgresql+psycopg://m/e:secret@127.0.0.1:1/db", NO_URL),
        ("postgresql+psycopg://me:secret", NO_URL),
        ("postgresql+psycopg://me:\udcffsecret@127.0.0.1:1/db", NO_URL),
    ],
)
def test_a_database_that_does_not_answer_is_one_line_without_the_password(url: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        open_storage(url)
    assert str(caught.value).startswith(f"--storage: {message}")
    assert "secret" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.usefixtures("tmp_dir")
@pytest.mark.parametrize("is_encoded", [True, False])
@pytest.mark.parametrize("between", [*"/@:#%?{}é帽 '+&=\\", "%zz", "@x/y:", "://"])
def test_no_part_of_any_password_is_in_a_message(
    monkeypatch: pytest.MonkeyPatch, between: str, is_encoded: bool
) -> None:
    password = f"QXQ{between}ZJZ{between}KWK"
    text = quote(password, safe="") if is_encoded else password
    seen = []

    def refuse(*_: object, **options: str) -> None:
        seen.append(options["password"])
        given = options["password"]
        raise psycopg.OperationalError(f"no: {given} {given!r} {given!a} {quote(given)} {quote(given, safe='')}")

    monkeypatch.setattr(psycopg, "connect", refuse)
    with pytest.raises(UserError) as caught:
        open_storage(f"postgresql+psycopg://me:{text}@127.0.0.1:1/db")

    assert [part for part in ("QXQ", "ZJZ", "KWK") if part in str(caught.value)] == []
    if is_encoded:
        assert seen == [password]
        assert str(caught.value).startswith("--storage: postgresql+psycopg://me:***@127.0.0.1:1/db: no: *** ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--storage", ""], "got an empty one; is a variable not set?"),
        (["--plots", "--storage= "], "got an empty one; is a variable not set?"),
        (["--workers", ""], "argument --workers: invalid int value: ''"),
        (["postgresql://me:secret@host/db"], "unrecognized arguments: ***"),
        (["--storage", "postgresql://me:my", "secret@host/db"], "unrecognized arguments: ***"),
        (["--workers", "postgresql://me:secret@host/db"], "invalid int value: 'postgresql:// ***"),
    ],
)
def test_an_empty_or_misplaced_argument_ends_the_search_before_it_begins_and_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["search", *arguments])
    with pytest.raises((SystemExit, UserError)) as caught:
        main()
    shown = f"{caught.value}{''.join(capsys.readouterr())}"
    assert message in shown
    assert "secret" not in shown


def test_a_second_search_in_a_clone_is_refused(copy: Path) -> None:
    with (copy / "data/running/search").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        printed = run(copy, *SEARCH, status=1)
    assert re.fullmatch(
        "error: search: already running here, as process .*; use its --workers, or another clone\n", printed
    )


def test_trials_need_a_repository_whose_changes_are_committed_and_whose_images_are_cached(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no Git and DVC repository here"):
        open_repository()
    monkeypatch.chdir(copy)
    (copy / "stages/new.py").touch()
    with pytest.raises(UserError, match=r"^stages/new\.py: changed since the last commit"):
        open_repository()
    (copy / "stages/new.py").unlink()
    shutil.rmtree(copy / ".dvc/cache")
    with pytest.raises(UserError, match=r"^data/prepare: not in the DVC cache; run `dvc repro prepare`"):
        open_repository()
