"""The program that makes C of a model, and the example beside it, as a person compiles and runs them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from boxes import CLASSES, make_model, ship

from stages.lib.device.compiler import compile_to_c
from stages.lib.litert.runtime import predict_logits, read_interpreter

ROOT = Path(__file__).parents[1]
# A bar of noise each, upright in every other image: noise all over looks the same to every network.
BARS = np.repeat(np.eye(4, dtype=np.uint8), 7, axis=1)[np.arange(12) % 4]
BARS = np.where(np.arange(12)[:, None, None] % 2, BARS[:, None, :], BARS[:, :, None])
IMAGES = BARS * np.random.default_rng(0).integers(0, 256, (12, 28, 28), np.uint8)


def run_tool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stages.tools.to_c", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def run_example(program: Path, picture: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, picture], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small int8 file with random weights, of one kernel few, its card beside it."""
    from stages.lib.litert.convert import convert_to_int8
    from stages.lib.network.architecture import list_layers
    from stages.lib.network.model import build_model

    layers = list_layers(28, len(CLASSES), [[4], [8]], False, False, False, [6], [], 0)
    network = build_model(layers, seed=3)
    kernel, bias = network.get_layer("conv2").get_weights()
    network.get_layer("conv2").set_weights([kernel * (np.abs(kernel) > np.quantile(np.abs(kernel), 0.8)), bias])
    content = convert_to_int8(network, IMAGES, weight_bits=8)
    return ship(tmp_path_factory.mktemp("model") / "small.tflite", content)


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that the program writes, and what it prints."""
    folder = tmp_path_factory.mktemp("made") / "c"
    result = run_tool(folder, "--model", model)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


@pytest.fixture(scope="module")
def example(made: tuple[Path, str]) -> Path:
    """The example, compiled by the line that stands in it."""
    folder, _ = made
    (line,) = (line for line in (folder / "example.c").read_text().splitlines() if line.strip(" *").startswith("cc "))
    subprocess.run([*line.strip(" *").split(), "-Wall", "-Wextra", "-pedantic", "-Werror"], cwd=folder, check=True)
    return folder / "classify"


def test_it_says_what_each_layer_and_each_processor_takes(made: tuple[Path, str]) -> None:
    folder, printed = made
    lines = printed.splitlines()

    assert sorted(path.name for path in folder.iterdir() if path.name != "classify") == [
        "example.c",
        "model.c",
        "model.h",
    ]
    assert [line.split()[0] for line in lines] == [
        "conv1",
        "conv2",
        "dense1",
        "logits",
        "Cortex-M4:",
        "Cortex-M0+:",
        "TensorFlow",
        "Here,",
        f"{folder}:",
    ]
    assert "28,224 of       28,224 MACs" in lines[0]  # 28 x 28 pixels, 3 x 3 weights, 4 filters
    flash, ram, instructions = (int(word.replace(",", "")) for word in np.array(lines[4].split())[[1, 5, 9]])
    assert 7 * 7 * 8 * 6 < flash < 50_000  # the dense layer alone holds so many weights
    assert 28 * 4 < ram < 28 * 28 * 4
    assert instructions > 28_224
    (arena,) = re.findall(r"^TensorFlow Lite Micro: ([\d,]+) bytes of RAM", lines[6])
    assert 28 * 28 * 4 < int(arena.replace(",", "")) < 100_000  # which keeps whole tensors
    ((c_ms, litert_ms),) = re.findall(r"^Here, on one thread: (.*) ms for an image; LiteRT (.*) ms$", lines[7])
    assert 0 < float(c_ms) < 1000 > float(litert_ms) > 0


def read_flash(printed: str) -> int:
    """Reads what the Cortex-M4 takes of flash."""
    (flash,) = re.findall(r"^Cortex-M4: ([\d,]+) bytes of flash", printed, re.M)
    return int(flash.replace(",", ""))


def test_kernels_are_stored_as_it_is_asked_to(made: tuple[Path, str], model: Path, tmp_path: Path) -> None:
    folders, printed = {"speed": made[0]}, {"speed": made[1]}
    for prefer in ("size", "dense"):
        folders[prefer] = tmp_path / prefer
        result = run_tool(folders[prefer], "--model", model, "--prefer", prefer)
        assert result.returncode == 0, result.stderr
        printed[prefer] = result.stdout

    assert read_flash(printed["size"]) < 0.9 * read_flash(printed["speed"])
    codes = {prefer: compile_to_c(model.read_bytes(), CLASSES, prefer) for prefer in folders}
    assert len({code.source for code in codes.values()}) == 3
    for prefer, folder in folders.items():
        assert (folder / "model.c").read_text() == codes[prefer].source
        assert (folder / "model.h").read_text() == codes[prefer].header


@pytest.mark.parametrize("form", ["pgm", "pgm with a comment", "raw"])
def test_the_example_prints_the_class_that_litert_finds(example: Path, model: Path, form: str, tmp_path: Path) -> None:
    headers = {"pgm": b"P5 28 28 255\n", "pgm with a comment": b"P5\n# a shoe\n28\t28\n255\n", "raw": b""}
    interpreter = read_interpreter(model, len(IMAGES), num_threads=1, is_reference=True)
    expected = predict_logits(interpreter, IMAGES).argmax(axis=1)
    assert len(set(expected.tolist())) > 1

    for number, image in enumerate(IMAGES):
        picture = tmp_path / f"{number}.picture"
        picture.write_bytes(headers[form] + image.tobytes())
        result = run_example(example, picture)
        assert (result.returncode, result.stdout, result.stderr) == (0, f"{CLASSES[expected[number]]}\n", ""), number


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a PGM file (P5) or 784 bytes, one for each of 28 x 28 pixels; got 0 bytes"),
        (bytes(785), "got 785 bytes or more"),
        (b"P6 28 28 255\n" + bytes(3 * 784), "expected a PGM file (P5) or 784 bytes"),
        (b"P5 27 28 255\n" + bytes(784), "expected 28 x 28 pixels of 0 to 255; got 27 x 28 of 0 to 255"),
        (b"P5 28 28 65535\n" + bytes(2 * 784), "of 0 to 65535"),
        (b"P5 28 x", "got 28 x -1 of 0 to -1 (-1: no number)"),
        (b"P5 99999999999999999999 28 255\n", "got -1 x "),
        (b"P5 28 28 255\n" + bytes(783), "expected 784 pixels; the file ends before"),
    ],
)
def test_the_example_says_what_is_wrong_with_a_picture(
    example: Path, content: bytes, message: str, tmp_path: Path
) -> None:
    picture = tmp_path / "bad.pgm"
    picture.write_bytes(content)

    result = run_example(example, picture)

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {picture}: ")
    assert message in result.stderr


def test_the_example_says_that_a_picture_is_missing(example: Path, tmp_path: Path) -> None:
    result = run_example(example, tmp_path / "none.pgm")

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"error: {tmp_path / 'none.pgm'}: No such file or directory\n"


def test_the_example_of_a_coloured_model_reads_coloured_pictures(tmp_path: Path) -> None:
    from stages.lib.litert.convert import convert_to_int8
    from stages.lib.network.architecture import list_layers
    from stages.lib.network.model import build_model

    colors = np.random.default_rng(4).permutation(np.repeat(np.eye(3, dtype=np.uint8) * 255, 4, axis=0))
    images = np.random.default_rng(5).integers(0, 2, (12, 6, 6, 1), np.uint8) * colors[:, np.newaxis, np.newaxis]
    network = build_model(list_layers(6, len(CLASSES), [[4]], False, False, False, [], [], 0, channels=3), seed=5)
    content = convert_to_int8(network, images, weight_bits=8)
    (tmp_path / "small.tflite").write_bytes(content)
    code = compile_to_c(content, CLASSES, "speed")
    (tmp_path / "model.c").write_text(code.source)
    (tmp_path / "model.h").write_text(code.header)
    (tmp_path / "example.c").write_bytes((ROOT / "stages/lib/device/example.c").read_bytes())
    strict = ["-Wall", "-Wextra", "-pedantic", "-Werror"]
    subprocess.run(["cc", "example.c", "model.c", "-o", "classify", *strict], cwd=tmp_path, check=True)
    interpreter = read_interpreter(tmp_path / "small.tflite", len(images), num_threads=1, is_reference=True)
    expected = predict_logits(interpreter, images).argmax(axis=1)
    assert len(set(expected.tolist())) > 1

    for number, image in enumerate(images):
        picture = tmp_path / f"{number}.picture"
        picture.write_bytes((b"P6 6 6 255\n" if number % 2 else b"") + image.tobytes())
        result = run_example(tmp_path / "classify", picture)
        assert (result.returncode, result.stdout, result.stderr) == (0, f"{CLASSES[expected[number]]}\n", ""), number
    (tmp_path / "grey.pgm").write_bytes(b"P5 6 6 255\n" + bytes(36))
    result = run_example(tmp_path / "classify", tmp_path / "grey.pgm")
    assert result.returncode == 1
    assert "expected a PPM file (P6) or 108 bytes, three for each of 6 x 6 pixels; got 47 bytes" in result.stderr


def test_a_float_model_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    model = ship(tmp_path / "boxes.tflite", make_model())

    result = run_tool(tmp_path / "c", "--model", model)

    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {model}: ")
    assert "INT8" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "c").exists()


def test_a_card_with_too_few_names_is_refused(model: Path, tmp_path: Path) -> None:
    copy = ship(tmp_path / "small.tflite", model.read_bytes(), class_names=["Bag"])

    result = run_tool(tmp_path / "c", "--model", copy)

    assert result.returncode == 1
    assert "and 1 classes" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "c").exists()
