"""Trains and evaluates candidates with several seeds, and adds what came out to a table in a CSV and a Markdown file.

    python tests/benchmarks/repeat.py --name defaults --candidates first-flip third-flip --seeds 42 43 44
    python tests/benchmarks/repeat.py --table recipe --name "AdamW" --candidates first-flip --set train.optimizer=adamw

The table `repeats` says what recipes give; `recipe`, what each part of the default one is worth: what is lost on
validation where the part is another, against the row `defaults` of `repeats` with the same candidate and seed.

Each run is the pipeline's own commands (prepare, train, evaluate) in a temporary folder, with params.yaml changed as
`--set` and the seed say; the seed decides the split, too. Needs data/download, which `dvc repro download` makes. The
numbers are those of the files that the stages write; test accuracies are for the record, and no choice rests on them.
"""

import argparse
import csv
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent
COLUMNS = ("name", "settings", "candidate", "seed", "val_accuracy", "test_accuracy", "seconds")


def set_params(path: Path, settings: Sequence[str]) -> None:
    """Changes params.yaml as `dvc exp run --set-param` would; a setting is section.key=value."""
    yaml = YAML(typ="rt")
    params = yaml.load(path.read_text())
    for setting in settings:
        key, value = setting.split("=", 1)
        *sections, last = key.split(".")
        values = params
        for section in sections:
            values = values.get(section, {})
        if last not in values:
            sys.exit(f"error: --set {setting}: params.yaml has no {key}")
        values[last] = YAML(typ="safe").load(value)
    with path.open("w") as file:
        yaml.dump(params, file)


def make_folder(folder: Path, settings: Sequence[str]) -> None:
    """Makes a folder in which the stages run, with the downloaded data linked."""
    shutil.copytree(ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", folder)
    set_params(folder / "params.yaml", settings)
    (folder / "data").mkdir()
    (folder / "data/download").symlink_to(ROOT / "data/download")


def run_stage(folder: Path, *command: str) -> None:
    """Runs a stage there; its progress goes to this terminal."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    result = subprocess.run([sys.executable, "-m", *command], cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    if result.returncode:
        sys.exit(result.returncode)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object."""
    return dict(json.loads(path.read_text()))


def run(name: str, candidate: str, seed: int, settings: Sequence[str]) -> dict[str, Any]:
    """Trains and evaluates one candidate; accuracies are fractions in [0, 1], seconds are those of the training."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_folder(folder, [f"seed={seed}", *settings])
        model, augmentation = candidate.rsplit("-", 1)
        run_stage(folder, "stages.prepare")
        run_stage(folder, "stages.train", model, augmentation)
        run_stage(folder, "stages.evaluate", model, augmentation)
        return {
            "name": name,
            "settings": " ".join(settings),
            "candidate": candidate,
            "seed": seed,
            "val_accuracy": round(read_json(folder / f"data/train/{candidate}/metrics.json")["val_accuracy"], 6),
            "test_accuracy": read_json(folder / f"data/evaluate/{candidate}/metrics.json")["test_accuracy"],
            "seconds": read_json(folder / f"data/timing/training/{candidate}.json")["seconds"],
        }


def read_rows(table: str) -> list[dict[str, Any]]:
    """Reads what earlier runs gave."""
    path = RESULTS / f"{table}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def check_names(
    table: str, name: str, candidates: Sequence[str], seeds: Sequence[int], settings: Sequence[str]
) -> None:
    """Refuses, before any training, a row under the name of others, or one that has none to be held against."""
    if (table, name) == ("repeats", "defaults") and settings:
        sys.exit("error: --set: the runs named defaults are those of params.yaml as it is; give another --name")
    for row in read_rows(table):
        is_shown_with_them = row["name"] == name and row["candidate"] in candidates
        if is_shown_with_them and row["settings"] != " ".join(settings):
            sys.exit(f"error: --name {name}: {table}.csv has runs of that name with {row['settings'] or 'no --set'}")
    defaults = {(row["candidate"], row["seed"]) for row in read_rows("repeats") if row["name"] == "defaults"}
    for candidate, seed in itertools.product(candidates, seeds):
        if table == "recipe" and (candidate, str(seed)) not in defaults:
            sys.exit(f"error: --table recipe: run --name defaults first for {candidate} and seed {seed}")


def add_row(table: str, row: dict[str, Any]) -> None:
    """Adds a row to a table; one of the same name, candidate and seed is replaced."""
    same = ("name", "candidate", "seed")
    rows = [old for old in read_rows(table) if any(old[column] != str(row[column]) for column in same)]
    with (RESULTS / f"{table}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])
    write_markdown()


def write_markdown() -> None:
    """Writes both tables, and the sentence that says what the defaults give."""
    repeats = read_rows("repeats")
    (RESULTS / "repeats.md").write_text(format_rows(repeats))
    (RESULTS / "recipe.md").write_text(format_parts(read_rows("recipe"), repeats))
    (RESULTS / "defaults.md").write_text(format_best(repeats))


def describe(values: Sequence[float]) -> str:
    """Writes mean and sample standard deviation of fractions in percent."""
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f} %" if len(values) > 1 else f"{mean} %"


def read_column(rows: Sequence[dict[str, Any]], column: str) -> list[float]:
    """Reads the numbers of a column."""
    return [float(row[column]) for row in rows]


def format_best(rows: Sequence[dict[str, Any]]) -> str:
    """Writes in a sentence what the candidate with the best mean validation accuracy gives with the defaults."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["name"] == "defaults":
            groups.setdefault(row["candidate"], []).append(row)
    best = max(groups, key=lambda name: statistics.mean(read_column(groups[name], "val_accuracy")))
    accuracy = describe(read_column(groups[best], "test_accuracy"))
    seeds = ", ".join(row["seed"] for row in groups[best])
    return (
        f"`{best}` reaches {accuracy} on the test images (mean and standard deviation; seeds {seeds}, which decide the "
        "split, too).\n"
    )


def format_parts(rows: Sequence[dict[str, Any]], repeats: Sequence[dict[str, Any]]) -> str:
    """Writes a Markdown table, a row for each part of the recipe that is another; losses are in points."""
    defaults = {(row["candidate"], row["seed"]): row for row in repeats if row["name"] == "defaults"}
    lines = [
        "| instead | changed | candidate | validation | loses on validation | seeds |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for name, candidate in dict.fromkeys((row["name"], row["candidate"]) for row in rows):
        group = [row for row in rows if (row["name"], row["candidate"]) == (name, candidate)]
        losses = [
            float(defaults[row["candidate"], row["seed"]]["val_accuracy"]) - float(row["val_accuracy"]) for row in group
        ]
        cells = [name, group[0]["settings"].replace(" ", ", "), candidate]
        cells += [describe(read_column(group, "val_accuracy")), describe(losses).removesuffix(" %")]
        lines.append(f"| {' | '.join([*cells, str(len(group))])} |")
    return "\n".join(lines) + "\n"


def format_rows(rows: Sequence[dict[str, Any]]) -> str:
    """Writes a Markdown table, a row for each name and candidate."""
    lines = [
        "| run | changed | candidate | validation | test | seeds | seconds |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name, candidate in dict.fromkeys((row["name"], row["candidate"]) for row in rows):
        group = [row for row in rows if (row["name"], row["candidate"]) == (name, candidate)]
        val, test, seconds = (read_column(group, column) for column in ("val_accuracy", "test_accuracy", "seconds"))
        cells = [name, group[0]["settings"].replace(" ", ", "), candidate, describe(val), describe(test)]
        lines.append(f"| {' | '.join([*cells, str(len(group)), f'{statistics.median(seconds):.0f}'])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=("repeats", "recipe"), default="repeats", help="where the rows are added")
    parser.add_argument("--name", default="defaults", help="of the runs, for the table")
    parser.add_argument("--candidates", nargs="+", required=True, help="MODEL-AUGMENTATION")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("--set", nargs="+", default=[], dest="settings", metavar="KEY=VALUE", help="as in params.yaml")
    arguments = parser.parse_args()
    check_names(arguments.table, arguments.name, arguments.candidates, arguments.seeds, arguments.settings)
    for candidate, seed in itertools.product(arguments.candidates, arguments.seeds):
        row = run(arguments.name, candidate, seed, arguments.settings)
        add_row(arguments.table, row)
        print(" ".join(f"{column} {row[column]}" for column in COLUMNS if row[column] != ""))


if __name__ == "__main__":
    main()
