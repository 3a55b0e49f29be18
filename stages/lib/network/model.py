"""Keras models: built from a list of layers, run on images, written to and read from HDF5."""

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from stages.lib.errors import UserError
from stages.lib.network.architecture import Layer
from stages.lib.network.keras2 import keras, tf
from stages.lib.network.metrics import compute_accuracy
from stages.lib.network.pixels import to_network_input
from stages.lib.network.seeds import derive_seed
from stages.lib.storage.files import check_exists, compute_gzip_size_bytes, replacing
from stages.lib.storage.selected import Rows

KERAS_LAYERS = (
    "InputLayer",
    "Conv2D",
    "DepthwiseConv2D",
    "Dense",
    "BatchNormalization",
    "ReLU",
    "Add",
    "MaxPooling2D",
    "GlobalAveragePooling2D",
    "Flatten",
    "Dropout",
)
"""Keras layers that a model file of this project may hold; a file with any other is refused before it is built."""
KERAS_MODELS = ("Sequential", "Functional")
"""Kinds of Keras model: a stack of layers, or, with shortcuts, a graph; never one inside another."""


class StatelessDropout(keras.layers.Layer):
    """Dropout whose mask depends on a seed and the number of the training step alone.

    So a resumed run drops the same units as a run without a break. The mask is drawn for the whole batch, and each
    replica takes its rows of it, so that several workers together drop what one worker would.

    Args:
        rate: share of the units that are dropped, in [0, 1); the others grow by 1 / (1 - rate).
        seed: of the masks.
        step: returns the number of the step, an int64 scalar, when the layer is called.
    """

    def __init__(self, rate: float, seed: int, step: Callable[[], tf.Tensor], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = seed
        self.step = step

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Drops units of (N, units) in training; outside it returns x."""
        if not training:
            return x
        replica = tf.distribute.get_replica_context()
        num_rows = tf.shape(x)[0]
        first_row = num_rows * replica.replica_id_in_sync_group
        uniform = tf.random.stateless_uniform(
            (num_rows * replica.num_replicas_in_sync, x.shape[-1]),
            seed=tf.stack([tf.constant(self.seed, tf.int64), self.step()]),
        )
        is_kept = uniform[first_row : first_row + num_rows] >= self.rate
        return tf.where(is_kept, x / (1 - self.rate), 0)


def build_model(
    layers: Sequence[Layer],
    seed: int,
    policy: str = "float32",
    step: Callable[[], tf.Tensor] | None = None,
    synchronized: bool = False,
) -> keras.Model:
    """Builds the Keras model of a list of layers.

    Args:
        layers: from `stages.lib.network.architecture.list_layers`.
        seed: from which each layer derives its own, for He-uniform initial weights and for dropout.
        policy: Keras mixed-precision policy, float32 or mixed_bfloat16; the last layer always computes in float32.
        step: returns the number of the training step, for `StatelessDropout`; without it dropout is Keras's own, as
            a stored model has it.
        synchronized: whether batch normalization takes its statistics over all replicas.

    Returns:
        A model from (N, height, width, channels) float32 in [0, 1] to (N, classes) float32 logits: a
        `keras.Sequential`, or a functional `keras.Model` where a layer has a shortcut.
    """
    policies = [policy] * (len(layers) - 1) + ["float32"]
    keras_layers = [
        _build_layer(layer, derive_seed(seed, layer.name), policy_of_layer, step, synchronized)
        for layer, policy_of_layer in zip(layers, policies, strict=True)
    ]
    if any(layer.shortcut for layer in layers):
        return _connect(layers, keras_layers)
    image = keras.layers.InputLayer(input_shape=layers[0].input_shape, name="image")
    return keras.Sequential([image, *keras_layers], name="cnn")


def _connect(layers: Sequence[Layer], keras_layers: Sequence[keras.layers.Layer]) -> keras.Model:
    x = image = keras.Input(layers[0].input_shape, name="image")
    outputs: dict[str, tf.Tensor] = {}
    for layer, keras_layer in zip(layers, keras_layers, strict=True):
        x = keras_layer([x, outputs[layer.shortcut]] if layer.shortcut else x)
        outputs[layer.name] = x
    return keras.Model(image, x, name="cnn")


def _build_layer(
    layer: Layer, seed: int, policy: str, step: Callable[[], tf.Tensor] | None, synchronized: bool
) -> keras.layers.Layer:
    common = {"name": layer.name, "dtype": policy}
    with_kernel = {"kernel_initializer": keras.initializers.HeUniform(seed), **common}
    match layer.kind:
        case "conv":
            return keras.layers.Conv2D(
                layer.output_shape[-1], layer.kernel_size, layer.strides, padding="same", **with_kernel
            )
        case "depthwise_conv":
            return keras.layers.DepthwiseConv2D(
                layer.kernel_size,
                layer.strides,
                padding="same",
                # Keras counts the pixels of all channels as inputs, though a filter sees those of its own alone: so
                # weights are smaller than He et al. say. With batch normalization that matters only to how fast they
                # learn, and they learn faster: 78 and 76 % in place of 72 and 71 % after 4 epochs of 6,000 images.
                depthwise_initializer=with_kernel["kernel_initializer"],
                **common,
            )
        case "dense":
            return keras.layers.Dense(layer.output_shape[-1], **with_kernel)
        case "batch_norm":
            # Keras's momentum of 0.99 remembers hundreds of updates: too many for short runs.
            return keras.layers.BatchNormalization(momentum=0.9, synchronized=synchronized, **common)
        case "relu":
            return keras.layers.ReLU(**common)
        case "add":
            return keras.layers.Add(**common)
        case "max_pool":
            return keras.layers.MaxPooling2D(layer.kernel_size, strides=layer.strides, **common)
        case "global_average_pool":
            return keras.layers.GlobalAveragePooling2D(**common)
        case "flatten":
            return keras.layers.Flatten(**common)
        case "dropout" if step:
            return StatelessDropout(layer.rate, seed, step, **common)
        case "dropout":
            return keras.layers.Dropout(layer.rate, seed=seed, **common)
        case _:
            raise ValueError(f"layer {layer.name}: no Keras layer is known for kind {layer.kind!r}")


def predict_logits(model: keras.Model, images: Rows, batch_size: int = 500) -> np.ndarray:
    """Runs `model` in inference mode; returns (N, classes) float32 logits.

    Not `model.predict`: its tf.data autotuning can stall for tens of seconds when it ends.

    Args:
        model: from what `to_network_input` returns to logits.
        images: N stored images, uint8, which are read and scaled a batch at a time; or what was made of such already,
            (N, height, width, channels) float32.
        batch_size: images at once.
    """
    run = tf.function(lambda batch: model(batch, training=False))
    is_stored = images.dtype == np.uint8
    batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
    return np.concatenate([run(to_network_input(batch) if is_stored else batch).numpy() for batch in batches])


def measure_accuracy(model: keras.Model, images: Rows, labels: np.ndarray) -> float:
    """Measures the share of stored images, uint8 in [0, 255], for which a model predicts their (N,) labels."""
    return compute_accuracy(labels, predict_logits(model, images).argmax(axis=1))


def measure_stored_model(
    path: Path,
    model: keras.Model,
    val_set: tuple[Rows, np.ndarray],
    test_set: tuple[Rows, np.ndarray],
) -> dict[str, float]:
    """Measures the accuracy of a model on (images, labels) pairs, and the bytes of its file, as it is and gzipped."""
    content = path.read_bytes()
    return {
        "val_accuracy": measure_accuracy(model, *val_set),
        "test_accuracy": measure_accuracy(model, *test_set),
        "size_bytes": len(content),
        "gzip_size_bytes": compute_gzip_size_bytes(content),
    }


def write_model(path: Path, model: keras.Model) -> None:
    """Writes architecture and weights, without the optimizer, as HDF5: its bytes depend on the model alone."""
    with replacing(path) as temporary, warnings.catch_warnings():
        # Keras advises its .keras format, but that one stores the time of saving.
        warnings.filterwarnings("ignore", message="You are saving your model as an HDF5 file", category=UserWarning)
        model.save(temporary, include_optimizer=False, save_format="h5")
        if any(isinstance(layer, keras.layers.DepthwiseConv2D) for layer in model.layers):
            _drop_groups(temporary)


def _drop_groups(path: Path) -> None:
    """Drops from a model file the groups of depthwise convolutions, always 1: Keras 3 refuses what Keras 2 writes."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "DepthwiseConv2D":
                layer["config"].pop("groups", None)
        file.attrs["model_config"] = json.dumps(config).encode()


def read_model(path: Path) -> keras.Model:
    """Reads a float32 model that `write_model` wrote.

    Raises:
        UserError: if the file is missing, or holds no Keras model, or one with a layer not in `KERAS_LAYERS`.
    """
    check_exists(path)
    try:
        with h5py.File(path) as file:
            config = json.loads(file.attrs["model_config"])
        classes = [layer["class_name"] for layer in config["config"]["layers"]]
        unknown = [name for name in classes if name not in KERAS_LAYERS]
        if config["class_name"] not in KERAS_MODELS:
            unknown.insert(0, config["class_name"])
        if not unknown:
            return keras.models.load_model(path, compile=False)
    except (OSError, LookupError, TypeError, ValueError, AssertionError, AttributeError) as error:
        # Keras raises any of these on a damaged file.
        raise UserError(f"{path}: no Keras model in HDF5 ({error}); run `dvc repro` to make it") from error
    # Nothing else is built: a Lambda layer, for one, would run code out of the file.
    expected, got = ", ".join(KERAS_LAYERS), ", ".join(unknown)
    raise UserError(f"{path}: expected only layers of {expected}; got {got}; run `dvc repro` to make it")
