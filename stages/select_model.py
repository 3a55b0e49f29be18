"""Which model, trained under which augmentation, is the best? Chooses one, on validation images only.

Reads:
    data/train/<model>-<augmentation>/metrics.json and model.h5, data/complexity/<model>/metrics.json: of the study's
    grid in params.yaml, and no others that may lie there.

Writes, in data/select_model/:
    choice.json: the chosen model and augmentation, the reasons in a sentence, architecture and limits of augmentation.
    model.h5: a copy of the chosen model, so that later stages find it under one name.
    metrics.json: the choice in numbers; kept in Git.
    comparison.csv, comparison.png: all candidates, the best first.

The rule: of the candidates within `select_model.tolerance` of the best validation accuracy, the largest receptive field
(the study's own reason for its choice), then the fewest MACs, then the higher accuracy.
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from stages.lib.params.load import load_params
from stages.lib.params.sections import AugmentationParams, ModelParams
from stages.lib.pictures.style import COLORS, write_figure
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import read_json, write_bytes, write_csv, write_json

READS = (
    "study",
    "models",
    "augmentations",
    "select_model",
)
READS = ("study", "models", "augmentations", "select_model",)
MODELS = Path("data/train")
COMPLEXITY = Path("data/complexity")
OUTPUT = Path("data/select_model")


@dataclass(frozen=True)
class Candidate:
    """One trained model: fractions in [0, 1], loss in nats, counts for one image and one forward pass."""

    model: str
    augmentation: str
    val_accuracy: float
    val_loss: float
    macs: int
    parameters: int
    receptive_field_px: int

    @property
    def key(self) -> str:
        """Names the candidate as its folder is named."""
        return f"{self.model}-{self.augmentation}"


def read_candidate(model: str, augmentation: str) -> Candidate:
    """Reads what training and complexity wrote of one model."""
    trained = read_json(MODELS / f"{model}-{augmentation}" / "metrics.json")
    cost = read_json(COMPLEXITY / model / "metrics.json")
    return Candidate(
        model,
        augmentation,
        trained["val_accuracy"],
        trained["val_loss"],
        cost["macs"],
        cost["parameters"],
        cost["receptive_field_px"],
    )


def list_equally_accurate(candidates: Sequence[Candidate], tolerance: float) -> list[Candidate]:
    """Lists the candidates whose validation accuracy is within `tolerance` of the best."""
    best = max(candidate.val_accuracy for candidate in candidates)
    slack = 1e-9  # for binary rounding; one image more or less is far more
    return [candidate for candidate in candidates if best - candidate.val_accuracy <= tolerance + slack]


def select_candidate(candidates: Sequence[Candidate], tolerance: float) -> Candidate:
    """Applies the rule of this stage; `tolerance` is a difference of accuracies."""
    equal = list_equally_accurate(candidates, tolerance)
    return min(equal, key=lambda candidate: (-candidate.receptive_field_px, candidate.macs, -candidate.val_accuracy))


def explain(chosen: Candidate, candidates: Sequence[Candidate], tolerance: float) -> str:
    """Writes the reasons of the choice in a sentence."""
    best = max(candidates, key=lambda candidate: candidate.val_accuracy)
    equal = list_equally_accurate(candidates, tolerance)
    sentence = f"{chosen.key} has a validation accuracy of {100 * chosen.val_accuracy:.2f} %"
    if len(candidates) == 1:
        return f"{sentence}; it is the only candidate."
    if len(equal) == 1:
        return f"{sentence}, the best of {len(candidates)} candidates by more than {100 * tolerance:g} points."
    if chosen is not best:
        sentence += f", within {100 * tolerance:g} points of the best ({best.key}, {100 * best.val_accuracy:.2f} %)"
    else:
        sentence += ", the best"
    wide = [c for c in equal if c.receptive_field_px == chosen.receptive_field_px]
    light = [c for c in wide if c.macs == chosen.macs]
    sentence += (
        f"; of the {len(equal)} candidates that close, its receptive field of {chosen.receptive_field_px} px is "
    )
    if len(wide) == 1:
        return sentence + "the largest."
    sentence += f"the largest, shared by {len(wide)}, of which it needs "
    if len(light) == 1:
        return sentence + f"the fewest MACs ({chosen.macs:,})."
    sentence += f"the fewest MACs ({chosen.macs:,}), shared by {len(light)}, of which it is "
    if sum(c.val_accuracy == chosen.val_accuracy for c in light) > 1:
        return sentence + "as accurate as any, and the first in params.yaml."
    return sentence + "the most accurate."


def plot_comparison(candidates: Sequence[Candidate], chosen: Candidate) -> Figure:
    """Plots validation accuracy against MACs: a color an augmentation, a marker a model, the choice ringed."""
    figure, axis = plt.subplots(figsize=(8, 4.2))
    augmentations = list(dict.fromkeys(candidate.augmentation for candidate in candidates))
    models = {candidate.model: candidate for candidate in candidates}
    color_of = dict(zip(augmentations, itertools.cycle(COLORS), strict=False))
    marker_of = dict(zip(models, itertools.cycle("os^DvP*X"), strict=False))
    for c in candidates:
        point: dict[str, Any] = {"color": color_of[c.augmentation], "marker": marker_of[c.model], "s": 40}
        axis.scatter([c.macs / 1e6], [100 * c.val_accuracy], **point, zorder=2)
    ring: dict[str, Any] = {"s": 170, "facecolors": "none", "edgecolors": "black", "linewidths": 1.5, "zorder": 3}
    axis.scatter([chosen.macs / 1e6], [100 * chosen.val_accuracy], **ring, label=f"chosen: {chosen.key}")
    for augmentation in augmentations:
        axis.scatter([], [], color=color_of[augmentation], marker="s", label=f"{augmentation} (augmentation)")
    for name, c in models.items():
        label = f"{name}: receptive field {c.receptive_field_px} px, {c.parameters / 1e3:,.0f} k parameters"
        axis.scatter([], [], color="0.4", marker=marker_of[name], label=label)
    axis.margins(x=0.12, y=0.12)
    axis.set(
        xlabel="million MACs per image",
        ylabel="validation accuracy (%)",
        title="Accuracy and cost of every candidate",
    )
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def describe_choice(
    chosen: Candidate, model: ModelParams, augmentation: AugmentationParams, reason: str
) -> dict[str, object]:
    """Describes the choice; later stages build networks from the architecture and fine-tune with the limits."""
    return {
        "model": chosen.model,
        "augmentation": chosen.augmentation,
        "reason": reason,
        "architecture": model.model_dump(),
        "augmentation_limits": augmentation.model_dump(),
    }


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    candidates = [read_candidate(model, name) for model in params.study.models for name in params.study.augmentations]
    chosen = select_candidate(candidates, params.select_model.tolerance)
    reason = explain(chosen, candidates, params.select_model.tolerance)
    by_accuracy = sorted(candidates, key=lambda candidate: -candidate.val_accuracy)
    settings = (params.models[chosen.model], params.augmentations[chosen.augmentation])
    write_json(OUTPUT / "choice.json", describe_choice(chosen, *settings, reason))
    write_bytes(OUTPUT / "model.h5", (MODELS / chosen.key / "model.h5").read_bytes())
    write_json(OUTPUT / "metrics.json", {"chosen": chosen.key} | dict(list(asdict(chosen).items())[2:]))
    write_csv(OUTPUT / "comparison.csv", [asdict(candidate) for candidate in by_accuracy])
    write_figure(OUTPUT / "comparison.png", plot_comparison(candidates, chosen))
    print(f"{OUTPUT}: {reason}")


if __name__ == "__main__":
    run_stage(main)
