"""Runs LiteRT files (.tflite), float32 or int8 throughout, on images as they are stored. No TensorFlow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from stages.lib.errors import UserError
from stages.lib.network.pixels import to_network_input
from stages.lib.storage.files import check_exists


def read_interpreter(path: Path, batch_size: int, num_threads: int) -> Interpreter:
    """Reads a LiteRT file and makes it ready for batches of exactly `batch_size` images.

    Raises:
        UserError: if the file is missing, no model, or not one from (N, size, size, 1) images to (N, classes) logits,
            each float32 or quantized int8.
    """
    check_exists(path)
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=num_threads)
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
        if len(images) == 4 and images[1] == images[2] and images[3] == 1 and len(logits) == 2:
            return
    raise ValueError(
        "expected one input (N, size, size, 1) and one output (N, classes), each float32 or int8 with a scale; "
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


def set_images(interpreter: Interpreter, images: np.ndarray) -> None:
    """Gives a model one full batch of (N, size, size) uint8 images, scaled to [0, 1], as float32 or quantized."""
    (given,) = interpreter.get_input_details()
    value_of = to_network_input(np.arange(256, dtype=np.uint8))  # of each pixel value: to look it up is fast
    if given["dtype"] is np.int8:
        value_of = quantize(value_of, *given["quantization"])
    interpreter.set_tensor(given["index"], value_of[images])


def get_logits(interpreter: Interpreter) -> np.ndarray:
    """Returns the logits of the last batch, (N, classes) float32."""
    (found,) = interpreter.get_output_details()
    logits = interpreter.get_tensor(found["index"])
    return dequantize(logits, *found["quantization"]) if found["dtype"] is np.int8 else logits


def predict_logits(interpreter: Interpreter, images: np.ndarray) -> np.ndarray:
    """Runs a model of `read_interpreter` on (N, size, size) uint8 images, N >= 1; returns (N, classes) float32 logits.

    The last batch is filled up with black images, whose logits are dropped.
    """
    (given,) = interpreter.get_input_details()
    batch_size = given["shape"][0]
    logits = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        set_images(interpreter, np.pad(batch, [(0, batch_size - len(batch)), (0, 0), (0, 0)]))
        interpreter.invoke()
        logits.append(get_logits(interpreter)[: len(batch)])
    return np.concatenate(logits)
