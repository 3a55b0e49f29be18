import numpy as np
import pytest
from scipy.special import softmax

from stages.lib.network.metrics import (
    compute_expected_calibration_error,
    compute_probabilities,
    compute_reliability,
)
from stages.lib.results.confidence import NUM_POINTS, choose_min_confidence, fit_temperature, list_coverage

RNG = np.random.default_rng(0)
TRUE_LOGITS = RNG.normal(0, 2, (20_000, 5))
LABELS = np.array([RNG.choice(5, p=row) for row in softmax(TRUE_LOGITS, axis=1)])


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_the_factor_by_which_logits_are_too_small_or_too_large(factor: float) -> None:
    temperature = fit_temperature((factor * TRUE_LOGITS).astype(np.float32), LABELS)

    assert temperature == pytest.approx(factor, rel=0.03)
    scaled = compute_probabilities(factor * TRUE_LOGITS / temperature)
    assert compute_expected_calibration_error(compute_reliability(LABELS, scaled, 15)) < 0.02


def test_without_a_mistake_the_temperature_stays_in_its_bounds() -> None:
    assert fit_temperature(np.eye(3), np.arange(3)) == pytest.approx(0.05, rel=0.01)
    assert fit_temperature(np.eye(3), np.array([1, 2, 0])) == pytest.approx(20, rel=0.01)


def test_answers_at_least_as_sure_as_the_chosen_confidence_are_as_accurate_as_is_asked_for() -> None:
    confidence, is_right = RNG.random(1000), RNG.random(1000) < np.linspace(0, 1, 1000)
    order = np.argsort(confidence)
    is_right = is_right[np.argsort(order)]  # the surer, the more often right

    chosen = choose_min_confidence(confidence, is_right, 0.8)

    assert is_right[confidence >= chosen].mean() >= 0.8
    surely_worse = [is_right[confidence >= other].mean() for other in confidence if other < chosen - 1e-6]
    assert max(surely_worse) < 0.8  # it is the least


def test_equally_sure_answers_are_given_or_not_together() -> None:
    confidence, is_right = np.array([0.9, 0.8, 0.8, 0.8]), np.array([True, True, True, False])

    assert choose_min_confidence(confidence, is_right, 0.9) == 0.9  # with the first two of the others it would be 1


def test_where_no_answers_are_as_accurate_none_is_sure() -> None:
    for confidence in ([0.9, 0.8], [1.0, 1.0]):
        assert choose_min_confidence(np.array(confidence), np.array([False, True]), 0.99) > 1


def test_answers_that_are_nearly_as_sure_as_the_chosen_confidence_are_not_given() -> None:
    confidence = np.array([0.9999999, 0.9999995, 0.9999993, 0.9999991, 0.5])

    chosen = choose_min_confidence(confidence, np.array([True, False, False, True, True]), 0.99)

    assert (confidence >= chosen).tolist() == [True, False, False, False, False]


def test_the_order_of_the_images_decides_nothing() -> None:
    confidence, is_right = np.round(RNG.random(1000), 1), RNG.random(1000) < 0.7
    turned = np.argsort(is_right)

    assert list_coverage(confidence, is_right) == list_coverage(confidence[turned], is_right[turned])
    assert list_coverage(np.full(4, 0.5), np.array([True, False, True, True])) == [
        {"coverage": 1.0, "accuracy": 0.75, "min_confidence": 0.5}
    ]


def test_the_curve_ends_with_all_images_and_starts_with_the_surest() -> None:
    confidence, is_right = np.array([0.5, 0.9, 0.7, 0.6]), np.array([False, True, True, False])

    assert list_coverage(confidence, is_right) == [
        {"coverage": 0.25, "accuracy": 1.0, "min_confidence": 0.9},
        {"coverage": 0.5, "accuracy": 1.0, "min_confidence": 0.7},
        {"coverage": 0.75, "accuracy": 0.666667, "min_confidence": 0.6},
        {"coverage": 1.0, "accuracy": 0.5, "min_confidence": 0.5},
    ]
    assert len(list_coverage(RNG.random(1000), RNG.random(1000) < 0.5)) == NUM_POINTS
