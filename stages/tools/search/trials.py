"""Runs the trials: trainings with values that the study drew, followed so that they can be stopped early.

Each worker, a thread, runs one trial after another; what ended is shown meanwhile.
"""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.trial import TrialState
from tqdm import tqdm

from stages.lib.errors import UserError
from stages.lib.storage.variant import Variant
from stages.lib.training.divergence import DivergedError
from stages.tools.search.clone import (
    FOLDER,
    Repository,
    checkpoint_path,
    end_group,
    find_experiment,
    keep_experiment,
    make_clone,
    read_accuracies,
    read_accuracy,
    read_failure,
    remove_clone,
    start_training,
)
from stages.tools.search.results import format_trial
from stages.tools.search.space import FloatRange, IntegerRange, Range, SearchParams, check_values
from stages.tools.search.study import ENDED, NUM_POINTS, compare_points, open_study, put_back

POLL_SECONDS = 0.5
MAX_FAILURES = 2
"""Of a trial, before it is ended: the first may be due to the machine, the second is taken to be due to its values."""


class StoppedError(Exception):
    """A trial ended before its training did, and has to be made again."""


@dataclass(frozen=True)
class Job:
    """What every trial of a search is made of."""

    study_name: str
    search: SearchParams
    params: Mapping[str, Any]  # the content of params.yaml
    repository: Repository  # that trials clone
    place: str  # this machine and folder
    stop: threading.Event  # is set when the trials that run here are to be stopped

    @property
    def trained(self) -> Variant:
        """Names the model that a trial trains: the candidate with the first seed of the study."""
        return Variant("train", self.search.model, self.search.augmentation, self.params["study"]["seeds"][0])

    def find_clone(self, number: int) -> Path:
        """Returns the path of a trial's clone, which its experiment is named after."""
        return FOLDER / f"search-{self.study_name}-{number}"


def run_search(job: Job, study: optuna.Study, storage: RDBStorage, num_workers: int) -> None:
    """Runs the trials that are missing, `num_workers` at once.

    Raises:
        KeyboardInterrupt: after Ctrl-C, when no training runs any more.
        UserError: as the first worker that failed.
    """
    with ThreadPoolExecutor(num_workers) as pool:
        futures = [pool.submit(work, job, storage) for _ in range(num_workers)]
        try:
            watch(study, job.search.trials, futures)
        finally:
            job.stop.set()
    for future in futures:
        future.result()
    shutil.rmtree(FOLDER, ignore_errors=True)


def work(job: Job, storage: RDBStorage) -> None:
    """Runs trials until the study has as many as it should have, those on other machines included."""
    study = open_study(storage, job.study_name, job.search)
    while not job.stop.is_set():
        fail_stale_trials(study)  # those of machines that are silent
        states = [trial.state for trial in study.get_trials(deepcopy=False)]
        if sum(state in ENDED for state in states) >= job.search.trials:
            return
        if TrialState.WAITING in states or len(states) - states.count(TrialState.FAIL) < job.search.trials:
            with suppress(StoppedError):
                run_next(job, study, storage)
        else:
            job.stop.wait(2 * POLL_SECONDS)  # for the trials of others


def watch(study: optuna.Study, num_trials: int, workers: Sequence[Future[None]]) -> None:
    """Shows a line for each trial that ended, and how far the search is, until all workers are done, or one failed."""
    shown = {trial.number for trial in study.get_trials(deepcopy=False, states=ENDED)}
    if shown:
        print(f"goes on with {len(shown)} of {num_trials} trials", flush=True)
    with tqdm(total=num_trials, initial=len(shown), unit="trial", leave=False, disable=None) as bar:
        is_last = False
        while not is_last:
            done, running = wait(workers, POLL_SECONDS, FIRST_EXCEPTION)
            is_last = not running or any(worker.exception() for worker in done)
            for trial in study.get_trials(deepcopy=False, states=ENDED):
                if trial.number not in shown:
                    shown.add(trial.number)
                    bar.write(format_trial(trial), file=sys.stdout)
                    sys.stdout.flush()
                    bar.update()
            for best in study.best_trials[:1]:
                bar.set_postfix(best=f"{100 * float(best.value or 0):.2f} %")


def run_next(job: Job, study: optuna.Study, storage: RDBStorage) -> None:
    """Runs a trial that waits, or else a new one, and tells the study how it ended.

    The trial may be another machine's by now, where this one was silent for too long: then there is nothing to tell.
    `optuna.Study.optimize` would raise a `ValueError` that only its words tell from any other.
    """
    trial = study.ask()
    others = study.get_trials(deepcopy=False)
    if sum(other.state != TrialState.FAIL and other.number < trial.number for other in others) >= job.search.trials:
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)  # several workers started the last one at once
        return
    with suppress(UpdateFinishedTrialError):
        try:
            with get_heartbeat_thread(trial._trial_id, storage):
                accuracy = run_trial(job, trial)
            study.tell(trial, accuracy, skip_if_finished=True)
        except optuna.TrialPruned as pruned:
            trial.set_user_attr("reason", str(pruned))
            study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        except (StoppedError, UserError):
            put_back(study, trial.number)
            raise


def run_trial(job: Job, trial: optuna.Trial) -> float:
    """Runs a trial; returns the accuracy on the validation images.

    Raises:
        TrialPruned: if its training is hopeless, fails for its values, or cannot be started with them.
        StoppedError: if the search was stopped.
        UpdateFinishedTrialError: if another machine makes it again.
        UserError: if it fails for any other reason.
    """
    values = {key: suggest(trial, key, ranges) for key, ranges in job.search.space.items()}
    clone = job.find_clone(trial.number)
    trial.set_user_attr("experiment", clone.name)
    trial.set_user_attr("place", job.place)
    try:
        check_values(job.params, values)
    except UserError as error:
        raise optuna.TrialPruned(str(error)) from error
    make_clone(job.repository, clone)
    move_checkpoint(job, trial, clone)
    study = {"study.models": [job.search.model], "study.augmentations": [job.search.augmentation]}
    seeds = {f"{section}.seeds": [job.trained.seed] for section in ("study", "prune", "shrink")}
    process = start_training(clone, {**values, **study, **seeds})
    try:
        follow(job, trial, clone, process, epochs=values.get("train.epochs", job.params["train"]["epochs"]))
    finally:
        end_group(process)
    if process.returncode:
        end_failed(trial, clone)
    accuracy = read_accuracy(clone)
    ref, commit = find_experiment(job.repository, clone)
    trial.set_user_attr("commit", commit)  # an error if the trial is not ours any more
    keep_experiment(ref, clone)
    remove_clone(clone)
    return accuracy


def suggest(trial: optuna.Trial, key: str, values: Range) -> Any:
    """Draws the value of a parameter; lists are known to Optuna by their text."""
    if isinstance(values, FloatRange):
        return trial.suggest_float(key, values.low, values.high, log=values.log)
    if isinstance(values, IntegerRange):
        return trial.suggest_int(key, values.low, values.high, step=values.step)
    by_name = {json.dumps(value) if isinstance(value, list) else value: value for value in values}
    return by_name[trial.suggest_categorical(key, list(by_name))]


def move_checkpoint(job: Job, trial: optuna.Trial, clone: Path) -> None:
    """Takes the checkpoint of the trial that this one repeats, if it ran here; `train` checks that it is its own."""
    for number in RetryHeartbeatStaleTrialCallback.retry_history(trial.study.trials[trial.number]):
        left = job.find_clone(number)
        checkpoint, ours = (checkpoint_path(folder, job.trained) for folder in (left, clone))
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
        for point, accuracy in compare_points(read_accuracies(clone, job.trained), epochs).items():
            if point > reported:
                trial.report(accuracy, point)
                reported = point
                if trial.should_prune():
                    end_group(process)
                    remove_clone(clone)
                    raise optuna.TrialPruned(f"below the median after {100 * point // NUM_POINTS} % of the training")


def end_failed(trial: optuna.Trial, clone: Path) -> NoReturn:
    """Ends a trial whose training failed.

    Raises:
        TrialPruned: if that is due to its values, or is so taken, as it failed before.
        UserError: if not.
    """
    failure = read_failure(clone)  # dvc passes on the line that the training printed
    failures = trial.user_attrs.get("failures", 0) + 1
    if DivergedError.SIGN in failure or failures == MAX_FAILURES:
        remove_clone(clone)
        raise optuna.TrialPruned(failure)
    trial.set_user_attr("failures", failures)
    raise UserError(f"trial {trial.number}: {failure}; what it printed is in {clone}.log")
