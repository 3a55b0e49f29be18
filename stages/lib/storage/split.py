"""Splits images by their labels."""

import numpy as np


def split_stratified(labels: np.ndarray, fraction: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Splits the indices of `labels` so that every class gives the same share to the second part.

    Args:
        labels: (N,) integers.
        fraction: share of the second part, in [0, 1]; rounded to whole images within each class.
        rng: source of the random choice.

    Returns:
        Two sorted int64 arrays, disjoint and together 0 to N - 1.
    """
    is_second = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        is_second[members[: round(len(members) * fraction)]] = True
    return np.flatnonzero(~is_second), np.flatnonzero(is_second)
