"""The workers of a search, each of which runs one trial after another, and what is shown meanwhile."""

import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.trial import TrialState
from tqdm import tqdm

from stages.lib.errors import UserError
from stages.tools.search.clone import FOLDER
from stages.tools.search.results import format_trial
from stages.tools.search.study import ENDED, open_study, put_back
from stages.tools.search.trial import POLL_SECONDS, Job, StoppedError, SurplusError, run_trial


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


def run_next(job: Job, study: optuna.Study, storage: RDBStorage) -> None:
    """Runs a trial that waits, or else a new one, and tells the study how it ended.

    The trial may be another machine's by now, where this one was silent for too long: then there is nothing to tell.
    `optuna.Study.optimize` would raise a `ValueError` that only its words tell from any other.
    """
    trial = study.ask()
    try:
        with get_heartbeat_thread(trial._trial_id, storage):
            accuracy = run_trial(job, trial)
        study.tell(trial, accuracy, skip_if_finished=True)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
    except SurplusError:
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
    except UpdateFinishedTrialError:
        pass
    except (StoppedError, UserError):
        put_back(study, trial.number)
        raise


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
