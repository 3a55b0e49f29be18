import numpy as np
import pytest

from stages.lib.results.pareto import find_front


def test_what_costs_more_and_is_no_better_is_not_on_the_front() -> None:
    assert find_front([1, 2, 3], [0.8, 0.7, 0.9]) == [True, False, True]


def test_a_cheaper_or_a_more_accurate_model_is_on_the_front() -> None:
    assert find_front([3, 1, 2], [0.9, 0.7, 0.8]) == [True, True, True]


def test_of_equal_costs_only_the_most_accurate_is_on_the_front() -> None:
    assert find_front([5, 5, 5], [0.7, 0.9, 0.8]) == [False, True, False]


def test_of_equal_accuracies_only_the_cheapest_is_on_the_front() -> None:
    assert find_front([3, 1, 2], [0.9, 0.9, 0.9]) == [False, True, False]


def test_models_that_are_equal_in_both_are_on_the_front_together() -> None:
    assert find_front([1, 1, 2], [0.9, 0.9, 0.95]) == [True, True, True]


def test_models_that_are_equal_in_both_are_beaten_together() -> None:
    assert find_front([2, 2, 1], [0.9, 0.9, 0.9]) == [False, False, True]


@pytest.mark.parametrize(("count", "front"), [(0, []), (1, [True])])
def test_none_and_one_have_nobody_to_be_beaten_by(count: int, front: list[bool]) -> None:
    assert find_front([1] * count, [0.5] * count) == front


def test_the_order_of_the_models_does_not_matter() -> None:
    models = [(1, 0.5), (2, 0.5), (2, 0.6), (2, 0.6), (3, 0.55), (4, 0.9)]
    expected = {(1, 0.5), (2, 0.6), (4, 0.9)}
    rng = np.random.default_rng(0)
    for _ in range(20):
        rng.shuffle(models)
        on_front = find_front(*zip(*models, strict=True))
        assert {model for model, is_on_front in zip(models, on_front, strict=True) if is_on_front} == expected


def test_the_front_is_what_a_sweep_from_the_cheapest_finds() -> None:
    """The sweep is another way to the same answer: by rising cost, each model that beats the best so far."""
    models = [(int(cost), int(accuracy)) for cost, accuracy in np.random.default_rng(0).integers(0, 30, (200, 2))]
    swept, best = set(), -1
    for cost, accuracy in sorted(models, key=lambda model: (model[0], -model[1])):
        if accuracy > best:
            swept.add((cost, accuracy))
            best = accuracy

    on_front = find_front(*zip(*models, strict=True))

    assert on_front == [model in swept for model in models]


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        find_front([1, 2], [0.5])
