"""Keras models: built from a list of layers, run on images, written to and read from HDF5."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from stages.lib.architecture import Layer
from stages.lib.errors import UserError
from stages.lib.files import replacing
from stages.lib.tf import keras, tf

KERAS_LAYERS = ("InputLayer", "Conv2D", "Dense", "BatchNormalization", "ReLU", "MaxPooling2D", "Flatten", "Dropout")
"""Keras classes that a model file of this project may hold; a file with another one is refused before it is built."""


def build_model(layers: Sequence[Layer], seed: int, policy: str = "float32") -> keras.Model:
    """Builds the Keras model of a list of layers.

    Args:
        layers: from `stages.lib.architecture.list_layers`.
        seed: of the He-uniform initial weights and of dropout; layer i uses seed + i.
        policy: Keras mixed-precision policy, float32 or mixed_bfloat16; the last layer always computes in float32.

    Returns:
        A model from (N, height, width, 1) float32 in [0, 1] to (N, classes) float32 logits.
    """
    model = keras.Sequential([keras.layers.InputLayer(input_shape=layers[0].input_shape, name="image")], name="cnn")
    for index, layer in enumerate(layers):
        is_last = index == len(layers) - 1
        model.add(_build_layer(layer, seed + index, "float32" if is_last else policy))
    return model


def _build_layer(layer: Layer, seed: int, policy: str) -> keras.layers.Layer:
    common = {"name": layer.name, "dtype": policy}
    match layer.kind:
        case "conv":
            return keras.layers.Conv2D(
                layer.output_shape[-1],
                layer.kernel_size,
                strides=layer.strides,
                padding="same",
                kernel_initializer=keras.initializers.HeUniform(seed),
                **common,
            )
        case "dense":
            initializer = keras.initializers.HeUniform(seed)
            return keras.layers.Dense(layer.output_shape[-1], kernel_initializer=initializer, **common)
        case "batch_norm":
            # Keras's momentum of 0.99 remembers hundreds of updates: too many for short runs.
            return keras.layers.BatchNormalization(momentum=0.9, **common)
        case "relu":
            return keras.layers.ReLU(**common)
        case "max_pool":
            return keras.layers.MaxPooling2D(layer.kernel_size, strides=layer.strides, **common)
        case "flatten":
            return keras.layers.Flatten(**common)
        case "dropout":
            return keras.layers.Dropout(layer.rate, seed=seed, **common)
        case _:
            raise ValueError(f"layer {layer.name}: no Keras layer is known for kind {layer.kind!r}")


def to_network_input(images: np.ndarray) -> np.ndarray:
    """Scales stored images, (N, height, width) uint8 in [0, 255], to (N, height, width, 1) float32 in [0, 1]."""
    return images[..., np.newaxis].astype(np.float32) / 255


def predict_logits(model: keras.Model, x: np.ndarray, batch_size: int = 500) -> np.ndarray:
    """Runs `model` in inference mode on (N, height, width, 1) float32 in [0, 1]; returns (N, classes) float32 logits.

    Not `model.predict`: its tf.data autotuning can stall for tens of seconds when it ends.
    """
    run = tf.function(lambda batch: model(batch, training=False))
    return np.concatenate([run(x[start : start + batch_size]).numpy() for start in range(0, len(x), batch_size)])


def write_model(path: Path, model: keras.Model) -> None:
    """Writes architecture and weights, without the optimizer, as HDF5: its bytes depend on the model alone."""
    with replacing(path) as temporary, warnings.catch_warnings():
        # Keras advises its .keras format, but that one stores the time of saving.
        warnings.filterwarnings("ignore", message="You are saving your model as an HDF5 file", category=UserWarning)
        model.save(temporary, include_optimizer=False, save_format="h5")


def read_model(path: Path) -> keras.Model:
    """Reads a float32 model that `write_model` wrote.

    Raises:
        UserError: if the file is missing, no HDF5, holds no Keras model, or one with a layer outside `KERAS_LAYERS`.
    """
    reason = "not found" if not path.exists() else "no Keras model in HDF5"
    try:
        with h5py.File(path) as file:
            config = json.loads(file.attrs["model_config"])
        classes = [layer["class_name"] for layer in config["config"]["layers"]]
        unknown = [name for name in classes if name not in KERAS_LAYERS]
        if config["class_name"] != "Sequential":
            unknown.insert(0, config["class_name"])
        if unknown:  # a Lambda layer, for one, would run code out of the file
            reason = f"expected only layers of {', '.join(KERAS_LAYERS)}; got {', '.join(unknown)}"
            raise ValueError(reason)
        return keras.models.load_model(path, compile=False)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {reason} ({error}); run `dvc repro` to make it") from error
