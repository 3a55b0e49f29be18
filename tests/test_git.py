"""Git's environment and settings of whoever runs the tools and the tests, and clones that are not whole."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pipeline import ROOT, commit, compute_checksums, dvc, run

from stages.lib.errors import UserError
from stages.tools.search.clone import (
    FOLDER,
    find_experiment,
    find_reason,
    keep_experiment,
    make_clone,
    open_repository,
    read_accuracy,
    read_failure,
    start_training,
)

METRICS = "data/select_model/metrics.json"
HOOKS = ("pre-push", "pre-receive", "post-checkout", "reference-transaction", "pre-commit", "post-commit")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Is a repository of Git and DVC whose stages take no time, with two commits. Tests leave it as they find it."""
    folder = tmp_path_factory.mktemp("git") / "made"
    folder.mkdir()
    stages = {
        "prepare": {"cmd": "mkdir -p data/prepare && echo images > data/prepare/train", "outs": ["data/prepare/train"]},
        "select_model": {
            "cmd": f"mkdir -p data/select_model && echo '{{\"val_accuracy\": 0.5}}' > {METRICS}",
            "deps": ["data/prepare/train"],
            "params": ["train"],
            "metrics": [{METRICS: {"cache": False}}],
        },
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    (folder / "params.yaml").write_text("train:\n  epochs: 1\n")
    (folder / ".gitignore").write_text("/data/prepare\n")
    (folder / "README.md").write_text("A draft\n")
    shutil.copy(ROOT / ".gitattributes", folder)
    run(folder, "git", "init", "--quiet")
    dvc(folder, "init", "--quiet")
    commit(folder, "init")
    dvc(folder, "repro", "--quiet")
    (folder / "README.md").write_text("A guide\n")
    commit(folder)
    return folder


@pytest.fixture
def repository(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is a copy of the repository, to change at will, and the working directory."""
    folder = Path(shutil.copytree(made, tmp_path / "mine", symlinks=True))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def outer(tmp_path: Path) -> Path:
    """Is a repository that has nothing to do with what is run."""
    folder = tmp_path / "outer"
    folder.mkdir()
    (folder / "work.txt").write_text("A day's work\n")
    commit(folder, "init")
    return folder


def lead_astray(outer: Path) -> dict[str, str]:
    """Makes the environment of a hook of `outer`."""
    return {
        "GIT_DIR": f"{outer}/.git",
        "GIT_COMMON_DIR": f"{outer}/.git",
        "GIT_WORK_TREE": str(outer),
        "GIT_INDEX_FILE": f"{outer}/.git/index",
        "GIT_OBJECT_DIRECTORY": f"{outer}/.git/objects",
        "GIT_NAMESPACE": "other",
        "GIT_QUARANTINE_PATH": f"{outer}/.git/objects",
        "GIT_PREFIX": "stages/",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.worktree",
        "GIT_CONFIG_VALUE_0": str(outer),
    }


def run_trial() -> str:
    """Runs a trial as the search does; returns the commit of its experiment."""
    opened, clone = open_repository(), FOLDER / "search-one"
    make_clone(opened, clone)
    process = start_training(clone, {"train.epochs": 2})
    assert process.wait(120) == 0, read_failure(clone)
    assert read_accuracy(clone) == 0.5
    ref, found = find_experiment(opened, clone)
    keep_experiment(ref, clone)
    return found


def list_experiments(folder: Path) -> str:
    return run(folder, "git", "for-each-ref", "--format=%(objectname)", "refs/exps/*/*/*").strip()


def test_a_search_leaves_the_repository_that_git_was_led_to_as_it_is(
    repository: Path, outer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = compute_checksums(outer)
    with monkeypatch.context() as patch:
        for name, value in lead_astray(outer).items():
            patch.setenv(name, value)
        found = run_trial()

    assert compute_checksums(outer) == before
    assert list_experiments(repository) == found
    assert run(repository, "git", "symbolic-ref", "--short", "HEAD").strip() in ("main", "master")
    assert run(repository, "git", "status", "--porcelain") == ""


def test_the_tests_leave_the_repository_that_git_was_led_to_as_it_is(
    outer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = compute_checksums(outer)
    (tmp_path / "new").mkdir()
    (tmp_path / "new/file").touch()
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT / 'tests')!r}, {str(ROOT)!r}]; import conftest; import pathlib;"
        "conftest.commit(pathlib.Path('new'), 'init')"
    )
    with monkeypatch.context() as patch:
        for name, value in lead_astray(outer).items():
            patch.setenv(name, value)
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)

    assert compute_checksums(outer) == before
    assert run(tmp_path / "new", "git", "ls-files") == "file\n"


@pytest.mark.parametrize(
    "settings",
    [
        "[core]\n\thooksPath = {hooks}\n",
        "[init]\n\ttemplateDir = {hooks}/..\n"
        "[clone]\n\tdefaultRemoteName = upstream\n"
        "[core]\n\tautocrlf = true\n\teol = crlf\n"
        "[protocol]\n\tallow = never\n"
        "[fetch]\n\tprune = true\n\tpruneTags = true\n"
        "[push]\n\tgpgSign = true\n"
        "[commit]\n\tgpgSign = true\n",
    ],
    ids=["hooks", "all else"],
)
def test_a_trial_becomes_an_experiment_whatever_the_settings_of_git_are(
    settings: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = tmp_path / "template/hooks"
    hooks.mkdir(parents=True)
    for name in HOOKS:
        (hooks / name).write_text("#!/bin/sh\necho 'not without a ticket' >&2; exit 1\n")
        (hooks / name).chmod(0o755)
    run(repository, "git", "tag", "mine")
    (tmp_path / ".gitconfig").write_text(settings.format(hooks=hooks))
    with monkeypatch.context() as patch:
        patch.setenv("HOME", str(tmp_path))
        patch.delenv("GIT_CONFIG_GLOBAL")
        found = run_trial()

    assert list_experiments(repository) == found
    assert run(repository, "git", "tag") == "mine\n"


def test_a_trial_runs_in_a_folder_of_any_name(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = repository.rename(tmp_path / "café #1 雪")
    monkeypatch.chdir(folder)
    assert run_trial() == list_experiments(folder)


def test_a_failure_is_the_line_that_says_why_and_no_offer_of_help() -> None:
    assert (
        find_reason("ERROR: unexpected error - no\n\nHaving any troubles? Hit us up at x!") == "unexpected error - no"
    )
    assert find_reason("fatal: not a repository\nhint: make one\n") == "not a repository"
    assert find_reason("a\nb\n") == "b"
    assert find_reason("") == "failed without a word"


@pytest.mark.parametrize(
    ("option", "mend"),
    [("--depth=1", "git fetch --unshallow"), ("--filter=blob:none", "git fetch --refetch --no-filter")],
)
def test_a_clone_that_is_not_whole_is_refused_before_any_work_until_the_command_named_has_mended_it(
    option: str, mend: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(repository, "git", "config", "uploadpack.allowFilter", "true")
    run(tmp_path, "git", "clone", "--quiet", option, f"file://{repository}", "part")
    shutil.copytree(repository / ".dvc/cache", tmp_path / "part/.dvc/cache")
    monkeypatch.chdir(tmp_path / "part")
    with pytest.raises(UserError, match=f"run `{mend}`$"):
        open_repository()

    run(tmp_path / "part", *mend.split(), "--quiet")

    assert run_trial() == list_experiments(tmp_path / "part")


def test_a_stage_refuses_an_experiment_that_its_clone_could_not_take_back(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shallow"
    run(tmp_path, "git", "clone", "--quiet", "--depth=1", f"file://{made}", str(folder))
    stage = (
        f"{sys.executable} -c \"import sys; sys.path.insert(0, '{ROOT}'); sys.argv = ['x.py'];"
        "from stages.lib.running.runner import run_stage; run_stage(lambda: print('wor' + 'ks'))\""
    )
    pipeline = {"stages": {"x": {"cmd": stage, "params": ["train"]}}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
    run(folder, "git", "config", "user.name", "Test")
    run(folder, "git", "config", "user.email", "test@example.com")
    commit(folder)

    printed = dvc(folder, "exp", "run", "--temp", "--set-param", "train.epochs=3", status=255)
    assert "run `git fetch --unshallow`" in printed
    assert "works" not in printed
    assert "works" in dvc(folder, "exp", "run", "--set-param", "train.epochs=3")
    run(folder, "git", "fetch", "--quiet", "--unshallow")
    assert "works" in dvc(folder, "exp", "run", "--temp", "--set-param", "train.epochs=4")
    assert len(list_experiments(folder).split()) == 2


def test_git_stores_every_file_byte_for_byte_as_dvc_has_hashed_it() -> None:
    files = run(ROOT, "git", "ls-files", "-z")
    checked = subprocess.run(
        ["git", "check-attr", "-z", "--stdin", "text"],
        input=files,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(checked.stdout.split("\0")[2::3]) == {"unset"}
