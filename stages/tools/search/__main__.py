"""Which hyperparameters suit a candidate best? Searches them with Optuna: `python -m stages.tools.search`.

The section `search` of params.yaml says which candidate, which parameters and how many trials. TPE proposes values near
those that did well; a training whose best accuracy so far is below the median of the others at the same point is
stopped early. What counts is the accuracy on validation images; the test images are not opened. A tool, not a stage.

A trial runs the pipeline's own stages with DVC in a clone of its own, and ends as an experiment of this repository:
`dvc exp show` lists it and `dvc exp apply` brings it back. One that was stopped early has no model, and is kept in
trials.csv only. Trials that were killed, or whose machine was, are made again, from their last finished epoch where
their checkpoint is at hand. A study goes on as long as the code, and the parameters that are not searched, stay.

Writes, in data/search/, which Git ignores:
    study.db: all studies that ran here (SQLite), unless --storage names a database.
    trials.csv: a row for each trial that ended.
    history.png, importances.png, slices.png: what the search found.
"""

import argparse
import fcntl
import hashlib
import json
import math
import shutil
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
import sqlalchemy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from stages.lib.errors import UserError
from stages.lib.params.load import load_params
from stages.lib.params.yaml_1_2 import read_yaml
from stages.lib.pictures.style import write_figure
from stages.lib.storage.files import write_csv
from stages.tools.search.space import FloatRange, IntegerRange, Range, SearchParams, check_values, load_search_params
from stages.tools.search.trial import (
    FOLDER,
    NUM_STEPS,
    Repository,
    checkpoint_path,
    compare_points,
    end_group,
    find_experiment,
    has_experiment,
    is_diverged,
    keep_experiment,
    make_clone,
    open_repository,
    read_accuracies,
    read_accuracy,
    read_failure,
    read_identity,
    remove_clone,
    run_git,
    start_training,
)

OUTPUT = Path("data/search")
LOCK = FOLDER.with_name("search.lock")
POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 15
GRACE_SECONDS = 60
"""Without a sign of life before another machine makes a trial again."""

MAX_FAILURES = 2
"""Of a trial, before it is ended: the first may be due to the machine, the second is taken to be due to its values."""

LOST = "Cannot tell a FAIL trial."
"""What Optuna says when a trial ends here that another machine makes again, as this one was silent for too long."""

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
STORAGE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)


class StoppedError(Exception):
    """A trial ended before its training did, and has to be made again."""


class SurplusError(Exception):
    """Several workers started the last trial at once, and this one is too many."""


class SeededSampler(BaseSampler):
    """Tree-structured Parzen estimator whose random numbers follow from the seed and how many draws came before.

    A trial that is made again is no new draw. So with one worker an interruption does not change what is drawn; several
    workers draw knowing other results, depending on which ends first.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.sampler = TPESampler()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Starts the random numbers of a trial."""
        first = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
        number = trial.number if first is None else first
        draws = sum(
            other.number < number and RetryHeartbeatStaleTrialCallback.retried_trial_number(other) is None
            for other in study.get_trials(deepcopy=False)
        )
        (seed,) = np.random.SeedSequence([self.seed, draws]).generate_state(1)
        self.sampler = TPESampler(seed=int(seed), multivariate=True)
        self.sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Passes the question on."""
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Passes the question on."""
        return self.sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Passes the question on."""
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)


@dataclass(frozen=True)
class Job:
    """What every trial of a search is made of."""

    name: str
    search: SearchParams
    root: Mapping[str, Any]
    epochs: int
    repository: Repository
    identity: Mapping[str, str]
    place: str
    stop: threading.Event


def parse_arguments() -> argparse.Namespace:
    """Reads the command line: `workers`, `storage` and `plots`."""
    parser = argparse.ArgumentParser(
        "python -m stages.tools.search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workers", metavar="N", type=int, default=1, help="trials at once on this machine; default %(default)s"
    )
    parser.add_argument(
        "--storage", metavar="URL", help="database that several machines share, as postgresql+psycopg://user@host/name"
    )
    parser.add_argument("--plots", action="store_true", help="only draw the pictures and write trials.csv anew")
    arguments = parser.parse_args()
    if arguments.workers < 1:
        parser.error(f"--workers: expected at least 1; got {arguments.workers}")
    return arguments


def name_study(search: SearchParams, root: Mapping[str, Any]) -> str:
    """Names the study after its candidate and a digest of all that makes its trials comparable.

    That is the code, the parameters that are not searched, and the space; not the number of trials, which may grow.
    """
    fixed = json.loads(json.dumps(root))
    del fixed["search"]["trials"]
    for key in search.space:
        *sections, last = key.split(".")
        section = fixed
        for name in sections:
            section = section[name]
        del section[last]
    for unrelated in ("study", "prune", "shrink", "export", "ship", "evaluate", "preview"):
        fixed.pop(unrelated, None)
    content = json.dumps([fixed, run_git("rev-parse", "HEAD:stages", "HEAD:dvc.yaml")], sort_keys=True)
    return f"{search.candidate}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def show_url(url: str) -> str:
    """Writes a database URL without its password."""
    try:
        return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return "the URL"


class Storage(RDBStorage):
    """A database of trials that hands a waiting trial to one worker only.

    Optuna locks the row while it takes one, which SQLite cannot: two threads could get the same trial.
    """

    taking = threading.Lock()
    """Of all threads; a database in SQLite has one process at a time, and others lock rows."""

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Changes the state of a trial; false if it is no longer waiting, and was to be run."""
        with self.taking:
            return bool(super().set_trial_state_values(trial_id, state, values))


def open_storage(url: str | None) -> Storage:
    """Opens the database, and makes its tables where there are none.

    Raises:
        UserError: if that fails; the message says why, without the password.
    """
    OUTPUT.mkdir(parents=True, exist_ok=True)
    address = url or f"sqlite:///{OUTPUT / 'study.db'}"
    options = {"pool_pre_ping": True} if url else {"connect_args": {"timeout": 60}}
    for attempts_left in (4, 3, 2, 1, 0):
        try:
            return Storage(
                address,
                engine_kwargs=options,
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
            )
        except (sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.IntegrityError) as error:
            if not attempts_left:
                raise storage_error(url, error) from error
            time.sleep(1)  # another machine makes the tables at the same time
        except (*STORAGE_ERRORS, ImportError, ValueError) as error:
            raise storage_error(url, error) from error
    raise AssertionError


def storage_error(url: str | None, error: BaseException) -> UserError:
    """Builds the error for a database that does not answer as expected."""
    if url is None:
        return UserError(f"{OUTPUT / 'study.db'}: {describe(error)}; remove it to start anew")
    return UserError(f"--storage: {show_url(url)}: {describe(error)}")


def describe(error: BaseException) -> str:
    """Says in a line what the database said."""
    while error.__cause__ is not None:
        error = error.__cause__
    reason = getattr(error, "orig", None) or error
    return " ".join(str(reason).split()) or type(reason).__name__


def open_study(storage: RDBStorage, name: str, search: SearchParams) -> optuna.Study:
    """Opens the study, and makes it if there is none."""
    return optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        load_if_exists=True,
        sampler=SeededSampler(search.seed),
        pruner=optuna.pruners.MedianPruner(search.startup_trials, math.ceil(NUM_STEPS * search.warmup_fraction)),
    )


@contextmanager
def hold_lock() -> Iterator[None]:
    """Holds the lock of this clone; the operating system frees it however this process ends.

    Raises:
        UserError: if another search runs here.
    """
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("a search runs here already; use its --workers, or another clone") from None
        yield


def suggest(trial: optuna.Trial, key: str, values: Range) -> Any:
    """Draws the value of a parameter; lists are known to Optuna by their text."""
    if isinstance(values, FloatRange):
        return trial.suggest_float(key, values.low, values.high, log=values.log)
    if isinstance(values, IntegerRange):
        return trial.suggest_int(key, values.low, values.high, step=values.step)
    by_name = {json.dumps(value) if isinstance(value, list) else value: value for value in values}
    return by_name[trial.suggest_categorical(key, list(by_name))]


def name_experiment(job: Job, number: int) -> str:
    """Names the experiment of a trial."""
    return f"search-{job.name}-{number}"


def run_trial(job: Job, trial: optuna.Trial) -> float:
    """Runs a trial; returns the accuracy on the validation images.

    Raises:
        TrialPruned: if its training is hopeless, fails for its values, or cannot be started with them.
        StoppedError: if the search was stopped.
        SurplusError: if there are enough trials.
        UpdateFinishedTrialError: if another machine makes it again.
        UserError: if it fails for any other reason.
    """
    others = trial.study.get_trials(deepcopy=False)
    if sum(other.state != TrialState.FAIL and other.number < trial.number for other in others) >= job.search.trials:
        raise SurplusError
    values = {key: suggest(trial, key, ranges) for key, ranges in job.search.space.items()}
    name = name_experiment(job, trial.number)
    trial.set_user_attr("experiment", name)
    trial.set_user_attr("place", job.place)
    try:
        check_values(job.root, values)
    except UserError as error:
        prune(trial, str(error))
    clone = FOLDER / name
    make_clone(job.repository, FOLDER, name, job.identity)
    move_checkpoint(job, trial, clone)
    process = start_training(clone, job.search.model, job.search.augmentation, values)
    try:
        follow(job, trial, clone, process, values.get("train.epochs", job.epochs))
    finally:
        end_group(process)
    if process.returncode:
        end_failed(trial, clone)
    accuracy = read_accuracy(clone)
    ref = find_experiment(job.repository, clone)
    trial.set_user_attr("commit", run_git("rev-parse", ref, folder=clone))  # an error if it is not ours any more
    keep_experiment(ref, clone)
    remove_clone(clone)
    return accuracy


def end_failed(trial: optuna.Trial, clone: Path) -> None:
    """Ends a trial whose training failed.

    Raises:
        TrialPruned: if that is due to its values, or is so taken, as it failed before.
        UserError: if not.
    """
    failure = read_failure(clone)
    failures = trial.user_attrs.get("failures", 0) + 1
    if is_diverged(failure) or failures == MAX_FAILURES:
        remove_clone(clone)
        prune(trial, failure)
    trial.set_user_attr("failures", failures)
    raise UserError(f"trial {trial.number}: {failure}; what it printed is in {clone}.log")


def prune(trial: optuna.Trial, reason: str) -> None:
    """Ends a trial that is hopeless.

    Raises:
        TrialPruned: always.
    """
    trial.set_user_attr("reason", reason)
    raise optuna.TrialPruned(reason)


def move_checkpoint(job: Job, trial: optuna.Trial, clone: Path) -> None:
    """Takes the checkpoint of the trial that this one repeats, if it ran here; `train` checks that it is its own."""
    earlier = RetryHeartbeatStaleTrialCallback.retry_history(trial.study.trials[trial.number])
    for number in earlier:
        left = FOLDER / name_experiment(job, number)
        checkpoint, ours = (checkpoint_path(folder, job.search.candidate) for folder in (left, clone))
        if checkpoint.exists():
            ours.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.replace(ours)
        remove_clone(left)


def follow(job: Job, trial: optuna.Trial, clone: Path, process: subprocess.Popen[bytes], epochs: int) -> None:
    """Waits for a training to end, and reports how it does.

    Raises:
        TrialPruned: if its best accuracy so far is below the median of the others.
        StoppedError: if the search was stopped.
    """
    reported = 0
    while process.poll() is None:
        if job.stop.wait(POLL_SECONDS):
            raise StoppedError
        for step, accuracy in compare_points(read_accuracies(clone, job.search.candidate), epochs).items():
            if step > reported:
                trial.report(accuracy, step)
                reported = step
                if trial.should_prune():
                    end_group(process)
                    remove_clone(clone)
                    prune(trial, f"below the median after {100 * step // NUM_STEPS} % of the training")


def work(job: Job, storage: RDBStorage) -> None:
    """Runs trials until the study has as many as it should have, those on other machines included."""
    study = open_study(storage, job.name, job.search)
    numbers: list[int] = []

    def run_next(trial: optuna.Trial) -> float:
        numbers.append(trial.number)
        return run_trial(job, trial)

    while not job.stop.is_set():
        states = [trial.state for trial in study.get_trials(deepcopy=False)]
        if sum(state in ENDED for state in states) >= job.search.trials:
            return
        if TrialState.WAITING not in states and len(states) - states.count(TrialState.FAIL) >= job.search.trials:
            optuna.storages.fail_stale_trials(study)
            job.stop.wait(2 * POLL_SECONDS)  # for the trials of others
            continue
        try:
            study.optimize(run_next, n_trials=1, catch=(SurplusError,))
        except StoppedError:
            put_back(study, numbers[-1])
        except UserError:
            put_back(study, numbers[-1])
            raise
        except ValueError as error:
            if str(error) != LOST:
                raise


def put_back(study: optuna.Study, number: int) -> None:
    """Lets the next free worker make a failed trial again, with the same values."""
    RetryHeartbeatStaleTrialCallback()(study, study.trials[number])


def put_back_the_dead(study: optuna.Study, place: str, is_shared: bool) -> None:
    """Puts back the trials that ran here when the search was killed; while the lock is held, none of them runs.

    A trial names its place when it begins: of a database that is shared, one that has not yet may run elsewhere.
    """
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if not is_shared or trial.user_attrs.get("place") == place:
            study.tell(trial.number, state=TrialState.FAIL)
            put_back(study, trial.number)


def watch(study: optuna.Study, total: int, is_working: Callable[[], bool]) -> None:
    """Shows a line for each trial that ended, and how far the search is, as long as `is_working()`."""
    shown: set[int] = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state in ENDED}
    if shown:
        print(f"goes on with {len(shown)} of {total} trials", flush=True)
    with tqdm(total=total, initial=len(shown), unit="trial", leave=False, disable=not sys.stderr.isatty()) as bar:
        while True:
            is_last = not is_working()
            ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state in ENDED]
            for trial in sorted(ended, key=lambda trial: trial.number):
                if trial.number not in shown:
                    shown.add(trial.number)
                    bar.write(format_trial(trial), file=sys.stdout)
                    sys.stdout.flush()
                    bar.update()
            if best := find_best(ended):
                bar.set_postfix(best=f"{100 * float(best.value or 0):.2f} %")
            if is_last:
                return


def find_best(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Finds the trial with the highest accuracy, of equals the first; None without a whole one."""
    whole = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return max(whole, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)


def format_trial(trial: FrozenTrial) -> str:
    """Writes a trial that ended as a line."""
    seconds = trial.duration.total_seconds() if trial.duration else 0.0
    if trial.state == TrialState.COMPLETE:
        outcome = f"validation accuracy {100 * float(trial.value or 0):.2f} %"
    else:
        outcome = f"stopped early: {trial.user_attrs.get('reason')}"
    values = ", ".join(f"{key} {f'{v:.4g}' if isinstance(v, float) else v}" for key, v in trial.params.items())
    return f"trial {trial.number}: {outcome}, {seconds:.0f} s; {values}"


def list_rows(trials: Sequence[FrozenTrial], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Lists the rows of trials.csv: accuracy is the last one that was seen, if the trial was stopped early."""
    return [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "val_accuracy": trial.value,
            "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
            "experiment": trial.user_attrs.get("experiment") if trial.state == TrialState.COMPLETE else None,
            "place": trial.user_attrs.get("place"),
            "reason": trial.user_attrs.get("reason"),
        }
        | {key: trial.params.get(key) for key in keys}
        for trial in trials
    ]


def write_results(study: optuna.Study, space: Mapping[str, Range]) -> None:
    """Writes trials.csv and draws the pictures; each of them as far as there are trials for it."""
    ended = study.get_trials(states=ENDED)
    whole = [trial for trial in ended if trial.state == TrialState.COMPLETE]
    if not ended:
        raise UserError("no trial has ended yet; run `python -m stages.tools.search`")
    write_csv(OUTPUT / "trials.csv", list_rows(ended, list(space)))
    pictures: dict[str, tuple[Callable[[optuna.Study], Figure], int]] = {
        "history": (plot_history, 1),
        "slices": (partial(plot_slices, space=space), 1),
        "importances": (plot_importances, 2),
    }
    for name, (draw, needed) in pictures.items():
        path = OUTPUT / f"{name}.png"
        path.unlink(missing_ok=True)
        if len(whole) >= needed:
            with warnings.catch_warnings(action="ignore"):  # of Matplotlib, where all trials have the same value
                write_figure(path, draw(study))
        else:
            print(f"{path}: needs {needed} whole trials, and there are {len(whole)}", file=sys.stderr)


def get_figure(axes: Axes) -> Figure:
    """Returns the figure that holds axes."""
    return cast(Figure, axes.get_figure(root=True))


def plot_history(study: optuna.Study) -> Figure:
    """Draws the accuracy of every whole trial, and the best so far."""
    axes = optuna.visualization.matplotlib.plot_optimization_history(study, target_name="validation accuracy")
    axes.set_title(f"Search of {study.study_name}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return get_figure(axes)


def plot_slices(study: optuna.Study, space: Mapping[str, Range]) -> Figure:
    """Draws the accuracy against each parameter, over the whole of its range."""
    drawn = optuna.visualization.matplotlib.plot_slice(study, list(space), target_name="validation accuracy")
    panels = np.ravel(np.asarray(drawn))
    for axes, (key, values) in zip(panels, sorted(space.items()), strict=True):
        axes.set_title(key, fontsize="medium")
        axes.set_xlabel("")
        axes.tick_params("x", rotation=45)
        if isinstance(values, tuple):
            continue
        axes.set_xlim(values.low, values.high)
        if isinstance(values, FloatRange) and values.log:
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
    figure = get_figure(panels[0])
    figure.suptitle(f"Whole trials of {study.study_name}")
    return figure


def plot_importances(study: optuna.Study) -> Figure:
    """Draws how much of the accuracy each parameter decides."""
    axes = optuna.visualization.matplotlib.plot_param_importances(study)
    axes.set_title("How much each parameter matters for the validation accuracy", loc="left", fontsize="medium")
    axes.set(xlabel=f"importance in {study.study_name} (PED-ANOVA)", ylabel="")
    if legend := axes.get_legend():
        legend.remove()
    return get_figure(axes)


def print_best(study: optuna.Study) -> None:
    """Prints the best trial, and how to have it."""
    best = find_best(study.get_trials(states=ENDED))
    if best is None:
        print("no trial trained to its end: widen search.space, or raise search.startup_trials")
        return
    name, place = best.user_attrs["experiment"], best.user_attrs["place"]
    print(f"best: {format_trial(best)}")
    if not has_experiment(name, best.user_attrs["commit"]):
        print(f"it is on {place}: there `dvc exp push REMOTE {name}`, here `dvc exp pull REMOTE {name}`")
    print(f"to have its parameters and its model: dvc exp apply {name}")


def run_search(job: Job, study: optuna.Study, storage: RDBStorage, workers: int) -> None:
    """Runs the trials that are missing, `workers` at once.

    Raises:
        KeyboardInterrupt: after Ctrl-C, when no training runs any more.
        UserError: as the first worker that failed.
    """
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, job, storage) for _ in range(workers)]

        def is_working() -> bool:
            done, running = wait(futures, POLL_SECONDS, FIRST_EXCEPTION)
            return bool(running) and not any(future.exception() for future in done)

        try:
            watch(study, job.search.trials, is_working)
        finally:
            job.stop.set()
    for future in futures:
        future.result()
    shutil.rmtree(FOLDER, ignore_errors=True)


def main() -> None:
    """Runs the tool."""
    arguments = parse_arguments()
    search, root, epochs = load_search_params(), dict(read_yaml(Path("params.yaml"))), load_params().train.epochs
    repository = open_repository()
    name = name_study(search, root)
    with hold_lock():
        storage = open_storage(arguments.storage)
        try:
            study = open_study(storage, name, search)
            place = f"{socket.gethostname()}:{Path.cwd()}"
            job = Job(name, search, root, epochs, repository, read_identity(), place, threading.Event())
            if not arguments.plots:
                put_back_the_dead(study, place, is_shared=arguments.storage is not None)
                run_search(job, study, storage, arguments.workers)
            write_results(study, search.space)
            print_best(study)
        except STORAGE_ERRORS as error:
            raise storage_error(arguments.storage, error) from error


if __name__ == "__main__":
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted: the same command goes on with this search", file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT, as shells count
