import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from stages.lib.network.architecture import list_layers
from stages.lib.network.keras2 import keras, tf
from stages.lib.network.model import build_model
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


# Orthogonal matrices


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_singular_value_goes_through_five_steps_of_the_quintic_and_comes_out_near_1(
    shape: tuple[int, int],
) -> None:
    for seed in range(5):
        matrix = make_matrix(*shape, seed)

        made = orthogonalize(matrix).numpy()

        assert (made.shape, made.dtype) == (shape, np.float32)
        np.testing.assert_allclose(made, orthogonalize_by_svd(matrix), atol=1e-4)
        values = np.linalg.svd(made, compute_uv=False)
        assert 0.6 < values.min() <= values.max() < 1.3


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


OTHERS: dict[str, tuple[int, ...]] = {
    "conv1__bias": (5,),
    "conv2_depthwise__depthwise_kernel": (3, 3, 5, 1),
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


def test_of_a_separable_network_the_kernels_that_mix_channels_are_orthogonalized_but_the_last() -> None:
    layers = list_layers(6, 3, [[4, 5]], True, False, True, [6], ["conv"], 0)
    ours, theirs = (build_model(layers, seed=1).trainable_variables for _ in range(2))
    gradients = make_gradients(ours, 1)

    apply(Muon(RATE, DECAY, last_kernel="logits"), ours, gradients)
    apply(keras.optimizers.AdamW(RATE, DECAY), theirs, gradients)

    others = [our.name for our, their in zip(ours, theirs, strict=True) if (our.numpy() != their.numpy()).any()]
    assert others == ["conv1/kernel:0", "conv2/kernel:0", "dense1/kernel:0"]


def test_the_learning_rate_follows_its_schedule() -> None:
    rates = [0.5, 0.25, 0.125]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], rates)
    variables = make_variables(conv1__kernel=(3, 3, 2, 5))
    gradients = make_gradients(variables, 3)
    expected = move(variables[0].numpy(), [step[0] for step in gradients], rates)

    apply(Muon(schedule, DECAY, last_kernel="logits"), variables, gradients)

    np.testing.assert_allclose(variables[0], expected, atol=1e-4)


def test_weights_stay_float32_where_a_network_computes_in_bfloat16() -> None:
    kernel = keras.initializers.HeUniform(1)
    dense = keras.layers.Dense(3, kernel_initializer=kernel, dtype="mixed_bfloat16")
    model = keras.Sequential([keras.layers.InputLayer(input_shape=(4,)), dense])
    model.compile(Muon(0.02, 0.01, "logits"), "mse")
    before = dense.kernel.numpy()

    model.fit(np.ones((6, 4), np.float32), np.ones((6, 3), np.float32), verbose=0)

    assert {variable.dtype for variable in model.variables} == {tf.float32}
    moved = dense.kernel.numpy()
    assert (moved != before).all()
    assert (moved != tf.cast(tf.cast(moved, tf.bfloat16), tf.float32).numpy()).any()  # nor are they rounded
