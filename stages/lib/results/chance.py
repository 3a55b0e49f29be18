"""How far a measured share may be off because the images are a sample, and whether two models really differ.

Plain numbers and arrays in, plain numbers out. What is measured here is the chance that lies in the images: what
another seed of the training would have given is not in it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm, rankdata

LEVEL = 0.05  # of all tests, and what the intervals leave out: they hold the truth in 95 % of all samples
_SPLITS = ("val", "test")


@dataclass(frozen=True)
class Paired:
    """Two models on the same images: how much more accurate the first is, a fraction in [-1, 1], and its interval."""

    n: int  # images
    difference: float
    low: float
    high: float
    p: float  # of the test that both are equally accurate


def compute_interval(accuracy: float, n: int) -> tuple[float, float]:
    """Computes the 95 % interval of an accuracy, or another share, of n images, to six decimals; of none, [0, 1].

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.

    >>> [round(end, 4) for end in compute_interval(0.94, 10_000)]
    [0.9352, 0.9445]
    """
    if n == 0:
        return 0.0, 1.0
    found = binomtest(round(accuracy * n), n).proportion_ci(1 - LEVEL, method="wilson")
    return round(float(found.low), 6), round(float(found.high), 6)


def describe_share(name: str, share: float, n: int) -> dict[str, float]:
    """Describes a share of n images, and its 95 % interval, with six decimals."""
    low, high = compute_interval(share, n)
    return {name: round(share, 6), f"{name}_low": low, f"{name}_high": high}


def compute_auroc_interval(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float]:
    """Computes the 95 % interval of the AUROC of scores, (M,) and (N,) with M and N > 1, to six decimals.

    The AUROC is the share of all pairs in which the positive has the higher score; of equals, half of them. Where it is
    0 or 1, the interval has no width, however few there are.
    Source: DeLong, DeLong and Clarke-Pearson 1988, Comparing the areas under two or more correlated receiver operating
    characteristic curves; by ranks, as in Sun and Xu 2014, Fast implementation of DeLong's algorithm.

    >>> compute_auroc_interval(np.array([3, 4, 5, 6]), np.array([1, 2, 3, 4]))
    (0.630005, 1.0)
    """
    num_positive, num_negative = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    below = (ranks[:num_positive] - rankdata(positive)) / num_negative  # of each positive: the share that it is above
    above = 1 - (ranks[num_positive:] - rankdata(negative)) / num_positive
    auroc = below.mean()
    margin = norm.ppf(1 - LEVEL / 2) * math.sqrt(below.var(ddof=1) / num_positive + above.var(ddof=1) / num_negative)
    return round(max(0.0, float(auroc - margin)), 6), round(min(1.0, float(auroc + margin)), 6)


def add_intervals(row: Mapping[str, Any], num_images: Mapping[str, int]) -> dict[str, Any]:
    """Adds to a row, behind each accuracy of a split, its 95 % interval as <name>_low and <name>_high.

    Args:
        row: in which each number whose name has `val_accuracy` or `test_accuracy` in it is one, but for standard
            deviations (_sd); None stays None.
        num_images: by split, val and test.
    """
    whole: dict[str, Any] = {}
    for name, value in row.items():
        whole[name] = value
        for split in _SPLITS:
            if f"{split}_accuracy" in name and not name.endswith("_sd"):
                low, high = (None, None) if value is None else compute_interval(value, num_images[split])
                whole |= {f"{name}_low": low, f"{name}_high": high}
    return whole


def compare_paired(is_right: np.ndarray, is_right_too: np.ndarray) -> Paired:
    """Compares two models by which of the same images each gets right: (n,) bool for either, n > 0.

    The test is McNemar's in its exact form: of the images on which the two disagree, either is right on half if both
    are equally accurate. The interval is that of Newcombe 1998, Improved confidence intervals for the difference
    between binomial proportions based on paired data, method 10: it puts Wilson's intervals of both together, and
    takes into account how alike the two are (phi, lessened for continuity).
    """
    n = len(is_right)
    both = int(np.sum(is_right & is_right_too))
    first = int(np.sum(is_right & ~is_right_too))
    second = int(np.sum(~is_right & is_right_too))
    p = float(binomtest(first, first + second).pvalue) if first + second else 1.0
    low, high = compute_paired_interval(both, first, second, n - both - first - second)
    return Paired(n, (first - second) / n, low, high, p)


def compute_paired_interval(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """Computes the 95 % interval of the difference of two accuracies, as `compare_paired` says.

    Args:
        both: images that both get right.
        first: those that the first alone gets right.
        second: those that the second alone gets right.
        neither: those that both get wrong.

    >>> [round(end, 4) for end in compute_paired_interval(36, 12, 2, 0)]
    [0.0569, 0.3404]
    """
    n = both + first + second + neither
    one, other = (both + first) / n, (both + second) / n
    (one_low, one_high), (other_low, other_high) = compute_interval(one, n), compute_interval(other, n)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    product = both * neither - first * second
    alike = max(product - n / 2, 0) if product > 0 else product
    phi = alike / math.sqrt(margins) if margins else 0.0

    def add(down: float, up: float) -> float:
        return math.sqrt(max(down**2 - 2 * phi * down * up + up**2, 0))

    difference = (first - second) / n
    return (
        difference - add(one - one_low, other_high - other),
        difference + add(one_high - one, other - other_low),
    )


def correct_by_holm(p_values: Sequence[float]) -> list[float]:
    """Corrects the p values of a family of tests, so that the chance of any false finding stays below the level.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.

    >>> correct_by_holm([0.04, 0.01, 0.5])
    [0.08, 0.03, 0.5]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
