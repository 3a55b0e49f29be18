"""The intervals hold the truth as often as they say, and the tests are wrong no more often than they may be."""

import numpy as np
import pytest

from stages.lib.results.chance import (
    LEVEL,
    add_intervals,
    compare_paired,
    compute_auroc_interval,
    compute_interval,
    compute_paired_interval,
    correct_by_holm,
)

NUM_SAMPLES = 600
SPREAD = 3 * (LEVEL * (1 - LEVEL) / NUM_SAMPLES) ** 0.5  # three standard deviations of a share of the samples


def draw(rng: np.random.Generator, n: int, shared: float, first: float, second: float) -> tuple[np.ndarray, np.ndarray]:
    """Draws which of n images two models get right: both, the first alone and the second alone with these chances."""
    outcome = rng.choice(4, n, p=[shared, first, second, 1 - shared - first - second])
    return outcome <= 1, (outcome == 0) | (outcome == 2)


@pytest.mark.parametrize(("accuracy", "n"), [(0.94, 1000), (0.5, 200), (0.98, 300)])
def test_intervals_of_accuracies_hold_the_truth_in_95_of_100_samples(accuracy: float, n: int) -> None:
    rights = np.random.default_rng(1).binomial(n, accuracy, NUM_SAMPLES)

    held = [low <= accuracy <= high for low, high in (compute_interval(right / n, n) for right in rights)]

    assert np.mean(held) == pytest.approx(1 - LEVEL, abs=SPREAD)


@pytest.mark.parametrize("chances", [(0.90, 0.04, 0.04), (0.92, 0.03, 0.01), (0.60, 0.10, 0.25), (0.97, 0.01, 0.005)])
def test_intervals_of_differences_hold_the_truth_in_95_of_100_samples(chances: tuple[float, float, float]) -> None:
    rng, (_, first, second) = np.random.default_rng(2), chances

    found = [compare_paired(*draw(rng, 1000, *chances)) for _ in range(NUM_SAMPLES)]

    held = np.mean([one.low <= first - second <= one.high for one in found])
    assert held == pytest.approx(1 - LEVEL, abs=SPREAD)
    assert all(one.low <= one.difference <= one.high for one in found)


@pytest.mark.parametrize(("distance", "num_steps"), [(0.0, 1000), (1.0, 1000), (2.0, 1000), (1.0, 3)])
def test_intervals_of_the_auroc_hold_the_truth_in_95_of_100_samples(distance: float, num_steps: int) -> None:
    rng = np.random.default_rng(5)

    def draw_scores(mean: float, n: int) -> np.ndarray:
        return np.rint(rng.normal(mean, 1.0, n) * num_steps)  # with few steps, many are equal

    pairs = draw_scores(distance, 2_000_000) - draw_scores(0.0, 2_000_000)
    truth = (np.sign(pairs).mean() + 1) / 2
    found = [compute_auroc_interval(draw_scores(distance, 300), draw_scores(0.0, 100)) for _ in range(NUM_SAMPLES)]

    assert np.mean([low <= truth <= high for low, high in found]) == pytest.approx(1 - LEVEL, abs=SPREAD)


def test_the_interval_of_an_auroc_stays_between_0_and_1() -> None:
    low, high = compute_auroc_interval(np.array([2, 2, 1]), np.array([0, 1]))

    assert 0 < low < 0.9 < high == 1.0


@pytest.mark.parametrize("shared", [0.90, 0.50])
def test_equal_models_are_told_apart_no_more_often_than_the_level_allows(shared: float) -> None:
    rng, alone = np.random.default_rng(3), (0.98 - shared) / 2

    rejected = np.mean([compare_paired(*draw(rng, 1000, shared, alone, alone)).p <= LEVEL for _ in range(NUM_SAMPLES)])

    assert 0.4 * LEVEL <= rejected <= LEVEL + SPREAD  # an exact test rejects a little less often


def test_of_a_family_of_equal_models_any_is_told_apart_no_more_often_than_the_level_allows() -> None:
    rng, num_families, size = np.random.default_rng(4), 200, 10
    plain, corrected = [], []
    for _ in range(num_families):
        p_values = [compare_paired(*draw(rng, 1000, 0.90, 0.04, 0.04)).p for _ in range(size)]
        plain.append(min(p_values) <= LEVEL)
        corrected.append(min(correct_by_holm(p_values)) <= LEVEL)

    assert np.mean(plain) > 4 * LEVEL
    assert np.mean(corrected) <= LEVEL + SPREAD * (NUM_SAMPLES / num_families) ** 0.5


def test_a_real_difference_is_found_in_most_samples() -> None:
    rng = np.random.default_rng(5)

    found = [compare_paired(*draw(rng, 10_000, 0.92, 0.025, 0.015)) for _ in range(200)]

    assert np.mean([one.p <= LEVEL for one in found]) > 0.95
    assert all(one.difference > 0 for one in found)


@pytest.mark.parametrize(
    ("right", "n", "interval"), [(0, 10, (0, 0.2775)), (10, 10, (0.7225, 1)), (81, 263, (0.2553, 0.3662))]
)
def test_the_interval_is_wilsons(right: int, n: int, interval: tuple[float, float]) -> None:
    """The last is the worked example of Newcombe 1998, Two-sided confidence intervals for the single proportion."""
    assert compute_interval(right / n, n) == pytest.approx(interval, abs=5e-5)


def test_of_no_images_nothing_is_known() -> None:
    assert compute_interval(0.0, 0) == (0, 1)


def test_images_that_either_model_alone_gets_right_are_what_the_test_counts() -> None:
    one = np.array([True] * 90 + [True] * 6 + [False] * 1 + [False] * 3)
    other = np.array([True] * 90 + [False] * 6 + [True] * 1 + [False] * 3)

    found = compare_paired(one, other)

    assert (found.n, found.difference) == pytest.approx((100, 0.05))
    assert found.p == pytest.approx(2 * (1 + 7) / 2**7)  # at most 1 of 7, and as many at the other end
    assert compare_paired(one[90:], other[90:]).p == found.p
    turned = compare_paired(other, one)
    assert (turned.difference, turned.low, turned.high) == pytest.approx((-0.05, -found.high, -found.low))


@pytest.mark.parametrize(("right", "wrong"), [(20, 0), (0, 20), (15, 5)])
def test_models_that_answer_alike_do_not_differ(right: int, wrong: int) -> None:
    answers = np.array([True] * right + [False] * wrong)

    found = compare_paired(answers, answers)

    assert (found.difference, found.p) == (0, 1)
    assert found.low == pytest.approx(-found.high)
    assert compute_paired_interval(right, 0, 0, wrong) == (found.low, found.high)


def test_holm_multiplies_by_the_tests_that_are_left_and_keeps_the_order() -> None:
    assert correct_by_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert correct_by_holm([0.9, 0.8]) == [1, 1]
    assert correct_by_holm([]) == []


def test_every_accuracy_of_a_row_gets_its_interval_by_its_split_and_nothing_else_does() -> None:
    row = {
        "name": "a",
        "val_accuracy": 0.5,
        "val_accuracy_sd": 0.01,
        "shipped_test_accuracy": None,
        "test_accuracy_under_flip": 1.0,
        "macs": 1,
    }

    measured = add_intervals(row, {"val": 100, "test": 10})

    assert list(measured) == [
        "name",
        *("val_accuracy", "val_accuracy_low", "val_accuracy_high", "val_accuracy_sd"),
        *("shipped_test_accuracy", "shipped_test_accuracy_low", "shipped_test_accuracy_high"),
        *("test_accuracy_under_flip", "test_accuracy_under_flip_low", "test_accuracy_under_flip_high"),
        "macs",
    ]
    assert (measured["val_accuracy_low"], measured["val_accuracy_high"]) == compute_interval(0.5, 100)
    assert (measured["shipped_test_accuracy_low"], measured["test_accuracy_under_flip_low"]) == (None, 0.722467)
