"""Contracts between dvc.yaml, params.yaml, .gitignore and the code, so that nothing goes stale in silence."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEPENDENCIES: list[str] = PYPROJECT["project"]["dependencies"]
DEV_DEPENDENCIES: list[str] = PYPROJECT["dependency-groups"]["dev"]
STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
MODULES = sorted(path.stem for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__")
LIB_MODULES = sorted(path.stem for path in (ROOT / "stages/lib").glob("*.py") if path.stem != "__init__")
STAGES_ON_TEST_IMAGES = {"evaluate", "prune", "shrink", "export", "ship"}
STAGES_WITHOUT_TENSORFLOW = sorted(
    {"validate", "download", "prepare", "complexity", "select_model", "frontier", "ship", "compare", "report"}
)


def list_lib_imports(path: Path, seen: set[str] | None = None) -> set[str]:
    """Lists the modules of stages/lib that a file imports, directly or not."""
    seen = set() if seen is None else seen
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stages.lib."):
            name = str(node.module).removeprefix("stages.lib.")
            if name not in seen:
                seen.add(name)
                list_lib_imports(ROOT / f"stages/lib/{name}.py", seen)
    return seen


def list_outputs(stage: str) -> dict[str, dict[str, Any]]:
    """Maps each output of a stage, metrics and plots among them, to its options."""
    outputs: dict[str, dict[str, Any]] = {}
    for kind in ("outs", "metrics", "plots"):
        for entry in STAGES[stage].get(kind, []):
            outputs |= entry if isinstance(entry, dict) else {entry: {}}
    return outputs


def expand(path: str) -> str:
    """Puts an example in the place of a matrix item's key."""
    return path.replace("${key}", "third-flip")


def test_stages_in_dvc_yaml_are_the_modules_in_the_folder() -> None:
    assert sorted(STAGES) == MODULES


@pytest.mark.parametrize("stage", STAGES)
def test_stage_runs_its_own_module_with_the_items_of_its_matrix(stage: str) -> None:
    items = [f"${{item.{name}}}" for name in STAGES[stage].get("matrix", {})]
    assert STAGES[stage]["cmd"] == " ".join([f"python -m stages.{stage}", *items])


@pytest.mark.parametrize("stage", STAGES)
def test_stage_has_a_description_of_one_line(stage: str) -> None:
    assert re.fullmatch(r"[A-Z].{10,80}[^.]", STAGES[stage]["desc"])


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_exactly_the_code_that_it_imports(stage: str) -> None:
    declared = {path for path in STAGES[stage]["deps"] if path.startswith("stages/") and path.endswith(".py")}
    imported = list_lib_imports(ROOT / f"stages/{stage}.py")
    assert declared == {f"stages/{stage}.py"} | {f"stages/lib/{name}.py" for name in imported}


@pytest.mark.parametrize("stage", STAGES)
def test_stage_writes_only_into_its_own_folder(stage: str) -> None:
    assert [path for path in list_outputs(stage) if not path.startswith(f"data/{stage}/")] == []


def list_params_reads(path: Path) -> set[str]:
    """Lists what a stage reads of `params`, as section or section.key; names that are only checked do not count."""
    reads = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.startswith("parse_"):
            return
        names: list[str] = []
        inner = node
        while isinstance(inner, ast.Attribute):
            names.insert(0, inner.attr)
            inner = inner.value
        if names and isinstance(inner, ast.Name) and inner.id in ("params", "compression"):
            reads.add(".".join(names[:2]))
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return reads


def overlaps(name: str, other: str) -> bool:
    """Tells whether two dotted names are the same, or one is a section that holds the other."""
    return f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.")


@pytest.mark.parametrize("stage", sorted(set(STAGES) - {"validate"}))
def test_stage_names_the_params_that_its_code_reads(stage: str) -> None:
    read = list_params_reads(ROOT / f"stages/{stage}.py")
    declared = [re.sub(r"\.\$\{.*", "", name) for name in STAGES[stage]["params"]]
    unread = [name for name in declared if not any(overlaps(name, other) for other in read)]
    undeclared = [name for name in read if not any(overlaps(name, other) for other in declared)]
    assert (unread, undeclared) == ([], [])


def test_validate_depends_on_the_whole_of_params_yaml() -> None:
    assert "params.yaml" in STAGES["validate"]["deps"]


@pytest.mark.parametrize("stage", STAGES)
def test_every_declared_param_exists(stage: str) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name in STAGES[stage].get("params", []):
        value = params
        for key in re.sub(r"\.\$\{.*", "", name).split("."):
            value = value[key]


def test_only_stages_of_final_numbers_depend_on_the_test_images() -> None:
    dependent = {stage for stage in STAGES if "data/prepare/test.npz" in STAGES[stage]["deps"]}
    assert dependent == STAGES_ON_TEST_IMAGES


def test_the_choice_does_not_depend_on_a_stage_that_sees_test_images() -> None:
    folders = {f"data/{stage}" for stage in STAGES_ON_TEST_IMAGES}
    for stage in ("train", "select_model"):
        assert [path for path in STAGES[stage]["deps"] if str(Path(path)).startswith(tuple(folders))] == []


@pytest.mark.parametrize("name", LIB_MODULES)
def test_lib_imports_no_stage(name: str) -> None:
    imports = re.findall(r"^\s*(?:from|import) (stages[\w.]*)", (ROOT / f"stages/lib/{name}.py").read_text(), re.M)
    assert [module for module in imports if not module.startswith("stages.lib.")] == []


def test_no_lib_module_has_the_name_of_a_stage_or_of_the_standard_library() -> None:
    assert set(LIB_MODULES) & set(MODULES) == set()
    assert set(MODULES) & set(sys.stdlib_module_names) == set()


@pytest.mark.parametrize("stage", STAGES_WITHOUT_TENSORFLOW)
def test_stage_that_needs_no_network_does_not_load_tensorflow(stage: str) -> None:
    code = f"import sys, stages.{stage}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("stage", STAGES)
def test_git_ignores_exactly_the_outputs_that_dvc_caches(stage: str) -> None:
    for path, options in list_outputs(stage).items():
        ignored = subprocess.run(["git", "check-ignore", "-q", expand(path)], cwd=ROOT).returncode == 0
        assert ignored == options.get("cache", True), path


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
