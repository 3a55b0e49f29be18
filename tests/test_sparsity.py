import numpy as np
import pytest

from stages.lib.cost.sparsity import (
    allocate_by_lamp,
    allocate_uniformly,
    compute_lamp_scores,
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


def test_lamp_prunes_the_least_scores_of_all_kernels_together() -> None:
    # Scores of a: 1/4, 1/3, 1/2, 1; of b: 0.01 / 1.21, 0.2 / 1.2 (twice 0.1), 1.
    kernels = {"a": np.array([1.0, 1.0, 1.0, 1.0]), "b": np.array([1.0, 0.1, np.sqrt(0.2)])}

    assert allocate_by_lamp(kernels, 2 / 7) == {"a": 0, "b": 2 / 3}
    assert allocate_by_lamp(kernels, 4 / 7) == {"a": 0.5, "b": 2 / 3}


@pytest.mark.parametrize("sparsity", [0.01, 0.5, 0.9, 0.98])
def test_lamp_prunes_the_share_that_it_is_asked_for(sparsity: float) -> None:
    rng = np.random.default_rng(1)
    kernels = {name: rng.normal(size=size) for name, size in (("a", 100), ("b", 1000), ("c", 7))}

    shares = allocate_by_lamp(kernels, sparsity)

    assert sum(round(shares[name] * kernel.size) for name, kernel in kernels.items()) == round(sparsity * 1107)


def test_lamp_leaves_at_least_a_weight_in_each_kernel() -> None:
    kernels = {"tiny": np.array([1e-9, 1e-9]), "large": np.random.default_rng(2).normal(size=998)}

    assert allocate_by_lamp(kernels, 0.998) == {"tiny": 0.5, "large": 997 / 998}


def test_lamp_leaves_the_largest_weights_whatever_it_is_asked_for() -> None:
    rng = np.random.default_rng(1)
    kernels = {name: rng.normal(size=size) for name, size in (("a", 144), ("b", 288))}

    assert allocate_by_lamp(kernels, 0.999) == {"a": 143 / 144, "b": 287 / 288}


def test_lamp_takes_the_zeros_that_are_there_first() -> None:
    kernels = {"a": np.array([0.0, 0.0, 0.0, 5.0]), "b": np.array([1e-6, 1e-7, 1e-6, 1e-6])}

    assert allocate_by_lamp(kernels, 3 / 8) == {"a": 0.75, "b": 0}
