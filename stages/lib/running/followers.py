"""Removes what later stages told of outputs that a stage has made anew.

DVC shows the metrics and plots that lie in `data/` beside whatever params a run or an experiment has: after a run that
ends before the last stage, test accuracies of an earlier model would stand beside a new one. A file that is missing
says nothing, and `dvc repro` makes it again.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stages.lib.params.yaml_1_2 import read_yaml

PIPELINE = Path("dvc.yaml")


def list_folders(paths: Iterable[Any]) -> set[str]:
    """Lists the folders of data/ in which paths lie, as dvc.yaml names them: alone, or with their settings.

    >>> sorted(list_folders(["data/a/x.csv", {"data/b/y.csv": {"cache": False}}, "data/a", "stages/a.py"]))
    ['a', 'b']
    """
    named = [path for entry in paths for path in ([entry] if isinstance(entry, str) else entry)]
    return {match[1] for path in named if (match := re.match(r"data/(\w+)", path))}


def list_followers(stages: Mapping[str, Mapping[str, Any]], stage: str) -> list[str]:
    """Lists the folders of data/ whose content depends on what a stage writes, directly or not; not its own.

    >>> a, also_a = {"outs": ["data/a"]}, {"outs": ["data/a/2"]}
    >>> b, c = {"deps": ["data/a/x.csv"], "outs": [{"data/b/y": {}}]}, {"deps": ["b.py"], "outs": ["data/c"]}
    >>> list_followers({"a": a, "also_a": also_a, "b": b, "c": c}, "also_a")
    ['b']

    Args:
        stages: those of dvc.yaml, in the order in which they run.
        stage: name of one, without the items of its matrix.
    """
    written = {
        name: list_folders(path for kind in ("outs", "metrics", "plots") for path in entry.get(kind, []))
        for name, entry in stages.items()
    }
    own = written[stage]
    changed = set(own)
    for name, entry in stages.items():
        if list_folders(entry.get("deps", [])) & changed:
            changed |= written[name]
    return sorted(changed - own)


def list_shown(pipeline: Mapping[str, Any]) -> set[str]:
    """Lists the files that DVC shows of a whole run: metrics of stages, and what the plots of dvc.yaml are made of.

    >>> plots = ["a.png", {"b.csv": {"y": "loss"}}, {"c": {"y": {"d.csv": "loss"}}}, {"e.csv": None}]
    >>> sorted(list_shown({"stages": {"s": {"metrics": ["m.json", {"n.json": {"cache": False}}]}}, "plots": plots}))
    ['a.png', 'b.csv', 'd.csv', 'e.csv', 'm.json', 'n.json']
    """
    metrics = [metric for stage in pipeline["stages"].values() for metric in stage.get("metrics", [])]
    shown = {path for metric in metrics for path in ([metric] if isinstance(metric, str) else metric)}
    for entry in pipeline.get("plots", []):
        for name, plot in ({entry: None} if isinstance(entry, str) else entry).items():
            y = (plot or {}).get("y")
            shown |= set(y) if isinstance(y, dict) else {name}
    return shown


def list_outdated(stage: str) -> list[Path]:
    """Lists those files of a stage's followers, which a run of the stage makes untrue; none outside a pipeline."""
    if not PIPELINE.exists():
        return []
    pipeline = read_yaml(PIPELINE)
    folders = {Path("data") / folder for folder in list_followers(pipeline["stages"], stage)}
    return [path for path in map(Path, sorted(list_shown(pipeline))) if path.parent in folders]


def remove(paths: Iterable[Path]) -> None:
    """Removes files, and says why one cannot be removed, which fails no stage that has done its work."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            print(f"{path}: belongs to an earlier run, but cannot be removed: {error.strerror}", file=sys.stderr)
