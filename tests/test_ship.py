"""The stage chooses by its rule alone, copies the file, and describes what it is and does."""

import itertools
import json
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sections import replace

from stages import ship as stage
from stages.lib.errors import UserError
from stages.lib.litert.convert import convert_to_float32, convert_to_int8
from stages.lib.network.keras2 import keras
from stages.lib.params.load import load_params
from stages.lib.params.sections import ShipParams
from stages.lib.results.comparisons import UNKNOWN, Comparison
from stages.lib.results.rows import KIND_OF, PublishedModel, RankedFile, write_frontier, write_rows
from stages.lib.storage.files import read_csv, read_json, write_arrays, write_bytes, write_json
from stages.lib.storage.variant import Variant, name_finished
from stages.ship import (
    describe_input,
    explain,
    list_confused,
    list_good_files,
    list_pruning,
    read_digits,
    read_files,
    score_answers,
    score_logits,
    select_file,
    write_card,
)
from stages.tools.predict import classify, read_card

PARAMS = load_params()
CLASS_NAMES = ("dark", "light")
NUM_IMAGES = {"val": 1000, "test": 4}
CHOICE = {"model": "third", "augmentation": "flip"}
DENSE = name_finished(42)
PRUNED = Variant("prune", "uniform", 0.9, 42)
BLACK, WHITE = np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)


def file_of(name: str, val_accuracy: float, gzip_size: int, precision: str = "int8", **changes: Any) -> RankedFile:
    variant = changes.pop("variant", PRUNED)
    values: dict[str, Any] = {
        "name": name,
        "kind": KIND_OF[variant.source],
        "way": variant.way,
        "target": str(variant.target),
        "seed": variant.seed,
        "format": "tflite",
        "precision": precision,
        "val_accuracy": val_accuracy,
        "test_accuracy": 0.5,
        "size_bytes": 2 * gzip_size,
        "gzip_size_bytes": gzip_size,
        "macs": 1000,
        "nonzero_macs": 500,
        "parameters": 100,
        "sparsity": 0.875,
        "is_on_size_front": False,
        "is_on_macs_front": False,
    }
    return RankedFile(**values | changes)


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """Is one network in both precisions: light if an image of 2 x 2 pixels is more than half white."""
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    kernel = np.stack([np.zeros(4), np.ones(4)], axis=1).astype(np.float32)
    model.layers[-1].set_weights([kernel, np.array([0, -2], np.float32)])
    images = np.stack([BLACK, WHITE])
    return {"float32": convert_to_float32(model), "int8": convert_to_int8(model, images, 8)}


def set_params(monkeypatch: pytest.MonkeyPatch, max_loss: float, seeds: tuple[int, ...] = (42,)) -> None:
    dataset = replace(PARAMS.dataset, class_names=CLASS_NAMES, image_size_px=2)
    prune = replace(PARAMS.prune, sparsities=(0.5, 0.9), epochs=(1, 2), learning_rate=(0.1, 0.2))
    params = replace(PARAMS, dataset=dataset, prune=prune, study=replace(PARAMS.study, seeds=seeds))
    params = replace(params, ship=ShipParams(max_loss=max_loss, answered_accuracy=0.9))
    monkeypatch.setattr(stage, "load_params", lambda **_: params)


def write_files(test_accuracies: tuple[float, ...] = (0.5,)) -> list[RankedFile]:
    """Writes the table: three models in both precisions, of which uniform-0.9 in int8 is to be shipped, and others."""
    models = {DENSE: (0.94, 4000), PRUNED: (0.936, 500), Variant("prune", "lamp", 0.5, 42): (0.9, 9)}
    files = [file_of("finished", 0.94, 50, "float32", format="keras", variant=DENSE)]
    for (variant, (accuracy, size)), precision in itertools.product(models.items(), ("float32", "int8")):
        size = size if precision == "int8" else 4 * size
        tested = test_accuracies[len(files) % len(test_accuracies)]
        files.append(file_of(variant.name, accuracy, size, precision, variant=variant, test_accuracy=tested))
    published = PublishedModel("WRN", 0.97, 8, None, 2, "somebody")
    write_frontier(Path("data/frontier/frontier.csv"), files, [published], NUM_IMAGES)
    return files


@pytest.fixture
def folder(tmp_dir: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is a folder with three models and four test images."""
    set_params(monkeypatch, max_loss=0.005)
    write_json(DENSE.folder / "metrics.json", {"val_accuracy": 0.94})
    write_json(Path("data/select_model/choice.json"), CHOICE)
    write_bytes(DENSE.folder / "model.h5", b"weights")
    for file in write_files()[1:]:
        write_bytes(file.path, contents[file.precision])
    shown = np.stack([BLACK] * 600 + [WHITE] * 400)  # of the light ones, a quarter is labelled dark
    write_arrays(
        Path("data/prepare/val.npz"), images=shown, labels=np.repeat([0, 1, 0], [600, 300, 100]).astype(np.uint8)
    )
    pruned = Comparison("pruned files", "uniform-0.9 int8", "finished", 4, -0.25, -0.6, 0.1, 1, 1, UNKNOWN)
    write_rows(Path("data/frontier/comparisons.csv"), Comparison, [pruned])
    images = np.stack([BLACK, WHITE, WHITE, BLACK])
    write_arrays(Path("data/prepare/test.npz"), images=images, labels=np.array([0, 1, 0, 0], np.uint8))
    return tmp_dir


@pytest.mark.usefixtures("tmp_dir")
def test_only_exported_files_can_be_shipped() -> None:
    files = write_files()

    assert read_files() == files[1:]

    write_frontier(Path("data/frontier/frontier.csv"), files[:1], [], NUM_IMAGES)
    with pytest.raises(UserError, match="expected at least one LiteRT file, got none"):
        read_files()


@pytest.mark.parametrize(
    ("accuracy", "dense", "max_loss", "is_good"),
    [
        (0.935, 0.94, 0.005, True),
        (0.9349, 0.94, 0.005, False),
        (0.942, 0.9438, 0.0018, True),  # in floating point, the difference is above the limit
        (0.95, 0.94, 0.0, True),
        (0.94, 0.94, 0.0, True),
        (11_279 / 12_000, 11_300 / 12_000, 20 / 12_000, False),  # one image too many
    ],
)
def test_a_file_is_good_up_to_the_limit(accuracy: float, dense: float, max_loss: float, is_good: bool) -> None:
    sure, file = file_of("sure", 1, 10), file_of("a", accuracy, 10)

    good = list_good_files([sure, file], dense, max_loss)

    assert good == ([sure, file] if is_good else [sure])


def test_without_a_good_file_limit_and_nearest_are_named() -> None:
    files = [file_of("far", 0.8, 1), file_of("near", 0.9321, 10), file_of("other", 0.9, 5)]

    with pytest.raises(UserError) as error:
        list_good_files(files, 0.94, 0.005)

    assert str(error.value) == (
        "params.yaml: ship.max_loss: expected a file whose validation accuracy is at most 0.005 below the 0.9400 of "
        "the finished model; got 0.9321 at best, of near in int8; raise that limit, or compress less"
    )


@pytest.mark.parametrize(
    "files",
    [
        [file_of("small", 0.91, 10, size_bytes=999), file_of("good", 0.94, 11, size_bytes=30)],  # gzipped sizes count
        [file_of("good", 0.92, 10), file_of("bad", 0.91, 10)],
        [file_of("a", 0.91, 10), file_of("b", 0.91, 10)],
        [file_of("a", 0.91, 10, "float32"), file_of("a", 0.91, 10, "int8")],
    ],
)
def test_the_smallest_is_shipped_then_the_more_accurate_then_the_first_by_name(files: list[RankedFile]) -> None:
    assert select_file(files) is select_file(files[::-1]) is files[0]


def test_the_reason_tells_rule_and_numbers() -> None:
    assert explain(file_of("lamp-0.9", 0.937, 1234), 3, 40, 0.94, 0.005, 1000) == (
        "lamp-0.9 in int8 is the smallest once gzipped (1,234 bytes) of the 3 of 40 files that lose at most 0.5 points "
        "of validation accuracy against the finished model, which has 94.00 % (92.4 to 95.3): it has 93.70 % (92.0 to "
        "95.0)."
    )


@pytest.mark.parametrize(
    ("dtype", "quantization", "expected"),
    [
        (np.float32, (0.0, 0), [0.0, 1.0]),
        (np.int8, (1 / 255, -128), [-128, 127]),
        (np.int8, (1 / 64, 0), [0, 64]),
        (np.int8, (1 / 512, -128), [-128, 127]),  # what does not fit is clipped
    ],
)
def test_the_range_of_the_input_is_what_stands_for_black_and_white(
    dtype: type, quantization: tuple[float, int], expected: list[float]
) -> None:
    details = {"dtype": dtype, "shape": np.array([1, 2, 2, 1]), "quantization": quantization}

    described = describe_input(details)
    scale, zero_point = quantization if dtype is np.int8 else (None, None)
    assert (described["range"], described["scale"], described["zero_point"]) == (expected, scale, zero_point)


def test_the_most_frequent_mistakes_come_first_and_hits_are_none() -> None:
    matrix = np.array([[90, 1, 9], [0, 100, 0], [20, 0, 80]])

    assert list_confused(matrix, ["a", "b", "c"]) == [
        {"actual": "c", "predicted": "a", "images": 20},
        {"actual": "a", "predicted": "c", "images": 9},
        {"actual": "a", "predicted": "b", "images": 1},
    ]
    assert list_confused(np.diag([3, 4]), ["a", "b"]) == []
    assert len(list_confused(np.arange(16).reshape(4, 4), list("abcd"))) == 3


def share(name: str, value: float, low: float, high: float) -> dict[str, Any]:
    ends = {f"{name}_low": low, f"{name}_high": high}
    return {name: value} | {key: pytest.approx(bound, abs=1e-4) for key, bound in ends.items()}


def test_recall_and_precision_are_of_each_class() -> None:
    logits = np.log([[0.75, 0.25], [0.25, 0.75], [0.25, 0.75], [0.75, 0.25]]).astype(np.float32)

    measured = score_logits(np.array([0, 1, 0, 0]), logits, CLASS_NAMES, num_bins=2)

    assert measured == {
        "test_accuracy": 0.75,
        "mean_confidence": pytest.approx(0.75, abs=1e-6),
        "calibration_error": pytest.approx(0.0, abs=1e-6),  # confidence 0.75, and three of four are right
        "classes": [
            {
                "class": "dark",
                **share("recall", 0.666667, 0.2077, 0.9385),
                **share("precision", 1.0, 0.3424, 1.0),
                "images": 3,
                "predicted": 2,
            },
            {
                "class": "light",
                **share("recall", 1.0, 0.2065, 1.0),
                **share("precision", 0.5, 0.0945, 0.9055),
                "images": 1,
                "predicted": 2,
            },
        ],
        "most_confused": [{"actual": "dark", "predicted": "light", "images": 1}],
    }


def test_a_pruned_model_took_the_epochs_and_the_rates_of_all_steps_up_to_its_own() -> None:
    prune = replace(PARAMS.prune, sparsities=(0.5, 0.9, 0.95), epochs=(1, 2, 4), learning_rate=(0.2, 0.1, 0.3))

    assert [list_pruning(Variant("prune", "lamp", sparsity, 42), prune) for sparsity in prune.sparsities] == [
        {"epochs": 1, "learning_rates": [0.2]},
        {"epochs": 3, "learning_rates": [0.1, 0.2]},
        {"epochs": 7, "learning_rates": [0.1, 0.3]},
    ]


@pytest.mark.parametrize(
    ("shipped", "epochs", "trained"),
    [
        (PRUNED, 14, "finished"),
        (Variant("shrink", "scratch", 0.5, 42), 14, "finished"),
        (DENSE, 14, "finished"),
        (Variant("train", "scratch", "flip", 42), 7, "scratch-flip"),  # a network may have the name of a way
    ],
)
@pytest.mark.usefixtures("folder")
def test_the_card_tells_of_the_training_that_the_file_was_made_by(
    monkeypatch: pytest.MonkeyPatch, shipped: Variant, epochs: int, trained: str
) -> None:
    write_bytes(Path("data/train/scratch-flip/42/model.h5"), b"a candidate")
    told: dict[str, Any] = {}
    monkeypatch.setattr(stage, "render", lambda _, **values: told.update(values))
    train, finish = replace(PARAMS.train, epochs=7), replace(PARAMS.finish, epochs=14)
    prune = replace(PARAMS.prune, sparsities=(0.5, 0.9), epochs=(1, 2), learning_rate=(0.1, 0.2))
    file = file_of(shipped.name, 0.9, 9, variant=shipped)
    write_bytes(file.path, b"a file")

    params = replace(PARAMS, train=train, finish=finish, prune=prune)
    write_card(file, {"name": "x", "precision": "int8", "source": shipped.source}, {}, CHOICE, params)

    assert (told["epochs"], told["trained"]) == (epochs, trained)


def test_the_chosen_file_is_copied_byte_for_byte_beside_two_descriptions(
    folder: Path, contents: dict[str, bytes]
) -> None:
    stage.main()

    written = {path.name: path.read_bytes() for path in (folder / "data/ship").iterdir()}
    assert set(written) == {"model.tflite", "model.json", "model_card.md", "coverage.csv", "ood.json", "ood.csv"}
    assert written["model.tflite"] == contents["int8"]


def test_the_description_tells_all_that_a_program_has_to_know(folder: Path, contents: dict[str, bytes]) -> None:
    stage.main()

    model = read_json(folder / "data/ship/model.json")
    assert (model["name"], model["source"], model["precision"]) == ("uniform-0.9", "prune", "int8")
    assert model["sha256"] == sha256(contents["int8"]).hexdigest()
    assert (model["size_bytes"], model["gzip_size_bytes"]) == (1000, 500)
    assert (model["macs"], model["parameters"], model["sparsity"]) == (1000, 100, 0.875)
    assert (model["class_names"], model["image_size_px"]) == (["dark", "light"], 2)
    assert model["dataset"] == "Fashion-MNIST"
    assert model["input"] == {
        "dtype": "int8",
        "shape": [1, 2, 2, 1],
        "scale": pytest.approx(1 / 255),
        "zero_point": -128,
        "meaning": "grey level / 255, 0 black to 1 white; what is shown is light on black",
        "range": [-128, 127],
    }
    assert (model["output"]["dtype"], model["output"]["shape"]) == ("int8", [1, 2])
    assert model["reason"].startswith(
        "uniform-0.9 in int8 is the smallest once gzipped (500 bytes) of the 4 of 6 files"
    )


def test_accuracy_is_measured_by_running_the_file(folder: Path) -> None:
    """The table says 0.5; the third image is light, and labelled dark."""
    stage.main()

    model = read_json(folder / "data/ship/model.json")
    assert (model["val_accuracy"], model["test_accuracy"]) == (0.936, 0.75)
    assert model["num_images"] == NUM_IMAGES
    assert (model["val_accuracy_low"], model["val_accuracy_high"]) == pytest.approx((0.9191, 0.9496), abs=1e-4)
    assert (model["test_accuracy_low"], model["test_accuracy_high"]) == pytest.approx((0.3006, 0.9544), abs=1e-4)
    assert [row["recall"] for row in model["classes"]] == [0.666667, 1.0]
    assert model["most_confused"] == [{"actual": "dark", "predicted": "light", "images": 1}]


def test_confidence_is_fitted_on_validation_images_and_measured_on_test_images(folder: Path) -> None:
    """On validation images 900 of 1000 answers are right, and all are equally sure: 1 / (1 + e^(-2 / T))."""
    stage.main()

    model = read_json(folder / "data/ship/model.json")
    assert model["temperature"] == pytest.approx(2 / np.log(9), rel=0.02)
    assert model["min_confidence"] == pytest.approx(0.9, abs=0.005)
    assert model["answered"]["images"] == 4
    assert (model["answered"]["coverage"], model["answered"]["test_accuracy"]) == (1.0, 0.75)
    assert model["mean_confidence"] == pytest.approx(0.9, abs=0.005)
    assert model["calibration_error"] == pytest.approx(0.15, abs=0.005)
    assert model["unscaled_calibration_error"] == pytest.approx(0.88 - 0.75, abs=0.005)
    rows = read_csv(folder / "data/ship/coverage.csv")
    assert [(row["coverage"], row["accuracy"]) for row in rows] == [
        ("0.5", "0.5"),
        ("1.0", "0.75"),
    ]  # rounded to int8, light is a little surer


def test_digits_are_scored_beside_the_test_images_by_the_shipped_file_as_it_is_scaled(folder: Path) -> None:
    """Of a test image, 2 of its 4 pixels times 2 less 2, divided by T; the file is light where more than half is."""
    stage.main()

    model, ood = (read_json(folder / f"data/ship/{name}.json") for name in ("model", "ood"))
    light = read_digits(2).reshape(-1, 4).sum(axis=1) / 255
    logits = np.stack([np.zeros_like(light), light - 2], axis=1)
    confidence = 1 / (1 + np.exp(-np.abs(logits[:, 1]) / model["temperature"]))
    assert (ood["num_known"], ood["num_others"]) == (4, 1797)
    assert ood["known_answered"] == model["answered"]["coverage"] == 1.0
    assert ood["others_answered"] == pytest.approx(np.mean(confidence >= model["min_confidence"]), abs=0.01)
    assert ood["confidence_auroc"] == pytest.approx(1.0, abs=0.05)
    rows = read_csv(folder / "data/ship/ood.csv")
    energy_scores = [float(row["low"]) for row in rows if (row["score"], row["pictures"]) == ("energy score", "others")]
    assert min(energy_scores) == pytest.approx(np.log(np.exp(logits).sum(axis=1)).min(), abs=0.03)
    assert {row["answered_from"] for row in rows} == {str(model["min_confidence"]), ""}


def test_where_nothing_is_sure_enough_no_accuracy_of_answers_is_told() -> None:
    assert score_answers(np.array([0]), np.array([[0.9, 0.1]]), 1.0) == {
        "images": 0,
        **share("coverage", 0.0, 0.0, 0.7935),
    }


def test_only_a_pruned_model_has_a_sparsity(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_params(monkeypatch, max_loss=0.0)

    stage.main()

    model = read_json(folder / "data/ship/model.json")
    assert (model["name"], "sparsity" in model) == ("finished", False)


@pytest.mark.usefixtures("folder")
def test_what_a_file_may_lose_is_held_against_the_finished_model_of_the_first_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_json(name_finished(7).folder / "metrics.json", {"val_accuracy": 0.99})
    stage.main()

    set_params(monkeypatch, max_loss=0.005, seeds=(7, 42))
    with pytest.raises(UserError, match=r"at most 0\.005 below the 0\.9900 of the finished model; got 0\.9400 at best"):
        stage.main()


def test_test_accuracies_choose_nothing(folder: Path) -> None:
    write_files(test_accuracies=(0.9, 0.8, 0.7, 0.6))

    stage.main()

    assert read_json(folder / "data/ship/model.json")["name"] == "uniform-0.9"


def test_the_card_has_recorded_times_of_this_very_file_and_else_none(folder: Path, contents: dict[str, bytes]) -> None:
    stage.main()
    names = ("model.json", "model.tflite")
    before = [(folder / "data/ship" / name).read_bytes() for name in names]
    assert "were not measured" in (folder / "data/ship/model_card.md").read_text()
    times = ("median_ms", "p25_ms", "p75_ms", "batch_32_median_ms", "batch_32_p25_ms", "batch_32_p75_ms")
    known = dict.fromkeys(times, 0.125) | {"runs": 9, "num_threads": 1, "cpu": "a CPU", "runtime": "a runtime"}
    known |= {"peak_memory_mib": 60.0, "runtime_memory_mib": 8.0}
    recorded = {
        "stages": [],
        "trainings": {sha256(b"weights").hexdigest(): {"date": "2026-11-23", "python": "3.11"}},
        "latencies": {sha256(contents["int8"]).hexdigest(): known},
    }
    Path("data/recorded_times.json").write_text(json.dumps(recorded))

    stage.main()

    card = (folder / "data/ship/model_card.md").read_text()
    assert "0.125 ms for one image" in card
    assert "was trained on 2026-11-23 with python 3.11." in card
    assert [(folder / "data/ship" / name).read_bytes() for name in names] == before


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_lines_of_the_card_say_what_predict_says_with_nothing_but_the_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(stage, "select_file", lambda good: next(one for one in good if one.precision == precision))
    stage.main()
    card, model = (folder / "data/ship/model_card.md").read_text(), folder / "data/ship/model.tflite"
    (lines,) = re.findall("```python\n(.*?)\n```\n", card, re.DOTALL)
    alone, picture = folder / "alone", np.array([[255, 100], [0, 51]], np.uint8)
    write_bytes(alone / "model.tflite", model.read_bytes())
    Image.fromarray(picture).save(alone / "picture.png")

    said = subprocess.run([sys.executable, "-c", lines], cwd=alone, capture_output=True, text=True, check=True).stdout

    (expected,) = classify(model, read_card(model), [picture])
    assert said.startswith("unsure\n") is not expected["is_sure"]
    words = said.removeprefix("unsure\n").split()
    assert words[::2] == [one["class"] for one in expected["predictions"]] == ["dark", "light"]
    probabilities = [one["probability"] for one in expected["predictions"]]
    assert [float(word) for word in words[1::2]] == pytest.approx(probabilities, abs=2e-6)
    assert read_json(folder / "data/ship/model.json")["use"] == lines


def test_the_card_says_how_the_file_compares_with_the_finished_model(folder: Path) -> None:
    stage.main()

    assert (
        "no difference to the float32 file of the finished model can be told from 4 images (-25.00 points, -60.00 to "
        "+10.00)."
    ) in (folder / "data/ship/model_card.md").read_text()


def test_a_chosen_file_that_is_gone_is_named(folder: Path) -> None:
    (folder / "data/export/prune/uniform-0.9/int8.tflite").unlink()

    with pytest.raises(UserError, match=r"data/export/prune/uniform-0\.9/int8\.tflite: not found; run `dvc repro`"):
        stage.main()
