"""The clone in which a trial runs the pipeline's own stages; it shares the DVC cache of this repository.

A trial is the study narrowed to one candidate and its first seed, up to `select_model`, with other values of some
parameters. It becomes an experiment of this repository. Clones, because `dvc exp run --temp` is not made for several at
once: it runs the first experiment that waits, whoever put it there.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.lib.errors import UserError
from stages.lib.params.yaml_1_2 import read_yaml
from stages.lib.running.git import check_commits, git_environment
from stages.lib.storage.files import read_arrays, read_json
from stages.lib.storage.variant import Variant

FOLDER = Path(".dvc/tmp/search")  # holds the clones of the trials that run; ignored by Git and DVC
INPUTS = (
    "stages",
    "params.yaml",
    "data/leave_out.csv",
    "dvc.yaml",
    "dvc.lock",
    ".dvc/config",
)  # what a trial takes from the commit
TARGET = "select_model"
GIT = ("git", "-c", "core.hooksPath=/dev/null", "-c", "protocol.file.allow=always")
"""Git without what a user's settings may do to clones: a hook, say, could refuse a trial after its training."""


@dataclass(frozen=True)
class Repository:
    """The clone in which the search was started: its commit, and the absolute path of its DVC cache."""

    commit: str
    cache: str


def run(program: str, *arguments: str, folder: Path = Path()) -> str:
    """Runs git or dvc in `folder`; returns what it printed.

    Raises:
        UserError: if it fails, with the line that says why.
    """
    command = [sys.executable, "-m", program] if program == "dvc" else GIT
    result = subprocess.run([*command, *arguments], cwd=folder, env=git_environment(), capture_output=True, text=True)
    if result.returncode:
        raise UserError(f"{program} {arguments[0]}: {find_reason(result.stderr)}")
    return result.stdout.strip()


def find_reason(text: str) -> str:
    r"""Finds the line that says why a program failed, which need not be its last one: dvc ends with an offer of help.

    >>> find_reason("ERROR: no space left\n\nHaving any troubles? Hit us up!")
    'no space left'
    """
    errors = re.findall(r"^(?:error|fatal): (.*)$", text, re.MULTILINE | re.IGNORECASE)
    lines = [*errors[:1], *text.strip().splitlines()[-1:], "failed without a word"]
    return lines[0].strip()


def open_repository() -> Repository:
    """Checks that trials can be made of the repository in the working directory.

    Raises:
        UserError: if it is none of Git and DVC, it lacks a part of its history, it has changes that trials would not
            see, or the images are not in the DVC cache.
    """
    if not (Path(".git").exists() and Path(".dvc").is_dir()):
        raise UserError("no Git and DVC repository here; run this from the top of the clone")
    _check_history()
    if changed := run("git", "status", "--porcelain", "--", *INPUTS).splitlines():
        names = ", ".join(line.split(maxsplit=1)[1] for line in changed)
        raise UserError(
            f"{names}: changed since the last commit, which is what trials run; commit the change or undo it"
        )
    cache = run("dvc", "cache", "dir")
    _check_images(Path(cache))
    return Repository(commit=run("git", "rev-parse", "HEAD"), cache=cache)


def _check_history() -> None:
    """Checks that all of the history is here: else a trial's clone is not whole, and its experiment may be lost."""
    check_commits(Path())
    if "\n?" in run("git", "rev-list", "--objects", "--missing=print", "HEAD"):
        raise UserError(
            "this clone lacks old files, as after `git clone --filter`; run `git fetch --refetch --no-filter`"
        )


def _check_images(cache: Path) -> None:
    """Checks that the outputs of `prepare` lie in the cache: else every trial would download and split the images."""
    lock = Path("dvc.lock")
    stages = (read_yaml(lock) or {}).get("stages", {}) if lock.exists() else {}
    digests = [out["md5"] for out in stages.get("prepare", {}).get("outs", [])]
    if not digests or not all((cache / "files/md5" / digest[:2] / digest[2:]).exists() for digest in digests):
        raise UserError(
            "data/prepare: not in the DVC cache; run `dvc repro prepare` or `dvc pull prepare`, and commit dvc.lock"
        )


def make_clone(repository: Repository, clone: Path) -> None:
    """Makes the clone of a trial anew, without the images, which dvc takes from the cache."""
    remove_clone(clone)
    clone.parent.mkdir(parents=True, exist_ok=True)
    without_hooks = ("--template=", "--config", "core.hooksPath=/dev/null")  # also where dvc runs in it
    run("git", "clone", "--quiet", "--shared", "--no-checkout", *without_hooks, ".", str(clone))
    run("git", "checkout", "--quiet", "--detach", repository.commit, folder=clone)
    for key in ("user.name", "user.email"):  # of the author of experiments; this repository may have its own
        if value := run("git", "config", "--get", "--default", "", key):
            run("git", "config", key, value, folder=clone)
    with suppress(FileNotFoundError):
        shutil.copy2(".dvc/config.local", clone / ".dvc/config.local")
    # As a relative path: dvc writes ASCII alone, which the name of a folder around this one need not be.
    cache = os.path.relpath(Path(repository.cache).resolve(), clone.resolve())
    run("dvc", "cache", "dir", "--local", "--quiet", cache, folder=clone)


def remove_clone(clone: Path) -> None:
    """Removes what a trial left."""
    shutil.rmtree(clone, ignore_errors=True)
    log_path(clone).unlink(missing_ok=True)


def log_path(clone: Path) -> Path:
    """Names the file that holds what dvc and the stages of a trial printed."""
    return clone.with_name(f"{clone.name}.log")


def checkpoint_path(clone: Path, trained: Variant) -> Path:
    """Names the file that a training writes anew after every epoch."""
    return clone / f"data/checkpoints/{trained.run}.npz"


def start_training(clone: Path, values: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    """Starts `dvc exp run` in a clone, which is named as its trial, with `values` of parameters, by their dotted keys.

    It runs in a process group of its own, and ends with the calling thread.
    """
    options = [word for key, value in values.items() for word in ("--set-param", f"{key}={json.dumps(value)}")]
    launcher = [sys.executable, "-P", str(Path(__file__).with_name("attached.py")), str(os.getpid())]
    environment = git_environment() | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # for `python` in the commands of the stages
        "DVC_SITE_CACHE_DIR": str(clone.absolute() / ".dvc/tmp/site"),  # else a folder in /var/tmp outlives the clone
    }
    with log_path(clone).open("wb") as log:
        return subprocess.Popen(
            [*launcher, "exp", "run", "--name", clone.name, "--allow-missing", *options, TARGET],
            cwd=clone,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it started, at once; the stages of the pipeline stand that."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_accuracies(clone: Path, trained: Variant) -> list[float]:
    """Reads the validation accuracy after each finished epoch of a training that runs; nothing before and after it.

    From the checkpoint: where the history is written may lie one of other parameters, which the commit has.
    """
    try:
        (state,) = read_arrays(checkpoint_path(clone, trained), "state")
    except UserError:
        return []
    return [float(row["accuracy"]) for row in json.loads(state.tobytes())["rows"] if row["split"] == "val"]


def read_accuracy(clone: Path) -> float:
    """Reads the accuracy of a finished trial on the validation images."""
    return float(read_json(clone / f"data/{TARGET}/metrics.json")["val_accuracy"])


def read_failure(clone: Path) -> str:
    """Reads the line that says why a trial failed."""
    return find_reason(log_path(clone).read_text(encoding="utf-8", errors="replace"))


def find_experiment(repository: Repository, clone: Path) -> tuple[str, str]:
    """Finds the experiment that a trial became: its Git reference, and its commit."""
    ref = f"refs/exps/{repository.commit[:2]}/{repository.commit[2:]}/{clone.name}"
    return ref, run("git", "rev-parse", ref, folder=clone)


def keep_experiment(ref: str, clone: Path) -> None:
    """Puts the experiment of a finished trial into this repository.

    It replaces one of the same name, which a study left that was removed since. Fetched, not pushed: a push would ask
    the user's hooks, which `git` does not let its sender switch off.
    """
    run("git", "fetch", "--quiet", "--no-tags", "--no-prune", "--no-write-fetch-head", str(clone), f"+{ref}:{ref}")


def has_experiment(name: str, commit: str) -> bool:
    """Tells whether this repository holds an experiment, which may have run on another machine."""
    return commit in run("git", "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}").splitlines()
