"""Which models differ? Paired tests on the test images, from the predictions that evaluate and export keep.

Whatever this project says of two models is a row here. The rows that answer one question are a family, and their p
values are corrected together.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from stages.lib.errors import UserError
from stages.lib.params.sections import AugmentationParams
from stages.lib.results.chance import LEVEL, compare_paired, correct_by_holm
from stages.lib.results.rows import Candidate, ModelFile, find_evaluated
from stages.lib.storage.files import read_arrays
from stages.lib.storage.variant import Variant

BETTER, WORSE, UNKNOWN = "better", "worse", "no difference can be told"
OPPOSITE = {BETTER: WORSE, WORSE: BETTER, UNKNOWN: UNKNOWN}

CANDIDATES = "candidates"  # each against the chosen one
AUGMENTATION = "augmentation"  # each model under each augmentation against the same without
DISTORTED = "augmentation, distorted"  # the same on images that are distorted as that augmentation does
FINISHED = "finished"  # against the chosen candidate as the grid trained it
FILES = {kind: f"{kind} files" for kind in ("dense", "pruned", "shrunk")}  # against the finished model's in float32
BY_COST = "cost"  # the ranking whose targets are no shares of zeros
WAYS = {"pruned": "rankings of pruning", "shrunk": "ways of shrinking"}  # each pair at one target, in float32


@dataclass(frozen=True)
class Comparison:
    """A row of comparisons.csv: how much more accurate one model is than its reference on the same test images."""

    family: str
    name: str
    reference: str
    n: int  # images
    difference: float  # of accuracies, a fraction; positive if `name` is the better
    low: float  # of its 95 % interval, which is of this comparison alone
    high: float
    p: float  # of McNemar's exact test
    p_holm: float  # corrected for all comparisons of the family; the verdict rests on it
    verdict: str  # BETTER, WORSE or UNKNOWN


@dataclass(frozen=True)
class Answers:
    """Which test images a model gets right: (N,) bool."""

    name: str
    is_right: np.ndarray


def read_answers(name: str, path: Path, images: str) -> Answers:
    """Reads from a predictions.npz which images a model gets right; `images` names the array of its predictions.

    Raises:
        UserError: if there is no such file, or no such array in it.
    """
    labels, predicted = read_arrays(path, "labels", images)
    return Answers(name, labels == predicted)


def read_answers_of_training(variant: Variant, images: str = "as_they_are") -> Answers:
    """Reads which test images, as they are or distorted (under_<augmentation>), a trained model gets right."""
    return read_answers(variant.name, find_evaluated(variant) / "predictions.npz", images)


def read_answers_of_file(file: ModelFile) -> Answers:
    """Reads which test images a LiteRT file gets right."""
    return read_answers(file.label, file.variant.exported / "predictions.npz", file.precision)


def compare_family(family: str, pairs: Iterable[tuple[Answers, Answers]]) -> list[Comparison]:
    """Compares pairs, each with its reference second, and corrects their p values together."""
    found = [(one.name, other.name, compare_paired(one.is_right, other.is_right)) for one, other in pairs]
    corrected = correct_by_holm([paired.p for *_, paired in found])
    return [
        Comparison(
            family=family,
            name=name,
            reference=reference,
            n=paired.n,
            difference=round(paired.difference, 6),
            low=round(paired.low, 6),
            high=round(paired.high, 6),
            p=float(f"{paired.p:.4g}"),
            p_holm=float(f"{p_holm:.4g}"),
            verdict=judge(paired.difference, p_holm),
        )
        for (name, reference, paired), p_holm in zip(found, corrected, strict=True)
    ]


def judge(difference: float, p: float) -> str:
    """Says which of two models is better, if the test tells."""
    if p > LEVEL:
        return UNKNOWN
    return BETTER if difference > 0 else WORSE


def find_baseline(augmentations: Mapping[str, AugmentationParams], names: Sequence[str]) -> str | None:
    """Finds the augmentation of the run that changes no image; None if each does."""
    return next((name for name in names if augmentations[name].is_identity), None)


def compare_candidates(
    candidates: Sequence[Candidate], chosen: Candidate, augmentations: Mapping[str, AugmentationParams]
) -> list[Comparison]:
    """Compares every candidate with the chosen one, and every augmentation with none, if the run has that.

    Of several seeds, the models of the first one are compared.

    Args:
        candidates: all.
        chosen: one of them.
        augmentations: all that params.yaml knows.
    """
    best = read_answers_of_training(chosen.variant)
    others = [(read_answers_of_training(one.variant), best) for one in candidates if one.key != chosen.key]
    rows = compare_family(CANDIDATES, others)
    baseline = find_baseline(augmentations, [one.augmentation for one in candidates])
    if baseline is None:
        return rows
    augmented = [one for one in candidates if one.augmentation != baseline]

    def pair(one: Candidate, images: str) -> tuple[Answers, Answers]:
        plain = replace(one, augmentation=baseline)
        return read_answers_of_training(one.variant, images), read_answers_of_training(plain.variant, images)

    distorting = [one for one in augmented if not augmentations[one.augmentation].is_identity]
    rows += compare_family(AUGMENTATION, [pair(one, "as_they_are") for one in augmented])
    return rows + compare_family(DISTORTED, [pair(one, f"under_{one.augmentation}") for one in distorting])


def compare_trainings(finished: Variant, chosen: Variant) -> list[Comparison]:
    """Compares the finished model with the same candidate as the grid trained it."""
    return compare_family(FINISHED, [(read_answers_of_training(finished), read_answers_of_training(chosen))])


def compare_files(files: Sequence[ModelFile]) -> list[Comparison]:
    """Compares every LiteRT file with the float32 one of the finished model, and ways with each other at each target.

    Args:
        files: all of the run; those of Keras are left out, since no stage keeps what pruned and shrunk ones predict.

    Raises:
        UserError: if export left that file out.
    """
    exported = [file for file in files if file.format == "tflite"]
    dense = next((file for file in exported if (file.kind, file.label) == ("dense", "finished")), None)
    if dense is None:
        raise UserError(
            "data/export/finish/finished: expected float32.tflite, to which other files are compared, got none: its "
            "conversion lost more than export.max_loss_float32 in params.yaml allows; raise that limit"
        )
    answers = {file: read_answers_of_file(file) for file in exported}
    rows: list[Comparison] = []
    for kind, family in FILES.items():
        of_kind = [file for file in exported if file.kind == kind and file is not dense]
        rows += compare_family(family, [(answers[file], answers[dense]) for file in of_kind])
    for kind, family in WAYS.items():
        of_kind = [file for file in exported if file.kind == kind and file.precision == "float32"]
        pairs = [(one, other) for one, other in combinations(of_kind, 2) if are_rivals(one.variant, other.variant)]
        rows += compare_family(family, [(answers[one], answers[other]) for one, other in pairs])
    return rows


def are_rivals(one: Variant, other: Variant) -> bool:
    """Tells whether two compressed models stand at one target: as many zeros of one model, or one share of its MACs.

    >>> lamp, cost = (Variant("prune", way, 0.9, seed=42) for way in ("lamp", "cost"))
    >>> are_rivals(lamp, cost)
    False
    """
    is_share_of_zeros = BY_COST not in (one.ranking, other.ranking)
    return (one.target, one.start) == (other.target, other.start) and is_share_of_zeros


def list_family(comparisons: Sequence[Comparison], family: str) -> list[Comparison]:
    """Lists the comparisons of one family."""
    return [row for row in comparisons if row.family == family]


def find_comparison(comparisons: Sequence[Comparison], family: str, name: str, reference: str) -> Comparison | None:
    """Finds how one model compares with another, whichever of them is the reference; None if nobody compared them."""
    for row in list_family(comparisons, family):
        if (row.name, row.reference) == (name, reference):
            return row
        if (row.name, row.reference) == (reference, name):
            return turn(row)
    return None


def turn(row: Comparison) -> Comparison:
    """Turns a comparison round."""
    return replace(
        row,
        name=row.reference,
        reference=row.name,
        difference=-row.difference,
        low=-row.high,
        high=-row.low,
        verdict=OPPOSITE[row.verdict],
    )
