"""The stage chooses by its rule alone, copies the file, and describes what it is and does."""

import dataclasses
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
from stages.lib.results.comparisons import FILES, UNKNOWN, Comparison
from stages.lib.results.rows import CLASS_SCORES, KIND_OF, PublishedModel, RankedFile, write_frontier, write_rows
from stages.lib.storage.files import read_csv, read_json, write_arrays, write_bytes, write_json
from stages.lib.storage.variant import Variant, name_finished
from stages.ship import (
    describe_input,
    explain,
    list_confused,
    list_files_within,
    list_pruning,
    list_scores,
    read_digits,
    read_files,
    score_answers,
    score_logits,
    select_file,
    write_card,
)
from stages.tools.predict import classify, read_card

ROOT = Path(__file__).parents[1]
PARAMS = load_params()
CLASS_NAMES = ("dark", "light")
NUM_IMAGES = {"val": 1000, "test": 4}
CHOICE = {"model": "third", "augmentation": "flip"}
DENSE = name_finished(42)
PRUNED = Variant("prune", "uniform", 0.9, 42)
DEVICE = {"macs": 400, "dense_macs": 1000, "flash_bytes": 510, "code_bytes": 90, "weights_bytes": 420, "ram_bytes": 7}
DEVICE |= {"buffer_bytes": 4, "stack_bytes": 3, "tflite_micro_arena_bytes": 30}
DEVICE |= {"instructions_cortex_m4": 2500, "instructions_cortex_m0plus": 3000}
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
        **dict.fromkeys(CLASS_SCORES, 0.1),
        "executed_macs": 400 if precision == "int8" else None,
        "flash_bytes": gzip_size + 10 if precision == "int8" else None,
        "ram_bytes": 7 if precision == "int8" else None,
        "instructions": 5 * gzip_size if precision == "int8" else None,
        "arena_bytes": 30 if precision == "int8" else None,
        **dict.fromkeys([f"is_on_{cost}_front" for cost in ("size", "macs", "flash", "ram", "instructions")], False),
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


def limit(**limits: int) -> ShipParams:
    none = dict.fromkeys(("max_flash_bytes", "max_ram_bytes", "max_instructions", "max_size_bytes"))
    return ShipParams(**none | limits, metric="accuracy", answered_accuracy=0.9)


def set_params(monkeypatch: pytest.MonkeyPatch, fit: str = "garment", background: int = 255, **limits: int) -> None:
    dataset = replace(PARAMS.dataset, class_names=CLASS_NAMES, image_size_px=2, fit=fit, background=background)
    prune = replace(PARAMS.prune, sparsities=(0.5, 0.9), epochs=(1, 2), learning_rate=(0.1, 0.2))
    params = replace(PARAMS, dataset=dataset, prune=prune, ship=limit(**limits))
    monkeypatch.setattr(stage, "load_params", lambda **_: params)


def write_files(test_accuracies: tuple[float, ...] = (0.5,)) -> list[RankedFile]:
    """Writes the table: three models in both precisions, of which uniform-0.9 is the best within 4,000 bytes."""
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
    set_params(monkeypatch, max_flash_bytes=4000)
    write_json(Path("data/select_model/choice.json"), CHOICE)
    write_bytes(DENSE.folder / "model.h5", b"weights")
    for file in write_files()[1:]:
        write_bytes(file.path, contents[file.precision])
        write_bytes(file.variant.deployed / "model.c", f"/* {file.name} */".encode())
        write_bytes(file.variant.deployed / "model.h", f"/* header of {file.name} */".encode())
        write_json(file.variant.deployed / "metrics.json", DEVICE)
    shown = np.stack([BLACK] * 600 + [WHITE] * 400)  # of the light ones, a quarter is labelled dark
    write_arrays(
        Path("data/prepare/val.npz"), images=shown, labels=np.repeat([0, 1, 0], [600, 300, 100]).astype(np.uint8)
    )
    pruned = Comparison("pruned files", "uniform-0.9 int8", "finished", 4, -0.25, -0.6, 0.1, 1, 1, UNKNOWN)
    rows = [pruned, dataclasses.replace(pruned, family="dense files", name="finished int8")]
    write_rows(Path("data/frontier/comparisons.csv"), Comparison, rows)
    images = np.stack([BLACK, WHITE, WHITE, BLACK])
    write_arrays(Path("data/prepare/test.npz"), images=images, labels=np.array([0, 1, 0, 0], np.uint8))
    return tmp_dir


@pytest.mark.usefixtures("tmp_dir")
def test_only_files_in_int8_can_be_shipped() -> None:
    files = write_files()

    assert read_files() == [file for file in files if file.precision == "int8"]

    write_frontier(Path("data/frontier/frontier.csv"), files[:2], [], NUM_IMAGES)
    with pytest.raises(UserError, match=r"expected at least one LiteRT file in int8, got none: .* raise that limit"):
        read_files()


@pytest.mark.parametrize(
    ("limits", "names"),
    [
        ({}, ["a", "b", "c"]),
        ({"max_flash_bytes": 30}, ["a", "b"]),
        ({"max_flash_bytes": 29}, ["a"]),
        ({"max_ram_bytes": 7}, ["a", "b"]),
        ({"max_instructions": 100}, ["a", "b"]),
        ({"max_instructions": 99}, ["a"]),
        ({"max_size_bytes": 20}, ["a"]),
        ({"max_ram_bytes": 7, "max_size_bytes": 20}, ["a"]),
    ],
)
def test_a_file_is_within_the_budget_up_to_each_limit(limits: dict[str, int], names: list[str]) -> None:
    files = [file_of("a", 0.9, 10), file_of("b", 0.9, 20), file_of("c", 0.9, 30, ram_bytes=8)]

    assert [file.name for file in list_files_within(files, limit(**limits))] == names


def test_without_a_file_within_the_budget_limits_and_nearest_are_named() -> None:
    files = [
        file_of("far", 0.9, 1, ram_bytes=100),  # ten times what it may take
        file_of("near", 0.8, 110, ram_bytes=20),  # twice
        file_of("other", 0.9, 290, ram_bytes=10),  # three times
    ]

    with pytest.raises(UserError) as error:
        list_files_within(files, limit(max_flash_bytes=100, max_ram_bytes=10))

    assert str(error.value) == (
        "params.yaml: expected an int8 file within ship.max_flash_bytes (100) and ship.max_ram_bytes (10); got none of "
        "3: the nearest, near, takes 120 bytes of flash, more than ship.max_flash_bytes and 20 bytes of RAM, more "
        "than ship.max_ram_bytes; raise what it exceeds, compress further (prune.sparsities, shrink.macs_shares), or "
        "study smaller networks (study.models)"
    )


@pytest.mark.parametrize(
    "files",
    [
        [file_of("good", 0.94, 1000), file_of("small", 0.93, 10)],
        [file_of("small", 0.94, 10, size_bytes=999), file_of("good", 0.94, 11, size_bytes=30)],  # flash counts
        [file_of("a", 0.91, 10), file_of("b", 0.91, 10)],
    ],
)
def test_the_most_accurate_is_shipped_then_the_one_with_less_flash_then_the_first_by_name(
    files: list[RankedFile],
) -> None:
    scores = list_scores(files, "accuracy")

    assert select_file(files, scores) is select_file(files[::-1], scores) is files[0]


def test_the_reason_tells_what_more_accurate_files_take_beyond_the_limits() -> None:
    lamp, best = file_of("lamp-0.9", 0.937, 1224), file_of("finished", 0.942, 953_102)
    middle = file_of("middle", 0.94, 4990, ram_bytes=12)
    files, limits = [best, lamp, middle, file_of("bad", 0.9, 20)], limit(max_flash_bytes=5000, max_ram_bytes=10)

    assert explain(lamp, [lamp, files[3]], files, limits, 1000, list_scores(files, "accuracy")) == (
        "lamp-0.9 in int8 is the most accurate of the 2 of 4 int8 files that take at most 5,000 bytes of flash and 10 "
        "bytes of RAM: it has 93.70 % (92.0 to 95.0) of the validation images right, and takes 1,234 bytes of flash "
        "and 7 bytes of RAM. middle would be 0.30 points more accurate, but takes 12 bytes of RAM, more than "
        "ship.max_ram_bytes; finished would be 0.50 points more accurate, but takes 953,112 bytes of flash, more than "
        "ship.max_flash_bytes."
    )


def test_without_limits_the_reason_is_that_no_file_is_more_accurate() -> None:
    best, other = file_of("a", 0.937, 10), file_of("b", 0.9, 9)

    assert explain(best, [best, other], [best, other], limit(), 1000, list_scores([best, other], "accuracy")) == (
        "a in int8 is the most accurate of all int8 files: it has 93.70 % (92.0 to 95.0) of the validation images "
        "right. No int8 file of this run is more accurate."
    )


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ((1 / 255, -128), [-128, 127]),
        ((1 / 64, 0), [0, 64]),
        ((1 / 512, -128), [-128, 127]),  # what does not fit is clipped
    ],
)
def test_the_range_of_the_input_is_what_stands_for_black_and_white(
    quantization: tuple[float, int], expected: list[int]
) -> None:
    details = {"dtype": np.int8, "shape": np.array([1, 2, 2, 1]), "quantization": quantization}

    described = describe_input(details, "garment")
    assert (described["range"], described["scale"], described["zero_point"]) == (expected, *quantization)


@pytest.mark.parametrize(("channels", "words"), [(1, "grey level"), (3, "red, green and blue")])
def test_the_meaning_of_the_input_is_that_of_its_channels(channels: int, words: str) -> None:
    details = {"dtype": np.int8, "shape": np.array([1, 2, 2, channels]), "quantization": (1 / 255, -128)}

    assert words in describe_input(details, "pad")["meaning"]


def test_digits_are_grey_in_every_channel() -> None:
    digits = read_digits(4, channels=3, is_light_on_dark=True)

    assert digits.shape == (1797, 4, 4, 3)
    assert np.array_equal(digits, np.repeat(read_digits(4, channels=1, is_light_on_dark=True), 3, axis=-1))


def test_digits_can_be_dark_on_white() -> None:
    light, dark = (read_digits(8, channels=1, is_light_on_dark=is_light) for is_light in (True, False))

    assert np.abs(light.astype(int) + dark - 255).max() <= 1  # both are rounded


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
@pytest.mark.usefixtures("tmp_dir")
def test_the_metric_of_params_decides_among_the_files_within_the_budget(metric: str) -> None:
    files = [
        file_of(name, accuracy, size, variant=Variant("prune", name, 0.9, 42))
        for name, accuracy, size in (("accurate", 0.95, 10), ("fair", 0.9, 20), ("large", 0.9, 3000))
    ]
    files = [
        dataclasses.replace(file, **{f"val_{metric}": score})  # type: ignore[arg-type]
        for file, score in zip(files, (0.5, 0.8, 0.9), strict=True)
    ]
    limits = replace(limit(max_flash_bytes=100), metric=metric)

    scores = list_scores(files, metric)
    within = list_files_within(files, limits)
    reason = explain(select_file(within, scores), within, files, limits, 1000, scores)

    name = {"balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}[metric]
    assert reason == (
        f"fair in int8 has the best {name} of the 2 of 3 int8 files that take at most 100 bytes of flash: it has "
        f"80.00 % on validation images, and takes 30 bytes of flash. large would be 10.00 points of {name} better, but "
        "takes 3,010 bytes of flash, more than ship.max_flash_bytes."
    )


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
        (Variant("prune", "magnitude-0.5-cost", 0.9, 42), 14, "finished"),
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
    write_bytes(shipped.deployed / "model.c", b"its C")
    compared = Comparison(FILES[file.kind], f"{shipped.name} int8", "finished", 4, 0, -0.1, 0.1, 1, 1, UNKNOWN)
    write_rows(Path("data/frontier/comparisons.csv"), Comparison, [compared])

    params = replace(PARAMS, train=train, finish=finish, prune=prune)
    data = {"dataset": "letters", "class_names": CLASS_NAMES, "image_size_px": 2, "channels": 1, "fit": "pad"}
    write_card(file, {"name": shipped.name, **data, **dict.fromkeys(CLASS_SCORES, 0.5)}, {}, CHOICE, params)

    assert (told["epochs"], told["trained"]) == (epochs, trained)


def test_the_chosen_file_and_its_c_are_copied_byte_for_byte_beside_two_descriptions(
    folder: Path, contents: dict[str, bytes]
) -> None:
    stage.main()

    written = {path.name: path.read_bytes() for path in (folder / "data/ship").iterdir()}
    sources = {"model.tflite", "model.c", "model.h", "example.c"}
    assert set(written) == sources | {"model.json", "model_card.md", "coverage.csv", "ood.json", "ood.csv"}
    assert written["model.tflite"] == contents["int8"]
    assert (written["model.c"], written["model.h"]) == (b"/* uniform-0.9 */", b"/* header of uniform-0.9 */")
    assert written["example.c"] == (ROOT / "stages/lib/device/example.c").read_bytes()


def test_the_description_tells_all_that_a_program_has_to_know(folder: Path, contents: dict[str, bytes]) -> None:
    stage.main()

    model = read_json(folder / "data/ship/model.json")
    assert (model["name"], model["source"], model["precision"]) == ("uniform-0.9", "prune", "int8")
    assert model["sha256"] == sha256(contents["int8"]).hexdigest()
    assert (model["size_bytes"], model["gzip_size_bytes"]) == (1000, 500)
    assert (model["macs"], model["parameters"], model["sparsity"]) == (1000, 100, 0.875)
    assert model["device"] == DEVICE
    assert (model["class_names"], model["image_size_px"]) == (["dark", "light"], 2)
    assert (model["dataset"], model["fit"], model["background"]) == ("Fashion-MNIST", "garment", 255)
    assert model["channels"] == 1
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
        "uniform-0.9 in int8 is the most accurate of the 2 of 3 int8 files that take at most 4,000 bytes of flash"
    )


def test_of_pictures_that_are_no_garments_the_description_promises_nothing_light_on_black(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_params(monkeypatch, fit="crop", background=3, max_flash_bytes=4000)

    stage.main()

    model = read_json(folder / "data/ship/model.json")
    assert (model["fit"], model["background"]) == ("crop", 3)
    assert model["input"]["meaning"] == "grey level / 255, 0 black to 1 white"
    card = (folder / "data/ship/model_card.md").read_text()
    assert "light on black" not in card
    assert (
        "laid on a background of 3 of 255 where it is transparent, turned grey, and cut to the square in its middle"
        in card
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
    light = read_digits(2, channels=1, is_light_on_dark=True).reshape(-1, 4).sum(axis=1) / 255
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
    set_params(monkeypatch)

    stage.main()

    model = read_json(folder / "data/ship/model.json")
    assert (model["name"], "sparsity" in model) == ("finished", False)


def test_test_accuracies_choose_nothing(folder: Path) -> None:
    write_files(test_accuracies=(0.9, 0.8, 0.7, 0.6))

    stage.main()

    assert read_json(folder / "data/ship/model.json")["name"] == "uniform-0.9"


def test_the_card_has_recorded_times_of_this_very_file_and_else_none(folder: Path, contents: dict[str, bytes]) -> None:
    stage.main()
    names = ("model.json", "model.tflite")
    before = [(folder / "data/ship" / name).read_bytes() for name in names]
    card = (folder / "data/ship/model_card.md").read_text()
    assert "The time of the C was not measured." in card
    assert "Time and memory of `model.tflite` were not measured." in card
    times = ("median_ms", "p25_ms", "p75_ms", "batch_32_median_ms", "batch_32_p25_ms", "batch_32_p75_ms")
    known = dict.fromkeys(times, 0.125) | {"runs": 9, "num_threads": 1, "cpu": "a CPU", "runtime": "a runtime"}
    known |= {"peak_memory_mib": 60.0, "runtime_memory_mib": 8.0}
    of_c = {"cpu": "a CPU", "num_threads": 1, "compiler": "a compiler"}
    of_c |= {
        name: {"median_ms": ms, "p25_ms": 0.05, "p75_ms": 0.08, "runs": 99}
        for name, ms in (("c", 0.0625), ("int8", 0.2))
    }
    recorded = {
        "stages": [],
        "trainings": {sha256(b"weights").hexdigest(): {"date": "2026-11-23", "python": "3.11"}},
        "latencies": {sha256(contents["int8"]).hexdigest(): known},
        "c_latencies": {sha256(b"/* uniform-0.9 */").hexdigest(): of_c},
    }
    Path("data/recorded_times.json").write_text(json.dumps(recorded))

    stage.main()

    card = (folder / "data/ship/model_card.md").read_text()
    assert "0.125 ms for one image" in card
    assert "built by a compiler: 0.062 ms for one image in C (median of 99 runs; quartiles 0.050 and 0.080); in" in card
    assert "turns with it, 0.200 ms in LiteRT." in card
    assert "was trained on 2026-11-23 with python 3.11." in card
    assert [(folder / "data/ship" / name).read_bytes() for name in names] == before


def test_the_lines_of_the_card_say_what_predict_says_with_nothing_but_the_model(folder: Path) -> None:
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


@pytest.mark.parametrize(
    "missing",
    ["data/export/prune/uniform-0.9/int8.tflite", "data/deploy/prune/uniform-0.9/model.c"],
)
def test_a_chosen_file_that_is_gone_is_named(folder: Path, missing: str) -> None:
    (folder / missing).unlink()

    with pytest.raises(UserError, match=f"^{re.escape(missing)}: not found; run `dvc repro`"):
        stage.main()
    assert not (folder / "data/ship").exists()
