"""A CNN as a plain list of layers: what `models` in params.yaml says, spelled out. No TensorFlow.

Both the Keras model and its complexity are derived from this one list, so they cannot disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

MOST_DENSE_WEIGHTS = 8_000_000
"""Of one dense layer: five times as many as the largest model of the study has; 32 MB in float32."""


@dataclass(frozen=True)
class Layer:
    """One layer, as it treats one image.

    Attributes:
        name: unique in its network, such as conv1.
        kind: conv, depthwise_conv, dense, batch_norm, relu, add, max_pool, global_average_pool, flatten or dropout.
        input_shape: (height, width, channels) or (units,).
        output_shape: likewise.
        kernel_size: in pixels, the same in both directions; 1 where the layer has none.
        strides: in pixels, the same in both directions; 1 where the layer has none.
        rate: share of the units that a dropout drops.
        shortcut: of an add, the earlier layer whose output it adds to its input; "" elsewhere.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    kernel_size: int = 1
    strides: int = 1
    rate: float = 0.0
    shortcut: str = ""


def list_layers(
    image_size_px: int,
    num_classes: int,
    blocks: Sequence[Sequence[int]],
    separable: bool,
    residual: bool,
    global_pool: bool,
    dense: Sequence[int],
    batch_norm: Sequence[str],
    dropout: float,
    channels: int = 1,
) -> list[Layer]:
    """Lists the layers of a CNN for square images, from the input to the logits.

    Args:
        image_size_px: height and width of the input.
        num_classes: units of the last layer, named `logits`; it has no activation.
        blocks: filters of each 3x3 same-padded convolution; each inner list ends in a 2x2 max pool of stride 2.
        separable: whether every convolution but the first is split in two: a depthwise one, which filters each
            channel with a 3x3 kernel of its own, with batch normalization and ReLU as after a convolution, and a
            pointwise one, 1x1, which mixes the channels (Howard et al. 2017, MobileNets, arXiv 1704.04861).
        residual: whether, from the second convolution of a block on, the input of every two convolutions is added to
            their output, before the last ReLU (He et al. 2016, Deep Residual Learning, arXiv 1512.03385). The sum
            needs equal shapes: a block has one convolution, then pairs, and a pair ends with as many filters as
            enter it.
        global_pool: whether the last block ends in the average over the image, for each channel (Lin et al. 2014,
            Network in Network, arXiv 1312.4400), and not in a max pool and flatten.
        dense: units of each hidden dense layer.
        batch_norm: any of conv, flatten, dense: kinds of layer that are followed by batch normalization,
            before their ReLU where they have one.
        dropout: share of units dropped after each hidden dense layer, or after the global pool if there is no hidden
            dense layer; 0 adds no layer.
        channels: of the input: 1 is grey, 3 are red, green and blue.

    Raises:
        ValueError: if a pool would leave less than one pixel, a block has no pairs that residual could bypass, or
            global_pool has no block to end or leaves nothing to flatten for batch_norm. The message starts with the
            name of the argument.
    """
    _check_global_pool(blocks, global_pool, batch_norm)
    if residual:
        _check_pairs(blocks)
    layers: list[Layer] = []
    shape: tuple[int, ...] = (image_size_px, image_size_px, channels)

    def add(name: str, kind: str, output_shape: tuple[int, ...] | None = None, **fields: Any) -> None:
        nonlocal shape
        layers.append(Layer(name, kind, shape, output_shape or shape, **fields))
        shape = layers[-1].output_shape

    def add_batch_norm(name: str, kind: str) -> None:
        if kind in batch_norm:
            add(f"{name}_bn", "batch_norm")

    def add_dropout(name: str) -> None:
        if dropout > 0:
            add(f"{name}_dropout", "dropout", rate=dropout)

    num_convs = 0
    for block_number, filters_of_block in enumerate(blocks, start=1):
        for position, filters in enumerate(filters_of_block, start=1):
            num_convs += 1
            name = f"conv{num_convs}"
            is_pointwise = separable and num_convs > 1
            if is_pointwise:
                add(f"{name}_depthwise", "depthwise_conv", kernel_size=3)
                add_batch_norm(f"{name}_depthwise", "conv")
                add(f"{name}_depthwise_relu", "relu")
            add(name, "conv", (*shape[:2], filters), kernel_size=1 if is_pointwise else 3)
            add_batch_norm(name, "conv")
            if residual and _ends_a_pair(position):
                add(f"{name}_add", "add", shortcut=f"conv{num_convs - 2}_relu")
            add(f"{name}_relu", "relu")
        height, width, channels = shape
        if global_pool and block_number == len(blocks):
            add("global_pool", "global_average_pool", (channels,))
            continue
        if min(height, width) < 2:
            most_blocks = image_size_px.bit_length() - 1 + global_pool  # a global pool needs only one pixel
            raise ValueError(
                f"blocks: block {block_number} of {len(blocks)} pools an image of {height} x {width} pixels to below "
                f"1 pixel; use at most {most_blocks} blocks for an image of {image_size_px} pixels"
            )
        add(f"pool{block_number}", "max_pool", (height // 2, width // 2, channels), kernel_size=2, strides=2)

    if not global_pool:
        add("flatten", "flatten", (prod(shape),))
        add_batch_norm("flatten", "flatten")
    elif not dense:
        add_dropout("global_pool")
    for number, units in enumerate(dense, start=1):
        name = f"dense{number}"
        add(name, "dense", (units,))
        add_batch_norm(name, "dense")
        add(f"{name}_relu", "relu")
        add_dropout(name)
    add("logits", "dense", (num_classes,))
    return layers


def check_dense_weights(layers: Sequence[Layer]) -> None:
    """Checks that no dense layer is huge, as the first one is where images are large and few blocks make them small.

    Raises:
        ValueError: if one has more weights than `MOST_DENSE_WEIGHTS`. The message starts with an argument's name.
    """
    for layer in layers:
        weights = prod(layer.input_shape) * prod(layer.output_shape)
        if layer.kind == "dense" and weights > MOST_DENSE_WEIGHTS:
            flattened = [" x ".join(map(str, other.input_shape)) for other in layers if other.kind == "flatten"]
            raise ValueError(
                f"blocks: expected at most {MOST_DENSE_WEIGHTS:,} weights in each dense layer; got {weights:,} in "
                f"{layer.name}{f' (the last pool leaves {flattened[0]} values)' if flattened else ''}; add blocks, "
                "which halve height and width, set global_pool: true, or take fewer filters or dense units"
            )


def _ends_a_pair(position: int) -> bool:
    """Tells whether the convolution at `position` in its block, from 1, is the second of a pair with a shortcut."""
    return position > 1 and position % 2 == 1


def _check_pairs(blocks: Sequence[Sequence[int]]) -> None:
    for block_number, filters_of_block in enumerate(blocks, start=1):
        where = f"blocks: block {block_number} of {len(blocks)}"
        got = f"got {list(filters_of_block)}"
        if len(filters_of_block) % 2 == 0:
            raise ValueError(f"{where}: expected an odd number of convolutions with residual: one, then pairs; {got}")
        entering = filters_of_block[0]  # as many leave every pair as enter it
        for position, filters in enumerate(filters_of_block, start=1):
            if _ends_a_pair(position) and filters != entering:
                raise ValueError(
                    f"{where}: expected {entering} filters in convolution {position} with residual, as many as enter "
                    f"its pair; {got}"
                )


def _check_global_pool(blocks: Sequence[Sequence[int]], global_pool: bool, batch_norm: Sequence[str]) -> None:
    if global_pool and not blocks:
        raise ValueError("blocks: expected at least one block with global_pool, which ends the last one; got []")
    if global_pool and "flatten" in batch_norm:
        raise ValueError(
            f"batch_norm: expected no flatten with global_pool, which leaves nothing to flatten; got {list(batch_norm)}"
        )
