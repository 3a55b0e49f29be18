"""Trains, prunes, shrinks and exports one candidate with several seeds; adds it to compression.csv and compression.md.

    python tests/benchmarks/repeat_compression.py --candidate third-flip --seeds 42 43 44

Each run is the pipeline's own commands in a temporary folder, with a study of that one candidate, and params.yaml
changed as `--set` and the seed say; the seed decides the split, too. Needs data/download: `dvc repro download`. The
numbers are those that the stage `frontier` writes; test accuracies are for the record, and no choice rests on them.
"""

import argparse
import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path

from repeat import describe, make_folder, run_stage
from ruamel.yaml import YAML

RESULTS = Path(__file__).parent / "compression.csv"
COLUMNS = ("name", "kind", "precision", "val_accuracy", "test_accuracy", "gzip_size_bytes", "macs", "nonzero_macs")
RUN = ("candidate", "settings", "seed")
"""Columns that name a run: rows of the same run replace earlier ones."""


def run(candidate: str, seed: int, settings: Sequence[str]) -> list[dict[str, str]]:
    """Runs all stages for one candidate; returns the rows of the frontier that are its files, the dense ones first."""
    model, augmentation = candidate.rsplit("-", 1)
    study = [f"study.models=[{model}]", f"study.augmentations=[{augmentation}]"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_folder(folder, [f"seed={seed}", *study, *settings])
        params = YAML(typ="safe").load(folder / "params.yaml")
        run_stage(folder, "stages.prepare")
        run_stage(folder, "stages.complexity", model)
        run_stage(folder, "stages.train", model, augmentation)
        run_stage(folder, "stages.select_model")
        run_stage(folder, "stages.evaluate", model, augmentation)
        for ranking in params["prune"]["rankings"]:
            run_stage(folder, "stages.prune", ranking)
        for way in params["shrink"]["filters"]:
            run_stage(folder, "stages.shrink", way)
        for source in ("train", "prune", "shrink"):
            run_stage(folder, "stages.export", source)
        run_stage(folder, "stages.frontier")
        with (folder / "data/frontier/frontier.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["format"] == "tflite"]
    names = dict(zip(RUN, (candidate, " ".join(settings), str(seed)), strict=True))
    return [names | {column: row[column] for column in COLUMNS} for row in rows]


def read_rows() -> list[dict[str, str]]:
    """Reads what earlier runs gave."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def add_rows(rows: Sequence[dict[str, str]]) -> None:
    """Adds the rows of one run to the results, in place of earlier ones of that run."""
    others = [row for row in read_rows() if any(row[column] != rows[0][column] for column in RUN)]
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, (*RUN, *COLUMNS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted([*others, *rows], key=lambda row: [row[column] for column in RUN]))
    RESULTS.with_suffix(".md").write_text(format_rows(read_rows()))


def format_rows(rows: Sequence[dict[str, str]]) -> str:
    """Writes a Markdown table for each recipe, a row a file; losses are in points against the dense float32 file."""
    recipes = dict.fromkeys((row["candidate"], row["settings"]) for row in rows)
    return "\n".join(
        format_recipe(*recipe, [row for row in rows if (row["candidate"], row["settings"]) == recipe])
        for recipe in recipes
    )


def format_recipe(candidate: str, settings: str, rows: Sequence[dict[str, str]]) -> str:
    """Writes what one recipe gave, mean and standard deviation over its seeds; each loses against its own seed."""
    dense = {row["seed"]: row for row in rows if (row["kind"], row["precision"]) == ("dense", "float32")}
    changed = ", ".join(f"`{setting}`" for setting in settings.split()) or "the defaults"
    lines = [
        f"{candidate} with {changed}; seeds {', '.join(dense)}:",
        "",
        "| model | precision | test | loses on validation | loses on test | gzipped | million MACs |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, precision in dict.fromkeys((row["name"], row["precision"]) for row in rows):
        group = [row for row in rows if (row["name"], row["precision"]) == (name, precision)]
        losses = [
            describe([float(dense[row["seed"]][column]) - float(row[column]) for row in group]).removesuffix(" %")
            for column in ("val_accuracy", "test_accuracy")
        ]
        kilobytes = sum(int(row["gzip_size_bytes"]) for row in group) / len(group) / 1000
        accuracy = describe([float(row["test_accuracy"]) for row in group])
        cells = [name, precision, accuracy, *losses, f"{kilobytes:,.0f} kB", f"{int(group[0]['macs']) / 1e6:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidate", required=True, help="MODEL-AUGMENTATION")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("--set", nargs="+", default=[], dest="settings", metavar="KEY=VALUE", help="as in params.yaml")
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        add_rows(run(arguments.candidate, seed, arguments.settings))


if __name__ == "__main__":
    main()
