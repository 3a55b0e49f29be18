"""Converts Keras models to LiteRT files (.tflite): on one machine the same model and images give the same bytes."""

import warnings
from collections.abc import Iterator

import numpy as np

from stages.lib.model import to_network_input
from stages.lib.tf import keras, quiet_stderr, tf


def convert_to_float32(model: keras.Model) -> bytes:
    """Converts a float32 model; batch normalization is folded into the layer before it."""
    return _convert(tf.lite.TFLiteConverter.from_keras_model(model))


def convert_to_int8(model: keras.Model, images: np.ndarray) -> bytes:
    """Converts a float32 model to int8 throughout: weights, activations, input and output.

    Args:
        model: from (N, size, size, 1) float32 in [0, 1] to (N, classes) logits.
        images: (N, size, size) uint8, from which the range of every activation is measured.

    Raises:
        ConverterError: if a layer has no int8 kernel, for none is left in float32.
    """

    def give_images() -> Iterator[list[np.ndarray]]:
        # One by one, as the runtime expects: in batches the ranges differ in their last digits, and with them the file.
        for image in to_network_input(images):
            yield [image[np.newaxis]]

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = give_images
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    return _convert(converter)


def _convert(converter: tf.lite.TFLiteConverter) -> bytes:
    with quiet_stderr(), warnings.catch_warnings():
        # It asks for statistics that only training with simulated quantization has.
        warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected", category=UserWarning)
        return bytes(converter.convert())
