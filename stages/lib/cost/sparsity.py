"""Zeros in weights: how many there are, where to put them, and what they save in bytes. No TensorFlow."""

from collections.abc import Mapping

import numpy as np


def count_zeros(kernel: np.ndarray) -> int:
    """Counts the weights of a kernel that are exactly zero."""
    return int(kernel.size - np.count_nonzero(kernel))


def compute_sparsity(kernel: np.ndarray) -> float:
    """Computes the share of exact zeros in a kernel, in [0, 1].

    >>> compute_sparsity(np.array([[0.0, 2.0], [0.0, 0.0]]))
    0.75
    """
    return count_zeros(kernel) / kernel.size


def has_sparsity(kernel: np.ndarray, target: float) -> bool:
    """Tells whether a kernel's share of zeros is `target`, to within one weight or one in 100,000.

    It cannot be exact: the number of zeros is whole, and weights of equal size are pruned together.
    """
    return abs(count_zeros(kernel) - round(target * kernel.size)) <= max(1, 1e-5 * kernel.size)


def compute_lamp_scores(kernel: np.ndarray) -> np.ndarray:
    """Computes how much each weight of a kernel matters, in the kernel's shape, float64 in [0, 1].

    With the weights of a kernel sorted by size, the score of one is its square over the sum of its own square and those
    of all after it: the share of the rest that goes if it is pruned next (Lee et al. 2021, Layer-Adaptive Sparsity for
    the Magnitude-Based Pruning, arXiv 2010.07611, equation 4). So scores of different kernels can be compared. The
    largest weight of a kernel scores 1; zeros score 0.

    >>> compute_lamp_scores(np.array([1.0, -3.0, 2.0])).round(3).tolist()
    [0.071, 1.0, 0.308]
    """
    squares = kernel.ravel().astype(np.float64) ** 2
    order = np.argsort(squares, kind="stable")
    not_smaller = np.cumsum(squares[order][::-1])[::-1]
    scores = np.zeros(kernel.size)
    scores[order] = np.divide(squares[order], not_smaller, out=np.zeros(kernel.size), where=not_smaller > 0)
    return scores.reshape(kernel.shape)


def allocate_uniformly(kernels: Mapping[str, np.ndarray], sparsity: float) -> dict[str, float]:
    """Gives each kernel, by name, the same share of zeros, in [0, 1]."""
    return dict.fromkeys(kernels, sparsity)


def compute_weight_costs(
    kernels: Mapping[str, np.ndarray], positions: Mapping[str, int], macs_weight: float
) -> dict[str, float]:
    """Computes what one weight of each kernel costs, as a share of what all weights of all kernels cost together.

    Args:
        kernels: by name.
        positions: in how many MACs of an image a weight of each kernel takes part.
        macs_weight: in [0, 1]; how much MACs count. The rest is for the place of a weight, which is the same for all.

    >>> compute_weight_costs({"conv": np.ones(2), "dense": np.ones(2)}, {"conv": 9, "dense": 1}, macs_weight=0.5)
    {'conv': 0.35, 'dense': 0.15}
    """
    num_weights = sum(kernel.size for kernel in kernels.values())
    num_macs = sum(kernel.size * positions[name] for name, kernel in kernels.items())
    return {name: macs_weight * positions[name] / num_macs + (1 - macs_weight) / num_weights for name in kernels}


def allocate_by_lamp(kernels: Mapping[str, np.ndarray], costs: Mapping[str, float], share: float) -> dict[str, float]:
    """Gives each kernel, by name, the share of zeros that it has once the weights that matter least are pruned.

    Those have the lowest LAMP score for their cost, and together they cost at most `share` of all. With equal costs
    that is LAMP itself, and `share` the share of zeros. Zeros have the lowest score, so that no kernel gets fewer zeros
    than it has already if `share` is at least what they cost. The largest weight of each kernel is kept whatever
    `share` is: no signal passes a kernel of zeros alone.

    Args:
        kernels: by name.
        costs: of one weight of each kernel; those of all weights add up to 1.
        share: in [0, 1].
    """
    names = list(kernels)
    scores = [compute_lamp_scores(kernels[name]).ravel() for name in names]
    owner = np.repeat(np.arange(len(names)), [len(of_kernel) for of_kernel in scores])
    costs_of_weights = np.array([costs[name] for name in names])[owner]
    score = np.concatenate(scores)
    order = np.argsort(np.where(score < 1, score / costs_of_weights, np.inf), kind="stable")
    spent = np.cumsum(costs_of_weights[order])
    most = len(owner) - np.count_nonzero(score >= 1)
    pruned = order[: min(np.searchsorted(spent, share + 1e-9, side="right"), most)]  # allows for binary rounding
    counts = np.bincount(owner[pruned], minlength=len(names))
    return {name: int(count) / kernels[name].size for name, count in zip(names, counts, strict=True)}
