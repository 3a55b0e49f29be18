from typing import Any

import numpy as np
import pytest

from stages.lib.cost.receptive_field import ReceptiveField, compute_receptive_fields
from stages.lib.network.architecture import Layer, list_layers
from stages.lib.network.keras2 import tf


def compute_fields(
    image_size_px: int,
    blocks: list[list[int]],
    dense: tuple[int, ...] = (),
    residual: bool = False,
    global_pool: bool = False,
    separable: bool = False,
) -> dict[str, ReceptiveField]:
    batch_norm = ["conv", "dense"] if global_pool else ["conv", "flatten", "dense"]
    layers = list_layers(image_size_px, 2, blocks, separable, residual, global_pool, dense, batch_norm, 0.1)
    return {layer.name: field for layer, field in zip(layers, compute_receptive_fields(layers), strict=True)}


def test_fields_of_the_third_model_are_those_of_the_study() -> None:
    fields = compute_fields(28, [[32, 64], [64, 128]], (128,))
    assert {name: fields[name] for name in ("conv1", "conv2", "pool1", "conv3", "conv4", "pool2")} == {
        "conv1": ReceptiveField(3, 1, 0.0, 13, 15),
        "conv2": ReceptiveField(5, 1, 0.0, 12, 16),
        "pool1": ReceptiveField(6, 2, 0.5, 12, 17),
        "conv3": ReceptiveField(10, 2, 0.5, 10, 19),
        "conv4": ReceptiveField(14, 2, 0.5, 8, 21),
        "pool2": ReceptiveField(16, 4, 1.5, 6, 21),
    }


@pytest.mark.parametrize("name", ["dense1", "dense1_bn", "dense1_relu", "dense1_dropout", "logits"])
def test_from_the_first_dense_layer_on_a_unit_sees_the_whole_image(name: str) -> None:
    assert compute_fields(28, [[2], [2]], (4,))[name] == ReceptiveField(28, None, None, 0, 27)


def test_fields_of_the_fifth_model_grow_to_more_than_the_image() -> None:
    fields = compute_fields(28, [[1, 1, 1]] * 3, residual=True, global_pool=True)
    sizes = {name: fields[name].size_px for name in ("conv3_add", "pool1", "conv6_add", "pool2", "conv9_relu")}
    assert sizes == {"conv3_add": 7, "pool1": 8, "conv6_add": 20, "pool2": 22, "conv9_relu": 46}


def test_the_depthwise_part_of_a_convolution_sees_what_the_whole_one_would_and_the_pointwise_part_no_more() -> None:
    blocks = [[1], [1, 1, 1], [1, 1, 1]]
    whole, separable = (compute_fields(28, blocks, (), True, True, is_separable) for is_separable in (False, True))
    names = ("conv2", "conv3", "conv4", "conv5", "conv6", "conv7")
    assert [separable[f"{name}_depthwise"] for name in names] == [whole[name] for name in names]
    assert {name: separable[name] for name in whole} == whole


def test_dense_layer_misses_the_last_pixel_where_a_pool_drops_it_unseen() -> None:
    pool = Layer("pool", "max_pool", (5, 5, 1), (2, 2, 1), kernel_size=2, strides=2)
    dense = Layer("dense", "dense", (4,), (3,))
    assert compute_receptive_fields([pool, dense]) == [
        ReceptiveField(2, 2, 0.5, 2, 3),
        ReceptiveField(4, None, None, 0, 3),
    ]


def test_pixel_that_a_pool_has_dropped_is_not_seen_through_the_padding_of_a_later_layer() -> None:
    fields = compute_fields(5, [[], [2]])
    assert fields["conv1"] == ReceptiveField(6, 2, 0.5, 0, 3)


def test_even_padding_of_a_convolution_with_strides_puts_the_larger_half_after() -> None:
    even = Layer("even", "conv", (28, 28, 1), (14, 14, 1), kernel_size=3, strides=2)
    odd = Layer("odd", "conv", (29, 29, 1), (15, 15, 1), kernel_size=3, strides=2)
    assert compute_receptive_fields([even]) == [ReceptiveField(3, 2, 1.0, 14, 16)]
    assert compute_receptive_fields([odd]) == [ReceptiveField(3, 2, 0.0, 13, 15)]


def test_unknown_kind_is_refused() -> None:
    layer = Layer("mix1", "attention", (4, 4, 1), (4, 4, 1))
    with pytest.raises(
        ValueError,
        match=r"layer 'mix1' is of kind 'attention', .* conv, depthwise_conv, max_pool, .*, dense, batch_norm",
    ):
        compute_receptive_fields([layer])


def apply_with_positive_weights(layer: Layer, x: Any) -> Any:
    """Applies a stand-in through which every pixel of the field reaches the unit: weights of one, nothing cut off.

    A max pool would pass one of its pixels only, so it becomes an average.
    """
    if layer.kind == "conv":
        size, channels = layer.kernel_size, (layer.input_shape[-1], layer.output_shape[-1])
        return tf.nn.conv2d(x, tf.ones((size, size, *channels)), layer.strides, "SAME")
    if layer.kind == "depthwise_conv":
        kernel = tf.ones((layer.kernel_size, layer.kernel_size, layer.input_shape[-1], 1))
        return tf.nn.depthwise_conv2d(x, kernel, (1, layer.strides, layer.strides, 1), "SAME")
    if layer.kind == "max_pool":
        return tf.nn.avg_pool2d(x, layer.kernel_size, layer.strides, "VALID")
    if layer.kind == "flatten":
        return tf.reshape(x, (1, -1))
    if layer.kind == "global_average_pool":
        return tf.reduce_mean(x, (1, 2))
    if layer.kind == "dense":
        return x @ tf.ones((layer.input_shape[0], layer.output_shape[0]))
    return x


def measure_extents(layers: list[Layer]) -> list[tuple[int, int, int, int]]:
    """Measures first row, last row, first column and last column that the center unit of each layer depends on."""
    image = tf.ones((1, *layers[0].input_shape))
    units: list[Any] = []
    outputs: dict[str, Any] = {}
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(image)
        x = image
        for layer in layers:
            x = x + outputs[layer.shortcut] if layer.kind == "add" else apply_with_positive_weights(layer, x)
            outputs[layer.name] = x
            assert tuple(x.shape[1:]) == layer.output_shape
            if len(layer.output_shape) == 3:
                center = x[0, x.shape[1] // 2, x.shape[2] // 2, 0]
            elif layer.kind == "flatten":  # the same unit as in the layer before
                height, width, channels = layer.input_shape
                center = x[0, (height // 2 * width + width // 2) * channels]
            else:
                center = x[0, 0]
            units.append(center)
    extents = []
    for unit in units:
        rows, columns = np.nonzero(tape.gradient(unit, image).numpy()[0, ..., 0])
        assert len(rows) == len(set(rows)) * len(set(columns))  # a full square, without holes
        extents.append((int(min(rows)), int(max(rows)), int(min(columns)), int(max(columns))))
    return extents


@pytest.mark.parametrize("image_size_px", [40, 41, 43, 28, 15])
@pytest.mark.parametrize("blocks", [[[1], [1]], [[1, 1], [1, 1]], [[1, 2, 1]], [[1], [2, 1], [1]], [[], [1]]], ids=str)
def test_extents_equal_the_support_of_the_input_gradient(blocks: list[list[int]], image_size_px: int) -> None:
    layers = list_layers(image_size_px, 2, blocks, False, False, False, [3], [], 0)
    computed = [(field.first_px, field.last_px) * 2 for field in compute_receptive_fields(layers)]
    assert computed == measure_extents(layers)


@pytest.mark.parametrize("image_size_px", [40, 41, 43, 28, 15])
@pytest.mark.parametrize("blocks", [[[1, 1, 1]], [[1, 2, 1], [2, 1, 2, 1, 2]], [[1], [1, 1, 1], [1]]], ids=str)
@pytest.mark.parametrize("global_pool", [False, True])
def test_extents_with_shortcuts_equal_the_support_of_the_input_gradient(
    blocks: list[list[int]], image_size_px: int, global_pool: bool
) -> None:
    layers = list_layers(image_size_px, 2, blocks, False, True, global_pool, [3], [], 0)
    computed = [(field.first_px, field.last_px) * 2 for field in compute_receptive_fields(layers)]
    assert computed == measure_extents(layers)


@pytest.mark.parametrize("image_size_px", [28, 41])
@pytest.mark.parametrize("residual", [False, True])
def test_extents_of_a_separable_network_equal_the_support_of_the_input_gradient(
    residual: bool, image_size_px: int
) -> None:
    layers = list_layers(image_size_px, 2, [[1], [2, 1, 2]], True, residual, True, [], ["conv"], 0)
    computed = [(field.first_px, field.last_px) * 2 for field in compute_receptive_fields(layers)]
    assert computed == measure_extents(layers)


@pytest.mark.parametrize("image_size_px", [40, 41, 42, 43])
def test_extents_with_strides_equal_the_support_of_the_input_gradient(image_size_px: int) -> None:
    layers: list[Layer] = []
    size = image_size_px
    for kernel_size, strides in ((3, 2), (2, 1), (5, 2), (4, 3)):
        shape, size = (size, size, 1), -(-size // strides)
        layers.append(Layer(f"conv{len(layers)}", "conv", shape, (size, size, 1), kernel_size, strides))
    computed = [(field.first_px, field.last_px) * 2 for field in compute_receptive_fields(layers)]
    assert computed == measure_extents(layers)


@pytest.mark.parametrize("image_size_px", [28, 41])
@pytest.mark.parametrize("blocks", [[[1], [1]], [[1, 1], [1, 1]], [[1, 1, 1], [1]]], ids=str)
def test_extents_follow_from_size_jump_and_start(blocks: list[list[int]], image_size_px: int) -> None:
    layers = list_layers(image_size_px, 2, blocks, False, False, False, [], [], 0)
    for layer, field in zip(layers, compute_receptive_fields(layers), strict=True):
        if layer.kind in ("conv", "max_pool"):
            assert field.start_px is not None
            assert field.jump_px is not None
            center = field.start_px + layer.output_shape[0] // 2 * field.jump_px
            reach = (field.size_px - 1) / 2
            assert (field.first_px, field.last_px) == (center - reach, center + reach)
