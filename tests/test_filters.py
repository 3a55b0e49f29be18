import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from stages.lib.cost.filters import (
    choose_filters,
    choose_random_filters,
    count_channels,
    find_groups,
    remove_filters,
    scale_architecture,
    score_filters,
)
from stages.lib.cost.macs import count_macs
from stages.lib.errors import UserError
from stages.lib.network.architecture import Layer, list_layers
from stages.lib.network.keras2 import keras
from stages.lib.network.model import build_model, predict_logits
from stages.lib.params.load import load_params

PLAIN: dict[str, Any] = {"separable": False, "residual": False, "global_pool": False, "batch_norm": [], "dropout": 0}
RESIDUAL: dict[str, Any] = PLAIN | {"residual": True, "global_pool": True, "batch_norm": ["conv"]}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "conv_bn": PLAIN | {"blocks": [[4, 6], [5]], "dense": [7, 6], "batch_norm": ["conv"], "dropout": 0.5},
    "flatten_bn_and_dense_bn": PLAIN | {"blocks": [[4], [6]], "dense": [7], "batch_norm": ["flatten", "dense"]},
    "all_bn": PLAIN | {"blocks": [[4, 5], [6, 4]], "dense": [7, 6], "batch_norm": ["conv", "flatten", "dense"]},
    "no_bn": PLAIN | {"blocks": [[4, 6], [4, 6]], "dense": [7]},
    "no_hidden_dense": PLAIN | {"blocks": [[4], [6]], "dense": [], "batch_norm": ["conv", "flatten"]},
    "no_blocks": PLAIN | {"blocks": [], "dense": [8, 6], "batch_norm": ["flatten", "dense"]},
    "residual": RESIDUAL | {"blocks": [[4, 4, 4], [6, 8, 6, 5, 6], [7]], "dense": []},
    "residual_and_dense": RESIDUAL | {"blocks": [[4, 6, 4]], "dense": [7], "batch_norm": [], "dropout": 0.2},
    "residual_and_flatten": RESIDUAL | {"blocks": [[4] * 3, [6] * 3], "dense": [7], "global_pool": False},
    "global_pool": RESIDUAL | {"blocks": [[4, 6], [5]], "dense": [7], "residual": False, "batch_norm": ["dense"]},
    "separable": PLAIN | {"separable": True, "blocks": [[4, 6], [5]], "dense": [7]},
    "separable_residual": RESIDUAL | {"separable": True, "blocks": [[4, 6, 4, 5, 4]], "dense": [7]},
}
MODELS_OF_PARAMS = {name: model.model_dump() for name, model in load_params().models.items()}


# How narrow the smaller network is


def count_all_macs(architecture: Mapping[str, Any], image_size_px: int = 28) -> int:
    return sum(map(count_macs, list_layers(image_size_px, 10, **architecture)))


def list_counts(architecture: Mapping[str, Any]) -> list[int]:
    return [*[count for block in architecture["blocks"] for count in block], *architecture["dense"]]


@pytest.mark.parametrize(("channels", "blocks"), [(1, [[8], [8]]), (3, [[4], [4]])])
def test_shares_are_of_the_macs_with_the_channels_of_the_image(channels: int, blocks: list[list[int]]) -> None:
    architecture = {**PLAIN, "blocks": [[16], [16]], "dense": []}
    # With 8 filters each, the layers have 64 x 9 x 8, 16 x 9 x 64 and 2 x 2 x 8 x 10 MACs, 0.30 of all; with three
    # channels the first one has three times as many, and they have 0.36.
    assert scale_architecture(architecture, 8, 10, 0.33, 4, channels)["blocks"] == blocks


@pytest.mark.parametrize(
    ("macs_share", "blocks", "dense"),
    [  # of 37,156,608 MACs
        (0.5, [[24, 40], [40, 88]], [88]),  # 0.4402
        (0.25, [[16, 32], [32, 56]], [56]),  # 0.2381
        (0.1, [[8, 16], [16, 40]], [40]),  # 0.0705
    ],
)
def test_the_third_model_is_scaled_to_known_numbers(
    macs_share: float, blocks: list[list[int]], dense: list[int]
) -> None:
    smaller = scale_architecture(MODELS_OF_PARAMS["third"], 28, 10, macs_share, 8)

    assert (smaller["blocks"], smaller["dense"]) == (blocks, dense)


@pytest.mark.parametrize("multiple", [1, 3, 8])
@pytest.mark.parametrize("macs_share", [0.9, 0.5, 0.25, 0.1])
@pytest.mark.parametrize("name", MODELS_OF_PARAMS)
def test_the_network_is_the_widest_of_one_factor_that_is_small_enough(
    name: str, macs_share: float, multiple: int
) -> None:
    """Compared with a search through 4,000 factors, which rounds floating point numbers."""
    architecture, dense_macs = MODELS_OF_PARAMS[name], count_all_macs(MODELS_OF_PARAMS[name])

    smaller = scale_architecture(architecture, 28, 10, macs_share, multiple)

    assert count_all_macs(smaller) <= macs_share * dense_macs
    reachable = set()
    for factor in np.linspace(0, 1, 4001)[:-1] + 1e-7:
        counts = tuple(
            min(count, max(multiple, multiple * math.floor(count * factor / multiple + 0.5)))
            for count in list_counts(architecture)
        )
        reachable.add(counts)
    assert tuple(list_counts(smaller)) in reachable
    wider = [c for c in reachable if sum(c) > sum(list_counts(smaller))]
    assert wider
    fields = dict(architecture)
    for counts in wider:
        left = iter(counts)
        fields["blocks"] = [[next(left) for _ in block] for block in architecture["blocks"]]
        fields["dense"] = [next(left) for _ in architecture["dense"]]
        assert count_all_macs(fields) > macs_share * dense_macs


def test_nothing_but_blocks_and_dense_is_scaled() -> None:
    architecture = MODELS_OF_PARAMS["third"]

    smaller = scale_architecture(architecture, 28, 10, 0.5, 8)

    changed = {name for name in architecture if smaller[name] != architecture[name]}
    assert (list(smaller), changed) == (list(architecture), {"blocks", "dense"})


@pytest.mark.parametrize(
    ("count", "multiple", "expected"),
    [  # one dense layer on 8 x 8 pixels: of 64 x count + 10 x count MACs
        (4, 1, 2),
        (5, 1, 2),
        (16, 8, 8),
        (20, 8, 8),
        (40, 8, 16),  # 24 would be 0.6
    ],
)
def test_a_count_is_rounded_to_a_multiple_and_its_macs_are_at_most_the_share(
    count: int, multiple: int, expected: int
) -> None:
    smaller = scale_architecture(PLAIN | {"blocks": [], "dense": [count]}, 8, 10, 0.5, multiple)

    assert smaller["dense"] == [expected]


@pytest.mark.parametrize("multiple", [1, 8])
def test_pairs_of_a_residual_network_still_end_with_as_many_filters_as_enter_them(multiple: int) -> None:
    architecture = RESIDUAL | {"blocks": [[32, 48, 32], [40, 20, 40, 64, 40]], "dense": []}

    for macs_share in (0.9, 0.7, 0.5, 0.3):
        smaller = scale_architecture(architecture, 28, 10, macs_share, multiple)
        list_layers(28, 10, **smaller)  # which refuses others
        first, second = smaller["blocks"]
        assert first[0] == first[2]
        assert second[0] == second[2] == second[4]


def test_a_share_below_the_narrowest_network_is_refused_with_the_smallest_that_can_be_reached() -> None:
    architecture = PLAIN | {"blocks": [], "dense": [16]}
    expected = r"shrink\.macs_shares: .* got 0\.49, but with every count a multiple of 8 at least 0\.5 of its MACs"

    with pytest.raises(UserError, match=expected):
        scale_architecture(architecture, 8, 10, 0.49, 8)
    assert scale_architecture(architecture, 8, 10, 0.5, 8)["dense"] == [8]


def test_the_smallest_share_of_the_message_can_be_reached() -> None:
    with pytest.raises(UserError) as caught:
        scale_architecture(MODELS_OF_PARAMS["third"], 28, 10, 0.001, 8)

    (smallest,) = re.findall(r"at least (\S+) of its MACs", str(caught.value))
    assert list_counts(scale_architecture(MODELS_OF_PARAMS["third"], 28, 10, float(smallest), 8)) == [8] * 5


def test_a_network_without_anything_to_remove_is_refused() -> None:
    with pytest.raises(UserError, match=r"at least 1\.0 of its MACs"):
        scale_architecture(PLAIN | {"blocks": [], "dense": []}, 8, 10, 0.5, 1)


# Groups


def test_layers_that_shortcuts_add_together_are_one_group() -> None:
    layers = list_layers(8, 3, **RESIDUAL | {"blocks": [[4, 5, 4, 6, 4], [7, 8, 7]], "dense": [9]})

    groups = find_groups(layers)

    of_kernels = {layer.name: groups[layer.name] for layer in layers if layer.kind in ("conv", "dense")}
    expected = {name: name for name in of_kernels} | {"conv3": "conv1", "conv5": "conv1", "conv8": "conv6"}
    assert of_kernels == expected
    assert groups["conv3_bn"] == groups["conv5_relu"] == groups["pool1"] == "conv1"
    assert groups["global_pool"] == "conv6"


def test_a_depthwise_convolution_is_of_the_group_that_it_reads() -> None:
    layers = list_layers(8, 3, **RESIDUAL | {"separable": True, "blocks": [[4], [5, 6, 5]], "dense": []})

    groups = find_groups(layers)

    of_depthwise = {layer.name: groups[layer.name] for layer in layers if layer.kind == "depthwise_conv"}
    assert of_depthwise == {"conv2_depthwise": "conv1", "conv3_depthwise": "conv2", "conv4_depthwise": "conv3"}
    assert count_channels(layers) == {"conv1": 4, "conv2": 5, "conv3": 6}


def test_channels_are_counted_for_each_group_but_the_logits() -> None:
    residual = list_layers(8, 3, **RESIDUAL | {"blocks": [[4, 5, 4], [7]], "dense": [9]})
    plain = list_layers(8, 3, **PLAIN | {"blocks": [[4, 5]], "dense": [9, 8]})

    assert count_channels(residual) == {"conv1": 4, "conv2": 5, "conv4": 7, "dense1": 9}
    assert count_channels(plain) == {"conv1": 4, "conv2": 5, "dense1": 9, "dense2": 8}


# Scores

CONV = Layer("conv1", "conv", (2, 2, 1), (2, 2, 2), kernel_size=1)
CONV_BN = Layer("conv1_bn", "batch_norm", (2, 2, 2), (2, 2, 2))
RELU = Layer("conv1_relu", "relu", (2, 2, 2), (2, 2, 2))
FLATTEN = Layer("flatten", "flatten", (2, 2, 2), (8,))
LOGITS = Layer("logits", "dense", (8,), (3,))
KERNEL = np.array([[[[3.0, -1.0], [4.0, 0.0]]]], np.float32)  # two inputs x two filters of norms 5 and 1
BIAS = np.array([100.0, 100.0], np.float32)


def test_a_filter_scores_the_norm_of_its_kernel_and_the_bias_does_not_count() -> None:
    scores = score_filters([CONV, RELU, FLATTEN, LOGITS], {"conv1": [KERNEL, BIAS]})

    assert {group: values.tolist() for group, values in scores.items()} == {"conv1": [5.0, 1.0]}


def test_a_batch_norm_right_after_it_scales_a_score_as_it_scales_the_filter() -> None:
    variance = np.array([0.25, 4.0]) - 1e-3
    statistics = [np.array([2.0, -3.0]), np.array([50.0, 60.0]), np.array([70.0, 80.0]), variance]

    scores = score_filters([CONV, CONV_BN, RELU, FLATTEN, LOGITS], {"conv1": [KERNEL, BIAS], "conv1_bn": statistics})

    np.testing.assert_allclose(scores["conv1"], [5 * 2 / 0.5, 1 * 3 / 2], rtol=1e-12)


def test_a_batch_norm_after_flatten_does_not_change_scores() -> None:
    flatten_bn = Layer("flatten_bn", "batch_norm", (8,), (8,))
    weights = {"conv1": [KERNEL, BIAS], "flatten_bn": [np.full(8, 9.0)] * 4}

    assert score_filters([CONV, RELU, FLATTEN, flatten_bn, LOGITS], weights)["conv1"].tolist() == [5.0, 1.0]


def test_a_channel_that_several_layers_add_to_scores_the_norm_of_all_their_filters() -> None:
    conv2 = Layer("conv2", "conv", (2, 2, 2), (2, 2, 2))
    add = Layer("conv2_add", "add", (2, 2, 2), (2, 2, 2), shortcut="conv1_relu")
    weights = {"conv1": [KERNEL, BIAS], "conv2": [np.array([[[[12.0, 0.0]]]]), BIAS]}

    scores = score_filters([CONV, RELU, conv2, add, FLATTEN, LOGITS], weights)

    assert {group: values.tolist() for group, values in scores.items()} == {"conv1": [13.0, 1.0]}


def test_the_score_is_the_norm_of_the_kernel_that_keras_computes_with_after_folding() -> None:
    """The response to single pixels, less that to a black image, is the folded kernel."""
    layers = list_layers(3, 2, **PLAIN | {"blocks": [[4]], "dense": [], "batch_norm": ["conv"]})
    model = build_random_model(layers, seed=3)
    until_bn = keras.Model(model.input, model.get_layer("conv1_bn").output)
    pixels = np.eye(9, dtype=np.float32).reshape(9, 3, 3, 1)

    middle = (until_bn(pixels).numpy() - until_bn(np.zeros((1, 3, 3, 1))).numpy())[:, 1, 1, :]

    np.testing.assert_allclose(
        score_filters(layers, list_weights(model))["conv1"], np.linalg.norm(middle, axis=0), rtol=1e-5
    )


# Choice


def to_lists(kept: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
    return {group: indices.tolist() for group, indices in kept.items()}


def test_the_highest_scores_are_kept_in_ascending_order_of_their_indices() -> None:
    scores = {"conv1": np.array([0.1, 0.9, 0.0, 0.5]), "dense1": np.array([2.0, 3.0, 1.0])}

    assert to_lists(choose_filters(scores, {"conv1": 2, "dense1": 1})) == {"conv1": [1, 3], "dense1": [1]}


def test_of_equal_scores_the_first_are_kept() -> None:
    scores = np.tile([0.0, 1.0], 500)

    assert to_lists(choose_filters({"conv1": scores}, {"conv1": 300})) == {"conv1": list(range(1, 600, 2))}


def test_random_filters_are_distinct_and_ascend_within_their_group() -> None:
    kept = to_lists(choose_random_filters({"a": 50, "b": 6}, {"a": 20, "b": 6}, np.random.default_rng(0)))

    assert kept["a"] == sorted(set(kept["a"]))
    assert len(kept["a"]) == 20
    assert set(kept["a"]) <= set(range(50))
    assert kept["b"] == [0, 1, 2, 3, 4, 5]


def test_random_filters_depend_on_the_seed_alone() -> None:
    first, again, other = (
        to_lists(choose_random_filters({"a": 50}, {"a": 20}, np.random.default_rng(seed))) for seed in (0, 0, 1)
    )

    assert first == again
    assert first != other


# Removal


def list_weights(model: keras.Model) -> dict[str, list[np.ndarray]]:
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def build_random_model(layers: Sequence[Layer], seed: int) -> keras.Model:
    """Builds a model none of whose weights or statistics is at its initial value, and whose biases matter."""
    model, rng = build_model(layers, seed), np.random.default_rng(seed)
    for layer in model.layers:
        arrays = [rng.normal(0.5, 0.5, array.shape).astype(np.float32) for array in layer.get_weights()]
        if arrays and not isinstance(layer, keras.layers.BatchNormalization):
            arrays[0] -= 0.5
        elif arrays:
            arrays[3] = rng.uniform(0.5, 2, arrays[3].shape).astype(np.float32)
        layer.set_weights(arrays)
    return model


def mask_weights(
    layers: Sequence[Layer], weights: Mapping[str, Sequence[np.ndarray]], kept: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """Zeroes every channel that is not kept: filter, bias, and what later layers that it passes would add to it.

    Which channel an element of a feature map belongs to is found by sending the numbers of the channels through the
    network: through `reshape`, and not by arithmetic on indices.
    """
    groups, masked = find_groups(layers), {name: [array.copy() for array in arrays] for name, arrays in weights.items()}
    is_kept = np.ones(layers[0].input_shape, bool)
    for layer in layers:
        if layer.kind in ("conv", "dense") and layer is not layers[-1]:
            is_kept = np.zeros(layer.output_shape, bool)
            is_kept[..., kept[groups[layer.name]]] = True
            masked[layer.name] = [array * is_kept.reshape(-1, is_kept.shape[-1])[0] for array in masked[layer.name]]
        elif layer.kind in ("max_pool", "global_average_pool"):
            height_and_width = layer.output_shape[:-1]
            is_kept = np.broadcast_to(is_kept[0, 0], (*height_and_width, is_kept.shape[-1]))
        elif layer.kind == "flatten":
            is_kept = is_kept.reshape(-1)
        elif layer.kind == "depthwise_conv":
            kernel, bias = masked[layer.name]
            masked[layer.name] = [kernel, bias * is_kept[0, 0]]
        elif layer.kind == "batch_norm":
            of_entries = is_kept.reshape(-1, is_kept.shape[-1])[0]
            gamma, beta, mean, variance = masked[layer.name]
            masked[layer.name] = [gamma * of_entries, beta * of_entries, mean, variance]
    return [array for layer in layers if layer.name in masked for array in masked[layer.name]]


def shrink(
    architecture: Mapping[str, Any], image_size_px: int, macs_share: float, way: str, seed: int
) -> tuple[keras.Model, keras.Model, keras.Model]:
    """Returns a model with random weights, the same with removed channels at zero, and the one without them."""
    smaller = scale_architecture(architecture, image_size_px, 3, macs_share, 1)
    layers, smaller_layers = (list_layers(image_size_px, 3, **fields) for fields in (architecture, smaller))
    whole, counts = build_random_model(layers, seed), count_channels(smaller_layers)
    weights = list_weights(whole)
    if way == "random":
        kept = choose_random_filters(count_channels(layers), counts, np.random.default_rng(seed))
    else:
        kept = choose_filters(score_filters(layers, weights), counts)
    masked, shrunk = build_model(layers, seed), build_model(smaller_layers, seed)
    masked.set_weights(mask_weights(layers, weights, kept))
    removed = remove_filters(layers, weights, kept)
    assert list(removed) == [layer.name for layer in smaller_layers if layer.name in weights]
    shrunk.set_weights([array for arrays in removed.values() for array in arrays])
    return whole, masked, shrunk


@pytest.mark.parametrize("way", ["magnitude", "random"])
@pytest.mark.parametrize(
    ("architecture", "image_size_px"),
    [(architecture, 9) for architecture in ARCHITECTURES.values()],
    ids=list(ARCHITECTURES),
)
def test_the_smaller_network_computes_what_the_large_one_does_without_those_channels(
    architecture: dict[str, Any], image_size_px: int, way: str
) -> None:
    """An image of 9 pixels is pooled with a row and a column left over, and flattened from more than one pixel."""
    x = np.random.default_rng(5).random((20, image_size_px, image_size_px, 1), np.float32)

    whole, masked, shrunk = shrink(architecture, image_size_px, 0.5, way, seed=4)

    logits = predict_logits(masked, x)
    np.testing.assert_allclose(predict_logits(shrunk, x), logits, rtol=1e-5, atol=1e-5)
    assert np.ptp(logits, axis=0).min() > 1e-3  # they depend on the image
    assert np.abs(predict_logits(whole, x) - logits).max() > 0.01  # and the removed channels mattered


def divide_counts(architecture: Mapping[str, Any], by: int) -> dict[str, Any]:
    blocks = [[count // by for count in block] for block in architecture["blocks"]]
    return {**architecture, "blocks": blocks, "dense": [count // by for count in architecture["dense"]]}


@pytest.mark.parametrize("name", MODELS_OF_PARAMS)
def test_each_model_of_the_params_is_shrunk_exactly(name: str) -> None:
    """At an eighth of their width."""
    architecture = divide_counts(MODELS_OF_PARAMS[name], 8)
    x = np.random.default_rng(5).random((10, 28, 28, 1), np.float32)

    _, masked, shrunk = shrink(architecture, 28, 0.4, "magnitude", seed=4)

    logits = predict_logits(masked, x)
    np.testing.assert_allclose(predict_logits(shrunk, x), logits, rtol=1e-5, atol=1e-5 * np.abs(logits).max())


def test_two_removals_are_one() -> None:
    layers = list_layers(8, 3, **ARCHITECTURES["all_bn"])
    weights = list_weights(build_random_model(layers, seed=1))
    first = {group: np.arange(count)[1:] for group, count in count_channels(layers).items()}
    second = {group: np.arange(count - 1)[::2] for group, count in count_channels(layers).items()}
    both = {group: first[group][second[group]] for group in first}
    blocks = [[count - 1 for count in block] for block in ARCHITECTURES["all_bn"]["blocks"]]
    dense = [count - 1 for count in ARCHITECTURES["all_bn"]["dense"]]
    between = list_layers(8, 3, **ARCHITECTURES["all_bn"] | {"blocks": blocks, "dense": dense})

    in_two_steps = remove_filters(between, remove_filters(layers, weights, first), second)

    at_once = remove_filters(layers, weights, both)
    assert list(in_two_steps) == list(at_once)
    for name, arrays in at_once.items():
        assert all(map(np.array_equal, in_two_steps[name], arrays))


def test_removal_slices_by_hand_computed_indices() -> None:
    """Two filters on 1 x 2 pixels: the flattened units are both channels of pixel 1, then both of pixel 2."""
    layers = [
        Layer("conv1", "conv", (1, 2, 1), (1, 2, 2), kernel_size=1),
        Layer("flatten", "flatten", (1, 2, 2), (4,)),
        Layer("flatten_bn", "batch_norm", (4,), (4,)),
        Layer("logits", "dense", (4,), (1,)),
    ]
    weights = {
        "conv1": [np.array([[[[10, 11]]]]), np.array([20, 21])],
        "flatten_bn": [np.array([1, 2, 3, 4]) + 10 * number for number in range(4)],
        "logits": [np.array([[5], [6], [7], [8]]), np.array([9])],
    }

    removed = remove_filters(layers, weights, {"conv1": np.array([1])})

    assert {name: [array.tolist() for array in arrays] for name, arrays in removed.items()} == {
        "conv1": [[[[[11]]]], [21]],
        "flatten_bn": [[2, 4], [12, 14], [22, 24], [32, 34]],
        "logits": [[[6], [8]], [9]],
    }
