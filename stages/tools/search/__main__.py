"""Which hyperparameters suit a candidate best? Searches them with Optuna: `python -m stages.tools.search`.

The section `search` of params.yaml says which candidate, which parameters and how many trials. TPE proposes values near
those that did well; a training whose best accuracy so far is below the median of the others at the same point is
stopped early. What counts is the accuracy on validation images; the test images are not opened. A tool, not a stage.

A trial runs the pipeline's own stages with DVC in a clone of its own, and ends as an experiment of this repository:
`dvc exp show` lists it and `dvc exp apply` brings it back. One that was stopped early has no model, and is kept in
trials.csv only. Trials that were killed, or whose machine was, are made again, from their last finished epoch where
their checkpoint is at hand. A study goes on as long as the space stays, and the code and the other parameters that a
training depends on.

Writes, in data/search/, which Git ignores:
    study.db: all studies that ran here (SQLite), unless --storage names a database.
    trials.csv: a row for each trial that ended.
    history.png, importances.png, slices.png: what the search found.
"""

import argparse
import re
import socket
import sys
import threading
import warnings
from pathlib import Path
from typing import NoReturn

import optuna

from stages.lib.errors import UserError
from stages.lib.params.yaml_1_2 import read_yaml
from stages.lib.running.guard import hold_lock, name_lock
from stages.tools.search.clone import open_repository
from stages.tools.search.results import print_best, write_results
from stages.tools.search.space import load_search_params
from stages.tools.search.study import (
    STORAGE_ERRORS,
    name_study,
    open_storage,
    open_study,
    put_back_the_dead,
    read_url,
    storage_error,
)
from stages.tools.search.trials import Job, run_search


class Parser(argparse.ArgumentParser):
    """Shows no text in the place of which a URL with its password may have been meant."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with the usage and a message."""
        super().error(re.sub(r"(://|unrecognized arguments:).*", r"\1 ***", message, flags=re.DOTALL))


def main() -> None:
    """Runs the tool."""
    parser = Parser(
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
    if arguments.storage is not None:
        read_url(arguments.storage)

    search, params = load_search_params(), read_yaml(Path("params.yaml"))
    repository = open_repository()
    name, place = name_study(search, params), f"{socket.gethostname()}:{Path.cwd()}"
    with hold_lock(name_lock("search"), "search", remedy="use its --workers, or another clone"):
        storage = open_storage(arguments.storage)
        try:
            study = open_study(storage, name, search)
            if not arguments.plots:
                put_back_the_dead(study, place, is_shared=arguments.storage is not None)
                job = Job(name, search, params, repository, place, stop=threading.Event())
                run_search(job, study, storage, arguments.workers)
            write_results(study, search.space)
            print_best(study)
        except STORAGE_ERRORS as error:
            raise storage_error(arguments.storage, error) from error


if __name__ == "__main__":
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats
    warnings.filterwarnings("ignore", module="optuna")  # it knows heartbeats with its own loop alone
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted: the same command goes on with this search", file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT, as shells count
