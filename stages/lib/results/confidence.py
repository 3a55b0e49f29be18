"""How far the confidence of a classifier can be trusted: scaled until it fits, and the least at which it answers.

Confidence is the largest probability that a model gives an image. Plain arrays in, plain numbers out.
"""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

TEMPERATURES = (0.05, 20.0)  # least and greatest that are tried
NUM_POINTS = 50  # of the curve
NEVER = 2.0  # a confidence that no answer has


def fit_temperature(logits: np.ndarray, y_true: np.ndarray) -> float:
    """Fits the number by which logits are divided before their softmax, so that confidence fits accuracy.

    It is the one with the least cross-entropy, in `TEMPERATURES`, and turns no answer over. Below 1 the model had too
    little confidence, above it too much.
    Source: Guo, Pleiss, Sun, Weinberger 2017, On Calibration of Modern Neural Networks, section 4.2.

    Args:
        logits: (N, classes), of images that the model was not trained on.
        y_true: (N,) integer labels.

    Returns:
        The temperature, to four decimals.
    """

    def compute_loss(log_temperature: float) -> float:
        scaled = log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)
        return float(-np.mean(scaled[np.arange(len(y_true)), y_true]))

    found = minimize_scalar(compute_loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-6})
    return round(float(np.exp(found.x)), 4)


def choose_min_confidence(confidence: np.ndarray, is_right: np.ndarray, accuracy: float) -> float:
    """Chooses the least confidence at which to answer: of all answers at least as sure, `accuracy` are right.

    Args:
        confidence: (N,) in [0, 1], N > 0.
        is_right: (N,) bool.
        accuracy: that is asked for, in [0, 1].

    Returns:
        The confidence; 2, which no answer reaches, where no part of the answers is as accurate.

    >>> choose_min_confidence(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, True]), 0.75)
    0.6
    """
    order, shares, is_last_of_equals = _accumulate(confidence, is_right)
    good = np.flatnonzero(is_last_of_equals & (shares >= accuracy))
    return float(confidence[order][good[-1]]) if len(good) else NEVER


def _accumulate(confidence: np.ndarray, is_right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Orders the answers, the surest first; how many of all up to each are right; and which is the last of equals."""
    order = np.argsort(-confidence, kind="stable")
    shares = np.cumsum(is_right[order]) / np.arange(1, len(order) + 1)
    return order, shares, np.append(np.diff(confidence[order]) != 0, True)


def list_coverage(confidence: np.ndarray, is_right: np.ndarray) -> list[dict[str, Any]]:
    """Lists what answering only the surest part of N > 0 images gives: at most `NUM_POINTS` parts, the smallest first.

    Equally sure answers are in the same parts, so that the order of the images decides nothing.

    Returns:
        Of each part `coverage`, its share of the images; `accuracy` in it; and `min_confidence`, the least in it.
    """
    order, shares, is_last_of_equals = _accumulate(confidence, is_right)
    whole = 1 + np.flatnonzero(is_last_of_equals)
    wanted = np.ceil(len(order) * np.arange(1, NUM_POINTS + 1) / NUM_POINTS)
    sizes = np.unique(whole[np.searchsorted(whole, wanted)])
    return [
        {
            "coverage": round(size / len(order), 6),
            "accuracy": round(float(shares[size - 1]), 6),
            "min_confidence": round(float(confidence[order[size - 1]]), 6),
        }
        for size in sizes.tolist()
    ]
