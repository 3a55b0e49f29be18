import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from stages.lib.network.keras2 import keras, tf
from stages.lib.training.muon import Muon, orthogonalize

SHAPES = [(40, 8), (8, 40), (12, 12), (1, 6), (6, 1)]
RATE, DECAY, MOMENTUM = 0.02, 0.1, 0.95


def make_matrix(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Makes a random matrix whose singular values spread over a factor of 50, as those of gradients do."""
    rng, rank = np.random.default_rng(seed), min(rows, columns)
    left, _ = np.linalg.qr(rng.standard_normal((rows, rank)))
    right, _ = np.linalg.qr(rng.standard_normal((columns, rank)))
    return (left * np.geomspace(1, 0.02, rank) @ right.T).astype(np.float32)


def orthogonalize_by_svd(matrix: np.ndarray) -> np.ndarray:
    """Computes in float64 what five steps do to each singular value; the singular vectors stay."""
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    values = values / np.linalg.norm(values)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left * values @ right


def measure_alignment(a: np.ndarray, b: np.ndarray) -> float:
    """Measures the cosine of the angle between two matrices."""
    return float(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b))


# Orthogonal matrices


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_all_singular_values_come_out_near_1(shape: tuple[int, int]) -> None:
    for seed in range(5):
        made = orthogonalize(make_matrix(*shape, seed)).numpy()

        values = np.linalg.svd(made, compute_uv=False)
        assert (made.shape, made.dtype) == (shape, np.float32)
        assert values.min() > 0.6
        assert values.max() < 1.3


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_singular_vectors_are_kept(shape: tuple[int, int]) -> None:
    matrix = make_matrix(*shape)
    left, _, right = np.linalg.svd(matrix, full_matrices=False)

    made = orthogonalize(matrix).numpy()

    assert measure_alignment(made, left @ right) > 0.97
    between = left.T @ made @ right.T  # diagonal if the vectors are the same
    np.testing.assert_allclose(between, np.diag(np.diag(between)), atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_singular_value_goes_through_five_steps_of_the_quintic(shape: tuple[int, int]) -> None:
    matrix = make_matrix(*shape)

    np.testing.assert_allclose(orthogonalize(matrix), orthogonalize_by_svd(matrix), atol=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_size_of_the_matrix_does_not_matter(scale: float) -> None:
    matrix = make_matrix(9, 5)

    np.testing.assert_allclose(orthogonalize(matrix * np.float32(scale)), orthogonalize(matrix), atol=2e-3)


def test_zeros_stay_zeros() -> None:
    assert orthogonalize(tf.zeros((6, 4))).numpy().tolist() == np.zeros((6, 4)).tolist()


# Updates


def make_variables(**shapes: tuple[int, ...]) -> list[Any]:
    """Makes variables of Keras names: conv1_kernel becomes conv1/kernel."""
    rng = np.random.default_rng(7)
    return [
        tf.Variable(rng.standard_normal(shape).astype(np.float32), name=name.replace("__", "/"))
        for name, shape in shapes.items()
    ]


def make_gradients(variables: Sequence[Any], num_steps: int) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(8)
    return [
        [rng.standard_normal(variable.shape).astype(np.float32) for variable in variables] for _ in range(num_steps)
    ]


def apply(optimizer: Any, variables: Sequence[Any], gradients: Sequence[Sequence[np.ndarray]]) -> None:
    for step in gradients:
        optimizer.apply_gradients(zip(map(tf.constant, step), variables, strict=True))


def move(
    kernel: np.ndarray, gradients: Sequence[np.ndarray], rates: Sequence[float], weight_decay: float = DECAY
) -> np.ndarray:
    """Moves a hidden kernel as the papers say, in float64."""
    kernel, average = kernel.astype(np.float64), np.zeros(kernel.shape)
    rows, columns = math.prod(kernel.shape[:-1]), kernel.shape[-1]
    for gradient, rate in zip(gradients, rates, strict=True):
        average = MOMENTUM * average + gradient
        nesterov = (gradient + MOMENTUM * average).reshape(rows, columns)
        update = 0.2 * math.sqrt(max(rows, columns)) * orthogonalize_by_svd(nesterov)
        kernel = kernel * (1 - rate * weight_decay) - rate * update.reshape(kernel.shape)
    return kernel


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (3, 3, 2, 5), (1, 1, 4, 7)], ids=str)
@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_a_hidden_kernel_moves_by_the_orthogonal_matrix_of_its_momentum(shape: tuple[int, ...], num_steps: int) -> None:
    variables = make_variables(conv1__kernel=shape)
    gradients = make_gradients(variables, num_steps)
    expected = move(variables[0].numpy(), [step[0] for step in gradients], [RATE] * num_steps)

    apply(Muon(RATE, DECAY, last_kernel="logits"), variables, gradients)

    np.testing.assert_allclose(variables[0], expected, atol=1e-5)


def test_each_kernel_has_a_momentum_of_its_own() -> None:
    variables = make_variables(conv1__kernel=(4, 3), conv2__kernel=(4, 3), dense1__kernel=(5, 2))
    gradients = make_gradients(variables, 3)
    expected = [
        move(variable.numpy(), [step[index] for step in gradients], [RATE] * 3)
        for index, variable in enumerate(variables)
    ]

    apply(Muon(RATE, DECAY, last_kernel="logits"), variables, gradients)

    for variable, moved in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable, moved, atol=1e-5)


OTHERS: dict[str, tuple[int, ...]] = {
    "conv1__bias": (5,),
    "conv1_bn__gamma": (5,),
    "conv1_bn__beta": (5,),
    "logits__kernel": (4, 3),
    "logits__bias": (3,),
    "scale": (),
}


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_everything_else_moves_as_under_adamw_bit_by_bit(weight_decay: float) -> None:
    ours, theirs = make_variables(**OTHERS), make_variables(**OTHERS)
    gradients = make_gradients(ours, 3)

    apply(Muon(RATE, weight_decay, last_kernel="logits"), ours, gradients)
    apply(keras.optimizers.AdamW(RATE, weight_decay), theirs, gradients)

    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(our.numpy(), their.numpy())


def test_the_last_kernel_is_the_one_that_is_named() -> None:
    ours, theirs = make_variables(logits__kernel=(4, 3), top__kernel=(4, 3)), make_variables(top__kernel=(4, 3))
    theirs[0].assign(ours[1])
    gradients = make_gradients(ours, 2)
    expected = move(ours[0].numpy(), [step[0] for step in gradients], [RATE] * 2)

    apply(Muon(RATE, DECAY, last_kernel="top"), ours, gradients)
    apply(keras.optimizers.AdamW(RATE, DECAY), theirs, [step[1:] for step in gradients])

    np.testing.assert_allclose(ours[0], expected, atol=1e-5)
    np.testing.assert_array_equal(ours[1].numpy(), theirs[0].numpy())


def test_without_a_gradient_only_the_weight_decay_moves_a_kernel() -> None:
    variables = make_variables(conv1__kernel=(4, 3))
    before = variables[0].numpy()

    apply(Muon(RATE, DECAY, last_kernel="logits"), variables, [[np.zeros((4, 3), np.float32)]])

    np.testing.assert_allclose(variables[0], before * (1 - RATE * DECAY), rtol=1e-6)


def test_the_learning_rate_follows_its_schedule() -> None:
    rates = [0.5, 0.25, 0.125]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], rates)
    variables = make_variables(conv1__kernel=(3, 3, 2, 5))
    gradients = make_gradients(variables, 3)
    expected = move(variables[0].numpy(), [step[0] for step in gradients], rates)

    apply(Muon(schedule, DECAY, last_kernel="logits"), variables, gradients)

    np.testing.assert_allclose(variables[0], expected, atol=1e-4)


# Training


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_network_learns_classes_that_are_apart(policy: str) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = np.eye(3, 4, dtype=np.float32)[y] + 0.05 * rng.standard_normal((60, 4)).astype(np.float32)
    model = keras.Sequential(
        [
            keras.layers.InputLayer(input_shape=(4,)),
            keras.layers.Dense(8, "relu", kernel_initializer=keras.initializers.HeUniform(1), dtype=policy),
            keras.layers.BatchNormalization(dtype=policy),
            keras.layers.Dense(3, kernel_initializer=keras.initializers.HeUniform(2), name="logits"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(Muon(0.02, 0.01, "logits"), loss, metrics=["accuracy"])
    before = model.evaluate(x, y, verbose=0)

    model.fit(x, y, batch_size=20, epochs=15, verbose=0)

    loss_after, accuracy_after = model.evaluate(x, y, verbose=0)
    assert accuracy_after == 1
    assert loss_after < before[0] / 3
    assert {variable.dtype for variable in model.variables} == {tf.float32}
