"""A CNN as a plain list of layers: what `models` in params.yaml says, spelled out. No TensorFlow.

Both the Keras model and its complexity are derived from this one list, so they cannot disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """One layer for one image; shapes are (height, width, channels) or (units,), without the batch axis.

    `kind` is one of conv, dense, batch_norm, relu, max_pool, flatten, dropout. `kernel_size` and `strides` are in
    pixels, equal in both directions, and 1 where the layer has none; `rate` is a dropout's share of dropped units.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    kernel_size: int = 1
    strides: int = 1
    rate: float = 0.0


def list_layers(
    image_size_px: int,
    num_classes: int,
    blocks: Sequence[Sequence[int]],
    dense: Sequence[int],
    batch_norm: Sequence[str],
    dropout: float,
) -> list[Layer]:
    """Lists the layers of a CNN for square one-channel images, from the input to the logits.

    Args:
        image_size_px: height and width of the input.
        num_classes: units of the last layer, named `logits`; it has no activation.
        blocks: filters of each 3x3 same-padded convolution; each inner list ends in a 2x2 max pool of stride 2.
        dense: units of each hidden dense layer.
        batch_norm: any of conv, flatten, dense: kinds of layer that are followed by batch normalization,
            before their ReLU where they have one.
        dropout: share of units dropped after each hidden dense layer; 0 adds no layer.

    Raises:
        ValueError: if a pool would leave less than one pixel.
    """
    layers: list[Layer] = []
    shape: tuple[int, ...] = (image_size_px, image_size_px, 1)

    def add(
        name: str,
        kind: str,
        output_shape: tuple[int, ...] | None = None,
        kernel_size: int = 1,
        strides: int = 1,
        rate: float = 0.0,
    ) -> None:
        nonlocal shape
        layers.append(Layer(name, kind, shape, output_shape or shape, kernel_size, strides, rate))
        shape = layers[-1].output_shape

    def add_batch_norm_and_relu(name: str, kind: str) -> None:
        if kind in batch_norm:
            add(f"{name}_bn", "batch_norm")
        add(f"{name}_relu", "relu")

    num_convs = 0
    for pool_number, filters_of_block in enumerate(blocks, start=1):
        for filters in filters_of_block:
            num_convs += 1
            add(f"conv{num_convs}", "conv", (*shape[:2], filters), kernel_size=3)
            add_batch_norm_and_relu(f"conv{num_convs}", "conv")
        height, width, channels = shape
        if min(height, width) < 2:
            raise ValueError(
                f"block {pool_number} of {len(blocks)} pools an image of {height} x {width} pixels to below 1 pixel; "
                f"use at most {image_size_px.bit_length() - 1} blocks for an image of {image_size_px} pixels"
            )
        add(f"pool{pool_number}", "max_pool", (height // 2, width // 2, channels), kernel_size=2, strides=2)

    height, width, channels = shape
    add("flatten", "flatten", (height * width * channels,))
    if "flatten" in batch_norm:
        add("flatten_bn", "batch_norm")
    for number, units in enumerate(dense, start=1):
        add(f"dense{number}", "dense", (units,))
        add_batch_norm_and_relu(f"dense{number}", "dense")
        if dropout > 0:
            add(f"dense{number}_dropout", "dropout", rate=dropout)
    add("logits", "dense", (num_classes,))
    return layers
