"""Experiments by the commands of the README as they are written, on a crumb, with a real Git and a real DVC remote."""

import contextlib
import csv
import io
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import yaml
from pipeline import commit, dvc, edit_params, run, run_commands

GRID = {
    ("[[16, 32], [32, 64]]", "[64]"),
    ("[[16, 32], [32, 64]]", "[128]"),
    ("[[32, 64], [64, 128]]", "[64]"),
    ("[[32, 64], [64, 128]]", "[128]"),
}
ACCURACY = "data/select_model/metrics.json:val_accuracy"


@pytest.fixture(scope="module")
def tried(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Is a clone with remotes where the first experiment and the grid have run. Tests leave its files as they are."""
    base = tmp_path_factory.mktemp("experiments")
    try:
        for attempt in ("first", "second", "third"):
            folder = base / attempt / "tried"
            shutil.copytree(finished, folder, symlinks=True)
            run(folder.parent, "git", "init", "--quiet", "--bare", "hub")
            run(folder, "git", "remote", "add", "origin", f"file://{folder.parent}/hub")
            dvc(folder, "remote", "add", "--default", "storage", str(folder.parent / "storage"))
            commit(folder)
            run(folder, "git", "push", "--quiet", "--set-upstream", "origin", "HEAD")
            run_commands(folder, "experiment")
            if run_grid(folder):
                break
        yield folder
    finally:
        for folder in base.glob("*/tried"):
            end_workers(folder)


def run_grid(folder: Path) -> bool:
    """Runs the grid; returns whether the queue's worker lived through it.

    DVC's worker asks itself for news through files, and where it reads one that is half written, it ends: then
    `dvc exp run --run-all` waits for ever. It was seen on busy machines only.
    """
    log = folder / ".dvc/tmp/exps/celery/dvc-exp-worker-1.out"
    with ThreadPoolExecutor() as pool:
        grid = pool.submit(run_commands, folder, "grid")
        while not grid.done():
            if log.exists() and "Unrecoverable error: JSONDecodeError" in log.read_text():
                end_waiting(folder)
                return False
            time.sleep(1)
        grid.result()
    return True


def end_waiting(folder: Path) -> None:
    """Ends what waits in `folder` for the queue."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if process.info["cwd"] == str(folder) and "--run-all" in (process.info["cmdline"] or []):
            process.kill()


def end_workers(folder: Path) -> None:
    """Ends the queue's worker, which stays for some seconds after its last experiment, and what it runs."""
    for file in (folder / ".dvc/tmp/exps/celery").glob("*.pid"):
        with contextlib.suppress(psutil.NoSuchProcess):
            worker = psutil.Process(int(file.read_text()))
            if "queue-worker" in worker.cmdline():
                processes = [worker, *worker.children(recursive=True)]
                for process in processes:
                    process.kill()
                psutil.wait_procs(processes, timeout=20)


@pytest.fixture
def mine(tried: Path, tmp_path: Path) -> Path:
    """Is a copy of the clone in which the experiments have run, to change at will."""
    return Path(shutil.copytree(tried, tmp_path / "mine", symlinks=True))


@pytest.fixture(scope="module")
def kept(tried: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Is a copy that has kept an experiment, and what the commands printed. Tests leave its parameters' values."""
    folder = Path(shutil.copytree(tried, tmp_path_factory.mktemp("kept") / "kept", symlinks=True))
    return folder, run_commands(folder, "keep-experiment")


@pytest.fixture
def theirs(tried: Path, tmp_path: Path) -> Path:
    """Is a fresh clone of the Git remote, without any data."""
    run(tmp_path, "git", "clone", "--quiet", f"file://{tried.parent}/hub", "theirs")
    return tmp_path / "theirs"


@pytest.fixture(scope="module")
def table(tried: Path) -> dict[str, dict[str, str]]:
    """Is what DVC knows of each experiment: parameters and metrics by name."""
    rows = csv.DictReader(io.StringIO(dvc(tried, "exp", "show", "--csv")))
    return {row["Experiment"]: row for row in rows if row["Experiment"]}


def test_experiments_leave_the_files_as_they_are(tried: Path) -> None:
    assert run(tried, "git", "status", "--porcelain") == ""


def test_grid_runs_every_combination(tried: Path, table: dict[str, dict[str, str]]) -> None:
    rows = [row for name, row in table.items() if name.startswith("grid-")]
    assert len(rows) == len(GRID)
    assert {(row["models.third.blocks"], row["models.third.dense"]) for row in rows} == GRID
    assert {row["data/select_model/metrics.json:chosen"] for row in rows} == {"third-flip"}
    assert dvc(tried, "queue", "status").count("Success") == len(GRID)


def test_combination_that_ran_before_is_not_trained_again(tried: Path, table: dict[str, dict[str, str]]) -> None:
    same = ("models.third.blocks", "models.third.dense", ACCURACY)
    (repeated,) = (
        name
        for name, row in table.items()
        if name != "narrow" and all(row[key] == table["narrow"][key] for key in same)
    )
    assert "Stage 'train@third-flip-42' is cached - skipping run" in dvc(tried, "queue", "logs", repeated)


def test_experiment_opens_no_test_image(tried: Path) -> None:
    log = dvc(tried, "queue", "logs", "grid-1")
    modules = [line.split()[3] for line in log.splitlines() if line.startswith("> python -m ")]
    assert sorted(modules) == ["stages.complexity", "stages.select_model", "stages.train"]


def test_comparison_shows_what_differs_and_the_best_first(tried: Path, table: dict[str, dict[str, str]]) -> None:
    printed = run_commands(tried, "compare-experiments")
    shown = printed.partition("\nPath ")[0]
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 100
    for name in ("models.third.blocks: ", "models.third.dense: ", "study.models: "):
        assert name in shown
    for name in (".py", "data/prepare", "train.epochs", "Created"):
        assert name not in shown
    order = [name for line in lines for name in table if line.split()[:1] == [name]]
    accuracies = [float(table[name][ACCURACY]) for name in order if name == "narrow" or name.startswith("grid-")]
    assert len(accuracies) == len(GRID) + 1
    assert accuracies == sorted(accuracies, reverse=True)
    page = (tried / "dvc_plots/index.html").read_text()
    assert '"rev": "narrow"' in page
    assert '"rev": "grid-1"' in page


def test_every_metric_has_a_line_in_the_difference_of_all(tried: Path) -> None:
    lines = dvc(tried, "metrics", "diff", "--all").splitlines()
    assert any(line.startswith("data/compare/metrics.json") and "shipped_gzip_size_bytes" in line for line in lines)
    assert max(map(len, lines)) < 135


def test_experiment_that_is_kept_is_up_to_date(kept: tuple[Path, str]) -> None:
    printed = kept[1]
    assert "models.third.blocks" in printed
    assert "Data and pipelines are up to date." in printed
    assert "python -m stages" not in printed


def test_kept_parameters_may_be_written_by_hand(kept: tuple[Path, str]) -> None:
    folder = kept[0]
    run(folder, "git", "checkout", "--quiet", "params.yaml")
    third = yaml.safe_load((folder / "params.yaml").read_text())["models"]["third"]
    edit_params(
        folder,
        study={"models": ["third"], "augmentations": ["flip"]},
        models={"third": third | {"blocks": [[16, 32], [32, 64]], "dense": [64]}},
    )
    assert "Data and pipelines are up to date." in dvc(folder, "repro", "select_model")


def test_branch_of_an_experiment_has_its_parameters_and_changes_no_file(mine: Path) -> None:
    dvc(mine, "exp", "branch", "grid-1", "narrower")
    assert run(mine, "git", "status", "--porcelain") == ""
    assert dvc(mine, "params", "diff", "narrower", "grid-1") == ""
    assert "study.models" in dvc(mine, "params", "diff", "HEAD", "narrower")


def test_experiment_travels_with_its_data_to_another_clone(
    tried: Path, theirs: Path, table: dict[str, dict[str, str]]
) -> None:
    assert "grid-1" in run_commands(tried, "push-experiment")
    printed = run_commands(theirs, "pull-experiment")
    assert "Data and pipelines are up to date." in printed
    assert "python -m stages" not in printed
    metrics = json.loads((theirs / "data/select_model/metrics.json").read_text())
    assert metrics["val_accuracy"] == pytest.approx(float(table["grid-1"][ACCURACY]))


def test_experiment_is_removed_here_and_there(mine: Path) -> None:
    run_commands(mine, "push-experiment")
    run_commands(mine, "remove-experiment")
    assert "grid-1" not in dvc(mine, "exp", "list", "--name-only").split()
    assert "grid-1" not in dvc(mine, "exp", "list", "origin", "--all-commits", "--name-only").split()
