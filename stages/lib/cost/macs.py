"""Counts multiply-accumulates (MACs), floating point operations (FLOPs) and parameters of one layer. No TensorFlow.

All counts are for one image and one forward pass. "FLOP" has no single meaning, so both conventions have a name:

- The field's: a MAC is one multiplication and one addition; the bias is not counted; FLOPs = 2 x MACs.
- The study's: the bias is one more input of a dense layer, and no MAC of a convolution. Its FLOPs are its MACs, each
  counted once, plus one addition per output of a convolution for the bias.

Products with the zeros of the padding are counted like all others. A layer is counted by the row of its kind in a
table, and a new kind is a function and a row: a kind without a row is an error, never a silent zero.
"""

from collections.abc import Callable, Mapping
from math import prod

from stages.lib.network.architecture import Layer

Counter = Callable[[Layer], int]


def count_conv_macs(layer: Layer) -> int:
    """Counts kernel height x kernel width x input channels for each output.

    >>> count_conv_macs(Layer("conv1", "conv", (28, 28, 1), (28, 28, 32), kernel_size=3))
    225792
    """
    return prod(layer.output_shape) * layer.kernel_size**2 * layer.input_shape[-1]


def count_dense_macs(layer: Layer) -> int:
    """Counts one MAC for each pair of an input and an output.

    >>> count_dense_macs(Layer("logits", "dense", (128,), (10,)))
    1280
    """
    return prod(layer.input_shape) * prod(layer.output_shape)


def count_dense_macs_and_bias(layer: Layer) -> int:
    """Counts a dense layer's MACs with the bias as one more input: as many as it has parameters."""
    return (prod(layer.input_shape) + 1) * prod(layer.output_shape)


def count_conv_macs_and_bias(layer: Layer) -> int:
    """Counts a convolution's MACs, and one addition per output for the bias."""
    return count_conv_macs(layer) + prod(layer.output_shape)


def count_conv_parameters(layer: Layer) -> int:
    """Counts the kernel and one bias per filter; all are trained."""
    filters = layer.output_shape[-1]
    return (layer.kernel_size**2 * layer.input_shape[-1] + 1) * filters


def count_batch_norm_parameters(layer: Layer) -> int:
    """Counts four per channel: scale and shift, which are trained, and the moving mean and variance, which are not."""
    return 4 * layer.output_shape[-1]


def count_nothing(layer: Layer) -> int:  # noqa: ARG001 - every function of a table takes the layer
    """Counts zero: the row of a kind in a table says why."""
    return 0


MACS: Mapping[str, Counter] = {
    "conv": count_conv_macs,
    "dense": count_dense_macs,
    "batch_norm": count_nothing,  # deployed, it is folded into the weights of the layer beside it
    "relu": count_nothing,  # compares
    "add": count_nothing,  # additions without a product are no MACs
    "max_pool": count_nothing,  # compares
    "global_average_pool": count_nothing,  # the field counts neither its additions nor one product per channel
    "flatten": count_nothing,  # renames units
    "dropout": count_nothing,  # passes everything outside training
}
STUDY_MACS: Mapping[str, Counter] = {**MACS, "dense": count_dense_macs_and_bias}
STUDY_FLOPS: Mapping[str, Counter] = {**STUDY_MACS, "conv": count_conv_macs_and_bias}
PARAMETERS: Mapping[str, Counter] = {
    "conv": count_conv_parameters,
    "dense": count_dense_macs_and_bias,  # a weight for each MAC, and the biases; all are trained
    "batch_norm": count_batch_norm_parameters,
    "relu": count_nothing,  # a fixed function, as are all that follow
    "add": count_nothing,
    "max_pool": count_nothing,
    "global_average_pool": count_nothing,
    "flatten": count_nothing,
    "dropout": count_nothing,
}


def count(table: Mapping[str, Counter], layer: Layer) -> int:
    """Counts `layer` by the row of its kind in `table`.

    Raises:
        ValueError: if the table has no such row.
    """
    if layer.kind not in table:
        raise ValueError(
            f"layer {layer.name!r} is of kind {layer.kind!r}, which cannot be counted; known kinds are "
            f"{', '.join(table)}: add a function and a row for the new kind in {__name__}"
        )
    return table[layer.kind](layer)


def count_macs(layer: Layer) -> int:
    """Counts MACs in the field's convention, without bias."""
    return count(MACS, layer)


def count_flops(layer: Layer) -> int:
    """Counts FLOPs in the field's convention: two per MAC."""
    return 2 * count_macs(layer)


def count_study_macs(layer: Layer) -> int:
    """Counts MACs as the study does: with the bias in a dense layer, without it in a convolution."""
    return count(STUDY_MACS, layer)


def count_study_flops(layer: Layer) -> int:
    """Counts FLOPs as the study does: its MACs, and one addition per output of a convolution."""
    return count(STUDY_FLOPS, layer)


def count_parameters(layer: Layer) -> int:
    """Counts all numbers that the layer stores, trained or not: what Keras's `count_params` returns."""
    return count(PARAMETERS, layer)
