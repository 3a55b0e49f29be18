"""Structured pruning: which whole filters and units a CNN can lose, and what is left of its weights. No TensorFlow.

The channels of a feature map are the outputs of a convolution's filters or of a dense layer's units. Layers whose
outputs a shortcut adds together must lose the same channels: they form a group, named after its first layer. Every
other layer is a group of its own. The channels of the image and the logits cannot be pruned.

Weights are given by layer name, as lists of arrays in Keras's order: kernel (height, width, inputs, outputs) or
(inputs, outputs), bias (outputs,) of a convolution or dense layer; kernel (height, width, channels, 1), bias
(channels,) of a depthwise convolution, which has one filter for each channel; gamma, beta, moving mean, moving variance
of a batch normalization.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import chain, pairwise
from typing import Any

import numpy as np

from stages.lib.cost.macs import count_macs
from stages.lib.errors import UserError
from stages.lib.network.architecture import Layer, list_layers

KINDS_WITH_KERNEL = ("conv", "dense")
IMAGE = "image"
"""Group of the network's input."""
BATCH_NORM_EPSILON = 1e-3
"""What Keras adds to the variance."""


def scale_architecture(
    architecture: Mapping[str, Any],
    image_size_px: int,
    num_classes: int,
    macs_share: float,
    multiple: int,
    channels: int = 1,
) -> dict[str, Any]:
    """Finds the widest network of the same form that needs at most a share of the MACs.

    One factor in [0, 1] scales the filters of all convolutions and the units of all hidden dense layers. Each count is
    rounded to a multiple, halves up, but is at least one multiple, and never more than it was: processors compute 8 or
    16 channels at once, so that counts in between save MACs, but hardly any time.

    Args:
        architecture: `blocks`, `dense` and the other arguments of `stages.lib.network.architecture.list_layers`.
        image_size_px: height and width of the input.
        num_classes: units of the last layer, which stays as it is.
        macs_share: largest share of the MACs of `architecture`.
        multiple: that counts are rounded to; 1 allows every count.
        channels: of the input.

    Returns:
        `architecture` with other `blocks` and `dense`.

    Raises:
        UserError: if even the narrowest such network needs more.
    """

    def count_all_macs(fields: Mapping[str, Any]) -> int:
        return sum(map(count_macs, list_layers(image_size_px, num_classes, **fields, channels=channels)))

    macs = count_all_macs(architecture)
    for factor in _list_factors([*chain(*architecture["blocks"]), *architecture["dense"]], multiple):
        smaller = {
            **architecture,
            "blocks": [[_scale(count, factor, multiple) for count in block] for block in architecture["blocks"]],
            "dense": [_scale(count, factor, multiple) for count in architecture["dense"]],
        }
        share = count_all_macs(smaller) / macs
        if share <= macs_share:
            return smaller
    smallest = math.ceil(1e4 * share) / 1e4  # rounded up, so that it can be reached itself
    raise UserError(
        f"params.yaml: shrink.macs_shares: expected shares that this network can be shrunk to; got {macs_share}, but "
        f"with every count a multiple of {multiple} at least {smallest} of its MACs are left; raise the share or lower "
        "shrink.multiple"
    )


def _scale(count: int, factor: Fraction, multiple: int) -> int:
    rounded = multiple * math.floor(count * factor / multiple + Fraction(1, 2))
    return min(count, max(multiple, rounded))


def _list_factors(counts: Sequence[int], multiple: int) -> list[Fraction]:
    """Lists the factors in [0, 1] at which a count changes, and 0, from large to small; others give nothing new."""
    steps = {
        Fraction((2 * number - 1) * multiple, 2 * count)
        for count in counts
        for number in range(1, count // multiple + 2)
    }
    return sorted((factor for factor in {Fraction(0), *steps} if factor <= 1), reverse=True)


def find_groups(layers: Sequence[Layer]) -> dict[str, str]:
    """Finds for each layer, by name, the group that its output channels belong to.

    >>> conv1, conv2 = (Layer(name, "conv", (4, 4, 1), (4, 4, 1)) for name in ("conv1", "conv2"))
    >>> find_groups([conv1, conv2, Layer("sum", "add", (4, 4, 1), (4, 4, 1), shortcut="conv1")])
    {'conv1': 'conv1', 'conv2': 'conv1', 'sum': 'conv1'}
    """
    groups: dict[str, str] = {}
    group = IMAGE
    for layer in layers:
        if layer.kind in KINDS_WITH_KERNEL:
            group = layer.name
        if layer.shortcut:
            earlier = groups[layer.shortcut]
            groups = {name: earlier if other == group else other for name, other in groups.items()}
            group = earlier
        groups[layer.name] = group
    return groups


def count_channels(layers: Sequence[Layer]) -> dict[str, int]:
    """Counts the channels of each group that can lose some: all but those of the last layer, the logits."""
    groups = find_groups(layers)
    return {groups[layer.name]: layer.output_shape[-1] for layer in layers[:-1] if layer.kind in KINDS_WITH_KERNEL}


def score_filters(layers: Sequence[Layer], weights: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    """Scores each channel by the magnitude of the weights that compute it.

    The score is the Euclidean norm of the filter's kernel (Li et al. 2017, Pruning Filters for Efficient ConvNets,
    arXiv 1608.08710, take the sum of magnitudes) as it is when deployed: a batch normalization right after it is folded
    into it, which multiplies it by gamma / sqrt(variance + epsilon). In a group of several layers, it is the norm of
    their filters together.

    Returns:
        (channels,) float64 >= 0 for each group of `count_channels`.
    """
    groups = find_groups(layers)
    squares = {group: np.zeros(count) for group, count in count_channels(layers).items()}
    for layer, next_layer in pairwise(layers):
        if layer.kind in KINDS_WITH_KERNEL:
            kernel = weights[layer.name][0].astype(np.float64)
            square = np.sum(kernel.reshape(-1, kernel.shape[-1]) ** 2, axis=0)
            if next_layer.kind == "batch_norm":
                gamma, _, _, variance = (array.astype(np.float64) for array in weights[next_layer.name])
                square *= gamma**2 / (variance + BATCH_NORM_EPSILON)
            squares[groups[layer.name]] += square
    return {group: np.sqrt(square) for group, square in squares.items()}


def choose_filters(scores: Mapping[str, np.ndarray], counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Chooses the `counts[group]` channels of each group with the highest scores; of equal ones the first.

    Returns:
        Their indices for each group, ascending.

    >>> choose_filters({"conv1": np.array([1, 3, 0, 3])}, {"conv1": 2})["conv1"].tolist()
    [1, 3]
    """
    return {group: np.sort(np.argsort(-scores[group], kind="stable")[:count]) for group, count in counts.items()}


def choose_random_filters(
    all_counts: Mapping[str, int], counts: Mapping[str, int], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Chooses `counts[group]` of the `all_counts[group]` channels of each group by chance; the indices ascend."""
    return {group: np.sort(rng.choice(all_counts[group], count, replace=False)) for group, count in counts.items()}


def remove_filters(
    layers: Sequence[Layer], weights: Mapping[str, Sequence[np.ndarray]], kept: Mapping[str, np.ndarray]
) -> dict[str, list[np.ndarray]]:
    """Removes all channels but the kept ones from the weights of every layer that computes or reads them.

    The smaller network computes exactly what the large one would if the removed channels were zero throughout: their
    filters and biases, and the bias of each depthwise convolution and gamma and beta of each batch normalization that
    they pass.

    Args:
        layers: of the large network.
        weights: of the large network.
        kept: ascending indices for each group of `count_channels`.

    Returns:
        The weights of the smaller network by layer name, in the order of `layers`.
    """
    groups = find_groups(layers)
    smaller: dict[str, list[np.ndarray]] = {}
    inputs = np.arange(layers[0].input_shape[-1])  # indices that are kept of the last axis of the layer's input
    for layer in layers:
        outputs = inputs
        if layer is layers[-1]:
            outputs = np.arange(layer.output_shape[-1])
        elif layer.kind in KINDS_WITH_KERNEL:
            outputs = kept[groups[layer.name]]
        elif layer.kind == "flatten":  # it lays the channels of each pixel side by side
            outputs = np.arange(layer.output_shape[-1]).reshape(-1, layer.input_shape[-1])[:, inputs].ravel()
        if layer.kind in KINDS_WITH_KERNEL:
            kernel, bias = weights[layer.name]
            smaller[layer.name] = [kernel.take(inputs, axis=-2).take(outputs, axis=-1), bias[outputs]]
        elif layer.kind == "depthwise_conv":
            kernel, bias = weights[layer.name]
            smaller[layer.name] = [kernel.take(inputs, axis=-2), bias[inputs]]
        elif layer.kind == "batch_norm":
            smaller[layer.name] = [array[inputs] for array in weights[layer.name]]
        inputs = outputs
    return smaller
