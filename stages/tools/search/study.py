"""The study: a database of trials, how their values are drawn, and when a hopeless one is stopped."""

import copy
import hashlib
import json
import math
import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from stages.lib.errors import UserError
from stages.lib.params.yaml_1_2 import read_yaml
from stages.tools.passwords import ENCODED, SECRET, hide
from stages.tools.search.clone import run
from stages.tools.search.space import SearchParams, find_section

OUTPUT = Path("data/search")
HEARTBEAT_SECONDS = 15
GRACE_SECONDS = 60
"""Without a sign of life before another machine makes a trial again."""

NUM_POINTS = 10
"""Of a training, at which trials are compared."""

STAGES = ("download", "prepare", "train")
"""Those that decide the accuracy of a trial."""

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
STORAGE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)


class SeededSampler(TPESampler):
    """Tree-structured Parzen estimator whose random numbers follow from the seed and how many draws came before.

    A trial that is made again is no new draw. So with one worker an interruption does not change what is drawn; several
    workers draw knowing other results, depending on which ends first.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(multivariate=True)
        self.seed = seed

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Starts the random numbers of a trial."""
        first = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
        number = trial.number if first is None else first
        draws = sum(
            other.number < number and RetryHeartbeatStaleTrialCallback.retried_trial_number(other) is None
            for other in study.get_trials(deepcopy=False)
        )
        (seed,) = np.random.SeedSequence([self.seed, draws]).generate_state(1)
        super().__init__(multivariate=True, seed=int(seed))  # a sampler as if it had drawn nothing yet
        super().before_trial(study, trial)


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
    # Rendered anew: Optuna fills in what stands in braces.
    address = (
        read_url(url).render_as_string(hide_password=False) if url is not None else f"sqlite:///{OUTPUT / 'study.db'}"
    )
    for attempts_left in (4, 3, 2, 1, 0):
        try:
            return Storage(
                address,
                engine_kwargs={"pool_pre_ping": True} if url is not None else {"connect_args": {"timeout": 60}},
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
            )
        except (sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.IntegrityError) as error:
            if not attempts_left:
                raise storage_error(url, error) from error
            time.sleep(1)  # another machine makes the tables at the same time
        except Exception as error:  # each driver raises errors of its own
            raise storage_error(url, error) from error
    raise AssertionError


def read_url(text: str) -> sqlalchemy.URL:
    """Reads the URL of a database, in which what could be a part of a password is nothing else.

    Raises:
        UserError: if it is none, or an `@` is not where one belongs; the message shows nothing of it.
    """
    try:
        url = sqlalchemy.make_url(text)
        if text.count("@") <= (url.username is not None) or re.match(r"sqlite(\+\w+)?:///", text):
            text.encode()  # bytes that are no text would be an error of some drivers, which shows them
            return url
    except (ValueError, sqlalchemy.exc.ArgumentError):
        pass
    got = (
        "another text, not shown as it may hold a password" if text.strip() else "an empty one; is a variable not set?"
    )
    raise UserError(
        "--storage: expected a URL as postgresql+psycopg://user:password@host:port/name, its user and password with "
        f"{ENCODED}; got {got}"
    )


def storage_error(url: str | None, error: BaseException) -> UserError:
    """Builds the error for a database that does not answer as expected, without the password of its URL."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = "" if isinstance(error, UnicodeError) else str(getattr(error, "orig", None) or error)
    if url is None:
        said = " ".join(said.split()) or type(error).__name__
        return UserError(f"{OUTPUT / 'study.db'}: {said}; remove it to start anew")
    read = read_url(url)
    secret = [value for key, value in read.normalized_query.items() if re.search(SECRET, key, re.I)]
    said = hide(said, [str(read.password or ""), *(text for texts in secret for text in texts)])
    shown = read.set(query={}).render_as_string(hide_password=True)
    return UserError(f"--storage: {shown}: {' '.join(said.split()) or type(error).__name__}")


def name_study(search: SearchParams, params: Mapping[str, Any]) -> str:
    """Names the study after its candidate and a digest of all that makes its trials comparable.

    That is the space and how it is searched, the seed, the images, and what dvc.yaml names as the code and the
    parameters that decide the accuracy; not the number of trials, which may grow.

    Args:
        search: the section `search` of params.yaml.
        params: the content of params.yaml.
    """
    pipeline = read_yaml(Path("dvc.yaml"))["stages"]
    stages = [pipeline[name] for name in STAGES]
    paths = [path for stage in stages for path in stage.get("deps", []) if path != "${dataset.source}"]
    paths = [path.replace("${prepare.leave_out}", params["prepare"]["leave_out"]) for path in paths]
    code = run("git", "ls-tree", "HEAD", "--", *paths)
    images = [out["md5"] for out in read_yaml(Path("dvc.lock"))["stages"]["prepare"]["outs"]]
    fixed = copy.deepcopy(dict(params))
    for key in search.space:
        section, name = find_section(fixed, key)
        del section[name]
    values = {}
    for key in (key for stage in stages for key in stage["params"]):
        named = key.replace("${item.model}", search.model).replace("${item.augmentation}", search.augmentation)
        section, name = find_section(fixed, named)
        values[named] = section[name]
    searched, seed = search.model_dump(mode="json", exclude={"trials"}), params["study"]["seeds"][0]
    content = json.dumps([searched, seed, values, [stage["cmd"] for stage in stages], code, images], sort_keys=True)
    return f"{search.candidate}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def open_study(storage: RDBStorage, name: str, search: SearchParams) -> optuna.Study:
    """Opens the study, and makes it if there is none."""
    return optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        load_if_exists=True,
        sampler=SeededSampler(search.seed),
        pruner=optuna.pruners.MedianPruner(search.startup_trials, math.ceil(NUM_POINTS * search.warmup_fraction)),
    )


def compare_points(accuracies: Sequence[float], epochs: int) -> dict[int, float]:
    """Picks the accuracy at each tenth of a training of `epochs` that it has reached, but for its last epoch.

    Trainings of different length are compared where their schedules stand alike; at their end nothing can be saved.

    >>> compare_points([0.5, 0.6], 4)
    {1: 0.5, 2: 0.5, 3: 0.6, 4: 0.6, 5: 0.6}
    """
    reached = {point: math.ceil(point * epochs / NUM_POINTS) for point in range(1, NUM_POINTS + 1)}
    last = min(len(accuracies), epochs - 1)
    return {point: accuracies[epoch - 1] for point, epoch in reached.items() if epoch <= last}


def put_back(study: optuna.Study, number: int) -> None:
    """Ends a trial that did not end by itself, and lets the next free worker make it again, with the same values.

    Not one that was silent for so long that another machine did this.
    """
    if study.trials[number].state == TrialState.RUNNING:
        study.tell(number, state=TrialState.FAIL)
        RetryHeartbeatStaleTrialCallback()(study, study.trials[number])


def put_back_the_dead(study: optuna.Study, place: str, is_shared: bool) -> None:
    """Puts back the trials that ran here when the search was killed; while the lock is held, none of them runs.

    A trial names its place when it begins: of a database that is shared, one that has not yet may run elsewhere.
    """
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if not is_shared or trial.user_attrs.get("place") == place:
            put_back(study, trial.number)
