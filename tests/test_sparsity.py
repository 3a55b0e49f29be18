from collections.abc import Mapping

import numpy as np
import pytest

from stages.lib.cost.sparsity import (
    allocate_by_lamp,
    allocate_uniformly,
    compute_lamp_scores,
    compute_weight_costs,
    count_zeros,
    has_sparsity,
)


@pytest.mark.parametrize(
    ("kernel", "zeros"),
    [
        ([[0.0, 2.0], [0.0, 0.0]], 3),
        ([[1.0, 2.0]], 0),
        ([0.0, -0.0], 2),
        ([1e-45, -1e-45, np.nan, np.inf], 0),
        ([], 0),
    ],
    ids=["some", "none", "minus zero", "as good as zero", "empty"],
)
def test_only_exact_zeros_count(kernel: list[float], zeros: int) -> None:
    assert count_zeros(np.array(kernel, np.float32)) == zeros


@pytest.mark.parametrize(
    ("num_zeros", "target", "expected"),
    [
        (49, 0.5, True),
        (51, 0.5, True),
        (48, 0.5, False),
        (52, 0.5, False),
        (0, 0.0, True),
        (0, 1.0, False),
    ],
)
def test_a_kernel_of_100_weights_has_a_sparsity_to_within_one_weight(
    num_zeros: int, target: float, expected: bool
) -> None:
    kernel = np.ones((10, 10))
    kernel.flat[:num_zeros] = 0

    assert has_sparsity(kernel, target) is expected


def test_lamp_scores_equal_their_formula_weight_by_weight() -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 4)).astype(np.float32)
    squares = kernel.ravel().astype(np.float64) ** 2

    expected = [square / squares[squares >= square].sum() for square in squares]

    np.testing.assert_allclose(compute_lamp_scores(kernel).ravel(), expected)


def test_of_equal_weights_each_comes_with_those_after_it() -> None:
    np.testing.assert_allclose(compute_lamp_scores(np.ones(4)), [1 / 4, 1 / 3, 1 / 2, 1])


def test_lamp_scores_of_a_kernel_of_zeros_are_zero() -> None:
    assert compute_lamp_scores(np.zeros((2, 2), np.float32)).tolist() == [[0, 0], [0, 0]]


def test_uniform_gives_each_kernel_the_same_share() -> None:
    assert allocate_uniformly({"a": np.ones(4), "b": np.ones(100)}, 0.7) == {"a": 0.7, "b": 0.7}


# LAMP: the costs of all weights are equal


def allocate_by_plain_lamp(kernels: Mapping[str, np.ndarray], sparsity: float) -> dict[str, float]:
    """Allocates zeros where all weights cost the same, whatever their MACs are."""
    return allocate_by_lamp(kernels, compute_weight_costs(kernels, POSITIONS, macs_weight=0), sparsity)


POSITIONS = {"a": 49, "b": 1, "c": 196}


def make_kernels(**sizes: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=size) for name, size in sizes.items()}


def count_all_zeros(kernels: Mapping[str, np.ndarray], shares: Mapping[str, float]) -> dict[str, int]:
    return {name: round(shares[name] * kernel.size) for name, kernel in kernels.items()}


def test_lamp_prunes_the_least_scores_of_all_kernels_together() -> None:
    # Scores of a: 1/4, 1/3, 1/2, 1; of b: 0.01 / 1.21, 0.2 / 1.2 (twice 0.1), 1.
    kernels = {"a": np.array([1.0, 1.0, 1.0, 1.0]), "b": np.array([1.0, 0.1, np.sqrt(0.2)])}

    assert allocate_by_plain_lamp(kernels, 2 / 7) == {"a": 0, "b": 2 / 3}
    assert allocate_by_plain_lamp(kernels, 4 / 7) == {"a": 0.5, "b": 2 / 3}


@pytest.mark.parametrize("sparsity", [0.01, 0.5, 0.9, 0.98])
def test_lamp_prunes_the_share_that_it_is_asked_for(sparsity: float) -> None:
    kernels = make_kernels(a=100, b=1000, c=7)

    zeros = count_all_zeros(kernels, allocate_by_plain_lamp(kernels, sparsity))

    assert sum(zeros.values()) == int(sparsity * 1107)


@pytest.mark.parametrize("num_zeros", range(98))
def test_a_share_that_is_a_number_of_weights_is_met_whatever_binary_rounding_does(num_zeros: int) -> None:
    kernels = make_kernels(a=50, b=50)

    zeros = count_all_zeros(kernels, allocate_by_plain_lamp(kernels, num_zeros / 100))

    assert sum(zeros.values()) == num_zeros


def test_lamp_leaves_at_least_a_weight_in_each_kernel() -> None:
    kernels = {"a": np.array([1e-9, 1e-9]), "b": np.random.default_rng(2).normal(size=998)}

    assert allocate_by_plain_lamp(kernels, 0.998) == {"a": 0.5, "b": 997 / 998}


def test_lamp_leaves_the_largest_weights_whatever_it_is_asked_for() -> None:
    assert allocate_by_plain_lamp(make_kernels(a=144, b=288), 0.999) == {"a": 143 / 144, "b": 287 / 288}


def test_lamp_takes_the_zeros_that_are_there_first() -> None:
    kernels = {"a": np.array([0.0, 0.0, 0.0, 5.0]), "b": np.array([1e-6, 1e-7, 1e-6, 1e-6])}

    assert allocate_by_plain_lamp(kernels, 3 / 8) == {"a": 0.75, "b": 0}


# Costs


def test_a_weight_costs_its_share_of_the_macs_and_its_place_as_they_are_weighted() -> None:
    kernels = make_kernels(a=3, b=2)  # 3 x 49 + 2 x 1 = 149 MACs, 5 places

    for macs_weight in (0, 0.25, 1):
        costs = compute_weight_costs(kernels, POSITIONS, macs_weight)
        assert costs == pytest.approx(
            {
                "a": macs_weight * 49 / 149 + (1 - macs_weight) / 5,
                "b": macs_weight * 1 / 149 + (1 - macs_weight) / 5,
            }
        )
        assert 3 * costs["a"] + 2 * costs["b"] == pytest.approx(1)


def test_of_equal_scores_those_that_cost_more_go_first_until_the_next_would_cost_too_much() -> None:
    kernels = {"a": np.array([2.0, 1.0]), "b": np.array([2.0, 1.0])}  # both smaller ones score 1/5
    costs = {"a": 0.4, "b": 0.1}

    found = [allocate_by_lamp(kernels, costs, share) for share in (0.39, 0.4, 0.49, 0.5)]

    assert found == [{"a": 0, "b": 0}, {"a": 0.5, "b": 0}, {"a": 0.5, "b": 0}, {"a": 0.5, "b": 0.5}]


@pytest.mark.parametrize("macs_weight", [0.5, 1.0])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.98])
def test_the_share_of_the_cost_is_met_to_within_a_weight_and_never_exceeded(share: float, macs_weight: float) -> None:
    kernels = make_kernels(a=500, b=3000, c=500)
    costs = compute_weight_costs(kernels, POSITIONS, macs_weight)

    zeros = count_all_zeros(kernels, allocate_by_lamp(kernels, costs, share))

    saved = sum(costs[name] * count for name, count in zeros.items())
    assert share - max(costs.values()) < saved <= share + 1e-9


def test_a_kernel_whose_weights_cost_more_loses_more_of_them() -> None:
    kernel = np.random.default_rng(3).normal(size=400)

    shares = allocate_by_lamp(
        {"a": kernel, "b": kernel}, compute_weight_costs({"a": kernel, "b": kernel}, POSITIONS, 0.5), 0.7
    )

    assert shares["b"] < 0.7 < shares["a"] < 1


def test_no_kernel_loses_all_its_weights_however_much_they_cost() -> None:
    kernels = make_kernels(a=300, b=300, c=3)

    assert allocate_by_lamp(kernels, compute_weight_costs(kernels, POSITIONS, 1), 0.99999) == {
        "a": 299 / 300,
        "b": 299 / 300,
        "c": 2 / 3,
    }


def test_no_kernel_gets_fewer_zeros_from_step_to_step() -> None:
    kernels = make_kernels(a=500, b=3000, c=40)
    costs = compute_weight_costs(kernels, POSITIONS, 0.5)
    before = dict.fromkeys(kernels, 0)

    for share in (0.6, 0.7, 0.95):
        zeros = count_all_zeros(kernels, allocate_by_lamp(kernels, costs, share))
        assert all(zeros[name] >= before[name] for name in kernels)
        for name, kernel in kernels.items():  # pruned as the stage does; those that are left learn to be alike
            kernel[np.argsort(np.abs(kernel), kind="stable")[: zeros[name]]] = 0
            kernel[kernel != 0] = 1
        before = zeros
