"""Measures of a classifier, on plain arrays. No TensorFlow.

`*_accuracy`, precision, recall and `*_f1`: higher is better; `*_loss` and `*_error`: lower is better. All but losses
are fractions in [0, 1].
"""

import numpy as np


def compute_probabilities(logits: np.ndarray) -> np.ndarray:
    """Computes the softmax of (N, classes) logits, as float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def compute_scores(logits: np.ndarray, temperature: float) -> dict[str, np.ndarray]:
    """Computes how familiar images look to a network: two scores, the higher the more like those of its training.

    Args:
        logits: (N, classes).
        temperature: by which the logits are divided before their softmax.

    Returns:
        `confidence`, (N,) float64 in [0, 1]: the largest probability. Source: Hendrycks and Gimpel 2017, A Baseline for
        Detecting Misclassified and Out-of-Distribution Examples in Neural Networks, arXiv 1610.02136.
        `energy_score`, (N,) float64: ln(sum of exp(logits)), the negative energy, without the temperature. Source:
        Liu, Wang, Owens and Li 2020, Energy-based Out-of-distribution Detection, arXiv 2010.03759.

    >>> {name: scores.round(2).tolist() for name, scores in compute_scores(np.log([[1.0, 3.0]]), 1.0).items()}
    {'confidence': [0.75], 'energy_score': [1.39]}
    """
    return {
        "confidence": compute_probabilities(logits / temperature).max(axis=1),
        "energy_score": np.logaddexp.reduce(logits.astype(np.float64), axis=1),
    }


def compute_accuracy(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Computes the share of (N,) predicted labels that equal the true ones."""
    return float(np.mean(y_true == y_pred))


def is_loss_within(before: float, after: float, max_loss: float) -> bool:
    """Tells whether accuracy fell by at most `max_loss`; all three are fractions.

    Allows for binary rounding, in which 0.94 - 0.92 is more than 0.02. One image more or less is far more than that.

    >>> is_loss_within(0.94, 0.92, 0.02)
    True
    """
    return before - after <= max_loss + 1e-9


def compute_cross_entropy_loss(y_true: np.ndarray, probabilities: np.ndarray) -> float:
    """Computes the mean of -ln(probability of the true label), in nats, from (N,) labels and (N, classes)."""
    of_true = probabilities[np.arange(len(y_true)), y_true]
    return float(-np.mean(np.log(np.maximum(of_true, np.finfo(np.float64).tiny))))


def compute_confusion_matrix(y_true: np.ndarray, y_pred: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts (num_classes, num_classes) int64 pairs: rows are true labels, columns predicted ones.

    >>> compute_confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    cells = np.bincount(y_true.astype(np.int64) * num_classes + y_pred, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def compute_class_scores(confusion_matrix: np.ndarray) -> np.ndarray:
    """Computes (classes, 3) float64 precision, recall and F1 of each class; 0 where nothing was predicted or true."""
    hits = np.diag(confusion_matrix).astype(np.float64)
    predicted, true = confusion_matrix.sum(axis=0), confusion_matrix.sum(axis=1)
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(true, 1)
    f1 = 2 * hits / np.maximum(predicted + true, 1)
    return np.stack([precision, recall, f1], axis=1)


def compute_balanced_accuracy(confusion_matrix: np.ndarray) -> float:
    """Computes the mean recall of the classes that have images: each class counts as much as any other.

    >>> compute_balanced_accuracy(np.array([[3, 1], [0, 1]]))
    0.875
    """
    has_images = confusion_matrix.sum(axis=1) > 0
    return float(compute_class_scores(confusion_matrix)[has_images, 1].mean())


def compute_macro_f1(confusion_matrix: np.ndarray) -> float:
    """Computes the mean F1 of the classes that have images or are predicted."""
    is_named = confusion_matrix.sum(axis=0) + confusion_matrix.sum(axis=1) > 0
    return float(compute_class_scores(confusion_matrix)[is_named, 2].mean())


def measure_labels(y_true: np.ndarray, y_pred: np.ndarray, num_classes: int) -> dict[str, float]:
    """Measures (N,) predicted labels by each metric that params.yaml can choose by.

    Returns:
        accuracy; balanced_accuracy and macro_f1, to six decimals.
    """
    confusion_matrix = compute_confusion_matrix(y_true, y_pred, num_classes)
    return {
        "accuracy": compute_accuracy(y_true, y_pred),
        "balanced_accuracy": round(compute_balanced_accuracy(confusion_matrix), 6),
        "macro_f1": round(compute_macro_f1(confusion_matrix), 6),
    }


def compute_reliability(y_true: np.ndarray, probabilities: np.ndarray, num_bins: int) -> np.ndarray:
    """Compares confidence, the probability of the predicted label, with accuracy.

    Args:
        y_true: (N,) integer labels.
        probabilities: (N, classes), rows sum to 1.
        num_bins: number of equal-width bins of confidence over [0, 1]; 1 belongs to the last one.

    Returns:
        (num_bins, 3) float64: share of the images, mean confidence, accuracy; zeros for an empty bin.
    """
    confidence, is_correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == y_true
    bins = np.minimum((confidence * num_bins).astype(np.int64), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    filled = np.maximum(counts, 1)
    mean_confidence = np.bincount(bins, confidence, num_bins) / filled
    accuracy = np.bincount(bins, is_correct, num_bins) / filled
    return np.stack([counts / len(confidence), mean_confidence, accuracy], axis=1)


def compute_expected_calibration_error(reliability: np.ndarray) -> float:
    """Computes the mean of |accuracy - confidence| over the bins of `compute_reliability`, weighted by their share.

    Source: Guo, Pleiss, Sun, Weinberger 2017, On Calibration of Modern Neural Networks, equation 3.
    """
    share, confidence, accuracy = reliability.T
    return float(np.sum(share * np.abs(accuracy - confidence)))
