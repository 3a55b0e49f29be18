import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from sections import augmentation, replace

from stages import evaluate as stage
from stages.evaluate import (
    distort,
    find_confident_mistakes,
    list_class_scores,
    measure_on_test_images,
    plot_mistakes,
    predict_under_distortions,
)
from stages.lib.errors import UserError
from stages.lib.network.architecture import list_layers
from stages.lib.network.metrics import compute_expected_calibration_error, compute_probabilities, compute_reliability
from stages.lib.network.model import build_model, predict_logits, read_model, write_model
from stages.lib.network.pixels import to_network_input
from stages.lib.params.load import load_params
from stages.lib.params.sections import EvaluateParams, ModelParams
from stages.lib.running import arguments
from stages.lib.storage.files import read_arrays, read_csv, read_json, write_arrays

NONE = augmentation()
FLIP = augmentation(horizontal_flip=True)
STRONG = augmentation(rotation_degrees=8, shift_fraction=0.2, zoom_fraction=0.2)
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 6, 6), np.uint8)
LABELS = (np.arange(12) % 3).astype(np.uint8)
CLASS_NAMES = ("Trouser", "Coat", "Bag")


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def test_a_regime_that_changes_nothing_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "predict_logits", lambda _model, x: np.eye(3)[np.zeros(len(x), int)])

    predicted = predict_under_distortions(
        None, to_network_input(IMAGES), {"none": NONE, "strong": STRONG, "flip": FLIP}, 1
    )

    assert {name: labels.tolist() for name, labels in predicted.items()} == {
        "under_strong": [0] * 12,
        "under_flip": [0] * 12,
    }


def test_every_model_sees_the_same_distorted_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[np.ndarray]] = {"one": [], "other": []}

    def predict(model: str, x: np.ndarray) -> np.ndarray:
        seen[model].append(x)
        return np.zeros((len(x), 3))

    monkeypatch.setattr(stage, "predict_logits", predict)
    x = to_network_input(IMAGES)
    for model in seen:
        predict_under_distortions(model, x, {"strong": STRONG, "flip": FLIP}, 1)

    assert len(seen["one"]) == 2
    for one, other in zip(seen["one"], seen["other"], strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(seen["one"][0], distort(x, STRONG, 1))


def test_accuracy_loss_and_calibration_error_are_measured() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
    y_true = np.array([0, 0, 1, 1], np.uint8)
    reliability = compute_reliability(y_true, probabilities, 10)

    metrics = measure_on_test_images(y_true, probabilities, reliability)

    assert metrics == {
        "test_accuracy": 0.75,
        "test_balanced_accuracy": 0.75,
        "test_macro_f1": round((0.8 + 2 / 3) / 2, 6),  # three are taken for class 0, two of them rightly
        "test_loss": round(-float(np.log([0.9, 0.6, 0.8, 0.3]).mean()), 6),
        "calibration_error": round(compute_expected_calibration_error(reliability), 6),
    }
    assert metrics["calibration_error"] == 0.35  # (0.1 + 0.4 + 0.2 + 0.7) / 4: each image alone in its bin


def test_class_scores_are_listed_with_four_decimals() -> None:
    confusion_matrix = np.array([[3, 1, 0], [0, 2, 0], [1, 0, 0]])  # rows are true classes

    assert list_class_scores(confusion_matrix, CLASS_NAMES) == [
        {"class": "Trouser", "precision": "0.7500", "recall": "0.7500", "f1": "0.7500", "images": 4},
        {"class": "Coat", "precision": "0.6667", "recall": "1.0000", "f1": "0.8000", "images": 2},
        {"class": "Bag", "precision": "0.0000", "recall": "0.0000", "f1": "0.0000", "images": 1},
    ]


PROBABILITIES = np.array(
    [[0.6, 0.4], [0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.05, 0.95], [0.2, 0.8]]  # predicted 0, 1, 0, 1, 1, 1
)
ALL_BUT_TWO_WRONG = np.array([1, 1, 1, 0, 1, 0], np.uint8)  # images 0, 2, 3, 5 are wrong: 0.6, 0.8, 0.7, 0.8 confident


def test_the_most_confident_mistakes_come_first_and_ties_in_the_order_of_the_images() -> None:
    assert find_confident_mistakes(ALL_BUT_TWO_WRONG, PROBABILITIES, 10).tolist() == [2, 5, 3, 0]
    assert find_confident_mistakes(ALL_BUT_TWO_WRONG, PROBABILITIES, 3).tolist() == [2, 5, 3]
    assert find_confident_mistakes(PROBABILITIES.argmax(axis=1), PROBABILITIES, 5).tolist() == []


def shown(axes: list[Axes]) -> list[Axes]:
    return [axis for axis in axes if axis.images]


def test_the_gallery_names_truth_prediction_and_confidence() -> None:
    probabilities = np.array([[0.1, 0.65, 0.25], [0.0, 0.001, 0.999]])

    figure = plot_mistakes(IMAGES[:2], np.array([0, 1]), probabilities, CLASS_NAMES, "small-none")

    assert [axis.get_title() for axis in shown(figure.axes)] == [
        "Trouser, taken for\nCoat (65.0 %)",
        "Coat, taken for\nBag (99.9 %)",
    ]
    assert np.array_equal(np.asarray(shown(figure.axes)[1].images[0].get_array()), IMAGES[1])


def test_the_gallery_shows_coloured_images_as_they_are() -> None:
    images = np.random.default_rng(3).integers(0, 256, (2, 6, 6, 3), np.uint8)

    figure = plot_mistakes(images, np.array([0, 1]), np.full((2, 3), 1 / 3), CLASS_NAMES, "small-none")

    for axis, image in zip(shown(figure.axes), images, strict=True):
        assert np.array_equal(np.asarray(axis.images[0].get_array()), image)


@pytest.mark.parametrize("num_images", [0, 6, 7])
def test_the_gallery_takes_any_number_of_images(num_images: int) -> None:
    figure = plot_mistakes(
        IMAGES[:num_images], LABELS[:num_images], np.full((num_images, 3), 1 / 3), CLASS_NAMES, "small-none"
    )

    assert len(shown(figure.axes)) == num_images
    assert f"the {num_images} most" in figure.get_suptitle()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is a folder in which the stage can measure untrained models, a candidate and a finished one, on 12 images."""
    params = load_params()
    tiny = ModelParams(
        blocks=((2,),), separable=False, residual=False, global_pool=False, dense=(), batch_norm=(), dropout=0.0
    )
    params = replace(
        params,
        dataset=replace(params.dataset, image_size_px=6, class_names=CLASS_NAMES),
        models={"tiny": tiny},
        augmentations={"none": NONE, "strong": STRONG, "unused": FLIP},
        study=replace(params.study, models=("tiny",), augmentations=("none", "strong"), seeds=(42, 7)),
        evaluate=EvaluateParams(calibration_bins=5, gallery_images=4),
    )
    monkeypatch.setattr(stage, "load_params", lambda **_: params)
    monkeypatch.setattr(arguments, "load_params", lambda: params)
    monkeypatch.chdir(tmp_path)
    write_arrays(Path("data/prepare/test.npz"), images=IMAGES, labels=LABELS)
    for seed, name in enumerate(("train/tiny-none/42", "finish/42")):
        write_model(Path(f"data/{name}/model.h5"), build_model(list_layers(6, 3, **tiny.model_dump()), seed))
    return tmp_path


def measure(name: str, seed: str = "42") -> Path:
    """Runs the stage; returns the folder of its outputs."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sys, "argv", ["evaluate", name, seed])
        stage.main()
    return Path("data/evaluate") / name / seed


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "path"), [("tiny-none", "data/train/tiny-none/42/model.h5"), ("finished", "data/finish/42/model.h5")]
)
def test_the_stage_writes_its_five_files_with_numbers_of_this_model_that_agree(name: str, path: str) -> None:
    output = measure(name)

    metrics: dict[str, Any] = read_json(output / "metrics.json")
    names = ("labels", "as_they_are", "under_strong", "probabilities")
    labels, plain, distorted, probabilities = read_arrays(output / "predictions.npz", *names)
    assert {path.name for path in output.iterdir()} == {
        "metrics.json",
        "classes.csv",
        "predictions.npz",
        "reliability.png",
        "gallery.png",
    }
    assert list(metrics) == [
        *("test_accuracy", "test_balanced_accuracy", "test_macro_f1", "test_loss", "calibration_error"),
        "test_accuracy_under_strong",
    ]
    assert np.array_equal(labels, LABELS)
    assert {array.dtype for array in (labels, plain, distorted)} == {np.dtype(np.uint8)}
    assert metrics["test_accuracy"] == np.mean(plain == LABELS)
    assert metrics["test_accuracy_under_strong"] == np.mean(distorted == LABELS)
    rows = read_csv(output / "classes.csv")
    assert [row["class"] for row in rows] == list(CLASS_NAMES)
    assert sum(float(row["recall"]) * int(row["images"]) for row in rows) == np.sum(plain == LABELS)
    logits = predict_logits(read_model(Path(path)), to_network_input(IMAGES))
    assert probabilities.dtype == np.float16
    np.testing.assert_allclose(probabilities, compute_probabilities(logits), atol=5e-4)
    assert np.array_equal(plain, logits.argmax(axis=1))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "seed", "path"),
    [("tiny-none", "7", "data/train/tiny-none/7/model.h5"), ("finished", "7", "data/finish/7/model.h5")],
)
def test_a_missing_model_is_named_with_the_remedy(name: str, seed: str, path: str) -> None:
    with pytest.raises(UserError, match=f"{path}: not found.*; run `dvc repro`"):
        measure(name, seed)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "seed", "message"),
    [
        ("tiny-nine", "42", "candidate: unknown name 'tiny-nine'; did you mean 'tiny-none'"),
        ("finish", "42", "candidate: unknown name 'finish'; did you mean 'finished'"),
        ("tiny-none", "8", "seed: unknown name '8'; known: 42, 7"),
    ],
)
def test_an_unknown_name_is_refused(name: str, seed: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        measure(name, seed)
