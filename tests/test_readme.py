"""The guides show what the pipeline wrote. As a script, this brings what they copy up to date."""

import csv
import json
import re
import subprocess
from collections.abc import Callable

import pytest
import yaml
from pipeline import GUIDES, ROOT, read_block

from stages.lib.results.tables import escape_markdown

TEXTS = {guide: (ROOT / guide).read_text() for guide in GUIDES}
GENERATED = re.compile(r"<!-- generated: ([^\s:]+)(?:: (.+?))? -->\n(.*?)<!-- end -->\n", re.DOTALL)
LINKS = [(guide, link) for guide, text in TEXTS.items() for link in re.findall(r"\]\(([^)]+)\)", text)]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def read_working_file(path: str) -> str:
    return (ROOT / path).read_text()


def read_staged_file(path: str) -> str:
    """Reads a file as it would be committed: a run of one's own leaves the guides right until it is added."""
    return subprocess.run(["git", "show", f":{path}"], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def format_dependents(pipeline: str) -> str:
    """Writes the table of the packages of stages/lib and the stages that depend on them, from the text of dvc.yaml."""
    stages = yaml.safe_load(pipeline)["stages"]
    rows = "| an edit in | runs these stages again, and what follows where their outputs differ |\n| --- | --- |\n"
    for package in sorted(path.parent.name for path in (ROOT / "stages/lib").glob("*/__init__.py")):
        names = [f"`{name}`" for name, stage in stages.items() if f"stages/lib/{package}" in stage["deps"]]
        others = [f"`{name}`" for name in stages if f"`{name}`" not in names]
        cell = f"all but {', '.join(others)}" if len(names) > 2 * len(others) else ", ".join(names) or "none"
        rows += f"| `{package}` | {cell} |\n"
    return rows


def fill(text: str, read: Callable[[str], str]) -> str:
    """Puts between each pair of marks the file that they name; of a JSON file, the sentence under the named key."""

    def fill_one(match: re.Match[str]) -> str:
        path, key, _ = match.groups()
        content = read(path)
        if key:
            content = escape_markdown(json.loads(content)[key]) + "\n"
        elif path == "dvc.yaml":
            content = format_dependents(content)
        return f"<!-- generated: {path}{f': {key}' if key else ''} -->\n{content}<!-- end -->\n"

    return GENERATED.sub(fill_one, text)


def list_anchors(text: str) -> list[str]:
    """Lists the addresses of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("guide", GUIDES)
def test_tables_and_answers_are_those_that_the_pipeline_wrote(guide: str) -> None:
    assert TEXTS[guide] == fill(TEXTS[guide], read_staged_file), "run `PYTHONPATH=. python tests/test_readme.py`"
    for path, _, content in GENERATED.findall(TEXTS[guide]):
        assert content.count("\n") != 2, f"{path}: a table without a row"


@pytest.mark.parametrize(("guide", "link"), [(guide, link) for guide, link in LINKS if "://" not in link])
def test_link_leads_to_a_file_in_git_and_a_heading_in_it(guide: str, link: str) -> None:
    name, _, anchor = link.partition("#")
    path = ((ROOT / guide).parent / name).resolve() if name else ROOT / guide
    tracked = subprocess.run(["git", "ls-files", "--error-unmatch", path], cwd=ROOT, capture_output=True)
    assert tracked.returncode == 0
    assert not anchor or anchor in list_anchors(path.read_text())
    assert path.suffix != ".png" or path.read_bytes().startswith(b"\x89PNG")


def test_no_two_commands_have_the_same_name() -> None:
    names = re.findall(r"<!-- command: (.+) -->", "".join(TEXTS.values()))
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["reproduce", "test", "taste"])
def test_command_is_one_line_to_copy(name: str) -> None:
    assert read_block(f"command: {name}").count("\n") == 1


def test_the_first_page_is_short() -> None:
    assert TEXTS["README.md"].count("\n") <= 250


def test_the_first_page_cites_who_made_study_and_data() -> None:
    page = " ".join(TEXTS["README.md"].split())
    study = ("Ahmed Elgamiel", "Mnist Fashion Classifier", "https://github.com/AhmedElgamiel/MnistClassifier")
    data = ("Xiao, Rasul and Vollgraf 2017", "https://arxiv.org/abs/1708.07747", "Zalando SE, MIT licence")
    assert [words for words in (*study, *data) if words not in page] == []


def test_reasons_in_params_yaml_stand_above_their_keys_in_short_lines() -> None:
    lines = (ROOT / "params.yaml").read_text().splitlines()
    assert [line for line in lines if len(line) > 120 or re.search(r"\S\s+#", line)] == []


def test_within_the_smaller_budget_another_file_ships() -> None:
    (limit,) = re.findall(r"-S ship\.max_flash_bytes=(\d+)\n", read_block("command: ship"))
    shipped = json.loads(read_staged_file("data/ship/model.json"))
    rows = list(csv.DictReader(read_staged_file("data/frontier/frontier.csv").splitlines()))
    sizes = [int(row["flash_bytes"]) for row in rows if row["flash_bytes"]]
    assert min(sizes) <= int(limit) < shipped["device"]["flash_bytes"]


def test_every_stage_has_its_row() -> None:
    assert set(re.findall(r"^\| `(\w+)` \| .*\? \|", TEXTS["README.md"], re.MULTILINE)) == set(STAGES)


def test_every_folder_of_a_stage_has_its_row() -> None:
    (first, *_) = TEXTS["data/README.md"].split("\n## ")
    assert set(STAGES) - {"validate", "evaluate_finished", "prune_shrunk"} <= set(re.findall(r"`(\w+)/`", first))


def test_every_program_has_its_row() -> None:
    tools = ROOT / "stages/tools"
    programs = {path.stem for path in tools.glob("*.py") if '"__main__":' in path.read_text()}
    programs |= {path.parent.name for path in tools.glob("*/__main__.py")}
    assert programs <= set(re.findall(r"^\| `(\w+)` \|", TEXTS["stages/tools/README.md"], re.MULTILINE))


def test_every_package_has_its_row() -> None:
    table, _, _ = TEXTS["stages/README.md"].partition("## A change costs")
    packages = {path.parent.name for path in (ROOT / "stages/lib").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == packages


if __name__ == "__main__":
    for guide, text in TEXTS.items():
        (ROOT / guide).write_text(fill(text, read_working_file))
