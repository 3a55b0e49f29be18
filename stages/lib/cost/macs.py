"""Counts multiply-accumulates (MACs), floating point operations (FLOPs) and parameters of one layer. No TensorFlow.

All counts are for one image and one forward pass. "FLOP" has no single meaning, so both conventions have a name:

- The field's: a MAC is one multiplication and one addition; the bias is not counted; FLOPs = 2 x MACs.
- The study's: the bias is one more input of a dense layer, and no MAC of a convolution. Its FLOPs are its MACs, each
  counted once, plus one addition per output of a convolution for the bias.

Products with the zeros of the padding are counted like all others. A kind of layer that is not named here is an error,
never a silent zero.
"""

from math import prod

from stages.lib.network.architecture import Layer

CONVOLUTIONS = ("conv", "depthwise_conv")
WITHOUT_MACS = ("batch_norm", "relu", "add", "max_pool", "global_average_pool", "flatten", "dropout")
"""A batch normalization is folded into the layer before it when it is deployed; relu and max_pool compare; add and
global_average_pool add without a product (one per channel is not counted); flatten and dropout pass their input on."""
WITHOUT_PARAMETERS = ("relu", "add", "max_pool", "global_average_pool", "flatten", "dropout")


def count_macs(layer: Layer) -> int:
    """Counts MACs in the field's convention: one for each product of an input and a weight, none for the bias.

    >>> count_macs(Layer("conv1", "conv", (28, 28, 1), (28, 28, 32), kernel_size=3))
    225792

    Raises:
        ValueError: if the kind of the layer is unknown.
    """
    if layer.kind == "conv":
        return prod(layer.output_shape) * layer.kernel_size**2 * layer.input_shape[-1]
    if layer.kind == "depthwise_conv":
        return prod(layer.output_shape) * layer.kernel_size**2
    if layer.kind == "dense":
        return prod(layer.input_shape) * prod(layer.output_shape)
    if layer.kind in WITHOUT_MACS:
        return 0
    raise _refuse(layer)


def count_flops(layer: Layer) -> int:
    """Counts FLOPs in the field's convention: two per MAC."""
    return 2 * count_macs(layer)


def count_study_macs(layer: Layer) -> int:
    """Counts MACs as the study does: with the bias in a dense layer, without it in a convolution."""
    return count_macs(layer) + (prod(layer.output_shape) if layer.kind == "dense" else 0)


def count_study_flops(layer: Layer) -> int:
    """Counts FLOPs as the study does: its MACs, and one addition per output of a convolution."""
    return count_study_macs(layer) + (prod(layer.output_shape) if layer.kind in CONVOLUTIONS else 0)


def count_parameters(layer: Layer) -> int:
    """Counts all numbers that the layer stores, trained or not: what Keras's `count_params` returns.

    Raises:
        ValueError: if the kind of the layer is unknown.
    """
    outputs = layer.output_shape[-1]
    if layer.kind == "conv":
        return (layer.kernel_size**2 * layer.input_shape[-1] + 1) * outputs
    if layer.kind == "depthwise_conv":
        return (layer.kernel_size**2 + 1) * outputs
    if layer.kind == "dense":
        return (prod(layer.input_shape) + 1) * outputs
    if layer.kind == "batch_norm":
        return 4 * outputs  # scale and shift, which are trained, and the moving mean and variance, which are not
    if layer.kind in WITHOUT_PARAMETERS:
        return 0
    raise _refuse(layer)


def _refuse(layer: Layer) -> ValueError:
    return ValueError(
        f"layer {layer.name!r} is of kind {layer.kind!r}, which cannot be counted; known kinds are "
        f"{', '.join(CONVOLUTIONS)}, dense, {', '.join(WITHOUT_MACS)}: say in {__name__} how to count the new kind"
    )
