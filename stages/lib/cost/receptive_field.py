"""Computes which pixels of the image a unit of each layer sees: its receptive field. No TensorFlow.

The recurrences are those of Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks",
Distill, 2019 (https://distill.pub/2019/computing-receptive-fields). They give the pixels that can change a unit; those
near its center change it most, so that the effective receptive field is much smaller (Luo et al., 2016,
https://arxiv.org/abs/1701.04128).

Images are square and layers treat both directions alike, so everything is computed along one. Pixels count from 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stages.lib.network.architecture import Layer

Extent = tuple[int, int]  # first and last pixel
# Each unit of these sees what one unit of the input sees. An add has two inputs, but what the shortcut sees lies within
# what the path beside it sees: its windows are of odd size, same-padded and of stride 1, so each holds its own center.
SEE_WHAT_THEIR_INPUT_SEES = ("batch_norm", "relu", "add", "dropout", "flatten")
HAVE_A_WINDOW = ("conv", "depthwise_conv", "max_pool")
SEE_ALL_OF_THEIR_INPUT = ("global_average_pool", "dense")


@dataclass(frozen=True)
class ReceptiveField:
    """What a unit of one layer sees, along one direction, in pixels of the image.

    From the global pool or the first dense layer on, each unit sees what all units of its input see together. There is
    no grid of fields then: `jump_px` and `start_px` are None, and `size_px` leaves out the padding.

    Attributes:
        size_px: width of the field of any unit, padding included.
        jump_px: distance between the fields of two neighbouring units.
        start_px: center of the field of the first unit.
        first_px: first pixel that the center unit, number n // 2 of n, sees, without the padding.
        last_px: last pixel that it sees. With windows of odd size, or pools of 2, these intervals are nested from layer
            to layer.
    """

    size_px: int
    jump_px: int | None
    start_px: float | None
    first_px: int
    last_px: int


def compute_padding_before(layer: Layer) -> int:
    """Computes how many zeros stand before the first unit of the input, from the number of outputs.

    A convolution is 'same' as TensorFlow defines it: the least padding with which n units give ceil(n / strides); if it
    is odd, the larger half comes after. A pool is 'valid': its windows all fit, so that it needs no padding.
    """
    windows, length = layer.output_shape[0], layer.input_shape[0]
    return max((windows - 1) * layer.strides + layer.kernel_size - length, 0) // 2


def compute_extents(layer: Layer, extents: Sequence[Extent]) -> list[Extent]:
    """Computes the first and last pixel that each unit sees, from `extents`, those of each unit of the input, in order.

    Padding is left out at every layer. To clip at the border of the image would not do: where a pool has dropped the
    last row, the padding of a later layer lies over pixels that no unit sees.
    """
    before_first = -compute_padding_before(layer)
    windows = range(before_first, before_first + layer.output_shape[0] * layer.strides, layer.strides)
    return [
        (extents[max(window, 0)][0], extents[min(window + layer.kernel_size, len(extents)) - 1][1])
        for window in windows
    ]


def compute_receptive_fields(layers: Sequence[Layer]) -> list[ReceptiveField]:
    """Computes the receptive field of each layer, in order; the first one's input is the image.

    Raises:
        ValueError: if the kind of a layer is unknown.
    """
    size, jump, start = 1, 1, 0.0
    extents = [(pixel, pixel) for pixel in range(layers[0].input_shape[0])]
    field = ReceptiveField(size, jump, start, *extents[len(extents) // 2])  # that of a pixel
    fields = []
    for layer in layers:
        if layer.kind in HAVE_A_WINDOW:
            size += (layer.kernel_size - 1) * jump
            start += ((layer.kernel_size - 1) / 2 - compute_padding_before(layer)) * jump
            jump *= layer.strides
            extents = compute_extents(layer, extents)
            field = ReceptiveField(size, jump, start, *extents[len(extents) // 2])
        elif layer.kind in SEE_ALL_OF_THEIR_INPUT:
            first, last = extents[0][0], extents[-1][1]
            field = ReceptiveField(last - first + 1, None, None, first, last)
        elif layer.kind not in SEE_WHAT_THEIR_INPUT_SEES:
            raise ValueError(
                f"layer {layer.name!r} is of kind {layer.kind!r}, whose receptive field is unknown; known kinds are "
                f"{', '.join(HAVE_A_WINDOW + SEE_ALL_OF_THEIR_INPUT + SEE_WHAT_THEIR_INPUT_SEES)}: "
                f"add the new kind in {__name__}"
            )
        fields.append(field)
    return fields
