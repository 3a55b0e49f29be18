"""Converts Keras models to LiteRT files (.tflite); on one machine the same model and images give the same bytes."""

import warnings
from collections.abc import Iterator

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from stages.lib.network.keras2 import keras, tf
from stages.lib.network.pixels import to_network_input
from stages.lib.network.quiet import quiet_stderr


def convert_to_float32(model: keras.Model) -> bytes:
    """Converts a float32 model; batch normalization is folded into the layer before it."""
    return _convert(tf.lite.TFLiteConverter.from_keras_model(model))


def convert_to_int8(model: keras.Model, images: np.ndarray, weight_bits: int) -> bytes:
    """Converts a float32 model to int8 throughout: weights, activations, input and output.

    Args:
        model: from (N, size, size, channels) float32 in [0, 1] to (N, classes) logits.
        images: (N, size, size) or (N, size, size, 3) uint8, from which the range of every activation is measured.
        weight_bits: 2 to 8; weights are rounded to the values that so many bits can tell apart, see `_round_weights`.

    Raises:
        ConverterError: if LiteRT cannot compute a layer in int8; no layer is left in float32.
    """

    def give_images() -> Iterator[list[np.ndarray]]:
        # One at a time: in batches the ranges differ in their last digits, and with them the bytes of the file.
        for image in to_network_input(images):
            yield [image[np.newaxis]]

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = give_images
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    return _round_weights(_convert(converter), weight_bits)


def _round_weights(content: bytes, bits: int) -> bytes:
    """Rounds int8 weights of a LiteRT file to multiples of 2 ** (8 - bits), so that it compresses better.

    The file keeps its length and its scales, and runs as fast as before; but its weights have fewer different values,
    which gzip writes in fewer bits. Halves go to the even multiple, so more often to 0; a multiple above 127 becomes
    the largest below. The first and the last kernel are not rounded, unless there are no others: they are small, and
    rounding them cost more accuracy than rounding all others. Nor are those of depthwise convolutions, as small.

    Raises:
        ValueError: if there are no int8 kernels.
    """
    step = 2 ** (8 - bits)
    last = 127 // step
    rounded = bytearray(content)
    kernels = _view_kernels(rounded)
    if not kernels:
        raise ValueError("expected a LiteRT file with convolutions or dense layers in int8")
    for weights in kernels[1:-1] or kernels:
        weights[:] = np.clip(np.rint(weights / step), -last, last) * step
    return bytes(rounded)


def _view_kernels(content: bytearray) -> list[np.ndarray]:
    """Returns the int8 weights of each dense layer and each convolution but depthwise ones: flat views, in order."""
    model = schema.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    kernels = []
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        kind = model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()
        if kind in (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.FULLY_CONNECTED):
            weights = graph.Tensors(operator.Inputs(1))  # input 0 is what enters the layer
            if weights.Type() == schema.TensorType.INT8:
                kernels.append(model.Buffers(weights.Buffer()).DataAsNumpy().view(np.int8))
    return kernels


def _convert(converter: tf.lite.TFLiteConverter) -> bytes:
    with quiet_stderr(), warnings.catch_warnings():
        # The warning is about statistics that only models trained with simulated quantization have.
        warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected", category=UserWarning)
        return bytes(converter.convert())
