"""Removes what later stages told of outputs that a stage has made anew.

DVC shows the metrics and plots that lie in `data/` beside whatever params a run or an experiment has: after a run that
ends before the last stage, test accuracies of an earlier model would stand beside a new one. A file that is missing
says nothing, and `dvc repro` makes it again.
"""

import re
from collections.abc import Mapping
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
    """Lists the files that DVC shows of a whole run: metrics of stages, and what the plots of dvc.yaml are made of."""
    metrics = [path for stage in pipeline["stages"].values() for metric in stage.get("metrics", []) for path in metric]
    plots = [plot for entry in pipeline["plots"] if isinstance(entry, dict) for plot in entry.values()]
    images = [entry for entry in pipeline["plots"] if isinstance(entry, str)]
    return {*metrics, *images, *(path for plot in plots for path in plot["y"])}


def remove_outdated(stage: str) -> None:
    """Removes those files of a stage's followers; does nothing outside a pipeline."""
    if PIPELINE.exists():
        pipeline = read_yaml(PIPELINE)
        folders = {Path("data") / follower for follower in list_followers(pipeline["stages"], stage)}
        for path in map(Path, list_shown(pipeline)):
            if path.parent in folders:
                path.unlink(missing_ok=True)
