"""Zeros in weights: how many there are, and what they save in bytes. No TensorFlow."""

import gzip

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
    """Tells whether a kernel's share of zeros is `target`, to within one weight: a count can only be whole."""
    return abs(count_zeros(kernel) - target * kernel.size) <= 1


def compute_gzip_size_bytes(content: bytes) -> int:
    """Computes the size of gzip's output at its strongest level; without a time stamp it depends on the bytes alone."""
    return len(gzip.compress(content, compresslevel=9, mtime=0))
