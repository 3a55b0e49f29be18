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


def allocate_by_lamp(kernels: Mapping[str, np.ndarray], sparsity: float) -> dict[str, float]:
    """Gives each kernel, by name, the share of zeros that it has once the lowest LAMP scores of all are pruned.

    All kernels together get the share `sparsity`. Zeros have the lowest score, so that no kernel gets fewer zeros than
    it has already if `sparsity` is at least the present share. The largest weight of each kernel has the highest score,
    and is kept whatever `sparsity` is: no signal passes a kernel of zeros alone.
    """
    scores = {name: compute_lamp_scores(kernel).ravel() for name, kernel in kernels.items()}
    owner = np.repeat(np.arange(len(scores)), [len(of_kernel) for of_kernel in scores.values()])
    num_zeros = min(round(sparsity * len(owner)), len(owner) - len(scores))
    pruned = np.argsort(np.concatenate(list(scores.values())), kind="stable")[:num_zeros]
    counts = np.bincount(owner[pruned], minlength=len(scores))
    return {name: int(count) / len(scores[name]) for name, count in zip(scores, counts, strict=True)}
