"""Contracts between dvc.yaml, params.yaml, .gitignore and the code, so that nothing goes stale in silence."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

from stages.lib.running.followers import list_followers, list_shown

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEPENDENCIES: list[str] = PYPROJECT["project"]["dependencies"]
DEV_DEPENDENCIES: list[str] = PYPROJECT["dependency-groups"]["dev"]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES: dict[str, dict[str, Any]] = PIPELINE["stages"]
SOURCES = {path.stem: path.read_text() for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__"}
IMPORTS = grimp.build_graph("stages", cache_dir=None)
NEVER_CHANGE_OUTPUTS = {"errors", "params", "running"}
STAGES_ON_TEST_IMAGES = {
    *("evaluate", "evaluate_finished", "audit", "prune", "prune_shrunk", "shrink", "export", "ship", "verify")
}
MODULE_OF = {"evaluate_finished": "evaluate", "prune_shrunk": "prune"}
WITHOUT_TENSORFLOW = [
    *(f"stages.{name}" for name in ("validate", "download", "prepare", "complexity", "select_model", "frontier")),
    *(f"stages.{name}" for name in ("audit", "deploy", "ship", "verify", "compare", "report")),
    *("stages.lib.cost.sparsity", "stages.lib.network.metrics", "stages.lib.training.cluster"),
    "stages.tools.experiments",
]


def name_module(stage: str) -> str:
    """Names the module that a stage runs: of its own name, or that of another stage, which it runs on other models."""
    return MODULE_OF.get(stage, stage)


def find_package(module: str) -> str:
    """Finds the package, or the module beside the packages, that a module of stages/lib is part of."""
    return module.removeprefix("stages.lib.").partition(".")[0] if module.startswith("stages.lib.") else ""


def list_packages(module: str) -> set[str]:
    """Lists the packages of stages/lib whose code can change a stage's outputs, imported directly or not."""
    reached: set[str] = set()
    waiting = {f"stages.{module}"}
    while waiting:
        module = waiting.pop()
        reached.add(module)
        imported = IMPORTS.find_modules_directly_imported_by(module) - reached
        waiting |= {name for name in imported if find_package(name) not in NEVER_CHANGE_OUTPUTS}
    return {find_package(module) for module in reached} - {""}


def list_outputs(stage: str) -> dict[str, dict[str, Any]]:
    """Maps each output of a stage, metrics and plots among them, to its options."""
    outputs: dict[str, dict[str, Any]] = {}
    for kind in ("outs", "metrics", "plots"):
        for entry in STAGES[stage].get(kind, []):
            outputs |= entry if isinstance(entry, dict) else {entry: {}}
    return outputs


def read_reads(module: str) -> list[str]:
    """Reads the constant READS of a stage: the keys of params.yaml that it reads."""
    for node in ast.parse(SOURCES[module]).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "READS":
            return list(ast.literal_eval(node.value))
    raise AssertionError(f"stages/{module}.py has no READS")


def test_stages_in_dvc_yaml_are_the_modules_in_the_folder() -> None:
    assert {name_module(stage) for stage in STAGES} == SOURCES.keys()


@pytest.mark.parametrize("stage", STAGES)
def test_stage_has_a_description_and_runs_its_own_module_with_the_items_of_its_matrix(stage: str) -> None:
    command = STAGES[stage]["cmd"]
    assert command.startswith(f"python -m stages.{name_module(stage)}")
    assert re.findall(r"\$\{item\.(\w+)\}", command) == list(STAGES[stage].get("matrix", {}))
    assert re.fullmatch(r"[A-Z].{10,80}[^.]", STAGES[stage]["desc"])


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_its_module_and_on_the_packages_whose_code_can_change_its_outputs(stage: str) -> None:
    module = name_module(stage)
    packages = {"params", "network", "cost"} if stage == "validate" else list_packages(module)
    declared = [path for path in STAGES[stage]["deps"] if path.startswith("stages/")]
    assert sorted(declared) == sorted([f"stages/{module}.py", *(f"stages/lib/{name}" for name in packages)])


@pytest.mark.parametrize("stage", sorted(STAGES.keys() - {"validate"}))
def test_stage_names_in_dvc_yaml_the_params_that_its_code_reads(stage: str) -> None:
    declared = [re.sub(r"\.\$\{.*", "", name) for name in STAGES[stage]["params"]]
    source = SOURCES[name_module(stage)]
    assert sorted(read_reads(name_module(stage))) == sorted(declared)
    calls = re.findall(r"^(?!.*>>>).*load_params\((.*?)\)", source, re.M)
    assert calls == ["reads=READS"]  # no other key can be read
    unread = [key for key in declared if not re.search(rf'(\.|"){key.rpartition(".")[2]}\b', source)]
    assert unread == []


def test_validate_depends_on_the_whole_of_params_yaml() -> None:
    assert "params.yaml" in STAGES["validate"]["deps"]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_writes_only_into_its_own_folder_and_git_ignores_what_dvc_caches(stage: str) -> None:
    for path, options in list_outputs(stage).items():
        assert f"{path}/".startswith(f"data/{name_module(stage)}/")
        example = re.sub(r"\$\{.*?\}", "third", path)
        ignored = subprocess.run(["git", "check-ignore", "-q", example], cwd=ROOT).returncode == 0
        assert ignored == options.get("cache", True), path


def test_what_dvc_shows_of_the_whole_run_is_in_git_so_that_removing_it_hides_it() -> None:
    shown = list_shown(PIPELINE)
    assert {"data/compare/metrics.json", "data/compare/curves.csv", "data/compare/distortions.png"} <= shown
    for path in shown:  # DVC would find one that it caches by dvc.lock
        assert list_outputs(path.split("/")[1])[path]["cache"] is False, path


def test_only_stages_of_final_numbers_depend_on_the_test_images() -> None:
    images = {"data/prepare/test.npz", "data/download", "${dataset.source}"}
    dependent = {stage for stage in STAGES if images & set(STAGES[stage]["deps"])}
    assert dependent == {"prepare"} | STAGES_ON_TEST_IMAGES


def test_the_choice_and_what_is_finished_do_not_depend_on_a_stage_that_sees_test_images() -> None:
    folders = tuple(f"data/{name_module(stage)}" for stage in STAGES_ON_TEST_IMAGES)
    for stage in ("train", "select_model", "finish"):
        assert [path for path in STAGES[stage]["deps"] if path.startswith(folders)] == []


def test_no_stage_hides_a_module_of_the_standard_library() -> None:
    assert STAGES.keys() & sys.stdlib_module_names == set()


def test_what_needs_no_network_does_not_load_tensorflow() -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {WITHOUT_TENSORFLOW}:\n"
        "    importlib.import_module(name)\n"
        "    loaded = {'tensorflow', 'tf_keras', 'keras', 'tensorflow_model_optimization'} & set(sys.modules)\n"
        "    if loaded:\n"
        "        sys.exit(f'{name} loads {loaded}')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_requirements_are_pinned_and_hashed_and_name_no_registry() -> None:
    text = (ROOT / "requirements.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip()]
    assert [line for line in lines if not re.match(r"[a-z0-9.\[\]_-]+==\S+.*--hash=sha256:[0-9a-f]{64}", line)] == []


def read_names(*requirements: str) -> set[str]:
    """Reads the normalized names of packages from lines as `numpy>=2.4,<2.5`."""
    return {re.sub(r"[._-]+", "-", re.split(r"[^\w.-]", line)[0]).lower() for line in requirements}


def list_imported_packages(pattern: str) -> set[str]:
    """Lists the packages whose modules Python files import."""
    packages = packages_distributions()
    modules: set[str] = set()
    for path in ROOT.glob(pattern):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module or "")
    return read_names(*(name for module in modules for name in packages.get(module.partition(".")[0], [])))


def test_pyproject_asks_for_every_package_that_is_imported() -> None:
    project, stages = read_names(*DEPENDENCIES), list_imported_packages("stages/**/*.py")
    assert {"numpy", "pillow"} <= stages <= project
    assert list_imported_packages("tests/*.py") <= project | read_names(*DEV_DEPENDENCIES)


def test_requirements_hold_every_package_that_pyproject_asks_for() -> None:
    pinned = re.findall(r"^\S+==", (ROOT / "requirements.txt").read_text(), re.M)
    assert read_names(*DEPENDENCIES, *DEV_DEPENDENCIES) <= read_names(*pinned)


def test_a_new_finished_model_outdates_what_was_measured_of_it() -> None:
    assert {"evaluate", "audit", "prune", "ship", "compare"} <= set(list_followers(STAGES, "finish"))
    assert "train" not in list_followers(STAGES, "finish")
