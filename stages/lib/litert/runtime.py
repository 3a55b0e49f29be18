"""Runs LiteRT files (.tflite), float32 or int8 throughout, on images as they are stored. No TensorFlow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from stages.lib.errors import UserError
from stages.lib.network.pixels import scale_pixels, with_channels
from stages.lib.storage.files import check_exists


def read_interpreter(path: Path, batch_size: int, num_threads: int, is_reference: bool = False) -> Interpreter:
    """Reads a LiteRT file and makes it ready for batches of exactly `batch_size` images.

    Args:
        path: of the file.
        batch_size: images of a batch.
        num_threads: that run it.
        is_reference: whether LiteRT's reference kernels run it, slow and plain, which say what every integer has to be.
            The usual ones round some otherwise.

    Raises:
        UserError: if the file is missing, no model, or not one from (N, size, size, 1 or 3) images to (N, classes)
            logits, each float32 or quantized int8.
    """
    check_exists(path)
    kernels = OpResolverType.BUILTIN_REF if is_reference else OpResolverType.AUTO
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=num_threads, experimental_op_resolver_type=kernels)
        _check_signature(interpreter.get_input_details(), interpreter.get_output_details())
        (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(given["index"], [batch_size, *given["shape"][1:]])
        interpreter.allocate_tensors()
        num_results = interpreter.get_tensor(found["index"]).shape[0]
        if num_results != batch_size:
            raise ValueError(f"expected a result for each of {batch_size} images, got {num_results}")
    except (ValueError, RuntimeError) as error:  # the runtime raises both
        message = " ".join(str(error).split())
        raise UserError(f"{path}: no LiteRT model of this project: {message}; run `dvc repro` to make it") from error
    return interpreter


def _check_signature(inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
    def is_known(tensor: Mapping[str, Any]) -> bool:
        scale, _ = tensor["quantization"]  # 0 if it is not quantized
        return tensor["dtype"] is np.float32 or (tensor["dtype"] is np.int8 and scale > 0)

    def describe(tensors: Sequence[Mapping[str, Any]]) -> str:
        return ", ".join(f"{tensor['dtype'].__name__} {tuple(tensor['shape'].tolist())}" for tensor in tensors)

    if len(inputs) == len(outputs) == 1 and is_known(inputs[0]) and is_known(outputs[0]):
        images, logits = inputs[0]["shape"], outputs[0]["shape"]
        if len(images) == 4 and images[1] == images[2] and images[3] in (1, 3) and len(logits) == 2:
            return
    raise ValueError(
        "expected one input (N, size, size, 1 or 3) and one output (N, classes), each float32 or int8 with a scale; "
        f"got inputs {describe(inputs)} and outputs {describe(outputs)}"
    )


def quantize(x: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """Maps real numbers to the nearest int8 that stands for them: x / scale + zero_point, clipped to [-128, 127].

    >>> quantize(np.array([0.0, 0.5, 9.0]), scale=0.25, zero_point=-3).tolist()
    [-3, -1, 33]
    """
    return np.clip(np.rint(x / scale) + zero_point, -128, 127).astype(np.int8)


def dequantize(quantized: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """Maps int8 to the float32 numbers that they stand for: (quantized - zero_point) * scale."""
    return (quantized.astype(np.float32) - zero_point) * np.float32(scale)


def to_model_input(interpreter: Interpreter, images: np.ndarray) -> np.ndarray:
    """Maps images as they are stored to what a model takes: (N, size, size, channels) float32 in [0, 1], or int8.

    Stored are uint8, (N, size, size) or with an axis for the channels.
    """
    (given,) = interpreter.get_input_details()
    value_of = scale_pixels(np.arange(256, dtype=np.uint8))  # of each pixel value: to look it up is fast
    if given["dtype"] is np.int8:
        value_of = quantize(value_of, *given["quantization"])
    return value_of[with_channels(images)]


def set_images(interpreter: Interpreter, images: np.ndarray) -> None:
    """Gives a model one full batch of uint8 images as they are stored."""
    (given,) = interpreter.get_input_details()
    interpreter.set_tensor(given["index"], to_model_input(interpreter, images))


def predict_outputs(interpreter: Interpreter, images: np.ndarray) -> np.ndarray:
    """Runs a model of `read_interpreter` on uint8 images as they are stored, N >= 1.

    The last batch is filled up with black images, whose logits are dropped.

    Returns:
        (N, classes) logits as the model gives them: float32, or int8.
    """
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
    batch_size = given["shape"][0]
    outputs = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        set_images(interpreter, np.pad(batch, [(0, batch_size - len(batch))] + [(0, 0)] * (batch.ndim - 1)))
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(found["index"])[: len(batch)])
    return np.concatenate(outputs)


def predict_logits(interpreter: Interpreter, images: np.ndarray) -> np.ndarray:
    """Runs a model as `predict_outputs` does; returns (N, classes) float32 logits."""
    (found,) = interpreter.get_output_details()
    outputs = predict_outputs(interpreter, images)
    return dequantize(outputs, *found["quantization"]) if found["dtype"] is np.int8 else outputs
