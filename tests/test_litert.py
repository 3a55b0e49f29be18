import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stages.lib.errors import UserError
from stages.lib.litert.convert import convert_to_float32, convert_to_int8
from stages.lib.litert.runtime import (
    dequantize,
    predict_logits,
    predict_outputs,
    quantize,
    read_interpreter,
    set_images,
)
from stages.lib.network.keras2 import keras, tf

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 2, 2), np.uint8)
IMAGES[0] = [[0, 255], [51, 102]]


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    """Is a (4, 3) matrix from the pixels, in [0, 1], to the logits."""
    return np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model(weights: np.ndarray) -> keras.Model:
    layers = [keras.layers.InputLayer(input_shape=(2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    model.set_weights([weights, np.zeros(3)])
    return model


@pytest.fixture(scope="module")
def float32_path(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("float32") / "model.tflite"
    path.write_bytes(convert_to_float32(model))
    return path


@pytest.fixture(scope="module")
def int8_path(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "model.tflite"
    path.write_bytes(convert_to_int8(model, IMAGES, 8))
    return path


# Arithmetic


@pytest.mark.parametrize(
    ("x", "quantized"),
    [
        (0.0, 10),
        (0.5, 11),
        (-0.5, 9),
        (0.74, 11),
        (0.76, 12),
        (58.5, 127),
        (59.0, 127),  # 128 would wrap around to -128
        (1000.0, 127),
        (-69.0, -128),
        (-69.5, -128),
        (-1000.0, -128),
    ],
)
def test_a_number_becomes_the_nearest_integer_that_int8_has(x: float, quantized: int) -> None:
    result = quantize(np.array([x], np.float32), scale=0.5, zero_point=10)

    assert result.dtype == np.int8
    assert result.tolist() == [quantized]


def test_an_integer_stands_for_its_distance_from_the_zero_point_in_steps_of_the_scale() -> None:
    numbers = dequantize(np.array([-128, 10, 11, 127], np.int8), scale=0.5, zero_point=10)

    assert numbers.dtype == np.float32
    assert numbers.tolist() == [-69.0, 0.0, 0.5, 58.5]


# Running a file


def test_a_float32_file_sees_pixels_in_0_to_1(float32_path: Path, weights: np.ndarray) -> None:
    logits = predict_logits(read_interpreter(float32_path, 7, 1), IMAGES)

    assert logits.dtype == np.float32
    assert np.allclose(logits, IMAGES.reshape(7, 4) / 255 @ weights, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_a_file_for_colour_sees_the_three_channels_of_each_pixel(batch_size: int, tmp_path: Path) -> None:
    layers = [keras.layers.InputLayer(input_shape=(2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
    colored = keras.Sequential(layers)
    rng = np.random.default_rng(2)
    matrix, images = rng.normal(size=(12, 3)).astype(np.float32), rng.integers(0, 256, (7, 2, 2, 3), np.uint8)
    colored.set_weights([matrix, np.zeros(3)])
    exact = images.reshape(7, 12) / 255 @ matrix
    for name, content in (
        ("float32", convert_to_float32(colored)),
        ("int8", convert_to_int8(colored, images, 8)),
    ):
        (tmp_path / name).write_bytes(content)

        logits = predict_logits(read_interpreter(tmp_path / name, batch_size, 1), images)

        assert logits.shape == (7, 3)
        assert np.allclose(logits, exact, atol=1e-6 if name == "float32" else 0.05)


def test_an_int8_file_gives_the_same_to_within_two_steps_of_its_output(int8_path: Path, weights: np.ndarray) -> None:
    interpreter = read_interpreter(int8_path, 7, 1)

    logits = predict_logits(interpreter, IMAGES)

    scale, _ = interpreter.get_output_details()[0]["quantization"]
    assert logits.dtype == np.float32
    assert 0 < np.abs(logits - IMAGES.reshape(7, 4) / 255 @ weights).max() < 2 * scale


def test_what_an_int8_file_is_given_is_the_quantized_image(int8_path: Path) -> None:
    interpreter = read_interpreter(int8_path, 1, 1)

    set_images(interpreter, IMAGES[:1])

    (given,) = interpreter.get_input_details()
    assert given["quantization"] == (pytest.approx(1 / 255), -128)
    assert interpreter.get_tensor(given["index"]).tolist() == [[[[-128], [127]], [[-77], [-26]]]]


def test_what_an_int8_file_gives_is_dequantized(int8_path: Path) -> None:
    interpreter = read_interpreter(int8_path, 3, 1)

    outputs, logits = predict_outputs(interpreter, IMAGES), predict_logits(interpreter, IMAGES)

    (found,) = interpreter.get_output_details()
    scale, zero_point = found["quantization"]
    assert outputs.dtype == np.int8
    assert outputs.shape == (7, 3)
    assert len(np.unique(outputs)) > 5
    np.testing.assert_allclose(logits, (outputs.astype(int) - zero_point) * scale, rtol=1e-6)


def test_the_reference_kernels_answer_about_the_same(int8_path: Path, float32_path: Path) -> None:
    usual, reference = (
        predict_outputs(read_interpreter(int8_path, 7, 1, is_reference=is_reference), IMAGES).astype(int)
        for is_reference in (False, True)
    )

    assert np.abs(usual - reference).max() <= 1
    logits = predict_outputs(read_interpreter(float32_path, 7, 1), IMAGES)
    assert np.array_equal(logits, predict_logits(read_interpreter(float32_path, 7, 1), IMAGES))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 6, 7, 8, 100])
@pytest.mark.parametrize("path", ["float32_path", "int8_path"])
def test_the_logits_do_not_depend_on_the_batches(path: str, batch_size: int, request: pytest.FixtureRequest) -> None:
    file = request.getfixturevalue(path)
    one_by_one = [predict_logits(read_interpreter(file, 1, 1), image[np.newaxis])[0] for image in IMAGES]

    logits = predict_logits(read_interpreter(file, batch_size, 2), IMAGES)

    assert np.allclose(logits, one_by_one, atol=1e-6)


# Files that are refused


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.tflite: not found; run `dvc repro` to make it"):
        read_interpreter(tmp_path / "none.tflite", 1, 1)


@pytest.mark.parametrize(
    "damage",
    [lambda _: b"", lambda _: bytes(5000), lambda _: b"no model", lambda content: content[: len(content) // 2]],
    ids=["empty", "zeros", "text", "half"],
)
def test_a_file_that_is_no_model_is_refused(
    damage: Callable[[bytes], bytes], float32_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "broken.tflite"
    path.write_bytes(damage(float32_path.read_bytes()))

    with pytest.raises(
        UserError, match=r"broken\.tflite: no LiteRT model of this project: .*; run `dvc repro`"
    ) as error:
        read_interpreter(path, 1, 1)

    assert "\n" not in str(error.value)


def convert(model: keras.Model, quantize_with: tf.DType | None = None) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if quantize_with:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: [
            [image[np.newaxis, ..., np.newaxis] / np.float32(255)] for image in IMAGES
        ]
        converter.inference_input_type = quantize_with
    return bytes(converter.convert())


def connect(*shapes: tuple[int, ...], dtype: str = "float32") -> keras.Model:
    """Builds a model that flattens its inputs of `shapes` and joins them."""
    inputs = [keras.Input(shape, dtype=dtype) for shape in shapes]
    flat = [keras.layers.Flatten()(x) for x in inputs]
    return keras.Model(inputs, keras.layers.Concatenate()(flat) if len(flat) > 1 else flat[0])


@pytest.mark.parametrize(
    ("build", "got"),
    [
        (lambda: connect((2, 2, 4)), "got inputs float32 (1, 2, 2, 4) and outputs float32 (1, 16)"),
        (lambda: connect((2, 3, 1)), "got inputs float32 (1, 2, 3, 1) and outputs float32 (1, 6)"),
        (lambda: connect((4,)), "got inputs float32 (1, 4) and outputs float32 (1, 4)"),
        (
            lambda: connect((2, 2, 1), (2, 2, 1)),
            "got inputs float32 (1, 2, 2, 1), float32 (1, 2, 2, 1) and outputs float32 (1, 8)",
        ),
        (
            lambda: keras.Sequential([keras.Input((2, 2, 1)), keras.layers.ReLU()]),
            "got inputs float32 (1, 2, 2, 1) and outputs float32 (1, 2, 2, 1)",
        ),
        (lambda: connect((2, 2, 1), dtype="int32"), "got inputs int32 (1, 2, 2, 1) and outputs int32 (1, 4)"),
    ],
    ids=["four channels", "oblong", "no image", "two inputs", "no logits", "integers"],
)
def test_a_model_of_something_else_is_refused(build: Callable[[], keras.Model], got: str, tmp_path: Path) -> None:
    path = tmp_path / "other.tflite"
    path.write_bytes(convert(build()))

    with pytest.raises(UserError) as error:
        read_interpreter(path, 1, 1)

    assert str(error.value) == (
        f"{path}: no LiteRT model of this project: expected one input (N, size, size, 1 or 3) and one output "
        f"(N, classes), each float32 or int8 with a scale; {got}; run `dvc repro` to make it"
    )


@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs were expected:UserWarning")
def test_a_model_that_takes_uint8_is_refused(model: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "uint8.tflite"
    path.write_bytes(convert(model, tf.uint8))

    with pytest.raises(UserError, match=r"got inputs uint8 \(1, 2, 2, 1\) and outputs float32 \(1, 3\)"):
        read_interpreter(path, 1, 1)


def test_a_model_whose_result_does_not_grow_with_the_batch_is_refused(tmp_path: Path) -> None:
    image = keras.Input((2, 2, 1), batch_size=1)
    path = tmp_path / "single.tflite"
    path.write_bytes(convert(keras.Model(image, tf.reduce_sum(image, axis=[0, 3]))))

    with pytest.raises(UserError, match="expected a result for each of 5 images, got 2"):
        read_interpreter(path, 5, 1)


@pytest.mark.parametrize(
    "module", ["litert.latency", "target.latency", "cost.filters", "cost.macs", "network.metrics", "storage.idx"]
)
def test_modules_that_promise_it_need_no_tensorflow(module: str) -> None:
    script = f"import sys, stages.lib.{module}; sys.exit(not {{'tensorflow', 'tf_keras'}}.isdisjoint(sys.modules))"

    subprocess.run([sys.executable, "-c", script], check=True)
