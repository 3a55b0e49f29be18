import itertools
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sections import replace

from stages import ship as stage
from stages.lib.errors import UserError
from stages.lib.litert.convert import convert_to_float32, convert_to_int8
from stages.lib.network.keras2 import keras
from stages.lib.params.load import load_params
from stages.lib.params.sections import ShipParams
from stages.lib.storage.files import read_csv, read_json, write_arrays, write_bytes, write_csv, write_json
from stages.ship import (
    count_scratch_epochs,
    describe_input,
    describe_tensor,
    explain,
    list_confused,
    list_good_files,
    list_prune_recipe,
    list_recipe,
    measure,
    read_files,
    read_latency,
    select_file,
)

PARAMS = load_params()
COMPRESSION = load_params()
CLASS_NAMES = ("dark", "light")
CHOSEN = {"chosen": "third-flip", "val_accuracy": 0.94}
DVC_OUTPUTS = {"model.tflite", "model.json"}
BLACK, WHITE = np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)


def file_of(name: str, val_accuracy: float, gzip_size: int, precision: str = "int8", **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "source": "prune",
        "precision": precision,
        "size_bytes": 2 * gzip_size,
        "gzip_size_bytes": gzip_size,
        "macs": 100,
        "parameters": 10,
        "val_accuracy": val_accuracy,
        "sparsity": 0.5,
    } | changes


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """Is one network in both precisions: light if an image of 2 x 2 pixels is more than half white."""
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    kernel = np.stack([np.zeros(4), np.ones(4)], axis=1).astype(np.float32)
    model.layers[-1].set_weights([kernel, np.array([0, -2], np.float32)])
    images = np.stack([BLACK, WHITE])
    return {"float32": convert_to_float32(model), "int8": convert_to_int8(model, images, 8)}


@pytest.fixture
def folder(tmp_dir: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is a folder with three models, of which uniform-0.9 in int8 is to be shipped, and four test images."""
    dataset = replace(PARAMS.dataset, class_names=CLASS_NAMES, image_size_px=2)
    params = replace(PARAMS, dataset=dataset)
    compression = replace(COMPRESSION, ship=ShipParams(max_loss=0.005))
    monkeypatch.setattr(stage, "load_params", lambda **_: params)
    monkeypatch.setattr(stage, "load_params", lambda **_: compression)
    write_json(Path("data/select_model/metrics.json"), CHOSEN)
    rows = [row_of("third-flip", "keras", "float32", 0.94, 50)]
    models = {
        "third-flip": ("dense", 0.94, 4000),
        "uniform-0.9": ("pruned", 0.936, 500),
        "lamp-0.5": ("pruned", 0.9, 9),
    }
    for (name, (kind, accuracy, size)), precision in itertools.product(models.items(), contents):
        size = size if precision == "int8" else 4 * size
        rows.append(row_of(name, "tflite", precision, accuracy, size) | {"kind": kind})
        source = {"dense": "train", "pruned": "prune"}[kind]
        write_bytes(Path(f"data/export/{source}/{name}/{precision}.tflite"), contents[precision])
    published = row_of("WRN", "", "float32", 0, 0) | {"kind": "published"} | dict.fromkeys(("val_accuracy", "macs"))
    write_csv(Path("data/frontier/frontier.csv"), [*rows, published])
    images = np.stack([BLACK, WHITE, WHITE, BLACK])
    write_arrays(Path("data/prepare/test.npz"), images=images, labels=np.array([0, 1, 0, 0], np.uint8))
    return tmp_dir


def row_of(name: str, format_: str, precision: str, accuracy: float, size: int) -> dict[str, Any]:
    """A row of frontier.csv, as far as this stage reads it."""
    return {
        "name": name,
        "kind": "dense",
        "format": format_,
        "precision": precision,
        "val_accuracy": accuracy,
        "test_accuracy": 0.5,
        "size_bytes": 2 * size,
        "gzip_size_bytes": size,
        "macs": 1000,
        "parameters": 100,
        "sparsity": 0.875,
    }


def write_latency(content: bytes) -> dict[str, str]:
    row = {
        "median_ms": "0.125",
        "p25_ms": "0.1",
        "p75_ms": "0.2",
        "runs": "9",
        "batch_32_median_ms": "3.2",
        "batch_32_p25_ms": "3.0",
        "batch_32_p75_ms": "4.0",
        "batch_32_runs": "9",
        "peak_memory_mib": "60.0",
        "runtime_memory_mib": "8.0",
        "num_threads": "1",
        "cpu": "a CPU",
        "runtime": "ai-edge-litert 2.3.0",
        "sha256": sha256(content).hexdigest(),
    }
    write_csv(Path("data/frontier/latency.csv"), [row])
    return row


@pytest.mark.usefixtures("folder")
def test_only_exported_files_can_be_shipped() -> None:
    files = read_files()

    assert [(file["name"], file["source"], file["precision"]) for file in files] == [
        ("third-flip", "train", "float32"),
        ("third-flip", "train", "int8"),
        ("uniform-0.9", "prune", "float32"),
        ("uniform-0.9", "prune", "int8"),
        ("lamp-0.5", "prune", "float32"),
        ("lamp-0.5", "prune", "int8"),
    ]
    assert files[3] == file_of("uniform-0.9", 0.936, 500, macs=1000, parameters=100, sparsity=0.875)


@pytest.mark.parametrize(
    ("accuracy", "chosen", "max_loss", "is_good"),
    [
        (0.935, 0.94, 0.005, True),
        (0.9349, 0.94, 0.005, False),
        (0.942, 0.9438, 0.0018, True),  # in floating point, the difference is above the limit
        (0.95, 0.94, 0.0, True),
        (0.94, 0.94, 0.0, True),
        (11_279 / 12_000, 11_300 / 12_000, 20 / 12_000, False),  # one image too many
    ],
)
def test_a_file_is_good_up_to_the_limit(accuracy: float, chosen: float, max_loss: float, is_good: bool) -> None:
    sure, file = file_of("sure", 1, 10), file_of("a", accuracy, 10)

    good = list_good_files([sure, file], {"chosen": "x", "val_accuracy": chosen}, max_loss)

    assert good == ([sure, file] if is_good else [sure])


def test_without_a_good_file_limit_and_nearest_are_named() -> None:
    files = [file_of("far", 0.8, 1), file_of("near", 0.9321, 10), file_of("other", 0.9, 5)]

    with pytest.raises(UserError) as error:
        list_good_files(files, CHOSEN, 0.005)

    assert str(error.value) == (
        "params.yaml: ship.max_loss: expected a file whose validation accuracy is at most 0.005 below the 0.9400 of "
        "third-flip; got 0.9321 at best, of near in int8; raise that limit, or compress less"
    )


@pytest.mark.parametrize(
    "files",
    [
        [file_of("small", 0.91, 10), file_of("good", 0.94, 11)],
        [file_of("good", 0.92, 10), file_of("bad", 0.91, 10)],
        [file_of("a", 0.91, 10), file_of("b", 0.91, 10)],
        [file_of("a", 0.91, 10, "float32"), file_of("a", 0.91, 10, "int8")],
    ],
)
def test_the_smallest_is_shipped_then_the_more_accurate_then_the_first_by_name(files: list[dict[str, Any]]) -> None:
    assert select_file(files) is select_file(files[::-1]) is files[0]


def test_the_size_that_counts_is_the_gzipped_one() -> None:
    files = [file_of("a", 0.9, 10, size_bytes=999), file_of("b", 0.9, 20, size_bytes=30)]

    assert select_file(files)["name"] == "a"


def test_the_reason_tells_rule_and_numbers() -> None:
    assert explain(file_of("lamp-0.9", 0.9367, 1234), 3, 40, CHOSEN, 0.005) == (
        "lamp-0.9 in int8 is the smallest once gzipped (1,234 bytes) of the 3 of 40 files that lose at most 0.5 points "
        "of validation accuracy against third-flip (94.00 %): it has 93.67 %."
    )


def test_a_quantized_tensor_is_described_with_scale_and_zero_point() -> None:
    details = {"dtype": np.int8, "shape": np.array([100, 28, 28, 1]), "quantization": (np.float32(0.25), np.int64(-3))}

    described = describe_tensor(details, "grey")

    assert described == {"dtype": "int8", "shape": [1, 28, 28, 1], "scale": 0.25, "zero_point": -3, "meaning": "grey"}
    assert [type(value) for value in (*described["shape"], described["scale"])] == [int] * 4 + [float]


def test_a_float_tensor_has_no_scale() -> None:
    details = {"dtype": np.float32, "shape": np.array([1, 2]), "quantization": (0.0, 0)}

    described = describe_tensor(details, "")

    assert (described["dtype"], described["scale"], described["zero_point"]) == ("float32", None, None)


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

    assert describe_input(details)["range"] == expected


def test_the_most_frequent_mistakes_come_first_and_hits_are_none() -> None:
    matrix = np.array([[90, 1, 9], [0, 100, 0], [20, 0, 80]])

    assert list_confused(matrix, ["a", "b", "c"]) == [
        {"actual": "c", "predicted": "a", "images": 20},
        {"actual": "a", "predicted": "c", "images": 9},
        {"actual": "a", "predicted": "b", "images": 1},
    ]


def test_at_most_three_mistakes_are_listed_and_none_that_were_not_made() -> None:
    assert list_confused(np.diag([3, 4]), ["a", "b"]) == []
    assert len(list_confused(np.arange(16).reshape(4, 4), list("abcd"))) == 3


def test_recall_and_precision_are_of_each_class() -> None:
    logits = np.log([[0.75, 0.25], [0.25, 0.75], [0.25, 0.75], [0.75, 0.25]]).astype(np.float32)

    measured = measure(np.array([0, 1, 0, 0]), logits, CLASS_NAMES, num_bins=2)

    assert measured == {
        "test_accuracy": 0.75,
        "mean_confidence": pytest.approx(0.75, abs=1e-6),
        "calibration_error": pytest.approx(0.0, abs=1e-6),  # confidence 0.75, and three of four are right
        "classes": [
            {"class": "dark", "recall": 0.666667, "precision": 1.0, "images": 3},
            {"class": "light", "recall": 1.0, "precision": 0.5, "images": 1},
        ],
        "most_confused": [{"actual": "dark", "predicted": "light", "images": 1}],
    }


@pytest.mark.usefixtures("tmp_dir")
def test_the_times_of_another_file_are_not_those_of_the_shipped_one() -> None:
    digest = sha256(b"file").hexdigest()
    assert read_latency(digest) is None

    write_latency(b"another")
    assert read_latency(digest) is None

    row = write_latency(b"file")
    assert read_latency(digest) == row


@pytest.mark.parametrize(
    ("source", "name", "dense"), [("train", "first-flip", "first-flip"), ("prune", "lamp-0.9", "third-flip")]
)
def test_the_recipe_is_of_the_model_that_the_file_was_made_of(source: str, name: str, dense: str) -> None:
    recipe = list_recipe(file_of(name, 0.9, 1, source=source), CHOSEN, PARAMS.train, COMPRESSION)

    assert recipe["dense"] == dense
    assert recipe["epochs"] == PARAMS.train.epochs
    assert recipe["scratch_epochs"] == 0
    assert recipe.get("prune_batch_size") == (COMPRESSION.prune.batch_size if source == "prune" else None)


@pytest.mark.parametrize("name", ["scratch-flip", "lamp-flip"])
def test_a_network_may_have_the_name_of_a_ranking_or_a_way_of_shrinking(name: str) -> None:
    recipe = list_recipe(file_of(name, 0.9, 1, source="train"), CHOSEN, PARAMS.train, COMPRESSION)

    assert (recipe["dense"], recipe["scratch_epochs"]) == (name, 0)
    assert "prune_epochs" not in recipe


def test_a_pruned_model_took_the_epochs_and_the_rates_of_all_steps_up_to_its_own() -> None:
    prune = replace(COMPRESSION.prune, sparsities=(0.5, 0.9, 0.95), epochs=(1, 2, 4), learning_rate=(0.2, 0.1, 0.3))

    recipes = [list_prune_recipe(name, prune) for name in ("lamp-0.5", "lamp-0.9", "lamp-0.95")]

    assert [recipe["prune_epochs"] for recipe in recipes] == [1, 3, 7]
    assert [recipe["prune_learning_rates"] for recipe in recipes] == [(0.2, 0.2), (0.1, 0.2), (0.1, 0.3)]


def test_a_network_that_was_trained_anew_took_the_epochs_of_all_steps() -> None:
    shrink = replace(COMPRESSION.shrink, macs_shares=(0.5, 0.25), epochs=4)

    assert [count_scratch_epochs(f"scratch-{share}", 7, shrink) for share in (0.5, 0.25)] == [11, 15]


def test_the_stage_writes_its_three_files_and_no_others(folder: Path) -> None:
    stage.main()

    assert {path.name for path in (folder / "data/ship").iterdir()} == DVC_OUTPUTS | {"model_card.md"}


def test_the_chosen_file_is_copied_byte_for_byte(folder: Path, contents: dict[str, bytes]) -> None:
    stage.main()

    assert (folder / "data/ship/model.tflite").read_bytes() == contents["int8"]


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
    assert [row["recall"] for row in model["classes"]] == [0.666667, 1.0]
    assert model["most_confused"] == [{"actual": "dark", "predicted": "light", "images": 1}]


def test_only_a_pruned_model_has_a_sparsity(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compression = replace(COMPRESSION, ship=ShipParams(max_loss=0.0))
    monkeypatch.setattr(stage, "load_params", lambda **_: compression)

    stage.main()

    model = read_json(folder / "data/ship/model.json")
    assert (model["name"], "sparsity" in model) == ("third-flip", False)


def test_test_accuracies_choose_nothing(folder: Path) -> None:
    path = folder / "data/frontier/frontier.csv"
    rows = read_csv(path)
    for index, row in enumerate(rows):
        row["test_accuracy"] = str(1 / (index + 1))
    write_csv(path, rows)

    stage.main()

    assert read_json(folder / "data/ship/model.json")["name"] == "uniform-0.9"


def write_times(folder: Path) -> None:
    write_latency((folder / "data/export/prune/uniform-0.9/int8.tflite").read_bytes())


@pytest.mark.parametrize("change", [lambda _: None, write_times])
def test_dvc_outputs_are_the_same_bytes_in_every_run_whatever_the_times(
    folder: Path, change: Callable[[Path], None]
) -> None:
    def run() -> dict[str, bytes]:
        stage.main()
        return {name: (folder / "data/ship" / name).read_bytes() for name in DVC_OUTPUTS}

    before = run()
    change(folder)

    assert run() == before


def test_the_card_has_the_times_of_the_file_and_versions(folder: Path) -> None:
    write_times(folder)

    stage.main()

    card = (folder / "data/ship/model_card.md").read_text()
    assert card.startswith("# uniform-0.9, int8\n")
    assert "0.125 ms for one image" in card
    assert "ai-edge-litert 2." in card


def test_a_chosen_file_that_is_gone_is_named(folder: Path) -> None:
    (folder / "data/export/prune/uniform-0.9/int8.tflite").unlink()

    with pytest.raises(UserError, match=r"data/export/prune/uniform-0\.9/int8\.tflite: not found; run `dvc repro`"):
        stage.main()
