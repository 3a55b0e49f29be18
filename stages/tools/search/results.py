"""What a search found: a line for each trial, trials.csv, pictures, and how to have the best one."""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from optuna.trial import FrozenTrial, TrialState

from stages.lib.errors import UserError
from stages.lib.pictures.style import write_figure
from stages.lib.storage.files import write_csv
from stages.tools.search.clone import has_experiment
from stages.tools.search.space import FloatRange, Range
from stages.tools.search.study import ENDED, OUTPUT


def format_trial(trial: FrozenTrial) -> str:
    """Writes a trial that ended as a line."""
    seconds = trial.duration.total_seconds() if trial.duration else 0.0
    if trial.state == TrialState.COMPLETE:
        outcome = f"validation accuracy {100 * float(trial.value or 0):.2f} %"
    else:
        outcome = f"stopped early: {trial.user_attrs.get('reason')}"
    values = ", ".join(f"{key} {f'{v:.4g}' if isinstance(v, float) else v}" for key, v in trial.params.items())
    return f"trial {trial.number}: {outcome}, {seconds:.0f} s; {values}"


def print_best(study: optuna.Study) -> None:
    """Prints the best trial, of equals the first, and how to have it."""
    if not study.best_trials:
        print("no trial trained to its end: widen search.space, or raise search.startup_trials")
        return
    best = study.best_trials[0]
    name, place = best.user_attrs["experiment"], best.user_attrs["place"]
    print(f"best: {format_trial(best)}")
    if not has_experiment(name, best.user_attrs["commit"]):
        print(f"it is on {place}: there `dvc exp push REMOTE {name}`, here `dvc exp pull REMOTE {name}`")
    print(f"to have its parameters and its model: dvc exp apply {name}")


def write_results(study: optuna.Study, space: Mapping[str, Range]) -> None:
    """Writes trials.csv and draws the pictures; each of them as far as there are trials for it."""
    ended = study.get_trials(states=ENDED)
    if not ended:
        raise UserError("no trial has ended yet; run `python -m stages.tools.search`")
    write_csv(OUTPUT / "trials.csv", list_rows(ended, list(space)))
    num_whole = sum(trial.state == TrialState.COMPLETE for trial in ended)
    pictures: dict[str, tuple[Callable[[optuna.Study], Axes], int]] = {
        "history": (plot_history, 1),
        "slices": (partial(plot_slices, space=space), 1),
        "importances": (plot_importances, 2),
    }
    for name, (draw, num_needed) in pictures.items():
        path = OUTPUT / f"{name}.png"
        path.unlink(missing_ok=True)
        if num_whole >= num_needed:
            with warnings.catch_warnings(action="ignore"):  # of Matplotlib, where all trials have the same value
                write_figure(path, cast(Figure, draw(study).get_figure(root=True)))
        else:
            print(f"{path}: needs {num_needed} whole trials, and there are {num_whole}", file=sys.stderr)


def list_rows(trials: Sequence[FrozenTrial], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Lists the rows of trials.csv: accuracy is the last one that was seen, if the trial was stopped early."""
    return [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "val_accuracy": trial.value,
            "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
            "experiment": trial.user_attrs.get("experiment") if trial.state == TrialState.COMPLETE else None,
            "place": trial.user_attrs.get("place"),
            "reason": trial.user_attrs.get("reason"),
            **{key: trial.params.get(key) for key in keys},
        }
        for trial in trials
    ]


def plot_history(study: optuna.Study) -> Axes:
    """Draws the accuracy of every whole trial, and the best so far."""
    axes = optuna.visualization.matplotlib.plot_optimization_history(study, target_name="validation accuracy")
    axes.set_title(f"Search of {study.study_name}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return axes


def plot_slices(study: optuna.Study, space: Mapping[str, Range]) -> Axes:
    """Draws the accuracy against each parameter, over the whole of its range."""
    drawn = optuna.visualization.matplotlib.plot_slice(study, list(space), target_name="validation accuracy")
    panels = np.ravel(np.asarray(drawn))
    for axes, (key, values) in zip(panels, sorted(space.items()), strict=True):
        axes.set_title(key, fontsize="medium")
        axes.set_xlabel("")
        axes.tick_params("x", rotation=45)
        if isinstance(values, tuple):
            continue
        axes.set_xlim(values.low, values.high)
        if isinstance(values, FloatRange) and values.log:
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
    panels[0].figure.suptitle(f"Whole trials of {study.study_name}")
    return cast(Axes, panels[0])


def plot_importances(study: optuna.Study) -> Axes:
    """Draws how much of the accuracy each parameter decides."""
    axes = optuna.visualization.matplotlib.plot_param_importances(study)
    axes.set_title("How much each parameter matters for the validation accuracy", loc="left", fontsize="medium")
    axes.set(xlabel=f"importance in {study.study_name} (PED-ANOVA)", ylabel="")
    if legend := axes.get_legend():
        legend.remove()
    return axes
