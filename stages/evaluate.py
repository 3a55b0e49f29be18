"""How good is one trained model on images that nothing was chosen on?

Run as `python -m stages.evaluate CANDIDATE SEED`, where a candidate is <model>-<augmentation>, or finished.

Reads:
    data/train/<candidate>/<seed>/model.h5; data/finish/<seed>/model.h5 of the finished one.
    data/prepare/test.npz: `images` uint8, `labels` (N,) uint8.

Writes, in data/evaluate/<candidate>/<seed>/:
    metrics.json: test accuracy, balanced accuracy, macro-F1 and loss, expected calibration error, accuracy on images
        distorted by each regime.
    classes.csv: precision, recall and F1 of each class.
    predictions.npz: `labels`, and the predicted ones of the images `as_they_are` and `under_<regime>`, each (N,) uint8;
        `probabilities` of the images as they are, (N, classes) float16.
    reliability.png: confidence against accuracy.   gallery.png: the most confident mistakes.

Other stages show these numbers; no choice rests on them.
"""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from stages.lib.network.keras2 import keras, tf
from stages.lib.network.metrics import (
    compute_accuracy,
    compute_class_scores,
    compute_confusion_matrix,
    compute_cross_entropy_loss,
    compute_expected_calibration_error,
    compute_probabilities,
    compute_reliability,
    measure_labels,
)
from stages.lib.network.model import predict_logits, read_model
from stages.lib.network.pixels import to_network_input
from stages.lib.params.load import load_params
from stages.lib.params.sections import AugmentationParams
from stages.lib.pictures.gallery import plot_gallery
from stages.lib.pictures.style import COLORS, write_figure
from stages.lib.running.arguments import list_names, parse_names
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import read_split, write_arrays, write_csv, write_json
from stages.lib.storage.variant import Variant, name_finished
from stages.lib.training.augmentation import augment

READS = ("seed", "dataset.class_names", "study.augmentations", "augmentations", "evaluate")
TEST_SET = Path("data/prepare/test.npz")
OUTPUT = Path("data/evaluate")


def distort(x: np.ndarray, augmentation: AugmentationParams, seed: int) -> np.ndarray:
    """Applies a regime to (N, size, size, channels) float32 images in [0, 1], the same for every model."""
    return augment(tf.constant(x), tf.constant([seed, -1], tf.int64), augmentation).numpy()


def measure_on_test_images(y_true: np.ndarray, probabilities: np.ndarray, reliability: np.ndarray) -> dict[str, float]:
    """Measures accuracy, also with all classes alike, loss and calibration.

    Args:
        y_true: (N,) integer labels.
        probabilities: (N, classes), rows sum to 1.
        reliability: of these, from `compute_reliability`.

    Returns:
        `test_accuracy`, `test_balanced_accuracy`, `test_macro_f1` and `calibration_error`, fractions in [0, 1], and
        `test_loss`, the cross-entropy in nats.
    """
    measured = measure_labels(y_true, probabilities.argmax(axis=1), probabilities.shape[1])
    return {
        **{f"test_{name}": value for name, value in measured.items()},
        "test_loss": round(compute_cross_entropy_loss(y_true, probabilities), 6),
        "calibration_error": round(compute_expected_calibration_error(reliability), 6),
    }


def predict_under_distortions(
    model: keras.Model, x: np.ndarray, augmentations: Mapping[str, AugmentationParams], seed: int
) -> dict[str, np.ndarray]:
    """Predicts the labels of distorted images, as under_<regime>, for each regime that changes images.

    Args:
        model: from x to logits.
        x: (N, size, size, channels) float32 in [0, 1].
        augmentations: the regimes by name.
        seed: of the distortions.
    """
    return {
        f"under_{name}": predict_logits(model, distort(x, augmentation, seed)).argmax(axis=1)
        for name, augmentation in augmentations.items()
        if not augmentation.is_identity
    }


def list_class_scores(confusion_matrix: np.ndarray, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Lists class, precision, recall, F1 and number of images, a row per class."""
    scores, counts = compute_class_scores(confusion_matrix), confusion_matrix.sum(axis=1)
    return [
        {"class": name, "precision": f"{p:.4f}", "recall": f"{r:.4f}", "f1": f"{f:.4f}", "images": int(count)}
        for name, (p, r, f), count in zip(class_names, scores, counts, strict=True)
    ]


def plot_reliability(reliability: np.ndarray, error: float, title: str) -> Figure:
    """Plots (bins, 3) from `compute_reliability`: above, accuracy by confidence; below, the share of images by bin."""
    num_bins = len(reliability)
    share, confidence, accuracy = reliability.T
    filled = share > 0
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(4.2, 5), sharex=True, height_ratios=[3, 1])
    top.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="perfectly calibrated")
    top.plot(confidence[filled], accuracy[filled], marker="o", color=COLORS[0], label="this model")
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    top.set_title(f"{title}\nexpected calibration error {100 * error:.2f} %")
    top.legend(loc="upper left", frameon=False)
    bottom.bar((np.arange(num_bins) + 0.5) / num_bins, 100 * share, width=0.9 / num_bins, color=COLORS[0])
    bottom.set(xlabel="confidence (probability of the predicted class)", ylabel="% of images")
    return figure


def plot_mistakes(
    images: np.ndarray, y_true: np.ndarray, probabilities: np.ndarray, class_names: tuple[str, ...], title: str
) -> Figure:
    """Plots N >= 0 stored images with true and predicted class and the probability of the latter."""
    texts = [
        f"{class_names[true]}, taken for\n{class_names[shares.argmax()]} ({100 * shares.max():.1f} %)"
        for true, shares in zip(y_true, probabilities, strict=True)
    ]
    title = f"{title}: the {len(images)} most confident mistakes on the test images"
    return plot_gallery(list(images), texts, title)


def find_confident_mistakes(y_true: np.ndarray, probabilities: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices of at most `count` wrongly predicted images, those with the most confident answer first."""
    y_pred = probabilities.argmax(axis=1)
    mistakes = np.flatnonzero(y_pred != y_true)
    confidence = probabilities[mistakes, y_pred[mistakes]]
    return mistakes[np.argsort(-confidence, kind="stable")[:count]]


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    candidates = {"-".join(names): names for names in product(list_names("models"), list_names("augmentations"))}
    name, seed = parse_names(__doc__, candidate=["finished", *candidates], seed="study.seeds")
    made = name_finished(int(seed)) if name == "finished" else Variant("train", *candidates[name], seed=int(seed))
    output, class_names = OUTPUT / name / seed, params.dataset.class_names
    images, y_true = read_split(TEST_SET)
    model, x = read_model(made.folder / "model.h5"), to_network_input(images)
    augmentations = {regime: params.augmentations[regime] for regime in params.study.augmentations}

    probabilities = compute_probabilities(predict_logits(model, x))
    reliability = compute_reliability(y_true, probabilities, params.evaluate.calibration_bins)
    metrics = measure_on_test_images(y_true, probabilities, reliability)
    distorted = predict_under_distortions(model, x, augmentations, params.seed)
    metrics |= {f"test_accuracy_{regime}": compute_accuracy(y_true, y_pred) for regime, y_pred in distorted.items()}
    write_json(output / "metrics.json", metrics)
    predicted = {"as_they_are": probabilities.argmax(axis=1), **distorted}
    compact = {name: y_pred.astype(np.uint8) for name, y_pred in predicted.items()}
    write_arrays(output / "predictions.npz", labels=y_true, **compact, probabilities=probabilities.astype(np.float16))
    confusion_matrix = compute_confusion_matrix(y_true, predicted["as_they_are"], len(class_names))
    write_csv(output / "classes.csv", list_class_scores(confusion_matrix, class_names))

    figure = plot_reliability(reliability, metrics["calibration_error"], title=name)
    write_figure(output / "reliability.png", figure)
    shown = find_confident_mistakes(y_true, probabilities, params.evaluate.gallery_images)
    figure = plot_mistakes(images[shown], y_true[shown], probabilities[shown], class_names, title=name)
    write_figure(output / "gallery.png", figure)
    print(f"{output}: test accuracy {metrics['test_accuracy']:.4f}")


if __name__ == "__main__":
    run_stage(main)
