import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from stages.lib.errors import UserError
from stages.lib.network.architecture import Layer, list_layers
from stages.lib.network.keras2 import keras, tf
from stages.lib.network.model import build_model, measure_accuracy, predict_logits, read_model, write_model
from stages.lib.network.pixels import to_network_input

ROOT = Path(__file__).parents[1]
LAYERS = list_layers(
    8, 3, [[4, 4], [5]], False, False, False, [16], batch_norm=["conv", "flatten", "dense"], dropout=0.5
)
RESIDUAL = list_layers(8, 3, [[4, 5, 4], [6, 6, 6]], False, True, True, dense=[], batch_norm=["conv"], dropout=0.5)
SEPARABLE = list_layers(8, 3, [[4], [5, 6, 5]], True, True, True, dense=[], batch_norm=["conv"], dropout=0)
each_network = pytest.mark.parametrize("layers", [LAYERS, RESIDUAL, SEPARABLE], ids=["stack", "residual", "separable"])
X = np.random.default_rng(0).random((7, 8, 8, 1), np.float32)


def make_trained(seed: int = 1, layers: Sequence[Layer] = LAYERS) -> Any:
    """Builds a model whose every variable differs from its initial value, as after training."""
    model, rng = build_model(layers, seed), np.random.default_rng(seed)
    model.set_weights([weights + rng.random(weights.shape, np.float32) for weights in model.get_weights()])
    return model


def hash_weights(model: Any) -> str:
    return hashlib.sha256(b"".join(weights.tobytes() for weights in model.get_weights())).hexdigest()


# Layers


def list_built(model: Any) -> list[Any]:
    """Lists the Keras layers of a model; a functional model has its input among them."""
    return [layer for layer in model.layers if layer.name != "image"]


@each_network
def test_the_layers_are_those_of_the_list_in_its_order(layers: list[Layer]) -> None:
    built = list_built(build_model(layers, seed=1))

    assert [layer.name for layer in built] == [layer.name for layer in layers]
    assert [layer.output_shape[1:] for layer in built] == [layer.output_shape for layer in layers]
    shapes = [layer.input_shape[0] if layer.name.endswith("_add") else layer.input_shape for layer in built]
    assert [shape[1:] for shape in shapes] == [layer.input_shape for layer in layers]


def test_a_model_is_a_stack_of_layers_where_no_shortcut_asks_for_more() -> None:
    for layers, keras_class in ((LAYERS, "Sequential"), (RESIDUAL, "Functional")):
        model = build_model(layers, seed=1)
        assert (type(model).__name__, model.name) == (keras_class, "cnn")


def test_an_add_sums_what_the_pair_has_made_and_what_entered_it() -> None:
    model = make_trained(layers=RESIDUAL)
    names = ["conv3_bn", "conv1_relu", "conv3_add", "conv3_relu", "conv6_bn", "conv4_relu", "conv6_add", "conv6_relu"]

    outputs = keras.Model(model.inputs, [model.get_layer(name).output for name in names])(X, training=False)

    for path, shortcut, added, activated in (outputs[:4], outputs[4:]):
        np.testing.assert_array_equal(added.numpy(), path.numpy() + shortcut.numpy())
        np.testing.assert_array_equal(activated.numpy(), np.maximum(added.numpy(), 0))


def test_layers_get_the_sizes_of_the_list() -> None:
    model = build_model(LAYERS, seed=1)
    conv, pool, dropout = (model.get_layer(name) for name in ("conv3", "pool1", "dense1_dropout"))

    assert (conv.filters, conv.kernel_size, conv.strides, conv.padding) == (5, (3, 3), (1, 1), "same")
    assert (pool.pool_size, pool.strides) == ((2, 2), (2, 2))
    assert dropout.rate == 0.5
    assert model.get_layer("conv1_bn").momentum == 0.9


def test_no_layer_but_relu_has_an_activation() -> None:
    activations = [layer.get_config().get("activation") for layer in build_model(LAYERS, seed=1).layers]

    assert set(activations) == {None, "linear"}


def test_an_unknown_kind_is_refused() -> None:
    layers = [Layer("mix1", "attention", (4, 4, 1), (4, 4, 1))]

    with pytest.raises(ValueError, match="layer mix1: no Keras layer is known for kind 'attention'"):
        build_model(layers, seed=1)


# Initial weights


@pytest.mark.parametrize(("name", "fan_in"), [("conv1", 9), ("conv2", 9 * 32), ("dense1", 32 * 16), ("logits", 64)])
def test_kernels_are_he_uniform(name: str, fan_in: int) -> None:
    layers = list_layers(8, 10, [[32, 32]], False, False, False, dense=[64], batch_norm=[], dropout=0)
    bound = math.sqrt(6 / fan_in)  # He, Zhang, Ren, Sun 2015, arXiv 1502.01852

    kernel, bias = build_model(layers, seed=1).get_layer(name).get_weights()

    assert 0.95 * bound < kernel.max() <= bound
    assert -bound <= kernel.min() < -0.95 * bound
    assert kernel.std() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert not bias.any()


def test_one_seed_gives_the_same_weights_whatever_ran_before() -> None:
    before = hash_weights(build_model(LAYERS, seed=1))
    tf.random.uniform([3])
    build_model(LAYERS, seed=5)

    assert hash_weights(build_model(LAYERS, seed=1)) == before


def test_a_depthwise_kernel_is_he_uniform_by_the_pixels_of_all_channels() -> None:
    layers = list_layers(8, 10, [[8, 8]], True, False, True, dense=[], batch_norm=[], dropout=0)
    bound = math.sqrt(6 / (9 * 8))  # as Keras counts inputs

    kernel, bias = build_model(layers, seed=1).get_layer("conv2_depthwise").get_weights()

    assert kernel.shape == (3, 3, 8, 1)
    assert 0.95 * bound < kernel.max() <= bound
    assert kernel.std() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert not bias.any()


def test_no_layer_starts_from_what_another_layer_has_with_another_seed() -> None:
    layers = list_layers(4, 4, [], False, False, False, dense=[16, 16, 16], batch_norm=[], dropout=0)
    models = [build_model(layers, seed) for seed in range(4)]

    kernels = [model.get_layer(name).get_weights()[0] for model in models for name in ("dense1", "dense2", "dense3")]

    assert len({kernel.tobytes() for kernel in kernels}) == len(kernels)


def test_layers_of_the_same_shape_get_different_weights() -> None:
    layers = list_layers(4, 4, [], False, False, False, dense=[4, 4, 4], batch_norm=[], dropout=0)
    model = build_model(layers, seed=1)

    kernels = [model.get_layer(name).get_weights()[0].tobytes() for name in ("dense2", "dense3", "logits")]
    assert len(set(kernels)) == 3


def test_dropout_depends_on_the_seed_alone() -> None:
    layers = list_layers(4, 2, [], False, False, False, dense=[64], batch_norm=[], dropout=0.5)
    x = np.ones((2, 4, 4, 1), np.float32)

    def train_twice(seed: int) -> list[bytes]:
        model = build_model(layers, seed)
        model.set_weights(build_model(layers, 0).get_weights())
        run = tf.function(lambda: model(x, training=True))  # as in fit
        return [run().numpy().tobytes() for _ in range(2)]

    first, second = train_twice(1)
    assert first != second
    assert train_twice(1) == [first, second]
    assert train_twice(2) != [first, second]


# Precision


@each_network
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_variables_and_logits_are_float32_whatever_layers_compute_in(policy: str, layers: list[Layer]) -> None:
    model = build_model(layers, seed=1, policy=policy)

    assert {variable.dtype for variable in model.variables} == {tf.float32}
    assert {layer.compute_dtype for layer in list_built(model)[:-1]} == {policy.removeprefix("mixed_")}
    assert model.layers[-1].compute_dtype == "float32"
    assert predict_logits(model, X).dtype == np.float32


@each_network
def test_precision_changes_the_logits_a_little_and_the_initial_weights_not_at_all(layers: list[Layer]) -> None:
    exact, mixed = build_model(layers, seed=1), build_model(layers, seed=1, policy="mixed_bfloat16")

    assert hash_weights(exact) == hash_weights(mixed)
    differences = np.abs(predict_logits(exact, X) - predict_logits(mixed, X))
    assert 0 < differences.max() < 0.1


# Inference


def test_images_are_scaled_to_0_to_1_and_get_a_channel() -> None:
    x = to_network_input(np.array([[[0, 51], [102, 255]]], np.uint8))

    assert (x.shape, x.dtype.name) == ((1, 2, 2, 1), "float32")
    assert x[0, ..., 0].tolist() == np.array([[0, 0.2], [0.4, 1]], np.float32).tolist()


def test_the_accuracy_is_the_share_of_images_that_get_their_label() -> None:
    logits_are_pixels = keras.Sequential([keras.layers.InputLayer(input_shape=(1, 2, 1)), keras.layers.Flatten()])
    images = np.array([[[255, 0]], [[0, 255]], [[3, 2]], [[0, 1]]], np.uint8)

    assert measure_accuracy(logits_are_pixels, images, np.array([0, 1, 1, 1])) == 0.75


def test_inference_drops_nothing_and_updates_nothing() -> None:
    model = make_trained()
    before = hash_weights(model)

    first, second = predict_logits(model, X), predict_logits(model, X)

    np.testing.assert_array_equal(first, second)
    assert hash_weights(model) == before
    model(X, training=True)
    assert hash_weights(model) != before  # training does update the batch norm


@pytest.mark.parametrize("batch_size", [1, 3, 7, 500])
def test_logits_do_not_depend_on_the_batches(batch_size: int) -> None:
    model = make_trained()

    logits = predict_logits(model, X, batch_size)

    assert logits.shape == (7, 3)
    np.testing.assert_allclose(logits, model(X, training=False).numpy(), rtol=1e-4, atol=1e-4)


def compute_logits_in_numpy(layers: Sequence[Layer], model: Any, x: np.ndarray) -> np.ndarray:
    """Computes in float64 what each kind of layer is defined as; x is (N, height, width, 1)."""
    outputs: dict[str, np.ndarray] = {}
    for layer in layers:
        weights = [array.astype(np.float64) for array in model.get_layer(layer.name).get_weights()]
        if layer.kind in ("conv", "depthwise_conv"):
            side = layer.kernel_size // 2
            padded = np.pad(x, ((0, 0), (side, side), (side, side), (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (layer.kernel_size,) * 2, axis=(1, 2))
            sums = "nhwcij,ijco->nhwo" if layer.kind == "conv" else "nhwcij,ijco->nhwc"
            x = np.einsum(sums, windows, weights[0]) + weights[1]
        elif layer.kind == "batch_norm":
            gamma, beta, mean, variance = weights
            x = gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta
        elif layer.kind == "relu":
            x = np.maximum(x, 0)
        elif layer.kind == "add":
            x = x + outputs[layer.shortcut]
        elif layer.kind == "max_pool":
            num_images, height, width, channels = x.shape
            x = x.reshape(num_images, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
        elif layer.kind == "global_average_pool":
            x = x.mean(axis=(1, 2))
        elif layer.kind == "flatten":
            x = x.reshape(len(x), -1)
        elif layer.kind == "dense":
            x = x @ weights[0] + weights[1]
        outputs[layer.name] = x
    return x


@each_network
def test_logits_are_those_that_numpy_computes(layers: list[Layer]) -> None:
    model = make_trained(layers=layers)

    logits = predict_logits(model, X)

    assert np.ptp(logits, axis=0).min() > 0.1  # they depend on the image
    np.testing.assert_allclose(logits, compute_logits_in_numpy(layers, model, X.astype(np.float64)), rtol=1e-4)


# Files


@each_network
def test_a_model_is_read_as_it_was_written(tmp_path: Path, layers: list[Layer]) -> None:
    model = make_trained(layers=layers)
    write_model(tmp_path / "model.h5", model)

    read = read_model(tmp_path / "model.h5")

    assert hash_weights(read) == hash_weights(model)
    assert read.get_config() == model.get_config()
    np.testing.assert_array_equal(predict_logits(read, X), predict_logits(model, X))


PREDICT_WITH_KERAS_3 = """
import keras, numpy
assert keras.__version__.startswith("3.")
numpy.save("logits.npy", keras.models.load_model("model.h5").predict(numpy.load("x.npy"), verbose=0))
"""


@each_network
def test_keras_3_reads_a_model_without_our_code(tmp_path: Path, layers: list[Layer]) -> None:
    model = make_trained(layers=layers)
    write_model(tmp_path / "model.h5", model)
    np.save(tmp_path / "x.npy", X)

    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    command = [sys.executable, "-I", "-c", PREDICT_WITH_KERAS_3]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)

    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), predict_logits(model, X), rtol=1e-4)


@each_network
def test_a_read_model_can_be_written_again_with_the_same_bytes(tmp_path: Path, layers: list[Layer]) -> None:
    write_model(tmp_path / "a.h5", make_trained(layers=layers))
    write_model(tmp_path / "b.h5", read_model(tmp_path / "a.h5"))

    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_the_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    write_model(tmp_path / "here.h5", make_trained())
    code = (
        "import sys; from pathlib import Path; from tests.test_model import make_trained, write_model; "
        "write_model(Path(sys.argv[1]), make_trained())"
    )

    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there.h5")], cwd=ROOT, check=True)

    here, there = (hashlib.sha256((tmp_path / f"{name}.h5").read_bytes()) for name in ("here", "there"))
    assert here.hexdigest() == there.hexdigest()


def test_the_optimizer_is_not_stored(tmp_path: Path) -> None:
    model = make_trained()
    model.compile(keras.optimizers.Adam(), "mse")
    model.train_on_batch(X, np.zeros((7, 3), np.float32))

    write_model(tmp_path / "model.h5", model)

    with h5py.File(tmp_path / "model.h5") as file:
        assert set(file) == {"model_weights"}
        assert "training_config" not in file.attrs
    assert not hasattr(read_model(tmp_path / "model.h5"), "loss")


def test_a_missing_model_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/absent\.h5: not found.*; run `dvc repro` to make it$"):
        read_model(tmp_path / "absent.h5")


@pytest.mark.parametrize("content", [b"", b"no HDF5 at all", b"\x89HDF\r\n\x1a\n and no more"])
def test_a_file_that_is_no_hdf5_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.h5").write_bytes(content)

    with pytest.raises(UserError, match=r"/model\.h5: no Keras model in HDF5 \(.*\); run `dvc repro` to make it$"):
        read_model(tmp_path / "model.h5")


def edit_config(edit: Callable[[dict[str, Any]], object]) -> Callable[[h5py.File], None]:
    def edit_file(file: h5py.File) -> None:
        config = json.loads(file.attrs["model_config"])
        edit(config)
        file.attrs["model_config"] = json.dumps(config)

    return edit_file


DAMAGES: dict[str, tuple[list[Layer], Callable[[h5py.File], object]]] = {
    "no config": (LAYERS, lambda file: file.attrs.__delitem__("model_config")),
    "no JSON": (LAYERS, lambda file: file.attrs.__setitem__("model_config", "no JSON")),
    "a number": (LAYERS, lambda file: file.attrs.__setitem__("model_config", 3)),
    "no list of layers": (LAYERS, edit_config(lambda config: config.update(config=[1]))),
    "no classes": (LAYERS, edit_config(lambda config: config["config"].update(layers=["x"]))),
    "another shape": (LAYERS, edit_config(lambda config: config["config"]["layers"][-1]["config"].update(units=9))),
    "no weights": (LAYERS, lambda file: file.__delitem__("model_weights")),
    "no weights of a layer": (LAYERS, lambda file: file["model_weights"].__delitem__("logits")),
    "no input": (RESIDUAL, edit_config(lambda config: config["config"].__delitem__("input_layers"))),
    "no links": (RESIDUAL, edit_config(lambda config: config["config"]["layers"][-1].update(inbound_nodes=3))),
    "half a link": (
        RESIDUAL,
        edit_config(lambda config: config["config"]["layers"][-1].update(inbound_nodes=[[["conv1"]]])),
    ),
    "no layers": (RESIDUAL, edit_config(lambda config: config["config"].update(layers=[]))),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_hdf5_without_a_sound_model_is_refused(tmp_path: Path, name: str) -> None:
    layers, damage = DAMAGES[name]
    write_model(tmp_path / "model.h5", make_trained(layers=layers))
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        damage(file)

    with pytest.raises(UserError, match=r"/model\.h5: no Keras model in HDF5 \((?s:.*)\); run `dvc repro` to make it$"):
        read_model(tmp_path / "model.h5")


STRANGE_LAYERS: dict[str, Callable[[Any], Any]] = {
    "Lambda": lambda x: keras.layers.Lambda(lambda y: y)(x),
    "TFOpLambda": lambda x: tf.nn.relu(x),
    "Sequential": lambda x: keras.Sequential([keras.layers.InputLayer((2,)), keras.layers.Dense(2)])(x),
}


@pytest.mark.parametrize("keras_class", STRANGE_LAYERS)
def test_a_model_with_a_layer_that_could_run_code_is_refused(tmp_path: Path, keras_class: str) -> None:
    image = keras.Input((2,))
    write_model(tmp_path / "model.h5", keras.Model(image, STRANGE_LAYERS[keras_class](image)))

    with pytest.raises(UserError, match=rf"/model\.h5: expected only layers of Input.*; got {keras_class}; run `dvc"):
        read_model(tmp_path / "model.h5")


@pytest.mark.parametrize("keras_class", ["Lambda", "Model", "Dense"])
@each_network
def test_a_model_of_another_class_is_refused(tmp_path: Path, layers: list[Layer], keras_class: str) -> None:
    write_model(tmp_path / "model.h5", make_trained(layers=layers))
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        edit_config(lambda config: config.update(class_name=keras_class))(file)

    with pytest.raises(UserError, match=rf"expected only layers of .*; got {keras_class}\b"):
        read_model(tmp_path / "model.h5")
