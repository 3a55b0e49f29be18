"""The table of experiments, on what `dvc exp show --json` gives for commits and experiments of each kind."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from pipeline import ROOT, run

from stages.lib.errors import UserError
from stages.tools.experiments import build_console, make_table

BLOCKS = [[32, 64], [64, 128]]
PARAMS = {"seed": 42, "train": {"epochs": 7, "rate": 0.003}, "models": {"third": {"blocks": BLOCKS, "dense": [128]}}}
MISSING = {"error": {"msg": "missing", "type": "FileNotFoundError"}}
CHANGED = {
    "seed": 42,
    "train": {"epochs": 9, "rate": 0.01},
    "models": {"third": {"blocks": [*BLOCKS, *[[256] * 9] * 2]}},
}


def make_state(
    name: str | None, rev: str = "1234567890", params: dict[str, Any] | None = None, **accuracies: float
) -> dict[str, Any]:
    """Makes a commit or what an experiment left."""
    metrics = {
        f"data/{stage}/metrics.json": {"data": {key: accuracies[key]}} if key in accuracies else MISSING
        for stage, key in (("select_model", "val_accuracy"), ("compare", "finished_test_accuracy"))
    }
    data = {"params": {"params.yaml": {"data": params or PARAMS}}, "metrics": metrics}
    return {"name": name, "rev": rev, "data": data, "error": None, "experiments": None}


def make_experiment(state: dict[str, Any], word: str = "success") -> dict[str, Any]:
    return {"name": state["name"], "revs": [state], "executor": {"state": word, "name": None, "local": None}}


def make_broken(name: str, message: str) -> dict[str, Any]:
    return make_state(name) | {"data": None, "error": {"msg": message, "type": ""}}


EXPERIMENTS = [
    make_experiment(make_state("waits", params=PARAMS | {"seed": 43}, val_accuracy=0.11), "queued"),
    make_experiment(make_state("runs", val_accuracy=0.12, finished_test_accuracy=0.13), "running"),
    make_experiment(make_broken("breaks", "Experiment run failed\n\tfor [bold]good[/bold]"), "failed"),
    make_experiment(make_state("worse", val_accuracy=0.91)),
    {**make_experiment(make_state("best [red]:smile:[/]", params=CHANGED, val_accuracy=0.95)), "executor": None},
    make_experiment(make_state("long-" * 30, params=CHANGED | {"key" * 50: "value" * 50}, val_accuracy=0.92)),
]
STATES = [
    make_state(None, rev="workspace", params=PARAMS | {"seed": None}, val_accuracy=0.9),
    make_state("main", val_accuracy=0.942666, finished_test_accuracy=0.9434) | {"experiments": EXPERIMENTS},
    make_broken("older", "'params.yaml' is invalid."),
]


def print_table(states: list[dict[str, Any]]) -> list[str]:
    """Prints the table as a pipe gets it."""
    printed = io.StringIO()
    build_console(printed).print(make_table(states))
    return printed.getvalue().splitlines()


def read_cells(lines: list[str], name: str) -> list[str]:
    """Reads a row's first line, cell by cell."""
    (line,) = (line for line in lines if line.strip().startswith(name))
    return [cell.strip() for cell in line.strip().split("  ") if cell.strip()]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.delenv("COLUMNS", raising=False)
    return print_table(STATES)


def test_a_pipe_gets_100_columns_without_colours(lines: list[str]) -> None:
    assert max(map(len, lines)) == 100
    assert "\x1b" not in "".join(lines)


def test_a_width_that_is_known_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (70, 130):
        monkeypatch.setenv("COLUMNS", str(width))
        assert max(map(len, print_table(STATES))) == width


def test_each_changed_param_has_a_line_and_long_values_are_shortened(lines: list[str]) -> None:
    at = lines[1].index("against")
    start = next(number for number, line in enumerate(lines) if line.startswith("best"))
    changes = [line[at:].split("  ")[0].strip() for line in lines[start : start + 6]]
    assert changes[:2] == ["train.epochs: 7 -> 9", "train.rate: 0.003 -> 0.01"]
    assert " ".join(changes[2:5]) == "models.third.blocks: [[32,64],[64,128]] -> [[32,64],[64,1...,256,256,256]]"
    assert changes[5] == "models.third.dense: [128] -> -"


def test_rows_stand_in_order_with_accuracies_where_dvc_has_them(lines: list[str]) -> None:
    assert read_cells(lines, "workspace") == ["workspace", "seed: 42 -> null", "90.00 %", "-"]
    assert read_cells(lines, "main") == ["main", "94.27 %", "94.34 %"]
    assert read_cells(lines, "worse") == ["worse", "91.00 %", "-"]
    text = "\n".join(lines)
    names = ["workspace ", "\nmain ", "older", "best", "long-", "worse", "waits", "runs", "breaks"]
    assert sorted(names, key=text.index) == names


def test_what_has_not_ended_well_says_so_and_has_no_accuracy(lines: list[str]) -> None:
    assert read_cells(lines, "waits") == ["waits", "seed: 42 -> 43", "-", "-", "queued"]
    assert read_cells(lines, "runs") == ["runs", "-", "-", "running"]
    assert read_cells(lines, "breaks") == ["breaks", "-", "-", "failed:"]
    assert read_cells(lines, "older") == ["older", "-", "-", "error:"]


def test_names_are_text(lines: list[str]) -> None:
    assert any("[red]:smile:[/]" in line for line in lines)
    assert any("[bold]" in line for line in lines)


def test_a_column_of_states_stands_only_where_there_is_one(lines: list[str]) -> None:
    assert any(" state " in line for line in lines)
    assert not any(" state " in line for line in print_table([*STATES[:1], make_state("main")]))


def test_a_repository_without_a_commit_is_refused() -> None:
    with pytest.raises(UserError, match="no commit here yet"):
        make_table([])


def test_no_repository_is_one_line(tmp_path: Path) -> None:
    command = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "stages.tools.experiments"]
    printed = run(tmp_path, *command, status=1)
    assert printed.startswith("error: dvc exp: you are not inside of a DVC repository")
    assert printed.count("\n") == 1
