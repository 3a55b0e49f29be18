import numpy as np
import pytest
from sklearn import metrics as oracle

from stages.lib.network.metrics import (
    compute_accuracy,
    compute_balanced_accuracy,
    compute_class_scores,
    compute_confusion_matrix,
    compute_cross_entropy_loss,
    compute_expected_calibration_error,
    compute_macro_f1,
    compute_probabilities,
    compute_reliability,
    compute_scores,
    is_loss_within,
    measure_labels,
)

Y_TRUE = np.array([0, 0, 0, 1, 1, 2], np.uint8)
Y_PRED = np.array([0, 0, 1, 1, 0, 0], np.int64)  # class 2 is never predicted


@pytest.fixture
def labels() -> tuple[np.ndarray, np.ndarray]:
    """200 true and predicted labels of 5 classes, as the stages hold them; class 4 is neither true nor predicted."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 4, 200).astype(np.uint8), rng.integers(0, 4, 200)


# Probabilities


def test_probabilities_are_in_the_ratio_of_the_exponentials() -> None:
    probabilities = compute_probabilities(np.log(np.array([[1, 2, 5], [6, 1, 1]], np.float64)))

    np.testing.assert_allclose(probabilities, [[1 / 8, 2 / 8, 5 / 8], [6 / 8, 1 / 8, 1 / 8]], rtol=1e-15)


def test_probabilities_are_float64_and_each_image_has_its_own() -> None:
    logits = np.random.default_rng(0).normal(size=(7, 10)).astype(np.float32)

    probabilities = compute_probabilities(logits)

    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-15)
    np.testing.assert_array_equal(probabilities[3:4], compute_probabilities(logits[3:4]))


def test_huge_logits_do_not_overflow() -> None:
    assert compute_probabilities(np.array([[3e4, 0], [-3e4, 3e4]], np.float32)).tolist() == [[1, 0], [0, 1]]


def test_the_temperature_is_that_of_the_confidence_and_not_of_the_energy_score() -> None:
    scores = compute_scores(np.array([[2, 0], [0, 30_000]], np.float32), temperature=2.0)

    np.testing.assert_allclose(scores["confidence"], [np.e / (np.e + 1), 1], rtol=1e-7)
    np.testing.assert_allclose(scores["energy_score"], [np.log(np.e**2 + 1), 30_000], rtol=1e-7)
    assert {each.dtype for each in scores.values()} == {np.dtype(np.float64)}


# Accuracy and loss


@pytest.mark.parametrize(("y_pred", "accuracy"), [([0, 1, 2, 3], 1.0), ([0, 1, 2, 0], 0.75), ([1, 2, 3, 0], 0.0)])
def test_accuracy_is_the_share_of_hits(y_pred: list[int], accuracy: float) -> None:
    found = compute_accuracy(np.array([0, 1, 2, 3], np.uint8), np.array(y_pred, np.int64))

    assert (found, type(found)) == (accuracy, float)


def test_the_loss_agrees_with_scikit_learn(labels: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities = compute_probabilities(np.random.default_rng(1).normal(size=(200, 5)))

    assert compute_cross_entropy_loss(labels[0], probabilities) == pytest.approx(
        oracle.log_loss(labels[0], probabilities, labels=range(5)), rel=1e-12
    )


def test_a_certain_hit_costs_nothing_and_a_certain_miss_a_finite_loss() -> None:
    probabilities = np.array([[1, 0]], np.float64)

    assert compute_cross_entropy_loss(np.array([0], np.uint8), probabilities) == 0
    assert compute_cross_entropy_loss(np.array([1], np.uint8), probabilities) == pytest.approx(708.4, abs=0.1)


@pytest.mark.parametrize(
    ("before", "after", "max_loss"),
    [(0.9, 0.95, 0.0), (0.902, 0.8995, 0.0025), (11_000 / 12_000, 10_760 / 12_000, 0.02)],
)
def test_a_loss_is_within_its_limit_whatever_binary_rounding_says_and_one_image_more_is_not(
    before: float, after: float, max_loss: float
) -> None:
    assert is_loss_within(before, after, max_loss)
    assert not is_loss_within(before, before - max_loss - 1 / 12_000, max_loss)


# Confusion matrix and class scores


def test_the_confusion_matrix_agrees_with_scikit_learn(labels: tuple[np.ndarray, np.ndarray]) -> None:
    expected = oracle.confusion_matrix(*labels, labels=range(5))

    np.testing.assert_array_equal(compute_confusion_matrix(*labels, 5), expected)


def test_a_confusion_matrix_of_256_classes_of_bytes_does_not_overflow() -> None:
    matrix = compute_confusion_matrix(np.array([255], np.uint8), np.array([254], np.uint8), 256)

    assert matrix.shape == (256, 256)
    assert np.argwhere(matrix).tolist() == [[255, 254]]


def test_class_scores_agree_with_scikit_learn(labels: tuple[np.ndarray, np.ndarray]) -> None:
    expected = oracle.precision_recall_fscore_support(*labels, labels=range(5), zero_division=0)[:3]

    scores = compute_class_scores(compute_confusion_matrix(*labels, 5))

    np.testing.assert_allclose(scores, np.transpose(expected), rtol=1e-12)


# Calibration


def test_reliability_is_share_confidence_and_accuracy_of_each_bin() -> None:
    probabilities = np.array([[0.6, 0.4], [0.3, 0.7], [0.9, 0.1], [0.0, 1.0]], np.float64)
    y_true = np.array([0, 0, 0, 1], np.uint8)  # hit, miss, hit, hit

    reliability = compute_reliability(y_true, probabilities, num_bins=4)

    np.testing.assert_allclose(reliability, [[0.0] * 3, [0.0] * 3, [0.5, 0.65, 0.5], [0.5, 0.95, 1.0]], rtol=1e-15)


@pytest.mark.parametrize(("confidence", "bin_number"), [(0.5, 2), (0.749, 2), (0.75, 3), (1.0, 3)])
def test_a_bin_holds_its_lower_edge_and_the_last_one_both(confidence: float, bin_number: int) -> None:
    probabilities = np.array([[confidence, 1 - confidence]])

    reliability = compute_reliability(np.array([0], np.uint8), probabilities, num_bins=4)

    assert reliability[bin_number].tolist() == [1, confidence, 1]
    assert np.count_nonzero(reliability) == 3


def test_the_calibration_error_agrees_with_a_loop_over_images_and_bins() -> None:
    rng = np.random.default_rng(0)
    probabilities, y_true = compute_probabilities(2 * rng.normal(size=(300, 3))), rng.integers(0, 3, 300)
    error = 0.0
    for low in np.arange(7) / 7:
        rows = [row for row in range(300) if low <= max(probabilities[row]) < low + 1 / 7]
        hits = [float(probabilities[row][y_true[row]] == max(probabilities[row])) for row in rows]
        error += abs(sum(hits) - sum(max(probabilities[row]) for row in rows)) / 300

    assert compute_expected_calibration_error(compute_reliability(y_true, probabilities, 7)) == pytest.approx(error)


# All classes alike


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("rare", [0, 1, 5])
def test_balanced_accuracy_and_macro_f1_are_those_of_scikit_learn(rare: int) -> None:
    rng = np.random.default_rng(rare)
    y_true = np.repeat([0, 1, 2], [90, 30, rare]).astype(np.uint8)  # class 3 has no image, and is predicted
    y_pred = np.where(rng.random(len(y_true)) < 0.6, y_true, rng.integers(0, 4, len(y_true)))
    confusion_matrix = compute_confusion_matrix(y_true, y_pred, 6)  # classes 4 and 5 are neither

    assert compute_balanced_accuracy(confusion_matrix) == pytest.approx(oracle.balanced_accuracy_score(y_true, y_pred))
    assert compute_macro_f1(confusion_matrix) == pytest.approx(oracle.f1_score(y_true, y_pred, average="macro"))


def test_a_model_that_knows_the_large_class_alone_is_accurate_and_not_balanced() -> None:
    y_true, y_pred = np.repeat([0, 1], [9, 1]), np.zeros(10, np.int64)

    # The F1 of the large class is 2 * 9 / (10 + 9).
    assert measure_labels(y_true, y_pred, 2) == {"accuracy": 0.9, "balanced_accuracy": 0.5, "macro_f1": 0.473684}
