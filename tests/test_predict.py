import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boxes import BIASES, CLASSES, draw_box, make_model, ship

from stages.lib.errors import UserError
from stages.tools.predict import classify, format_line, rank, read_card

ROOT = Path(__file__).parents[1]
ANSWER = ["is_sure", "energy_score", "predictions"]
START = [sys.executable, "-m", "stages.tools.predict"]


@pytest.fixture(scope="module")
def content() -> bytes:
    return make_model()


@pytest.fixture
def model(tmp_path: Path, content: bytes) -> Path:
    return ship(tmp_path / "data/ship/model.tflite", content)


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Photos of trousers, a sneaker and a bag, and their paths as they are given on a command line."""
    (tmp_path / "tall.png").write_bytes(draw_box(60, 200))
    (tmp_path / "wide.jpg").write_bytes(draw_box(180, 60, "JPEG"))
    (tmp_path / "square.gif").write_bytes(draw_box(150, 150, "GIF"))
    return [str(tmp_path / name) for name in ("tall.png", "wide.jpg", "square.gif")]


def run(*arguments: str | Path, folder: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the tool as a user does."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run([*START, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


# Answers


@pytest.mark.parametrize(("fit", "name"), [("garment", "Trouser"), ("stretch", "Bag")])
def test_a_photo_becomes_an_input_as_the_card_says(
    model: Path, content: bytes, photos: list[str], tmp_path: Path, fit: str, name: str
) -> None:
    ship(model, content, fit=fit)  # a tall box on cream: stretched and not negated, cream reaches all edges

    assert run(photos[0], folder=tmp_path).stdout.startswith(f"{photos[0]}: {name} ")


def test_every_photo_is_a_line_with_its_three_likeliest_classes_and_nothing_is_written(
    model: Path, photos: list[str], tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    result = run(*photos, folder=tmp_path)

    lines = result.stdout.splitlines()
    assert (result.returncode, result.stderr, len(lines)) == (0, "", 3)
    for line, photo, name in zip(lines, photos, CLASSES, strict=False):
        file, _, shares = line.partition(": ")
        assert (file, shares.count(" %"), shares.count(", ")) == (photo, 3, 2)
        assert shares.startswith(f"{name} ")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert model in before


def test_a_photo_that_is_refused_is_an_error_and_the_others_are_answered(
    model: Path, photos: list[str], tmp_path: Path
) -> None:
    given = [photos[0], str(tmp_path), photos[1], str(tmp_path / "absent.jpg"), photos[0]]

    lines, answers = run("--model", model, *given), run("--json", "--model", model, *given)

    assert lines.returncode == answers.returncode == 1
    assert [line.partition(":")[0] for line in lines.stdout.splitlines()] == given[::2]
    assert lines.stderr == answers.stderr
    folder, absent = lines.stderr.splitlines()
    assert folder.startswith(f"error: {given[1]}: expected an image in one of AVIF, BMP")
    assert absent.startswith(f"error: {given[3]}: No such file or directory; expected a photo there")
    results = json.loads(answers.stdout)
    assert [result["file"] for result in results] == given
    assert [list(result)[1:] for result in results] == [ANSWER, ["error"]] * 2 + [ANSWER]
    assert [result["predictions"][0]["class"] for result in results[::2]] == ["Trouser", "Sneaker", "Trouser"]
    assert set(results[0]["predictions"][0]) == {"class", "probability"}
    assert f"error: {results[3]['error']}" == absent


def test_probabilities_are_the_softmax_of_the_logits(model: Path) -> None:
    (answer,) = classify(model, read_card(model), [np.zeros((28, 28), np.uint8)])  # black: the logits are the biases

    shares, predictions = np.exp(BIASES) / np.exp(BIASES).sum(), answer["predictions"]
    assert [each["class"] for each in predictions] == ["Bag", "Trouser", "Sneaker"]
    assert [each["probability"] for each in predictions] == pytest.approx(shares[[2, 0, 1]], abs=1e-6)
    assert answer["energy_score"] == pytest.approx(np.log(np.exp(BIASES).sum()), abs=1e-6)


def test_logits_are_divided_by_the_temperature_of_the_card(model: Path, content: bytes) -> None:
    ship(model, content, temperature=0.5)

    (answer,) = classify(model, read_card(model), [np.zeros((28, 28), np.uint8)])

    shares = np.exp(2 * np.array(BIASES)) / np.exp(2 * np.array(BIASES)).sum()
    assert [each["probability"] for each in answer["predictions"]] == pytest.approx(shares[[2, 0, 1]], abs=1e-6)
    assert answer["energy_score"] == pytest.approx(np.log(np.exp(BIASES).sum()), abs=1e-6)  # which has none


@pytest.mark.parametrize(("min_confidence", "is_sure"), [(0.55, True), (0.6, False)])
def test_below_the_confidence_of_the_card_the_model_says_that_it_is_unsure(
    model: Path, content: bytes, min_confidence: float, is_sure: bool
) -> None:
    ship(model, content, min_confidence=min_confidence)

    (answer,) = classify(model, read_card(model), [np.zeros((28, 28), np.uint8)])

    assert (answer["is_sure"], answer["predictions"][0]["probability"]) == (is_sure, pytest.approx(0.576, abs=1e-3))
    assert format_line("a.png", answer).startswith("a.png: Bag" if is_sure else "a.png: unsure, Bag")


@pytest.mark.parametrize("count", [0, 1, 32, 33])
def test_photos_are_classified_alike_whatever_the_number_of_them(model: Path, count: int) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8))

    card = read_card(model)
    assert classify(model, card, images) == [classify(model, card, [image])[0] for image in images]


def test_of_equals_the_one_with_the_lower_label_comes_first() -> None:
    assert [each["class"] for each in rank(np.array([0.2, 0.3, 0.2, 0.3]), "abcd")] == ["b", "d", "a"]


def test_percent_has_one_decimal_and_what_is_no_printable_text_is_escaped() -> None:
    line = format_line(
        "\u05d0\n\udcff", {"is_sure": None, "predictions": [{"class": "Bag\x1b[2J\u202e", "probability": 0.5}]}
    )

    assert line == "\u05d0\\n\\udcff: Bag\\x1b[2J\\u202e 50.0 %"


def test_an_answer_and_an_error_are_a_line_whatever_the_name_of_the_file_which_json_keeps(
    model: Path, photos: list[str], tmp_path: Path
) -> None:
    given = [str(Path(photos[0]).rename(tmp_path / "\u05d0\n$|<&>\"'\\#%\x1b")), str(tmp_path / "a\nb")]

    lines = run("--model", model, *given, PYTHONIOENCODING="ascii")
    answers = run("--model", model, "--json", *given)

    assert lines.returncode == answers.returncode == 1
    assert lines.stdout.startswith(f"{tmp_path}/\\u05d0\\n$|<&>\"'\\#%\\x1b: Trouser ")
    assert lines.stderr.startswith(f"error: {tmp_path}/a\\nb: No such file")
    assert len(lines.stdout.splitlines()) == len(lines.stderr.splitlines()) == 1
    assert [each["file"] for each in json.loads(answers.stdout)] == given


# The model


def test_an_empty_path_of_a_model_is_refused() -> None:
    result = run("--model", "", "a.png")

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.endswith("--model: expected a path, got an empty one; is a variable not set?\n")


def test_an_empty_path_of_a_photo_is_refused_and_the_others_are_answered(model: Path, photos: list[str]) -> None:
    result = run("--model", model, photos[0], "")

    assert (result.returncode, result.stdout.count("\n")) == (1, 1)
    assert result.stdout.startswith(f"{photos[0]}: Trouser ")
    assert result.stderr == "error: PHOTO: expected a path, got an empty one; is a variable not set?\n"


def test_a_folder_is_no_model() -> None:
    assert run("--model", "/", "a.png").stderr == "error: /: a folder, no file; check the path that --model gives\n"


def test_without_a_model_the_ways_to_get_it_are_named(tmp_path: Path, photos: list[str]) -> None:
    result = run(photos[0], folder=tmp_path)

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "error: data/ship/model.tflite: not found; `dvc repro` makes it (README.md says how long that takes); where "
        "`dvc remote list` shows a remote, `dvc pull` fetches it\n"
    )


@pytest.mark.parametrize("beside", ["int8.json", "model.json", None])
def test_a_model_without_a_card_of_its_own_is_answered_and_a_line_says_whose_class_names_those_are(
    model: Path, content: bytes, photos: list[str], tmp_path: Path, beside: str | None
) -> None:
    exported = tmp_path / "data/export/train/third-flip/int8.tflite"
    exported.parent.mkdir(parents=True)
    exported.write_bytes(content)
    others = CLASSES[::-1]
    ship(model, content, sha256="0" * 64, class_names=CLASSES if beside is None else others)
    if beside:
        own = hashlib.sha256(content).hexdigest() if beside == "int8.json" else "0" * 64
        ship(exported.with_name(beside).with_suffix(".tflite"), content, sha256=own)

    result = run("--model", exported.relative_to(tmp_path), photos[0], folder=tmp_path)

    used = {"int8.json": None, "model.json": "data/export/train/third-flip/model.json", None: "data/ship/model.json"}
    said = f"class names and size of images are those of {used[beside]}; its confidence is not fitted, so it is never"
    line = f"data/export/train/third-flip/int8.tflite: {said} called unsure\n"
    assert (result.returncode, result.stderr) == (0, line if used[beside] else "")
    assert result.stdout.startswith(f"{photos[0]}: Trouser ")


def test_nothing_but_what_makes_an_input_and_class_names_is_taken_from_the_card_of_another_model(
    model: Path, content: bytes
) -> None:
    other = model.with_name("other.tflite")
    other.write_bytes(content + b"!")

    assert read_card(other, name=str) == {
        "card": model.with_suffix(".json"),
        "class_names": CLASSES,
        "image_size_px": 28,
        "channels": 1,
        "fit": "garment",
        "background": 255,
    }
    assert read_card(model)["name"] == "boxes"


def test_without_any_card_the_places_are_named(tmp_dir: Path) -> None:
    model = tmp_dir / "a.tflite"
    model.touch()

    with pytest.raises(UserError) as caught:
        read_card(model)

    assert str(caught.value) == (
        f"{model}: expected its class names in one of {tmp_dir}/a.json, {tmp_dir}/model.json, data/ship/model.json, "
        "found none; copy data/ship/model.json beside it"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": None}, "expected sha256 of type str, got None; put its own model.json beside it"),
        ({"class_names": "Bag"}, "expected class_names of type list, got 'Bag'; put its own"),
        ({"fit": None}, "expected fit of type str, got None; put its own"),
        ({"fit": "padd"}, "expected fit as one of pad, crop, stretch, garment; got 'padd'; put its own"),
        ({"background": "white"}, "expected background of type int, got 'white'; put its own"),
        ({"background": 256}, "expected background as a grey level from 0 to 255; got 256; put its own"),
        ({"temperature": "1"}, "expected temperature of type float, got '1'; put its own"),
        ({"temperature": 0.0}, "expected a temperature above 0, got 0.0; put its own"),
        ({"temperature": float("nan")}, "expected a temperature above 0, got nan; put its own"),
        ({"precision": 8}, "expected precision of type str, got 8; put its own"),
    ],
)
def test_a_card_without_what_is_needed_is_refused(
    model: Path, content: bytes, changes: dict[str, Any], message: str
) -> None:
    ship(model, content, **changes)

    with pytest.raises(UserError) as caught:
        read_card(model, precision=str)

    assert str(caught.value).startswith(f"{model.with_suffix('.json')}: {message}")


def test_a_model_that_is_not_the_one_of_its_card_is_refused(model: Path, content: bytes) -> None:
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    with pytest.raises(UserError) as caught:
        read_card(model)

    expected, found = (hashlib.sha256(each).hexdigest() for each in (content, model.read_bytes()))
    assert f"{model}: expected SHA-256 {expected}, as {model.with_suffix('.json')} says, got {found}; put" in str(
        caught.value
    )


@pytest.mark.parametrize(("size", "channels", "classes"), [(14, 1, 4), (28, 3, 4), (28, 1, 3)])
def test_a_card_that_does_not_fit_its_model_is_refused(model: Path, size: int, channels: int, classes: int) -> None:
    card = {"image_size_px": size, "channels": channels, "class_names": CLASSES[:classes], "card": "other.json"}

    with pytest.raises(UserError) as caught:
        classify(model, card, [np.zeros((size, size), np.uint8)])

    assert (
        f"expected images of {size} pixels with {channels} channels and {classes} classes, as other.json says"
        in str(caught.value)
    )
    assert "got images of 28 pixels with 1 channels and 4 classes" in str(caught.value)


def test_a_model_that_the_runtime_refuses_is_one_line(model: Path, photos: list[str]) -> None:
    ship(model, b"no model")

    result = run("--model", model, photos[0])

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {model}: ")
    assert len(result.stderr.splitlines()) == 1


# The process


def test_an_answer_takes_less_than_a_second_of_the_processor_without_tensorflow(model: Path, photos: list[str]) -> None:
    before = os.times()
    run("--model", model, photos[0])
    after = os.times()
    code = (
        "import sys, stages.tools.predict, stages.tools.demo\n"
        "print([name for name in ('tensorflow', 'tf_keras', 'keras', 'matplotlib', 'dvc') if name in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert after.children_user + after.children_system - before.children_user - before.children_system < 1
    assert loaded.stdout == "[]\n"


@pytest.mark.parametrize(
    ("redirected", "answered", "said"),
    [
        (">&-", False, "error: stdout: closed; the answer could not be printed: send it elsewhere\n"),
        (">/dev/full", False, "error: stdout: No space left on device; the answer could not be printed: send it"),
        ("2>&-", True, ""),
        ("2>/dev/full", True, ""),
        ("<&- 2>&- >&-", False, ""),
    ],
)
def test_a_stream_that_is_closed_or_full_takes_no_answer_from_the_other(
    model: Path, photos: list[str], redirected: str, answered: bool, said: str
) -> None:
    command = ["sh", "-c", f'"$@" {redirected}', "sh", *START, "--model", str(model), photos[0], "absent.png"]

    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert result.returncode == 1
    assert result.stdout.count(": Trouser") == answered == len(result.stdout.splitlines())
    assert result.stderr.startswith(said)
    assert len(result.stderr.splitlines()) == bool(said)


def test_a_reader_that_has_seen_enough_ends_it_quietly(model: Path, photos: list[str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as closed:
        command = [*START, "--model", str(model), *photos]
        result = subprocess.run(command, cwd=ROOT, stdout=closed, stderr=subprocess.PIPE, text=True)

    assert (result.returncode, result.stderr) == (-signal.SIGPIPE, "")


def test_ctrl_c_ends_it_quietly(model: Path, photos: list[str]) -> None:
    code = (
        "import runpy, sys, time, stages.lib.sources.decode as decode\n"
        "decode.read_picture = lambda *_: print('reading', flush=True) or time.sleep(30)\n"
        f"sys.argv = ['predict', '--model', {str(model)!r}, {photos[0]!r}]\n"
        "runpy.run_module('stages.tools.predict', run_name='__main__')"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=20)

    assert (process.returncode, printed) == (-signal.SIGINT, "")
