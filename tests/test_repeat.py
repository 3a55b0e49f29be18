"""What the script that repeats a recipe with several seeds refuses, before any training."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--candidates", "first-flip", "--set", "train.epochs=1"],
            "--set: the runs named defaults are those of params.yaml as it is; give another --name",
        ),
        (
            ["--table", "recipe", "--name", "AdamW", "--candidates", "first-flip", "--set", "train.optimizer=sgd"],
            "--name AdamW: recipe.csv has runs of that name with train.optimizer=adamw",
        ),
        (
            ["--table", "recipe", "--name", "new", "--candidates", "first-flip", "--seeds", "42", "7"],
            "--table recipe: run --name defaults first for first-flip and seed 7",
        ),
        (
            ["--name", "new", "--candidates", "first-flip", "--set", "train.epoch=1"],
            "--set train.epoch=1: params.yaml has no train.epoch",
        ),
    ],
    ids=["defaults that are none", "a name of other settings", "nothing to be held against", "an unknown key"],
)
def test_a_row_that_would_mislead_is_refused(arguments: list[str], message: str) -> None:
    script = ROOT / "tests/benchmarks/repeat.py"
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (1, f"error: {message}\n")
