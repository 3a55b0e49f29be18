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


def list_followers(stages: Mapping[str, Mapping[str, Any]], stage: str) -> list[str]:
    """Lists the stages whose outputs depend on a stage's, directly or not.

    >>> stages = {"a": {}, "b": {"deps": ["data/a/x.csv"]}, "c": {"deps": ["data/b"]}, "d": {"deps": ["b.py"]}}
    >>> list_followers(stages, "a")
    ['b', 'c']

    Args:
        stages: those of dvc.yaml, in the order in which they run.
        stage: name of one, without the items of its matrix.
    """
    followers: list[str] = []
    for name, entry in stages.items():
        read = {match[1] for path in entry.get("deps", []) if (match := re.match(r"data/(\w+)", path))}
        if read & {stage, *followers}:
            followers.append(name)
    return followers


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
    folders = {Path("data") / follower for follower in list_followers(pipeline["stages"], stage)}
    return [path for path in map(Path, sorted(list_shown(pipeline))) if path.parent in folders]


def remove(paths: Iterable[Path]) -> None:
    """Removes files, and says why one cannot be removed, which fails no stage that has done its work."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            print(f"{path}: belongs to an earlier run, but cannot be removed: {error.strerror}", file=sys.stderr)
