"""Real commands on a crumb of the real data, in a temporary clone: what the tests of the whole pipeline share."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
GUIDES = ("README.md", "data/README.md", "stages/README.md", "stages/tools/README.md", "tests/benchmarks/README.md")
DVC = [sys.executable, "-m", "dvc"]
MODELS = {
    "tiny": {
        "blocks": [[4], [8]],
        "separable": False,
        "residual": False,
        "global_pool": False,
        "dense": [16],
        "batch_norm": ["conv", "flatten", "dense"],
        "dropout": 0.1,
    },
    "thin": {
        "blocks": [[4, 4, 4]],
        "separable": True,
        "residual": True,
        "global_pool": True,
        "dense": [],
        "batch_norm": [],
        "dropout": 0,
    },
}


def run(folder: Path, *command: str, status: int | tuple[int, ...] = 0) -> str:
    """Runs a command in `folder` as a user with this environment would; returns what it printed.

    `status` is how it has to end, or several ways in which it may.
    """
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    allowed = status if isinstance(status, tuple) else (status,)
    assert result.returncode in allowed, f"{command} ended with {result.returncode}:\n{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


def require_program(name: str, package: str) -> str:
    """Finds a program of the system; where it is missing, skips the test, or fails it in CI, which installs all."""
    folders = [*os.environ["PATH"].split(":"), "/usr/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    path = shutil.which(name, path=":".join(folders))
    if path is None:
        reason = f"needs {name}; on Debian and Ubuntu: apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def read_block(mark: str) -> str:
    """Reads the block of code under `<!-- mark -->` as it is written; over all guides, a mark stands once."""
    pattern = rf"<!-- {re.escape(mark)} -->\n```\w+\n(.*?)```\n"
    (text,) = re.findall(pattern, "".join((ROOT / guide).read_text() for guide in GUIDES), re.DOTALL)
    return str(text)


def run_commands(folder: Path, name: str, status: int = 0) -> str:
    """Runs the commands marked `command: name` in `folder` as they are written; the first that fails ends them."""
    return run(folder, "bash", "-euo", "pipefail", "-c", read_block(f"command: {name}"), status=status)


def compute_checksums(folder: Path) -> dict[str, str]:
    """Computes the SHA-256 of every file in a folder, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def dvc(folder: Path, *arguments: str, status: int | tuple[int, ...] = 0) -> str:
    """Runs dvc in `folder`."""
    return run(folder, *DVC, *arguments, status=status)


def edit_params(folder: Path, **sections: Any) -> None:
    """Replaces values of params.yaml; a dict changes the keys that it has."""
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for name, value in sections.items():
        if isinstance(value, dict):
            params[name] |= value
        else:
            params[name] = value
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def list_stages_to_run(folder: Path, *options: str) -> list[str]:
    """Lists the stages that `dvc repro` with these options would run now, without running them."""
    printed = dvc(folder, "repro", "--dry", *options)
    return [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")]


def make_clone(folder: Path) -> None:
    """Makes a clone of the working tree with params of a crumb: 2 models x 2 regimes on 1,200 images, one epoch."""
    folder.mkdir()
    listed = run(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    for name in listed:
        is_output = name.startswith("data/") and name not in ("data/recorded_times.json", "data/leave_out.csv")
        if (ROOT / name).is_file() and not is_output and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    sources = yaml.safe_load((ROOT / "params.yaml").read_text())["download"]["sources"]
    edit_params(
        folder,
        download={"sources": [f"folder:{ROOT}/data/download", *sources]},  # a checkout that has run needs no network
        prepare={"keep_fraction": 0.02},
        preview={"versions": 2},
        models=MODELS,
        study={"models": ["tiny", "thin"], "augmentations": ["none", "strong"]},
        train={"epochs": 2, "clean_epochs": 1, "batch_size": 64},
        finish={"epochs": 2, "clean_epochs": 1},
        evaluate={"gallery_images": 3},
        audit={"gallery_images": 3},
        prune={
            "rankings": ["lamp"],
            "shrunk_shares": [0.5],
            "shrunk_rankings": ["cost"],
            "sparsities": [0.5, 0.75],
            "epochs": 1,
            "frequency": 3,
            "batch_size": 64,
            "learning_rate": 0.003,
        },
        shrink={"filters": ["magnitude"], "macs_shares": [0.5], "multiple": 1, "epochs": 1, "clean_epochs": 0},
        export={"calibration_images": 20, "max_loss_float32": 1.0, "max_loss_int8": 1.0},
        deploy={"images": 2},
        ship={"max_flash_bytes": None, "answered_accuracy": 0.6},
        search={"candidate": "tiny-none", "trials": 2, "space": {"models.tiny.dense": [[16], [24]]}},
    )
    commit(folder, "init")


def commit(folder: Path, *init: str) -> None:
    """Commits everything in `folder`."""
    if init:
        run(folder, "git", "init", "--quiet")
        run(folder, "git", "config", "user.name", "Test")
        run(folder, "git", "config", "user.email", "test@example.com")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "A step")
