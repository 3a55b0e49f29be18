import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from stages.lib.litert import convert
from stages.lib.litert.convert import convert_to_float32, convert_to_int8
from stages.lib.litert.runtime import predict_logits as predict_logits_of_file
from stages.lib.litert.runtime import read_interpreter
from stages.lib.network.architecture import list_layers
from stages.lib.network.keras2 import keras
from stages.lib.network.model import build_model, predict_logits
from stages.lib.network.pixels import to_network_input
from stages.lib.storage.files import compute_gzip_size_bytes

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 6, 6), np.uint8)
SCRIPT = """
import hashlib
import numpy as np
from stages.lib.litert import convert
from stages.lib.network.architecture import list_layers
from stages.lib.litert.convert import convert_to_float32, convert_to_int8
from stages.lib.network.model import build_model
images = np.random.default_rng(0).integers(0, 256, (30, 6, 6), np.uint8)
model = build_model(list_layers(6, 3, [[4, 4, 4]], False, True, True, [], ["conv"], 0.2), seed=1)
for content in (convert_to_float32(model), convert_to_int8(model, images, 7)):
    print(hashlib.sha256(content).hexdigest())
"""


def build_plain() -> keras.Model:
    """Builds a model with every kind of layer that a stack may have, and statistics that are not the initial ones."""
    model = build_model(
        list_layers(6, 3, [[4], [8]], False, False, False, [8], ["conv", "flatten", "dense"], 0.2), seed=1
    )
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weights.shape) for weights in layer.get_weights()])
    return model


def build_residual() -> keras.Model:
    return build_model(list_layers(6, 3, [[4, 4, 4]], False, True, True, [], ["conv"], 0.2), seed=1)


def build_separable() -> keras.Model:
    return build_model(list_layers(6, 3, [[4], [5, 6, 5]], True, True, True, [], ["conv"], 0), seed=1)


def run_file(content: bytes, folder: Path) -> np.ndarray:
    path = folder / "model.tflite"
    path.write_bytes(content)
    return predict_logits_of_file(read_interpreter(path, 10, 1), IMAGES)


@pytest.mark.parametrize("build", [build_plain, build_residual, build_separable])
def test_a_float32_file_gives_the_logits_of_the_keras_model(build: Callable[[], keras.Model], tmp_path: Path) -> None:
    model = build()

    logits = run_file(convert_to_float32(model), tmp_path)

    assert np.allclose(logits, predict_logits(model, to_network_input(IMAGES)), atol=1e-5)


@pytest.mark.parametrize("build", [build_plain, build_residual, build_separable])
def test_an_int8_file_gives_nearly_the_logits_of_the_keras_model(
    build: Callable[[], keras.Model], tmp_path: Path
) -> None:
    model = build()
    exact = predict_logits(model, to_network_input(IMAGES))

    logits = run_file(convert_to_int8(model, IMAGES, 7), tmp_path)

    error = np.abs(logits - exact).max()
    assert 0 < error < 0.05 * (exact.max() - exact.min())


@pytest.mark.parametrize("build", [build_plain, build_residual, build_separable])
def test_no_tensor_of_an_int8_file_is_real(build: Callable[[], keras.Model], tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(convert_to_int8(build(), IMAGES, 7))

    interpreter = read_interpreter(path, 1, 1)

    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
    types = {tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    assert (given["dtype"], found["dtype"]) == (np.int8, np.int8)
    assert types <= {np.int8, np.int32}  # int32: biases and shapes


def read_kernels(content: bytes) -> list[np.ndarray]:
    """Reads the int8 weights of a file through the runtime, in its order of tensors."""
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    kernels = []
    for tensor in interpreter.get_tensor_details():
        num_scales = len(
            tensor["quantization_parameters"]["scales"]
        )  # one for each output; activations have one in all
        if tensor["dtype"] is np.int8 and len(tensor["shape"]) > 1 and num_scales > 1:
            kernels.append(interpreter.get_tensor(tensor["index"]).copy())
    return kernels


def is_kept_exact(kernel: np.ndarray) -> bool:
    """Tells whether a kernel of a model in here sees the image, gives the three logits or is a depthwise one."""
    return kernel.shape[-1] == 1 or kernel.shape[0] == 3 or (kernel.ndim == 4 and kernel.shape[0] == 1)


@pytest.mark.parametrize(
    ("build", "bits", "step", "last"),
    [
        *[
            (build, *values)
            for build in (build_plain, build_residual)
            for values in ((7, 2, 126), (6, 4, 124), (2, 64, 64))
        ],
        (build_separable, 7, 2, 126),
    ],
)
def test_int8_weights_are_rounded_to_the_nearest_of_as_many_values_as_their_bits_allow(
    build: Callable[[], keras.Model], bits: int, step: int, last: int
) -> None:
    model = build()
    exact = read_kernels(convert_to_int8(model, IMAGES, 8))

    rounded = read_kernels(convert_to_int8(model, IMAGES, bits))

    assert [kernel.shape for kernel in rounded] == [kernel.shape for kernel in exact]
    num_kernels, num_depthwise = (
        sum(isinstance(layer, kinds) for layer in model.layers)
        for kinds in ((keras.layers.Conv2D, keras.layers.Dense), keras.layers.DepthwiseConv2D)
    )
    assert len(exact) == num_kernels + num_depthwise
    assert sum(map(is_kept_exact, exact)) == 2 + num_depthwise
    for before, after in zip(exact, rounded, strict=True):
        if is_kept_exact(before):
            assert np.array_equal(after, before)
            continue
        assert np.all(after % step == 0)
        assert (before.max(), after.max()) == (127, last)
        is_within, is_half = np.abs(before) <= last, before % step == step / 2
        assert np.all(after[is_within & is_half].astype(int) % (2 * step) == 0)
        assert np.all(np.abs(before.astype(int) - after)[is_within] <= step / 2)
        assert np.array_equal(after[~is_within], last * np.sign(before[~is_within]))


def test_a_model_without_others_has_its_first_and_last_kernel_rounded() -> None:
    model = build_model(list_layers(6, 3, [[4]], False, False, False, [], ["conv"], 0), seed=1)

    kernels = read_kernels(convert_to_int8(model, IMAGES, 5))

    assert len(kernels) == 2
    assert all(np.all(kernel % 8 == 0) for kernel in kernels)


def test_rounded_weights_change_nothing_else_and_compress_better(tmp_path: Path) -> None:
    model = build_model(list_layers(6, 3, [[64, 64, 64]], False, False, True, [], ["conv"], 0), seed=1)

    exact, rounded = (convert_to_int8(model, IMAGES, bits) for bits in (8, 6))

    is_kernel = np.zeros(len(exact), bool)
    for kernel in read_kernels(exact):
        if not is_kept_exact(kernel):
            start = exact.index(kernel.tobytes())
            is_kernel[start : start + kernel.size] = True
    differs = np.frombuffer(exact, np.uint8) != np.frombuffer(rounded, np.uint8)
    assert is_kernel.sum() == 2 * 64 * 64 * 9
    assert np.all(is_kernel[differs])
    assert compute_gzip_size_bytes(rounded) < 0.85 * compute_gzip_size_bytes(exact)
    logits = run_file(exact, tmp_path)
    assert 0 < np.abs(run_file(rounded, tmp_path) - logits).max() < 0.05 * (logits.max() - logits.min())


def test_a_file_without_int8_weights_is_not_rounded_in_silence() -> None:
    with pytest.raises(ValueError, match="in int8"):
        convert._round_weights(convert_to_float32(build_plain()), 7)


def test_the_ranges_are_those_of_the_images_that_are_given(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(convert_to_int8(build_plain(), IMAGES // 5, 7))  # at most 51/255 = 0.2

    (given,) = read_interpreter(path, 1, 1).get_input_details()

    assert given["quantization"] == (pytest.approx(0.2 / 255), -128)


def test_the_bytes_are_the_same_in_every_process_whatever_it_did_before() -> None:
    build_plain()  # counts up what names of layers and functions are made from
    model = build_residual()
    convert_to_float32(model)

    contents = convert_to_float32(model), convert_to_int8(model, IMAGES, 7)

    elsewhere = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    assert [hashlib.sha256(content).hexdigest() for content in contents] == elsewhere.split()


def test_a_conversion_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    model = build_plain()

    convert_to_float32(model)
    convert_to_int8(model, IMAGES, 7)

    assert capfd.readouterr() == ("", "")
