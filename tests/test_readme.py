"""The README shows what the pipeline wrote. `python tests/test_readme.py` brings its tables up to date."""

import csv
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline import read_commands

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GENERATED = re.compile(r"<!-- generated: (\S+) -->\n(.*?)<!-- end -->\n", re.DOTALL)


def read_working_file(path: str) -> str:
    return (ROOT / path).read_text()


def read_staged_file(path: str) -> str:
    """Reads a file as it would be committed: a run of one's own leaves the README right until it is added."""
    return subprocess.run(["git", "show", f":{path}"], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def fill(text: str, read: Callable[[str], str]) -> str:
    """Puts the content of each named file between its markers."""
    return GENERATED.sub(lambda match: f"<!-- generated: {match[1]} -->\n{read(match[1])}<!-- end -->\n", text)


def test_tables_are_those_that_the_pipeline_wrote() -> None:
    text = README.read_text()
    assert [match[1] for match in GENERATED.finditer(text)] == [
        "data/compare/headline.md",
        "tests/benchmarks/defaults.md",
        "data/compare/grid.md",
        "data/frontier/shrinking.md",
        "data/frontier/frontier.md",
        *(f"tests/benchmarks/{name}.md" for name in ("repeats", "recipe", "training", "time_to_accuracy")),
    ]
    assert text == fill(text, read_staged_file), "run `python tests/test_readme.py`"
    for match in GENERATED.finditer(text):
        assert match[2].count("\n") != 2, f"{match[1]}: a table without a row"


@pytest.mark.parametrize("path", re.findall(r"!\[[^]]+\]\(([^)]+)\)", README.read_text()))
def test_pictures_are_in_git(path: str) -> None:
    tracked = subprocess.run(["git", "ls-files", "--error-unmatch", path], cwd=ROOT, capture_output=True)
    assert tracked.returncode == 0
    assert (ROOT / path).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["reproduce", "test", "taste"])
def test_command_is_one_line_to_copy(name: str) -> None:
    (command,) = re.findall(rf"<!-- command: {name} -->\n```bash\n(.*?)\n```\n", README.read_text(), re.DOTALL)
    assert "\n" not in command


def test_the_file_that_may_lose_more_is_smaller_than_the_shipped_one() -> None:
    (limit,) = re.findall(r"-S ship\.max_loss=(\S+)\n", read_commands("ship") + "\n")
    shipped = json.loads(read_staged_file("data/ship/model.json"))
    chosen = json.loads(read_staged_file("data/select_model/metrics.json"))
    rows = list(csv.DictReader(read_staged_file("data/frontier/frontier.csv").splitlines()))
    lost = chosen["val_accuracy"] - float(limit)
    sizes = [
        int(row["gzip_size_bytes"]) for row in rows if row["format"] == "tflite" and float(row["val_accuracy"]) >= lost
    ]
    assert min(sizes) < shipped["gzip_size_bytes"]


def test_every_stage_has_its_row() -> None:
    stages = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert set(re.findall(r"^\| `(\w+)` \| .*\? \|", README.read_text(), re.MULTILINE)) == stages


if __name__ == "__main__":
    README.write_text(fill(README.read_text(), read_working_file))
