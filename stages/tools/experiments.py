"""Which experiments are there, what did each change, and what came of it? `python -m stages.tools.experiments`.

Prints a row for each commit and experiment: the params that differ from those of the last commit; the accuracy of the
chosen candidate on validation images, and of the finished model on test images, where DVC has them; experiments by the
former, the best first. The table is as wide as the terminal, or has 100 columns. `dvc exp show`, which it asks, has a
column for each param instead, and grows with them.
"""

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table

from stages.lib.errors import UserError
from stages.tools.search.clone import run

WIDTH = 100
MAX_VALUE, MAX_NAME, MAX_STATE = 32, 24, 12
"""Columns that a value of a param takes before it is shortened, and a name and a state before they are broken."""


def flatten(value: Any, key: str = "") -> dict[str, str]:
    """Writes params as JSON by their dotted keys.

    >>> flatten({"train": {"epochs": 7}, "seed": 1})
    {'train.epochs': '7', 'seed': '1'}
    """
    if isinstance(value, dict) and value:
        items = [flatten(inner, f"{key}.{name}" if key else name) for name, inner in value.items()]
        return {name: text for item in items for name, text in item.items()}
    return {key: json.dumps(value, ensure_ascii=False, separators=(",", ":"))}


def shorten(text: str) -> str:
    """Leaves out the middle of a long value, because the ends of two lists may be all in which they differ."""
    kept = (MAX_VALUE - 3) // 2
    return text if len(text) <= MAX_VALUE else f"{text[:kept]}...{text[-kept:]}"


def list_changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Lists the params that differ as `train.epochs: 7 -> 9`, with `-` where there is none."""
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {shorten(before.get(key, '-'))} -> {shorten(after.get(key, '-'))}" for key in keys]


def read_file(state: Mapping[str, Any], kind: str, path: str) -> dict[str, Any]:
    """Reads what DVC found in a file of params or metrics; empty where it found none."""
    found = (state.get("data") or {}).get(kind) or {}
    return found.get(path, {}).get("data") or {}


def read_accuracy(state: Mapping[str, Any], path: str, name: str) -> str:
    """Reads an accuracy in percent, or `-` where DVC has none."""
    share = read_file(state, "metrics", path).get(name)
    return "-" if share is None else f"{100 * share:.2f} %"


def make_row(state: Mapping[str, Any], base: Mapping[str, Any], executor: Mapping[str, Any] | None) -> list[str]:
    """Makes the row of one state beside the last commit: name, changed params, two accuracies, and what is amiss."""
    before, after = (read_file(each, "params", "params.yaml") for each in (base, state))
    changes = list_changes(flatten(before), flatten(after)) if before and after else []
    error = " ".join(state["error"]["msg"].split()) if state["error"] else ""
    word = executor["state"] if executor and executor["state"] != "success" else "error" * bool(error)
    outcome = {} if word else state  # until it has ended, DVC shows the numbers of the commit that it began from
    return [
        state["name"] or (state["rev"] if state["rev"] == "workspace" else state["rev"][:7]),
        "\n".join(changes),
        read_accuracy(outcome, "data/select_model/metrics.json", "val_accuracy"),
        read_accuracy(outcome, "data/compare/metrics.json", "finished_test_accuracy"),
        ": ".join(filter(None, [word, error])),
    ]


def make_table(states: Sequence[Mapping[str, Any]]) -> Table:
    """Makes the table of `dvc exp show --json`: the workspace, commits from the last one, experiments from the best.

    Raises:
        UserError: if nothing is committed yet.
    """
    if len(states) < 2:  # the workspace, and the last commit
        raise UserError("no commit here yet; experiments are kept beside commits: make one first")
    base = states[1]
    found = [each for state in states for each in state["experiments"] or []]
    experiments = [make_row(each["revs"][0], base, each["executor"]) for each in found]
    experiments.sort(key=lambda row: float(row[2].strip("-% ") or -1), reverse=True)
    rows = [*(make_row(state, base, None) for state in states), *experiments]

    table = Table(box=box.HORIZONTALS, show_lines=True, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("experiment", overflow="fold", max_width=MAX_NAME)
    table.add_column(f"against {rows[1][0]}", overflow="fold")
    table.add_column("validation\naccuracy", justify="right", no_wrap=True)
    table.add_column("finished,\ntest", justify="right", no_wrap=True)
    if has_states := any(row[-1] for row in rows):
        table.add_column("state", overflow="fold", max_width=MAX_STATE)
    for row in rows:
        table.add_row(*(row if has_states else row[:-1]))
    return table


def build_console(file: TextIO) -> Console:
    """Builds what prints text as it is, without marks and colours of its own, to a terminal or a pipe."""
    width, height = shutil.get_terminal_size((WIDTH, 24))
    return Console(file=file, width=width, height=height, markup=False, emoji=False, highlight=False)


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(
        "python -m stages.tools.experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--num", metavar="N", type=int, default=1, help="commits, each with its experiments; default %(default)s"
    )
    number = parser.parse_args().num
    if number < 1:
        parser.error(f"--num: expected at least 1; got {number}")
    states = json.loads(run("dvc", "exp", "show", "--json", "--num", str(number)))
    build_console(sys.stdout).print(make_table(states))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
