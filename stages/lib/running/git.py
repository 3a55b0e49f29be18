"""Git as a program, kept apart from the repository and the settings of whoever started this process."""

import os
import re
import subprocess
from pathlib import Path

from stages.lib.errors import UserError

KEPT = re.compile(r"GIT_((AUTHOR|COMMITTER)_\w+|CONFIG_(GLOBAL|SYSTEM|NOSYSTEM)|EXEC_PATH)")
"""Variables that say who the user is and how Git is installed."""


def git_environment() -> dict[str, str]:
    """Copies the environment without the variables that tie Git to a repository, such as `GIT_DIR`.

    Git sets them for its hooks and for `git rebase --exec`, and they count for more than the folder in which a command
    runs: git and dvc would commit into that repository.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or KEPT.fullmatch(name)}


def check_commits(folder: Path) -> None:
    """Checks that the repository around `folder` has all commits, without which DVC loses what ran in a copy of it.

    Raises:
        UserError: if it lacks old ones, as after `git clone --depth`.
    """
    command = ["git", "-C", str(folder), "rev-parse", "--is-shallow-repository"]
    if subprocess.run(command, env=git_environment(), capture_output=True, text=True).stdout == "true\n":
        raise UserError(
            "this clone lacks old commits, so that DVC would lose the experiment; run `git fetch --unshallow`"
        )
