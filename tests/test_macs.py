from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from stages.lib.cost.macs import count_flops, count_macs, count_parameters, count_study_flops, count_study_macs
from stages.lib.network.architecture import Layer, list_layers
from stages.lib.network.keras2 import tf
from stages.lib.network.model import build_model

PLAIN: dict[str, Any] = {"separable": False, "residual": False, "global_pool": False, "dense": [128]}
RESIDUAL: dict[str, Any] = PLAIN | {"residual": True, "global_pool": True, "dense": []}
MODELS: dict[str, dict[str, Any]] = {
    "first": PLAIN | {"blocks": [[32], [64]], "batch_norm": ["conv", "flatten"], "dropout": 0.1},
    "second": PLAIN | {"blocks": [[32, 64], [64]], "batch_norm": ["conv", "dense"], "dropout": 0.1},
    "third": PLAIN | {"blocks": [[32, 64], [64, 128]], "batch_norm": ["conv", "dense"], "dropout": 0.2},
    "fourth": PLAIN | {"blocks": [[32, 64], [32, 64]], "batch_norm": [], "dropout": 0.2},
    "fifth": RESIDUAL | {"blocks": [[32] * 3, [96] * 3, [128] * 3], "batch_norm": ["conv"], "dropout": 0},
    "sixth": RESIDUAL | {"separable": True, "blocks": [[32], [64] * 3, [96] * 3], "batch_norm": ["conv"], "dropout": 0},
}
THIRD = list_layers(28, 10, **MODELS["third"])
COUNTERS = (count_macs, count_flops, count_study_macs, count_study_flops, count_parameters)

CONV = Layer("conv1", "conv", (5, 4, 2), (5, 4, 3), kernel_size=3)
DEPTHWISE = Layer("conv2_depthwise", "depthwise_conv", (5, 4, 3), (5, 4, 3), kernel_size=3)
DENSE = Layer("dense1", "dense", (6,), (4,))


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (count_macs, [225_792, 14_450_688, 7_225_344, 14_450_688, 802_816, 1_280]),
        (count_study_macs, [225_792, 14_450_688, 7_225_344, 14_450_688, 802_944, 1_290]),
        (
            count_study_flops,
            [250_880, 14_500_864, 7_237_888, 14_475_776, 802_944, 1_290],
        ),  # it prints 7.42e6
        (count_parameters, [320, 18_496, 36_928, 73_856, 802_944, 1_290]),
    ],
)
def test_counts_of_the_third_model_are_those_that_the_study_prints(count: Any, expected: list[int]) -> None:
    assert [count(layer) for layer in THIRD if layer.kind in ("conv", "dense")] == expected


def test_totals_of_the_third_model_are_the_known_ones() -> None:
    assert (sum(map(count_macs, THIRD)), sum(map(count_flops, THIRD))) == (37_156_608, 74_313_216)
    assert sum(map(count_parameters, THIRD)) == 933_834 + 4 * (32 + 64 + 64 + 128 + 128)


def test_totals_of_the_fifth_model_are_those_of_its_convolutions_and_logits() -> None:
    fifth = list_layers(28, 10, **MODELS["fifth"])
    macs_of_blocks = [
        28 * 28 * 9 * 32 * (1 + 32 + 32),
        14 * 14 * 9 * 96 * (32 + 96 + 96),
        7 * 7 * 9 * 128 * (96 + 128 + 128),
    ]
    assert sum(map(count_macs, fifth)) == sum(macs_of_blocks) + 1_280 == 72_480_512
    assert sum(map(count_parameters, fifth)) == 622_890


def test_totals_of_the_sixth_model_are_those_of_its_first_convolution_its_separable_ones_and_logits() -> None:
    sixth = list_layers(28, 10, **MODELS["sixth"])
    separable = [(14, 32, 64), (14, 64, 64), (14, 64, 64), (7, 64, 96), (7, 96, 96), (7, 96, 96)]  # side, from, to
    macs = sum(side**2 * (9 * inputs + inputs * outputs) for side, inputs, outputs in separable)
    parameters = sum((9 + 1 + 4) * inputs + (inputs + 1 + 4) * outputs for _, inputs, outputs in separable)
    assert sum(map(count_macs, sixth)) == 28 * 28 * 9 * 32 + macs + 960 == 3_833_152
    assert sum(map(count_parameters, sixth)) == (9 + 1 + 4) * 32 + parameters + 970 == 44_458


@pytest.mark.parametrize("strides", [1, 2])
def test_macs_of_a_convolution_equal_those_of_a_naive_loop(strides: int) -> None:
    layer = replace(CONV, output_shape=(-(-5 // strides), 4 // strides, 3), strides=strides)
    window = product(range(layer.kernel_size), range(layer.kernel_size), range(layer.input_shape[-1]))
    macs_of_an_output = sum(1 for _ in window)
    outputs = product(range(0, 5, strides), range(0, 4, strides), range(3))
    assert count_macs(layer) == sum(macs_of_an_output for _ in outputs)


@pytest.mark.parametrize(
    ("layer", "macs", "flops", "study_macs", "study_flops", "parameters"),
    [
        (CONV, 1080, 2160, 1080, 1140, 57),  # 60 outputs x 18; + 60; 3 x (18 + 1)
        (replace(CONV, kernel_size=1), 120, 240, 120, 180, 9),
        (DEPTHWISE, 540, 1080, 540, 600, 30),  # 60 outputs x 9; + 60; 3 x (9 + 1)
        (DENSE, 24, 48, 28, 28, 28),
        (Layer("bn", "batch_norm", (5, 4, 3), (5, 4, 3)), 0, 0, 0, 0, 12),
        (Layer("bn", "batch_norm", (7,), (7,)), 0, 0, 0, 0, 28),
        (Layer("relu", "relu", (5, 4, 3), (5, 4, 3)), 0, 0, 0, 0, 0),
        (Layer("add", "add", (5, 4, 3), (5, 4, 3), shortcut="relu"), 0, 0, 0, 0, 0),
        (Layer("pool", "global_average_pool", (5, 4, 3), (3,)), 0, 0, 0, 0, 0),
        (Layer("pool", "max_pool", (5, 4, 3), (2, 2, 3), kernel_size=2, strides=2), 0, 0, 0, 0, 0),
        (Layer("flatten", "flatten", (2, 2, 3), (12,)), 0, 0, 0, 0, 0),
        (Layer("dropout", "dropout", (12,), (12,), rate=0.1), 0, 0, 0, 0, 0),
    ],
    ids=lambda value: f"{value.kind}{len(value.output_shape)}" if isinstance(value, Layer) else "",
)
def test_counts_of_one_layer_of_each_kind(
    layer: Layer, macs: int, flops: int, study_macs: int, study_flops: int, parameters: int
) -> None:
    assert [count(layer) for count in COUNTERS] == [macs, flops, study_macs, study_flops, parameters]


@pytest.mark.parametrize("count", COUNTERS)
def test_unknown_kind_is_refused_and_never_counted_as_zero(count: Any) -> None:
    with pytest.raises(
        ValueError, match=r"layer 'mix1' is of kind 'attention', .* conv, depthwise_conv, dense, batch_norm"
    ):
        count(replace(CONV, name="mix1", kind="attention"))


@pytest.mark.parametrize("image_size_px", [28, 29])
@pytest.mark.parametrize("model", MODELS)
def test_parameters_of_each_layer_equal_those_that_keras_counts(model: str, image_size_px: int) -> None:
    layers = list_layers(image_size_px, 10, **MODELS[model])
    built = build_model(layers, seed=0)
    counted = {layer.name: layer.count_params() for layer in built.layers if layer.name != "image"}
    assert {layer.name: count_parameters(layer) for layer in layers} == counted
    assert sum(map(count_parameters, layers)) == built.count_params()


def profile_flops(layers: list[Layer]) -> int:
    """Counts the operations of the built network on one image with TensorFlow's profiler."""
    model = build_model(layers, seed=0)
    image = tf.TensorSpec((1, *layers[0].input_shape), tf.float32)  # with an open batch size it returns zero
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(image).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    return int(tf.compat.v1.profiler.profile(graph, options=options).total_float_ops)


@pytest.mark.parametrize(
    ("image_size_px", "spec", "extras"),
    [  # the profiler also counts one addition per output for the bias, and 2 x 2 comparisons per output of a pool
        (28, MODELS["third"] | {"batch_norm": []}, 113_034 + 75_264),
        (28, MODELS["third"] | {"batch_norm": ["conv"]}, 113_034 + 75_264),  # batch normalization counts nothing
        (28, MODELS["fourth"], (28 * 28 * 96 + 14 * 14 * 96 + 128 + 10) + 4 * (14 * 14 * 64 + 7 * 7 * 64)),
        (
            9,
            PLAIN | {"blocks": [[2], [3]], "dense": [], "batch_norm": [], "dropout": 0},
            (162 + 48 + 10) + 4 * (32 + 12),
        ),
        (  # and one addition per output of an add, and of a global pool one per input
            9,
            RESIDUAL | {"blocks": [[2, 3, 2], [4]], "batch_norm": ["conv"], "dropout": 0},
            (81 * 7 + 16 * 4 + 10) + 4 * 32 + 162 + 64,
        ),
        (  # the bias of a depthwise convolution, too
            9,
            PLAIN | {"separable": True, "blocks": [[2, 3]], "dense": [], "batch_norm": ["conv"], "dropout": 0},
            81 * (2 + 2 + 3) + 10 + 4 * 16 * 3,
        ),
    ],
    ids=["third", "third_bn", "fourth", "odd", "residual", "separable"],
)
def test_flops_equal_those_of_the_profiler_less_biases_pools_and_adds(
    image_size_px: int, spec: dict[str, Any], extras: int
) -> None:
    layers = list_layers(image_size_px, 10, **spec)
    assert profile_flops(layers) == sum(map(count_flops, layers)) + extras


def test_a_coloured_image_takes_three_times_the_products_of_the_first_layer_alone() -> None:
    grey, colored = (list_layers(28, 10, **MODELS["third"], channels=channels) for channels in (1, 3))

    assert (count_macs(grey[0]), count_macs(colored[0])) == (225_792, 3 * 225_792)  # 28 x 28 x 3 x 3 x 32
    assert (count_parameters(grey[0]), count_parameters(colored[0])) == (320, 896)  # (9 + 1) x 32, (27 + 1) x 32
    for count in (count_macs, count_parameters):
        assert [count(layer) for layer in grey[1:]] == [count(layer) for layer in colored[1:]]
