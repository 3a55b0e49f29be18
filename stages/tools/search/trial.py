"""One trial: a training with values that the study drew, followed so that it can be stopped early."""

import json
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import optuna
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from stages.lib.errors import UserError
from stages.tools.search.clone import (
    FOLDER,
    Repository,
    checkpoint_path,
    end_group,
    find_experiment,
    is_diverged,
    keep_experiment,
    make_clone,
    read_accuracies,
    read_accuracy,
    read_failure,
    remove_clone,
    start_training,
)
from stages.tools.search.space import FloatRange, IntegerRange, Range, SearchParams, check_values
from stages.tools.search.study import NUM_POINTS, compare_points

POLL_SECONDS = 0.5
MAX_FAILURES = 2
"""Of a trial, before it is ended: the first may be due to the machine, the second is taken to be due to its values."""


class StoppedError(Exception):
    """A trial ended before its training did, and has to be made again."""


class SurplusError(Exception):
    """Several workers started the last trial at once, and this one is too many."""


@dataclass(frozen=True)
class Job:
    """What every trial of a search is made of.

    Attributes:
        study_name: of the study.
        search: the section `search` of params.yaml.
        params: the content of params.yaml.
        repository: that trials clone.
        place: this machine and folder.
        stop: is set when the trials that run here are to be stopped.
    """

    study_name: str
    search: SearchParams
    params: Mapping[str, Any]
    repository: Repository
    place: str
    stop: threading.Event

    def find_clone(self, number: int) -> Path:
        """Returns the path of a trial's clone, which its experiment is named after."""
        return FOLDER / f"search-{self.study_name}-{number}"


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
    clone = job.find_clone(trial.number)
    trial.set_user_attr("experiment", clone.name)
    trial.set_user_attr("place", job.place)
    try:
        check_values(job.params, values)
    except UserError as error:
        prune(trial, str(error))
    make_clone(job.repository, clone)
    move_checkpoint(job, trial, clone)
    process = start_training(clone, job.search.model, job.search.augmentation, values)
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
        for point, accuracy in compare_points(read_accuracies(clone, job.search.candidate), epochs).items():
            if point > reported:
                trial.report(accuracy, point)
                reported = point
                if trial.should_prune():
                    end_group(process)
                    remove_clone(clone)
                    prune(trial, f"below the median after {100 * point // NUM_POINTS} % of the training")


def end_failed(trial: optuna.Trial, clone: Path) -> NoReturn:
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


def prune(trial: optuna.Trial, reason: str) -> NoReturn:
    """Ends a trial that is hopeless.

    Raises:
        TrialPruned: always.
    """
    trial.set_user_attr("reason", reason)
    raise optuna.TrialPruned(reason)
