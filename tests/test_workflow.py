"""The workflow of GitHub: a valid file, whose report is written here by its own commands, from commits of a crumb."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from pipeline import ROOT, commit, dvc, edit_params, run

WORKFLOW = ROOT / ".github/workflows/ci.yml"
CONTENT = yaml.safe_load(WORKFLOW.read_text())
FILES = "https://github.example/team/repository/raw"
PICTURE = re.compile(rf"!\[(before|after)\]\({re.escape(FILES)}/([0-9a-f]{{40}})/([^)]+)\)")


@pytest.fixture(scope="module")
def work(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Is a clone whose branch `fewer` drops a model and changes a picture, and whose branch `back` takes that back."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("workflow") / "work", symlinks=True))
    chosen = json.loads((folder / "data/select_model/choice.json").read_text())["model"]
    edit_params(folder, study={"models": [model for model in ("tiny", "thin") if model != chosen]})
    run(folder, "git", "branch", "start")
    run(folder, "git", "switch", "--quiet", "--create", "fewer")
    dvc(folder, "repro", "select_model")
    shutil.rmtree(folder / "data/complexity" / chosen)
    shutil.copy(folder / "data/preview/strong.png", folder / "data/preview/none.png")
    commit(folder)
    run(folder, "git", "switch", "--quiet", "--create", "back")
    run(folder, "git", "revert", "--no-edit", "HEAD")
    return folder


def write_report(work: Path, folder: Path, target: str, branch: str) -> str:
    """Runs the commands of the report as GitHub does, in a fresh clone of a branch, which has no data of DVC's."""
    run(folder, "git", "clone", "--quiet", "--branch", branch, str(work), "clone")
    (step,) = (step for step in CONTENT["jobs"]["report"]["steps"] if "> report.md" in step.get("run", ""))
    variables = {"TARGET": f"origin/{target}", "FILES": FILES}
    assert step["env"].keys() == variables.keys()
    settings = [
        f"{name}={value}" for name, value in {**variables, "GITHUB_STEP_SUMMARY": folder / "summary.md"}.items()
    ]
    run(folder / "clone", "env", *settings, "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"])
    report = (folder / "clone/report.md").read_text()
    assert (folder / "summary.md").read_text() == report
    return report


@pytest.fixture(scope="module")
def report(work: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Is the report on the branch `fewer`."""
    return write_report(work, tmp_path_factory.mktemp("report"), "start", "fewer")


def test_workflow_is_valid() -> None:
    run(ROOT, "check-jsonschema", "--builtin-schema", "vendor.github-workflows", str(WORKFLOW))


def test_checks_are_those_of_the_project() -> None:
    commands = [step["run"] for step in CONTENT["jobs"]["check"]["steps"] if "run" in step]
    assert commands[-1] == ".ci/run"
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_only_the_report_may_write_and_only_a_comment() -> None:
    assert CONTENT["permissions"] == {"contents": "read"}
    assert "permissions" not in CONTENT["jobs"]["check"]
    assert CONTENT["jobs"]["report"]["permissions"] == {"contents": "read", "pull-requests": "write"}


def test_token_is_given_to_the_comment_alone_and_never_for_a_fork() -> None:
    steps = [step for job in CONTENT["jobs"].values() for step in job["steps"]]
    (comment,) = (step for step in steps if "secrets." in yaml.safe_dump(step))
    assert comment["run"].startswith("gh pr comment ")
    assert comment["if"] == "github.event.pull_request.head.repo.full_name == github.repository"
    checkouts = [step for step in steps if step.get("uses", "").startswith("actions/checkout@")]
    assert [step["with"]["persist-credentials"] for step in checkouts] == [False, False]


def test_every_action_is_of_github_itself() -> None:
    steps = [step for job in CONTENT["jobs"].values() for step in job["steps"]]
    actions = [step["uses"] for step in steps if "uses" in step]
    assert [action for action in actions if not action.startswith("actions/")] == []


def test_report_shows_changed_parameters_metrics_and_pictures(work: Path, report: str) -> None:
    parameters, metrics, pictures = (part.strip() for part in re.split(r"^### \w+$", report, flags=re.MULTILINE)[1:])
    assert re.search(r"^\| params.yaml +\| study.models +\| \['tiny', 'thin'\] +\| ", parameters, re.MULTILINE)
    before, after = (
        json.loads(run(work, "git", "show", f"{revision}:data/select_model/metrics.json"))
        for revision in ("start", "fewer")
    )
    assert before["chosen"] != after["chosen"]
    for name in ("chosen", "macs"):
        row = rf"^\| data/select_model/metrics.json +\| {name} +\| {before[name]} +\| {after[name]} +\|"
        assert re.search(row, metrics, re.MULTILINE)
    assert pictures.splitlines()[:2] == ["| file | before | after |", "| --- | --- | --- |"]
    (row,) = (line for line in pictures.splitlines() if "| data/preview/none.png |" in line)
    assert [match[1] for match in PICTURE.finditer(row)] == ["before", "after"]


def test_every_picture_of_the_report_is_in_git(work: Path, report: str) -> None:
    pictures = PICTURE.findall(report)
    assert len(pictures) == report.count("![")
    contents = {}
    for _, revision, path in pictures:
        blob = subprocess.run(["git", "show", f"{revision}:{path}"], cwd=work, capture_output=True, check=True).stdout
        assert blob.startswith(b"\x89PNG")
        contents[revision, path] = blob
    assert len(set(contents.values())) == len(contents)


def find_sides(report: str) -> set[tuple[str, ...]]:
    """Finds which sides the rows of the dropped model's pictures have."""
    rows = [line for line in report.splitlines() if line.startswith("| data/complexity/")]
    assert all(row.count("|") == 4 for row in rows)
    return {tuple(match[1] for match in PICTURE.finditer(row)) for row in rows}


def test_picture_that_is_gone_has_no_after(report: str) -> None:
    assert find_sides(report) == {("before",)}


def test_picture_that_is_new_has_no_before(work: Path, tmp_path: Path) -> None:
    assert find_sides(write_report(work, tmp_path, "fewer", "back")) == {("after",)}
