import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.lib.errors import UserError
from stages.tools import predict
from stages.tools.predict import classify, format_line, list_results, rank, read_card, read_photos

ROOT = Path(__file__).parents[1]
CLASSES = ["Trouser", "Sneaker", "Bag", "Coat"]
BIASES = [0.0, 0.0, 1.0, -9.0]


@pytest.fixture(scope="module")
def content() -> bytes:
    """A LiteRT file: trousers reach the first and last row, sneakers the first and last column, bags all four."""
    from stages.lib.network.keras2 import keras, tf

    kernel = np.zeros((28, 28, 4), np.float32)
    kernel[[0, -1], 11:17, 0] = kernel[11:17, [0, -1], 1] = 1
    kernel[[0, -1], 11:17, 2] = kernel[11:17, [0, -1], 2] = 0.7
    dense = keras.layers.Dense(4)
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), dense])
    dense.set_weights([kernel.reshape(784, 4), np.array(BIASES, np.float32)])
    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


@pytest.fixture
def model(tmp_path: Path, content: bytes) -> Path:
    """A shipped folder; returns the path of its model."""
    path = tmp_path / "ship" / "model.tflite"
    path.parent.mkdir()
    path.write_bytes(content)
    write_card(path)
    return path


def write_card(path: Path, **changes: Any) -> None:
    card = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "class_names": CLASSES, "image_size_px": 28}
    path.with_suffix(".json").write_text(json.dumps(card | changes))


def draw_box(path: Path, width: int, height: int) -> str:
    """Draws a dark red box on cream, 200 x 300; returns its path as it is given on a command line."""
    photo = np.full((300, 200, 3), (250, 245, 235), np.uint8)
    photo[150 - height // 2 : 150 + height // 2, 100 - width // 2 : 100 + width // 2] = (120, 10, 20)
    Image.fromarray(photo).save(path)
    return str(path)


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Photos of trousers, a sneaker and a bag."""
    boxes = {"tall.png": (60, 200), "wide.jpg": (180, 60), "square.gif": (150, 150)}
    return [draw_box(tmp_path / name, *box) for name, box in boxes.items()]


def run(*arguments: str | Path, folder: Path = ROOT, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs the tool as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "stages.tools.predict", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | options.pop("env", {}),
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


# Answers


def test_every_photo_is_a_line_with_its_three_likeliest_classes(model: Path, photos: list[str]) -> None:
    result = run("--model", model, *photos)

    lines = result.stdout.splitlines()
    assert (result.returncode, result.stderr, len(lines)) == (0, "", 3)
    for line, photo, name in zip(lines, photos, CLASSES, strict=False):
        file, _, shares = line.partition(": ")
        assert (file, shares.count(" %"), shares.count(", ")) == (photo, 3, 2)
        assert shares.startswith(f"{name} ")
        assert "Coat" not in line


def test_machines_get_json_in_the_order_of_the_photos(model: Path, photos: list[str]) -> None:
    result = run("--json", "--model", model, *photos)

    answers = json.loads(result.stdout)
    assert (result.returncode, result.stderr) == (0, "")
    assert [answer["file"] for answer in answers] == photos
    assert [answer["predictions"][0]["class"] for answer in answers] == CLASSES[:3]
    assert {tuple(answer) for answer in answers} == {("file", "predictions")}
    assert {tuple(each) for answer in answers for each in answer["predictions"]} == {("class", "probability")}


def test_probabilities_are_the_softmax_of_the_logits(model: Path) -> None:
    (predictions,) = classify(model, np.zeros((1, 28, 28), np.uint8), CLASSES)  # black: the logits are the biases

    shares = np.exp(BIASES) / np.exp(BIASES).sum()
    assert [each["class"] for each in predictions] == ["Bag", "Trouser", "Sneaker"]
    assert [each["probability"] for each in predictions] == pytest.approx(shares[[2, 0, 1]], abs=1e-6)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 65])
def test_photos_are_classified_alike_whatever_the_number_of_them(model: Path, count: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)

    together = classify(model, images, CLASSES)

    assert len(together) == count
    assert together[-1] == classify(model, images[-1:], CLASSES)[0]


def test_no_photo_is_no_answer(tmp_path: Path) -> None:
    assert classify(tmp_path / "absent", np.zeros((0, 28, 28), np.uint8), CLASSES) == []


def test_the_likelier_class_comes_first_and_of_equals_the_one_with_the_lower_label() -> None:
    assert [each["class"] for each in rank(np.array([0.2, 0.3, 0.2, 0.3]), "abcd")] == ["b", "d", "a"]


def test_two_classes_are_two_predictions() -> None:
    assert rank(np.array([0.25, 0.75]), "ab") == [
        {"class": "b", "probability": 0.75},
        {"class": "a", "probability": 0.25},
    ]


def test_percent_has_one_decimal_and_a_name_that_is_no_text_is_escaped() -> None:
    result = {"file": "a\udcff", "predictions": [{"class": "Bag", "probability": 0.5}]}

    assert format_line(result) == "a\\udcff: Bag 50.0 %"


def test_results_are_in_the_order_of_the_photos() -> None:
    predictions = [[{"class": "Bag"}], [{"class": "Coat"}], [{"class": "Shirt"}]]

    assert list_results(["a", "b", "c", "d"], predictions, {1: "dark"}) == [
        {"file": "a", "predictions": predictions[0]},
        {"file": "b", "error": "dark"},
        {"file": "c", "predictions": predictions[1]},
        {"file": "d", "predictions": predictions[2]},
    ]


# Refusals


def test_a_refused_photo_is_a_line_on_stderr_and_the_others_are_answered(
    model: Path, photos: list[str], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("a\nb")

    result = run("--model", model, photos[0], tmp_path / "notes.txt", photos[1], tmp_path / "absent.jpg")

    assert result.returncode == 1
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == photos[:2]
    first, second = result.stderr.splitlines()
    assert first.startswith(f"error: {tmp_path}/notes.txt: expected an image in one of AVIF, BMP")
    assert second.startswith(f"error: {tmp_path}/absent.jpg: expected an image")


def test_a_refused_photo_is_an_error_in_json(model: Path, photos: list[str], tmp_path: Path) -> None:
    result = run("--json", "--model", model, tmp_path / "absent.jpg", photos[0])

    refused, answered = json.loads(result.stdout)
    assert result.returncode == 1
    assert list(refused) == ["file", "error"]
    assert refused["file"] == str(tmp_path / "absent.jpg")
    assert "found none: No such file or directory" in refused["error"]
    assert answered["predictions"][0]["class"] == "Trouser"
    assert len(result.stderr.splitlines()) == 1


def test_only_refused_photos_are_no_answer(model: Path, tmp_path: Path) -> None:
    result = run("--model", model, tmp_path)

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {tmp_path}: expected an image in one of ")


def test_an_error_is_one_line_whatever_the_name_of_the_file(tmp_path: Path) -> None:
    images, errors = read_photos([str(tmp_path / "a\nb")], 28)

    assert images.shape == (0, 28, 28)
    assert "\n" not in errors[0]
    assert "/a b: expected an image" in errors[0]


def test_photos_are_read_as_the_network_expects_them(photos: list[str]) -> None:
    images, errors = read_photos(photos, 14)

    assert images.dtype == np.uint8
    assert (images.shape, errors) == ((3, 14, 14), {})


def test_without_a_photo_the_usage_is_shown() -> None:
    result = run()

    assert result.returncode == 2
    assert "usage: python -m stages.tools.predict" in result.stderr
    assert "required: PHOTO" in result.stderr


# The model


def test_the_shipped_model_is_found_in_the_working_directory(model: Path, photos: list[str], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    model.parent.rename(tmp_path / "data" / "ship")

    result = run(photos[0], folder=tmp_path)

    assert (result.returncode, result.stderr) == (0, "")


def test_without_a_model_the_ways_to_get_it_are_named(tmp_path: Path, photos: list[str]) -> None:
    result = run(photos[0], folder=tmp_path)

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "error: data/ship/model.tflite: not found; run `dvc pull` to fetch it or `dvc repro ship` to make it\n"
    )


def test_a_card_lies_beside_the_model_and_names_the_classes_and_the_size(model: Path) -> None:
    write_card(model, image_size_px=32, more="unread")

    assert read_card(model) == (CLASSES, 32)


def test_a_missing_card_is_named(model: Path) -> None:
    model.with_suffix(".json").unlink()

    with pytest.raises(UserError, match=r"ship/model\.json: not found; run `dvc pull` to fetch it or `dvc repro ship`"):
        read_card(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": None}, "expected sha256 of type str, got None; run `dvc pull`"),
        ({"class_names": "Bag"}, "expected class_names of type list, got 'Bag'; run `dvc pull`"),
        ({"image_size_px": "28"}, "expected image_size_px of type int, got '28'; run `dvc pull`"),
    ],
)
def test_a_card_without_what_is_needed_is_refused(model: Path, changes: dict[str, Any], message: str) -> None:
    write_card(model, **changes)

    with pytest.raises(UserError) as caught:
        read_card(model)

    assert str(caught.value).startswith(f"{model.with_suffix('.json')}: {message}")


def test_a_model_that_is_not_the_one_of_its_card_is_refused(model: Path, content: bytes) -> None:
    expected = hashlib.sha256(content).hexdigest()
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    with pytest.raises(UserError) as caught:
        read_card(model)

    found = hashlib.sha256(model.read_bytes()).hexdigest()
    assert f"{model}: expected SHA-256 {expected}, as {model.with_suffix('.json')} says, got {found}; run" in str(
        caught.value
    )


@pytest.mark.parametrize(("size", "classes"), [(14, 4), (28, 3)])
def test_a_card_that_does_not_fit_its_model_is_refused(model: Path, size: int, classes: int) -> None:
    with pytest.raises(UserError) as caught:
        classify(model, np.zeros((1, size, size), np.uint8), CLASSES[:classes])

    assert f"expected images of {size} pixels and {classes} classes, as the .json beside it says" in str(caught.value)
    assert "got 28 pixels and 4 classes" in str(caught.value)


def test_a_model_that_the_runtime_refuses_is_one_line(model: Path, photos: list[str]) -> None:
    model.write_bytes(b"no model")
    write_card(model)

    result = run("--model", model, photos[0])

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {model}: ")
    assert len(result.stderr.splitlines()) == 1


# The process


def test_neither_tensorflow_nor_matplotlib_is_loaded() -> None:
    code = (
        "import sys, stages.tools.predict\n"
        "print([name for name in ('tensorflow', 'tf_keras', 'keras', 'matplotlib', 'dvc') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert result.stdout == "[]\n"


def test_an_answer_takes_less_than_a_second_of_the_processor(model: Path, photos: list[str]) -> None:
    before = os.times()
    run("--model", model, photos[0])
    after = os.times()

    assert after.children_user + after.children_system - before.children_user - before.children_system < 1


def test_nothing_is_written(model: Path, photos: list[str], tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    run("--model", model, *photos, folder=tmp_path)

    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_reader_that_has_seen_enough_ends_it_quietly(model: Path, photos: list[str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as closed:
        result = subprocess.run(
            [sys.executable, "-m", "stages.tools.predict", "--model", str(model), *photos],
            cwd=ROOT,
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert (result.returncode, result.stderr) == (-signal.SIGPIPE, "")


def test_ctrl_c_ends_it_quietly(model: Path, tmp_path: Path) -> None:
    photo = draw_box(tmp_path / "x.png", 60, 200)
    code = (
        "import runpy, sys, time, stages.tools.photo as photo\n"
        "photo.read_prepared = lambda *_: print('reading', flush=True) or time.sleep(30)\n"
        f"sys.argv = ['predict', '--model', {str(model)!r}, {photo!r}]\n"
        "runpy.run_module('stages.tools.predict', run_name='__main__')"
    )
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=20)

    assert (process.returncode, printed) == (-signal.SIGINT, "")
    assert time.monotonic() - started < 20


def test_what_native_code_prints_while_a_model_loads_is_dropped_and_nothing_after_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with predict.quiet_stderr():
        os.write(2, b"INFO: native\n")
    os.write(2, b"after\n")

    assert capfd.readouterr().err == "after\n"
