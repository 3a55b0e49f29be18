"""Which model, trained under which augmentation, is the best? Chooses one, on validation images only.

Reads:
    data/train/<model>-<augmentation>/<seed>/metrics.json, data/complexity/<model>/metrics.json: of the study's grid in
    params.yaml, and no others that may lie there.
    data/prepare/val.npz: how many images there are, for the intervals of accuracies.

Writes, in data/select_model/:
    choice.json: the chosen model and augmentation, its architecture and the limits of its augmentation.
    reason.txt: the reasons in a sentence, apart from the choice: other words must not prune and shrink it again.
    metrics.json: the choice in numbers; kept in Git.
    comparison.csv: all candidates, the best first.

Accuracies are means over `study.seeds`. The rule: of the candidates within `select_model.tolerance` of the best
validation accuracy, the largest receptive field (the study's own reason for its choice), then the fewest MACs, then
one that was augmented, then the higher accuracy. The chosen candidate is trained anew, for longer, in which it comes to
know images by heart that do not change. `select_model.metric` can take a balanced accuracy or macro-F1 in the place of
accuracy.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from stages.lib.network.metrics import is_loss_within
from stages.lib.params.load import load_params
from stages.lib.results.chance import add_intervals
from stages.lib.results.rows import Candidate, count_val_images, read_candidates, write_rows
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import write_bytes, write_json

READS = ("study", "models", "augmentations", "select_model")
OUTPUT = Path("data/select_model")
MEANING = {
    "accuracy": "validation accuracy",
    "balanced_accuracy": "balanced validation accuracy",
    "macro_f1": "macro-F1 on validation images",
}


def get_score(candidate: Candidate, metric: str) -> float:
    """Returns what a candidate has of the metric that decides, on validation images."""
    return float(getattr(candidate, f"val_{metric}"))


def list_equally_good(candidates: Sequence[Candidate], tolerance: float, metric: str) -> list[Candidate]:
    """Lists the candidates whose score is within `tolerance` of the best."""
    best = max(get_score(candidate, metric) for candidate in candidates)
    return [candidate for candidate in candidates if is_loss_within(best, get_score(candidate, metric), tolerance)]


def select_candidate(
    candidates: Sequence[Candidate], tolerance: float, unchanging: Collection[str], metric: str
) -> Candidate:
    """Applies the rule of this stage.

    Args:
        candidates: to choose from.
        tolerance: a difference of the metric that decides.
        unchanging: names of the augmentations that change no image.
        metric: that decides.
    """
    return min(
        list_equally_good(candidates, tolerance, metric),
        key=lambda candidate: (
            -candidate.receptive_field_px,
            candidate.macs,
            candidate.augmentation in unchanging,
            -get_score(candidate, metric),
        ),
    )


def explain(
    chosen: Candidate, candidates: Sequence[Candidate], tolerance: float, unchanging: Collection[str], metric: str
) -> str:
    """Writes the reasons of the choice in a sentence; the arguments are those of `select_candidate`."""
    best = max(candidates, key=lambda candidate: get_score(candidate, metric))
    equal = list_equally_good(candidates, tolerance, metric)
    num_seeds = len(chosen.variants)
    of_seeds = f" on average over {num_seeds} seeds" if num_seeds > 1 else ""
    sentence = f"{chosen.key} has a {MEANING[metric]} of {100 * get_score(chosen, metric):.2f} %{of_seeds}"
    if len(candidates) == 1:
        return f"{sentence}; it is the only candidate."
    if len(equal) == 1:
        return f"{sentence}, the best of {len(candidates)} candidates by more than {100 * tolerance:g} points."
    if chosen is not best:
        of_best = f"{best.key}, {100 * get_score(best, metric):.2f} %"
        sentence += f", within {100 * tolerance:g} points of the best ({of_best})"
    else:
        sentence += ", the best"
    wide = [c for c in equal if c.receptive_field_px == chosen.receptive_field_px]
    light = [c for c in wide if c.macs == chosen.macs]
    sentence += f"; of the {len(equal)} candidates that close, its receptive field of "
    sentence += f"{chosen.receptive_field_px} px is the largest"
    if len(wide) == 1:
        return sentence + "."
    sentence += f", shared by {len(wide)}, of which it needs the fewest MACs ({chosen.macs:,})"
    if len(light) == 1:
        return sentence + "."
    sentence += f", shared by {len(light)}, "
    changing = [c for c in light if (c.augmentation in unchanging) == (chosen.augmentation in unchanging)]
    if len(changing) < len(light):
        sentence += f"of which {'it is the only one' if len(changing) == 1 else f'{len(changing)} are'} augmented"
        if len(changing) == 1:
            return sentence + "."
        sentence += ", "
    sentence += "of which it is "
    if sum(get_score(c, metric) == get_score(chosen, metric) for c in changing) > 1:
        return sentence + "as good as any, and the first in params.yaml."
    return sentence + "the best."


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    candidates = read_candidates(params.study)
    tolerance, metric = params.select_model.tolerance, params.select_model.metric
    unchanging = [name for name, limits in params.augmentations.items() if limits.is_identity]
    chosen = select_candidate(candidates, tolerance, unchanging, metric)
    reason = explain(chosen, candidates, tolerance, unchanging, metric)
    by_score = sorted(candidates, key=lambda candidate: -get_score(candidate, metric))
    choice = {
        "model": chosen.model,
        "augmentation": chosen.augmentation,
        "architecture": params.models[chosen.model].model_dump(),  # from which later stages build networks
        "augmentation_limits": params.augmentations[chosen.augmentation].model_dump(),  # under which they fine-tune
    }
    write_json(OUTPUT / "choice.json", choice)
    write_bytes(OUTPUT / "reason.txt", f"{reason}\n".encode())
    num_images = {"val": count_val_images()}
    summary = {"chosen": chosen.key} | dict(list(asdict(chosen).items())[2:])
    write_json(OUTPUT / "metrics.json", add_intervals(summary, num_images))
    write_rows(OUTPUT / "comparison.csv", Candidate, by_score, num_images)
    print(f"{OUTPUT}: {reason}")


if __name__ == "__main__":
    run_stage(main)
