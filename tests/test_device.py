import ctypes
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from stages.lib.device.arithmetic import find_single_scaling, round_half_away
from stages.lib.device.compiler import Code, compile_to_c
from stages.lib.device.encode import choose_form, encode_gaps
from stages.lib.device.plan import make_plan
from stages.lib.device.reader import Tensor, read_network
from stages.lib.device.steps import Step
from stages.lib.errors import UserError
from stages.lib.litert.convert import convert_to_int8
from stages.lib.litert.runtime import read_interpreter, set_images
from stages.lib.network.architecture import list_layers
from stages.lib.network.keras2 import keras
from stages.lib.network.model import build_model
from stages.lib.network.pixels import with_channels

NAMES = ["T-shirt/top", 'a "b"', "back\\slash ??/", "Über 裤子"]
STRICT = ("-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror")
HARNESS = """
#include "model.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(void)
{
    static int8_t image[MODEL_IMAGE_SIZE_PX * MODEL_IMAGE_SIZE_PX * MODEL_NUM_CHANNELS];
    int8_t logits[MODEL_NUM_CLASSES];
    while (fread(image, 1, sizeof image, stdin) == sizeof image) {
        void *buffer = malloc(MODEL_BUFFER_BYTES);
        memset(buffer, 0x5a, MODEL_BUFFER_BYTES);
        model_run(image, logits, buffer);
        fwrite(logits, 1, sizeof logits, stdout);
        free(buffer);
    }
    return 0;
}
"""


def make_images(num_images: int, size: int, seed: int = 0, channels: int = 1) -> np.ndarray:
    """Makes uint8 images: noise, black, white, and bright shapes on black, as garments are."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num_images, size, size) if channels == 1 else (num_images, size, size, 3), np.uint8)
    images[0], images[1] = 0, 255
    for image in images[2::2]:
        shape = np.zeros_like(image)
        top, left = rng.integers(0, size // 2, 2)
        shape[top : top + size // 2, left : left + size // 3 + 1] = 1
        image[:] = image // 4 * 3 * shape + 60 * shape
    return images


def randomize(model: keras.Model, sparsity: float = 0) -> keras.Model:
    """Gives biases and statistics random values, and zeros to the kernels but the first and the last one."""
    rng = np.random.default_rng(1)
    with_kernel = [layer for layer in model.layers if len(layer.get_weights()) in (1, 2)]
    for layer in model.layers:
        weights = layer.get_weights()
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, array.shape) for array in weights])
        elif weights:
            if layer in with_kernel[1:-1]:
                weights[0][rng.random(weights[0].shape) < sparsity] = 0
            layer.set_weights([weights[0], *(rng.normal(0, 0.1, array.shape) for array in weights[1:])])
    return model


def build(size: int, blocks: Sequence[Sequence[int]], sparsity: float = 0, **changes: object) -> keras.Model:
    arguments = {"separable": False, "residual": False, "global_pool": False, "dense": [8], "batch_norm": []}
    arguments |= {"dropout": 0.1, **changes}
    return randomize(build_model(list_layers(size, len(NAMES), blocks, **arguments), seed=1), sparsity)  # type: ignore[arg-type]


def build_by_hand(size: int, *layers: keras.layers.Layer, sparsity: float = 0) -> keras.Model:
    """Builds a stack of layers on images of one channel."""
    model = keras.Sequential([keras.Input((size, size, 1)), *layers])
    rng = np.random.default_rng(2)
    for layer in model.layers:
        if len(weights := layer.get_weights()) in (1, 2):
            layer.set_weights([rng.normal(0, 0.3, weights[0].shape), *weights[1:]])
    return randomize(model, sparsity)


def build_separable() -> keras.Model:
    conv, depthwise, relu = keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.ReLU
    return build_by_hand(
        13,
        conv(6, 3, padding="same"),
        keras.layers.BatchNormalization(),
        relu(),
        depthwise(3, padding="same"),
        keras.layers.BatchNormalization(),
        relu(),
        conv(9, 1),
        relu(),
        keras.layers.MaxPooling2D(),
        depthwise(3, padding="same", use_bias=False),
        keras.layers.MaxPooling2D(),
        conv(5, 1, activation="relu"),
        keras.layers.AveragePooling2D(3),
        keras.layers.Flatten(),
        keras.layers.Dense(len(NAMES)),
        sparsity=0.6,
    )


def build_gaps() -> keras.Model:
    """Builds a model with gaps of over 255 weights, outputs without weights, and one with a single weight."""
    model = build(6, [[40, 5, 40]], dense=[7, 6])
    _, conv, _, dense, _, _ = [layer for layer in model.layers if len(layer.get_weights()) == 2]
    for layer in (conv, dense):
        kernel, bias = layer.get_weights()
        rows = kernel.reshape(-1, kernel.shape[-1])
        rows[1:-1, 0] = 0  # the first and the last weight only
        rows[:, 1], bias[1] = 0, 0.5
        rows[:, 2] *= np.arange(len(rows)) == len(rows) - 1
        rows[20:300, 3] = 0
        rows[rows.shape[0] // 3 :, 4] = 0
        layer.set_weights([kernel, bias])
    return model


MODELS: dict[str, Callable[[], keras.Model]] = {
    "plain": lambda: build(17, [[5], [6, 7]]),
    "pruned": lambda: build(16, [[8, 16], [12]], 0.9, batch_norm=["conv", "flatten", "dense"]),
    "residual": lambda: build(
        15, [[4, 4, 4], [6, 6, 6], [3]], 0.5, residual=True, global_pool=True, dense=[], batch_norm=["conv"]
    ),
    "27 pixels": lambda: build(27, [[8, 6], [7]], 0.8, dense=[]),
    "no convolution": lambda: build(7, [], 0.5, dense=[9]),
    "separable": build_separable,
    "gaps": build_gaps,
    "colour": lambda: build(13, [[6], [5, 5, 5]], 0.5, residual=True, global_pool=True, dense=[], channels=3),
    "colour without convolution": lambda: build(5, [], dense=[9], channels=3),
}
PLAIN, AVX2 = ("-O1",), ("-O1", "-mavx2")
VARIANTS: list[tuple[str, tuple[str, ...]]] = [("speed", PLAIN), ("size", PLAIN), ("dense", PLAIN)]
if "avx2" in Path("/proc/cpuinfo").read_text(encoding="utf-8").split():
    VARIANTS += [("speed", AVX2), ("dense", AVX2)]


@cache
def convert(name: str) -> bytes:
    model = MODELS[name]()
    return convert_to_int8(model, make_images(12, model.input_shape[1], seed=1, channels=model.input_shape[3]), 8)


def quantize(images: np.ndarray) -> np.ndarray:
    return with_channels((images.astype(int) - 128).astype(np.int8))


def run_reference(content: bytes, images: np.ndarray) -> np.ndarray:
    """Runs int8 images (N, size, size, 1) with LiteRT's reference kernels."""
    interpreter = Interpreter(
        model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF, num_threads=1
    )
    interpreter.allocate_tensors()
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
    logits = []
    for image in images:
        interpreter.set_tensor(given["index"], image[np.newaxis])
        interpreter.invoke()
        logits.append(interpreter.get_tensor(found["index"])[0].copy())
    return np.array(logits)


def write(code: Code, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.c").write_text(code.source, encoding="utf-8")
    (folder / "model.h").write_text(code.header, encoding="utf-8")
    return folder / "model.c"


def load(code: Code, folder: Path, flags: Sequence[str] = ("-O1",)) -> ctypes.CDLL:
    source = write(code, folder)
    library = folder / "model.so"
    command = ["gcc", *STRICT, *flags, "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def run(library: ctypes.CDLL, code: Code, images: np.ndarray) -> np.ndarray:
    """Runs images twice, with different dirt in the buffer; checks that they agree and nothing else is written."""
    results = []
    for dirt in (0, 0xA5):
        memory = np.full(code.buffer_bytes + 128, 0x5A, np.uint8)
        logits = np.zeros((len(images), len(NAMES) + 2), np.int8)
        for image, found in zip(images, logits, strict=True):
            memory[64:-64] = dirt
            given = np.ascontiguousarray(image)
            pointers = (given.ctypes.data, found[1:].ctypes.data, memory[64:].ctypes.data)
            library.model_run(*(ctypes.c_void_p(pointer) for pointer in pointers))
        assert np.all(memory[:64] == 0x5A)
        assert np.all(memory[-64:] == 0x5A)
        assert not logits[:, [0, -1]].any()
        results.append(logits[:, 1:-1])
    assert np.array_equal(results[0], results[1])
    return results[0]


def edit(content: bytes, change: Callable[[schema.ModelT], None]) -> bytes:
    """Changes a file."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(model)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


OUTPUT = -1


def find_options(model: schema.ModelT, number: int) -> Any:
    return model.subgraphs[0].operators[number].builtinOptions


def find_tensor(model: schema.ModelT, number: int, place: int) -> schema.TensorT:
    """Finds the input of an operation at a place, or its output."""
    operator = model.subgraphs[0].operators[number]
    return model.subgraphs[0].tensors[operator.outputs[0] if place == OUTPUT else operator.inputs[place]]


# Exact


@pytest.mark.parametrize(("prefer", "flags"), VARIANTS, ids=[" ".join([name, *flags]) for name, flags in VARIANTS])
@pytest.mark.parametrize("name", list(MODELS))
def test_the_logits_are_those_of_the_reference_kernels(
    name: str, prefer: str, flags: Sequence[str], tmp_path: Path
) -> None:
    content = convert(name)
    size, _, channels = read_network(content).tensors[0].shape
    images = quantize(make_images(40, size, channels=channels))

    code = compile_to_c(content, NAMES, prefer)

    assert np.array_equal(run(load(code, tmp_path, flags), code, images), run_reference(content, images))


@pytest.mark.parametrize("factor", [500, 1500])
def test_factors_of_a_half_and_more_are_exact(factor: int, tmp_path: Path) -> None:
    def scale_first_kernel(model: schema.ModelT) -> None:
        kernel, bias = find_tensor(model, 0, 1), find_tensor(model, 0, 2)
        kernel.quantization.scale = kernel.quantization.scale * np.float32(factor)
        for constants, dtype in ((kernel, np.int8), (bias, np.int32)):
            buffer = model.buffers[constants.buffer]
            buffer.data = np.rint(buffer.data.view(dtype) / 40).astype(dtype).view(np.uint8)

    content = edit(convert("27 pixels"), scale_first_kernel)
    images = quantize(make_images(40, 27) // 16)

    code = compile_to_c(content, NAMES, "speed")

    reference = run_reference(content, images)
    assert "has factors of 1/2 and more" in code.source
    assert len(np.unique(reference)) > 20
    assert np.array_equal(run(load(code, tmp_path), code, images), reference)


def test_a_convolution_without_relu_rounds_twice(tmp_path: Path) -> None:
    conv, dense = keras.layers.Conv2D(len(NAMES), 3, padding="same"), keras.layers.Dense(len(NAMES))
    model = build_by_hand(5, conv, keras.layers.Flatten(), dense)
    dense.set_weights([np.eye(100, len(NAMES)), np.zeros(len(NAMES))])  # the logits are those of the first pixel
    content = convert_to_int8(model, make_images(50, 5, seed=1), 8)
    images = quantize(make_images(4000, 5))

    code = compile_to_c(content, NAMES, "speed")

    reference = run_reference(content, images)
    assert len(np.unique(reference)) > 50
    assert np.array_equal(run(load(code, tmp_path), code, images), reference)


def test_halves_of_a_dense_layer_are_rounded_away_from_zero(tmp_path: Path) -> None:
    def make_factors_powers_of_two(model: schema.ModelT) -> None:
        for number, place, scale in (
            (0, 0, 1),
            (0, OUTPUT, 1),
            (1, 1, 2**-4),
            (1, OUTPUT, 2),
            (2, 1, 2**-6),
            (2, OUTPUT, 4),
        ):
            quantization = find_tensor(model, number, place).quantization
            quantization.scale = np.full_like(quantization.scale, scale)

    content = edit(convert("no convolution"), make_factors_powers_of_two)
    images = quantize(make_images(300, 7))

    code = compile_to_c(content, NAMES, "speed")

    assert np.array_equal(run(load(code, tmp_path), code, images), run_reference(content, images))


@pytest.mark.parametrize("factor", [0.0123, 2**-7, 1e-5, 0.9, 0.0031])
def test_integers_give_what_float64_gives(factor: float) -> None:
    largest = 2**20
    scaling = find_single_scaling("dense1", factor, (-largest, largest), (-128, 127))
    sums = np.unique(np.concatenate([np.arange(-20000, 20001), np.linspace(-largest, largest, 40001).astype(int)]))

    results = [(total * scaling.multiplier + (1 << (scaling.shift - 1))) >> scaling.shift for total in sums.tolist()]

    assert scaling.multiplier * largest < 2**62
    assert np.array_equal(np.clip(results, -128, 127), np.clip(round_half_away(sums * factor), -128, 127))


@pytest.mark.parametrize(("name", "size", "channels"), [("plain", 17, 1), ("colour", 13, 3)])
def test_a_label_is_that_of_the_largest_logit_for_pixels_as_they_are_stored(
    name: str, size: int, channels: int, tmp_path: Path
) -> None:
    content = convert(name)
    images = make_images(60, size, seed=3, channels=channels)
    code = compile_to_c(content, NAMES, "speed")
    library = load(code, tmp_path)
    (tmp_path / "model.tflite").write_bytes(content)
    interpreter = read_interpreter(tmp_path / "model.tflite", 1, 1)
    buffer = np.zeros(code.buffer_bytes, np.int8)

    labels = []
    for image in images:
        pointers = (ctypes.c_void_p(image.ctypes.data), ctypes.c_void_p(buffer.ctypes.data))
        labels.append(library.model_classify(*pointers))

    quantized = []
    for image in images:
        set_images(interpreter, image[np.newaxis])
        quantized.append(interpreter.get_tensor(interpreter.get_input_details()[0]["index"])[0].copy())
    expected = run_reference(content, np.array(quantized)).argmax(axis=1)
    assert labels == expected.tolist()
    assert len(set(labels)) > 1


def test_of_equal_logits_the_first_one_counts(tmp_path: Path) -> None:
    def make_logits_equal(model: schema.ModelT) -> None:
        for place in (1, 2):
            buffer = model.buffers[find_tensor(model, 2, place).buffer]
            buffer.data = np.zeros_like(buffer.data)

    code = compile_to_c(edit(convert("no convolution"), make_logits_equal), NAMES, "speed")
    image, buffer = make_images(3, 7)[2], np.zeros(code.buffer_bytes, np.int8)

    pointers = (ctypes.c_void_p(image.ctypes.data), ctypes.c_void_p(buffer.ctypes.data))

    assert load(code, tmp_path).model_classify(*pointers) == 0


# C


@pytest.mark.parametrize(
    ("name", "prefer"),
    [("residual", "size"), ("separable", "speed"), ("plain", "dense"), ("gaps", "size"), ("colour", "speed")],
)
def test_sanitizers_find_nothing(name: str, prefer: str, tmp_path: Path) -> None:
    content = convert(name)
    size, _, channels = read_network(content).tensors[0].shape
    images = quantize(make_images(4, size, channels=channels))
    source = write(compile_to_c(content, NAMES, prefer), tmp_path)
    (tmp_path / "main.c").write_text(HARNESS, encoding="utf-8")
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

    command = ["gcc", *STRICT, *flags, "-o", str(tmp_path / "main"), str(tmp_path / "main.c"), str(source)]
    subprocess.run(command, check=True)
    found = subprocess.run([tmp_path / "main"], input=images.tobytes(), capture_output=True, check=False)

    assert (found.returncode, found.stderr.decode()) == (0, "")
    logits = np.frombuffer(found.stdout, np.int8).reshape(-1, len(NAMES))
    assert np.array_equal(logits, run_reference(content, images))


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("residual", ("-target", "thumb-freestanding-eabi", "-mcpu=cortex_m4")),
        ("pruned", ("-march=native",)),
        ("no convolution", ("-march=native",)),
    ],
)
def test_clang_warns_of_nothing(name: str, target: Sequence[str], tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    source = write(compile_to_c(convert(name), NAMES, "size"), tmp_path)

    command = [sys.executable, "-m", "ziglang", "cc", *STRICT, *target, "-O1", "-c", "-ffreestanding", source.name]
    result = subprocess.run([*command, "-o", "model.o"], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (result.returncode, result.stderr) == (0, "")


def test_the_c_includes_nothing_but_stdint(tmp_path: Path) -> None:
    code = compile_to_c(convert("residual"), NAMES, "speed")

    included = re.findall(r"#\s*include\s*(\S+)", code.source + code.header)

    assert included == ['"model.h"', "<immintrin.h>", "<stdint.h>"]
    assert re.search(r"#if defined\(__AVX2__\)\n#include <immintrin.h>", code.source)
    symbols = subprocess.run(
        ["nm", "--undefined-only", load(code, tmp_path)._name], capture_output=True, text=True, check=True
    ).stdout
    assert set(re.findall(r" U (\w+)", symbols)) <= {"memset", "memcpy"}  # which compilers put for loops


def test_the_names_of_the_classes_are_in_the_c_whatever_they_are(tmp_path: Path) -> None:
    library = load(compile_to_c(convert("plain"), NAMES, "speed"), tmp_path, ("-trigraphs",))

    names = (ctypes.c_char_p * len(NAMES)).in_dll(library, "model_class_names")

    assert [name.decode() for name in names if name] == NAMES


@pytest.mark.parametrize("prefer", ["speed", "size", "dense"])
def test_the_header_says_what_the_code_costs(prefer: str) -> None:
    content = convert("pruned")
    code = compile_to_c(content, NAMES, prefer)

    defined = dict(re.findall(r"#define MODEL_(\w+) \(?([-\w.]+)", code.header))

    (given,) = Interpreter(model_content=content).get_input_details()
    (found,) = Interpreter(model_content=content).get_output_details()
    assert {name: float(value.rstrip("f")) for name, value in defined.items() if name != "H"} == {
        "IMAGE_SIZE_PX": 16,
        "NUM_CHANNELS": 1,
        "NUM_CLASSES": len(NAMES),
        "BUFFER_BYTES": code.buffer_bytes,
        "WEIGHTS_BYTES": code.weights_bytes,
        "MACS": code.macs,
        "DENSE_MACS": code.dense_macs,
        "INPUT_SCALE": pytest.approx(given["quantization"][0], rel=1e-7),
        "INPUT_ZERO_POINT": given["quantization"][1],
        "OUTPUT_SCALE": pytest.approx(found["quantization"][0], rel=1e-7),
        "OUTPUT_ZERO_POINT": found["quantization"][1],
    }


@pytest.mark.parametrize(("name", "channels"), [("plain", 1), ("colour", 3)])
def test_the_header_says_how_many_channels_an_image_has(name: str, channels: int) -> None:
    header = compile_to_c(convert(name), NAMES, "size").header

    assert f"#define MODEL_NUM_CHANNELS {channels}\n" in header
    assert ("red, green and blue" in header) == (channels == 3)


def test_the_same_file_gives_the_same_c() -> None:
    assert compile_to_c(convert("residual"), NAMES, "size") == compile_to_c(convert("residual"), NAMES, "size")


# Costs


def test_zeros_are_neither_stored_nor_computed() -> None:
    content = convert("pruned")
    kernels = {operation.name: operation.kernel for operation in read_network(content).operations}

    costs = {cost.name: cost for cost in compile_to_c(content, NAMES, "speed").layers}

    pixels = {"conv1": 256, "conv2": 256, "conv3": 64, "dense1": 1, "logits": 1}
    bytes_of_non_zero = {"conv": 3, "dense": 2}
    bytes_of_output = {"conv": 4 + 4 + 1, "dense": 4 + 8 + 1}  # bias, multiplier, shift
    assert list(costs) == list(pixels)
    for name, cost in costs.items():
        kernel, others = kernels[name], bytes_of_output[cost.kind] * len(kernels[name])
        assert cost.dense_macs == kernel.size * pixels[name]
        if name in ("conv1", "logits"):
            assert (cost.form, cost.macs, cost.weights_bytes) == ("dense", cost.dense_macs, kernel.size + others)
        else:
            count = int(np.count_nonzero(kernel))
            stored = count * bytes_of_non_zero[cost.kind] + len(kernel)  # and how many each output has
            assert (cost.form, cost.macs, cost.weights_bytes) == ("sparse", count * pixels[name], stored + others)


def test_an_output_without_weights_makes_no_other_slower() -> None:
    content = convert("gaps")
    biases = {operation.name: operation.bias for operation in read_network(content).operations}

    code = compile_to_c(content, NAMES, "speed")

    assert np.abs(biases["conv2"].astype(np.int64)).max() >= 2**30  # as large as LiteRT makes them
    assert "sums of 31 bits" not in code.source


def test_size_takes_fewer_bytes_than_speed_and_dense_keeps_all_weights() -> None:
    size, speed, dense = (compile_to_c(convert("pruned"), NAMES, prefer) for prefer in ("size", "speed", "dense"))

    assert size.weights_bytes < speed.weights_bytes < dense.weights_bytes
    assert size.macs == speed.macs < dense.macs == dense.dense_macs == speed.dense_macs
    assert {cost.form for cost in dense.layers} == {"dense"}


def test_rows_that_a_pool_drops_are_not_computed() -> None:
    (conv, *_) = compile_to_c(convert("27 pixels"), NAMES, "dense").layers[1:]

    assert conv.dense_macs == 27 * 27 * 9 * 8 * 6
    assert conv.macs == 26 * 26 * 9 * 8 * 6


def test_an_unknown_preference_is_an_error() -> None:
    with pytest.raises(ValueError, match="prefer: expected one of speed, size, dense; got 'small'"):
        choose_form(np.ones((1, 9), np.int8), np.arange(9, dtype=np.uint16), taps=3, prefer="small")


def test_long_gaps_are_bridged_by_zeros() -> None:
    weights = np.zeros((3, 600), np.int8)
    weights[0, [0, 255, 599]] = [1, 2, 3]
    weights[2, 256] = 4

    form = encode_gaps(weights)

    assert form.counts.tolist() == [4, 0, 2]
    assert form.places.tolist() == [0, 255, 255, 89, 255, 1]
    assert form.values.tolist() == [1, 2, 0, 3, 0, 4]


def chain(*layers: tuple[str, int, int, int]) -> list[Step]:
    """Lists steps of a chain of convolutions, each by name, size of its output, channels, and rows per row: 1 or 2."""
    steps: list[Step] = []
    for name, size, channels, stride in layers:
        kind, before = ("conv", (steps[-1].name,)) if steps else ("image", ())
        output = Tensor((size, size, channels), 1.0, 0)
        steps.append(Step(kind, name, None, before, output, stride == 2, size, stride, -1, 1 + stride))
    logits = Step("dense", "logits", None, (steps[-1].name,), Tensor((10,), 1.0, 0), False, 1, 1, 0, steps[-1].rows)
    return [*steps, logits]


def test_of_most_tensors_a_few_rows_exist_at_a_time() -> None:
    plan = make_plan(chain(("image", 28, 1, 1), ("conv1", 28, 32, 1), ("conv2", 14, 64, 2), ("conv3", 7, 128, 2)))

    assert {name: window.capacity for name, window in plan.windows.items()} == {
        "image": 3,
        "conv1": 4,
        "conv2": 4,
        "conv3": 7,
    }
    windows = 3 * 29 + 4 * 32 * 29 + 4 * 64 * 15 + 3  # and a pixel at the end of each
    assert plan.buffer_bytes == -(-(windows + 7 * 7 * 128 + 32) // 4) * 4
    assert [phase[-1] for phase in plan.phases] == ["conv3", "logits"]


def test_a_tensor_is_whole_where_that_takes_less_memory() -> None:
    small = [(f"small{number}", 3, 60, 1) for number in range(6)]
    plan = make_plan(
        chain(("image", 24, 1, 1), ("conv1", 24, 32, 1), ("conv2", 12, 32, 2), ("conv3", 6, 60, 2), *small)
    )

    wholes = [phase[-1] for phase in plan.phases]

    assert len(wholes) > 2  # the one that is flattened and the logits
    for phase in plan.phases[:-1]:
        together = [plan.windows[name] for name in phase] + [plan.windows[name] for name in wholes if name in phase]
        assert max(window.address + window.size_bytes for window in together) <= plan.buffer_bytes


# Files that are refused


def set_strides(model: schema.ModelT) -> None:
    find_options(model, 0).strideH = find_options(model, 0).strideW = 2


def set_dilation(model: schema.ModelT) -> None:
    find_options(model, 0).dilationHFactor = 2


def set_no_padding(model: schema.ModelT) -> None:
    find_options(model, 0).padding = schema.Padding.VALID


def set_relu6(model: schema.ModelT) -> None:
    find_options(model, 0).fusedActivationFunction = schema.ActivationFunctionType.RELU6


def set_pool_of_3(model: schema.ModelT) -> None:
    find_options(model, 1).filterHeight = 3


def set_logistic(model: schema.ModelT) -> None:
    model.operatorCodes[1].builtinCode = model.operatorCodes[1].deprecatedBuiltinCode = schema.BuiltinOperator.LOGISTIC


def set_float32(model: schema.ModelT) -> None:
    find_tensor(model, 0, OUTPUT).type = schema.TensorType.FLOAT32


def set_uint8(model: schema.ModelT) -> None:
    find_tensor(model, 0, 0).type = schema.TensorType.UINT8


def set_oblong(model: schema.ModelT) -> None:
    find_tensor(model, 0, 0).shape = np.array([1, 16, 18, 1], np.int32)


def set_kernel_of_2(model: schema.ModelT) -> None:
    kernel = find_tensor(model, 0, 1)
    kernel.shape = np.array([5, 2, 2, 1], np.int32)
    model.buffers[kernel.buffer].data = model.buffers[kernel.buffer].data[:20]


def set_other_shape(model: schema.ModelT) -> None:
    find_tensor(model, 0, OUTPUT).shape = np.array([1, 17, 17, 6], np.int32)


def set_other_scale(model: schema.ModelT) -> None:
    find_tensor(model, 1, OUTPUT).quantization.scale = np.array([0.5], np.float32)


def set_no_scale(model: schema.ModelT) -> None:
    find_tensor(model, 0, OUTPUT).quantization.scale = None


def set_zero_point_of_weights(model: schema.ModelT) -> None:
    find_tensor(model, 0, 1).quantization.zeroPoint = np.full(5, 3)


def set_large_biases(model: schema.ModelT) -> None:
    bias = model.buffers[find_tensor(model, 0, 2).buffer]
    bias.data = np.full(5, 2**31 - 1, np.int32).view(np.uint8)


def drop_dense_layers(model: schema.ModelT) -> None:
    graph = model.subgraphs[0]
    graph.operators = graph.operators[:2]
    graph.outputs = graph.operators[-1].outputs


def add_subgraph(model: schema.ModelT) -> None:
    model.subgraphs.append(model.subgraphs[0])


def add_input(model: schema.ModelT) -> None:
    model.subgraphs[0].inputs = [0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_strides, r"conv1 \(cnn/.*\): expected strides and dilations of 1; got \(2, 2, 1, 1\)"),
        (set_dilation, r"conv1 \(.*\): expected strides and dilations of 1; got \(1, 1, 2, 1\)"),
        (set_no_padding, r"conv1 \(.*\): expected same padding"),
        (set_relu6, r"conv1 \(.*\): expected no activation or ReLU"),
        (set_kernel_of_2, r"conv1 \(.*\): expected a square kernel of 1 or 3 pixels; got \(5, 2, 2, 1\)"),
        (set_other_shape, r"conv1 \(.*\): expected shapes of input, kernel and output that fit"),
        (set_no_scale, r"conv1 \(.*\): expected an output with one scale above 0; got \[\]"),
        (set_zero_point_of_weights, r"conv1 \(.*\): expected weights whose zero point is 0"),
        (set_large_biases, r"conv1: expected sums of at most 31 bits; got 32"),
        (set_pool_of_3, r"max_pool1 \(.*\): expected a 2x2 max pool of stride 2 without padding; got 3x2"),
        (set_other_scale, r"max_pool1 \(.*\): expected the same scale and zero point"),
        (set_logistic, r"operation 2: expected one of CONV_2D, .*, FULLY_CONNECTED; got LOGISTIC"),
        (set_float32, r"conv1 \(.*\): expected INT8 in tensor .*; got FLOAT32"),
        (set_uint8, r"the image: expected INT8 in tensor .*; got UINT8"),
        (set_oblong, r"the image: expected a square one.*; got \(16, 18, 1\)"),
        (drop_dense_layers, r"the last operation: expected FULLY_CONNECTED, whose output is the file's"),
        (add_subgraph, r"the file: expected one subgraph; got 2"),
        (add_input, r"the file: expected one input and one output; got 2 and 1"),
    ],
)
def test_what_is_not_known_is_refused(change: Callable[[schema.ModelT], None], message: str) -> None:
    content = edit(convert("plain"), change)

    with pytest.raises(UserError, match=message) as error:
        compile_to_c(content, NAMES, "speed")

    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "damage",
    [lambda _: b"", lambda _: bytes(5000), lambda _: b"no model", lambda content: content[: len(content) // 2]],
    ids=["empty", "zeros", "text", "half"],
)
def test_a_file_that_is_no_model_is_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(UserError, match=r"expected a LiteRT file; got another or a damaged one: .*; export it anew"):
        compile_to_c(damage(convert("plain")), NAMES, "speed")


def test_as_many_names_as_logits_are_expected() -> None:
    with pytest.raises(ValueError, match="expected 4 names of classes; got 3"):
        compile_to_c(convert("plain"), NAMES[:3], "speed")
