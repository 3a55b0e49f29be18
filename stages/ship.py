"""Which file goes to production? Chooses one of the exported files, on validation images only, and describes it.

Reads:
    data/frontier/frontier.csv: every file with its numbers.   comparisons.csv: which files differ on the test images.
    data/prepare/val.npz: the chosen file is run on them, to fit its confidence; and how many there are.
    data/select_model/choice.json; data/finish/<seed>/: metrics.json and model.h5 of the finished dense model.
    data/export/<source>/<name>/<precision>.tflite: the file that is chosen.
    data/prepare/test.npz: `images` (N, size, size) uint8, `labels` (N,) uint8; the chosen file is run on them.
    The 1,797 handwritten digits that scikit-learn brings: pictures of other things, on which it is run, too.
    Times and versions, recorded or of this machine (`stages.lib.results.times`).

Writes, in data/ship/:
    model.tflite: a copy of the chosen file.
    model.json: what a program has to know to run it, why it was chosen, and how good it is.
    model_card.md: the same for people, with times and versions.
    coverage.csv: how accurate it is on the test images where it answers only those that it is surest of.
    ood.json: how well its scores tell test images from digits.   ood.csv: how those scores are distributed.

The rule: of the files that lose at most `ship.max_loss` of validation accuracy against the finished dense model, the
smallest gzipped; then the more accurate on validation images; then the first by name. The test images choose nothing.

Its logits are divided by a temperature, so that its confidence fits; below a certain confidence, it is
unsure. Both are chosen on validation images, too.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from stages.lib.errors import UserError
from stages.lib.litert.runtime import predict_logits, quantize, read_interpreter
from stages.lib.network import metrics
from stages.lib.params.load import load_params
from stages.lib.params.sections import DatasetParams, Params, PruneParams
from stages.lib.report.answers import find_comparison_with_dense, tell_comparison
from stages.lib.report.render import render
from stages.lib.report.tables import list_versions
from stages.lib.results.chance import add_intervals, describe_share
from stages.lib.results.comparisons import Comparison
from stages.lib.results.confidence import choose_min_confidence, fit_temperature, list_coverage
from stages.lib.results.ood import list_bins, measure_separation
from stages.lib.results.rows import RankedFile, count_val_images, read_frontier, read_rows
from stages.lib.results.tables import format_accuracy
from stages.lib.results.times import read_times
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import read_json, read_split, write_bytes, write_csv, write_json
from stages.lib.storage.variant import Variant, name_finished

READS = (
    "dataset",
    "evaluate.calibration_bins",
    "study.seeds",
    "study.keep_fraction",
    "train",
    "finish",
    "prune.sparsities",
    "prune.epochs",
    "prune.easy_share",
    "prune.batch_size",
    "prune.learning_rate",
    "shrink.macs_shares",
    "shrink.epochs",
    "shrink.easy_share",
    "export.calibration_images",
    "export.weight_bits",
    "ship",
)
FRONTIER = Path("data/frontier/frontier.csv")
COMPARISONS = Path("data/frontier/comparisons.csv")
CHOICE = Path("data/select_model/choice.json")
TEST_SET = Path("data/prepare/test.npz")
VAL_SET = Path("data/prepare/val.npz")
OUTPUT = Path("data/ship")

BATCH_SIZE = 100
NUM_CONFUSED = 3  # pairs of classes that the card names


def read_files() -> list[RankedFile]:
    """Reads the exported files of this run, with their numbers; the other rows of the table cannot be shipped.

    Raises:
        UserError: if export left out every file.
    """
    files = [file for file in read_frontier(FRONTIER)[0] if file.format == "tflite"]
    if not files:
        raise UserError(
            "data/export: expected at least one LiteRT file, got none: every conversion lost more than "
            "export.max_loss_float32 and export.max_loss_int8 in params.yaml allow; raise those limits"
        )
    return files


def list_good_files(files: Sequence[RankedFile], dense_accuracy: float, max_loss: float) -> list[RankedFile]:
    """Lists the files that lose at most `max_loss` against `dense_accuracy`, both of validation accuracy.

    Raises:
        UserError: if there are none; the message names the nearest.
    """
    good = [file for file in files if metrics.is_loss_within(dense_accuracy, file.val_accuracy, max_loss)]
    if not good:
        nearest = max(files, key=lambda file: file.val_accuracy)
        raise UserError(
            f"params.yaml: ship.max_loss: expected a file whose validation accuracy is at most {max_loss:g} below the "
            f"{dense_accuracy:.4f} of the finished model; got {nearest.val_accuracy:.4f} at best, of "
            f"{nearest.name} in {nearest.precision}; raise that limit, or compress less"
        )
    return good


def select_file(good: Sequence[RankedFile]) -> RankedFile:
    """Applies the rest of the rule of this stage."""
    return min(good, key=lambda file: (file.gzip_size_bytes, -file.val_accuracy, file.name, file.precision))


def explain(
    shipped: RankedFile, num_good: int, num_files: int, dense_accuracy: float, max_loss: float, num_val: int
) -> str:
    """Writes the reason of the choice in a sentence; `num_val` are the validation images."""
    return (
        f"{shipped.name} in {shipped.precision} is the smallest once gzipped ({shipped.gzip_size_bytes:,} bytes) of "
        f"the {num_good} of {num_files} files that lose at most {100 * max_loss:g} points of validation accuracy "
        f"against the finished model, which has {format_accuracy(dense_accuracy, num_val)}: it has "
        f"{format_accuracy(shipped.val_accuracy, num_val)}."
    )


def describe_tensor(details: Mapping[str, Any], meaning: str) -> dict[str, Any]:
    """Describes an input or output of the runtime for one image; without quantization, scale and zero point are null.

    A real number x is stored as round(x / scale) + zero_point.
    """
    scale, zero_point = details["quantization"]
    is_quantized = details["dtype"] is np.int8
    return {
        "dtype": details["dtype"].__name__,
        "shape": [1, *map(int, details["shape"][1:])],
        "scale": float(scale) if is_quantized else None,
        "zero_point": int(zero_point) if is_quantized else None,
        "meaning": meaning,
    }


def describe_input(details: Mapping[str, Any]) -> dict[str, Any]:
    """Describes the input: `range` holds what stands for black and for white."""
    tensor = describe_tensor(details, "grey level / 255, 0 black to 1 white; what is shown is light on black")
    black_and_white = np.array([0.0, 1.0])
    if tensor["dtype"] == "int8":
        black_and_white = quantize(black_and_white, tensor["scale"], tensor["zero_point"])
    return tensor | {"range": black_and_white.tolist()}


def list_confused(confusion_matrix: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Lists the most frequent mistakes in a (classes, classes) matrix, rows true: at most `NUM_CONFUSED`."""
    mistakes = confusion_matrix - np.diag(np.diag(confusion_matrix))
    cells = np.argsort(-mistakes, axis=None, kind="stable")[:NUM_CONFUSED]
    return [
        {"actual": class_names[actual], "predicted": class_names[predicted], "images": int(mistakes[actual, predicted])}
        for actual, predicted in zip(*np.unravel_index(cells, mistakes.shape), strict=True)
        if mistakes[actual, predicted]
    ]


def trust(val_logits: np.ndarray, y_val: np.ndarray, answered_accuracy: float) -> dict[str, float]:
    """Fits the temperature of a model, and the least confidence of answers that are right as often as is asked for.

    Args:
        val_logits: (N, classes), of validation images.
        y_val: (N,) labels.
        answered_accuracy: that is asked for.
    """
    temperature = fit_temperature(val_logits, y_val)
    probabilities = metrics.compute_probabilities(val_logits / temperature)
    is_right = probabilities.argmax(axis=1) == y_val
    min_confidence = choose_min_confidence(probabilities.max(axis=1), is_right, answered_accuracy)
    return {"temperature": temperature, "min_confidence": min_confidence}


def score_answers(y_true: np.ndarray, probabilities: np.ndarray, min_confidence: float) -> dict[str, Any]:
    """Measures which share of the images is answered, and how accurate these answers are; None if there is no answer.

    `y_true` are (N,) labels, `probabilities` (N, classes).
    """
    is_right = probabilities.argmax(axis=1) == y_true
    is_answered = probabilities.max(axis=1) >= min_confidence
    count = int(is_answered.sum())
    accuracy = describe_share("test_accuracy", float(is_right[is_answered].mean()), count) if count else {}
    return {"images": count, **describe_share("coverage", count / len(y_true), len(y_true)), **accuracy}


def score_logits(y_true: np.ndarray, logits: np.ndarray, class_names: Sequence[str], num_bins: int) -> dict[str, Any]:
    """Measures accuracy, calibration, recall and precision by class, and the most frequent mistakes.

    `images` are those of a class, and the share of them that is found is its recall; `predicted` are those that are
    taken for it, and the share of them that belong to it is its precision.

    `y_true` are (N,) labels, `logits` (N, classes) float32; `num_bins` are those of the calibration error.
    """
    probabilities = metrics.compute_probabilities(logits)
    y_pred = probabilities.argmax(axis=1)
    confusion_matrix = metrics.compute_confusion_matrix(y_true, y_pred, len(class_names))
    counts = np.stack([confusion_matrix.sum(axis=1), confusion_matrix.sum(axis=0)], axis=1).tolist()
    scores = zip(class_names, metrics.compute_class_scores(confusion_matrix), counts, strict=True)
    reliability = metrics.compute_reliability(y_true, probabilities, num_bins)
    return {
        "test_accuracy": metrics.compute_accuracy(y_true, y_pred),
        "mean_confidence": round(float(probabilities.max(axis=1).mean()), 6),
        "calibration_error": round(metrics.compute_expected_calibration_error(reliability), 6),
        "classes": [
            {
                "class": name,
                **describe_share("recall", float(r), images),
                **describe_share("precision", float(p), predicted),
                "images": images,
                "predicted": predicted,
            }
            for name, (p, r, _), (images, predicted) in scores
        ],
        "most_confused": list_confused(confusion_matrix, class_names),
    }


def run_file(path: Path, class_names: Sequence[str], num_bins: int, answered_accuracy: float) -> dict[str, Any]:
    """Runs a LiteRT file on validation and test images; describes its input and output, and measures it.

    Beside what model.json holds, `coverage` has the rows of coverage.csv.
    """
    interpreter = read_interpreter(path, BATCH_SIZE, num_threads=1)
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
    (val_images, y_val), (images, y_true) = read_split(VAL_SET), read_split(TEST_SET)
    trusted = trust(predict_logits(interpreter, val_images), y_val, answered_accuracy)
    logits = predict_logits(interpreter, images)
    scaled = logits / trusted["temperature"]
    probabilities = metrics.compute_probabilities(scaled)
    unscaled = metrics.compute_reliability(y_true, metrics.compute_probabilities(logits), num_bins)
    meaning = "logits, one a class; divided by the temperature, their softmax is the confidence"
    return {
        "input": describe_input(given),
        "output": describe_tensor(found, meaning),
        **trusted,
        **score_logits(y_true, scaled, class_names, num_bins),
        "unscaled_calibration_error": round(metrics.compute_expected_calibration_error(unscaled), 6),
        "answered": score_answers(y_true, probabilities, trusted["min_confidence"]),
        "coverage": list_coverage(probabilities.max(axis=1), probabilities.argmax(axis=1) == y_true),
    }


def read_digits(image_size_px: int) -> np.ndarray:
    """Reads the handwritten digits that scikit-learn brings, light on black, as the network expects images.

    They are scans of 8 x 8 pixels with levels from 0 to 16: Alpaydin and Kaynak 1998, Optical Recognition of
    Handwritten Digits, https://doi.org/10.24432/C50P49, CC BY 4.0.

    Returns:
        (1797, image_size_px, image_size_px) uint8 in [0, 255].
    """
    digits = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    size = (image_size_px, image_size_px)
    return np.stack([np.asarray(Image.fromarray(digit).resize(size, Image.Resampling.LANCZOS)) for digit in digits])


def compare_with_digits(
    path: Path, image_size_px: int, temperature: float, min_confidence: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Runs a LiteRT file on test images and digits; returns the content of ood.json, and the rows of ood.csv."""
    interpreter = read_interpreter(path, BATCH_SIZE, num_threads=1)
    images, _ = read_split(TEST_SET)
    known, others = (
        metrics.compute_scores(predict_logits(interpreter, each), temperature)
        for each in (images, read_digits(image_size_px))
    )
    return measure_separation(known, others, min_confidence), list_bins(known, others, min_confidence)


def describe_model(
    shipped: RankedFile,
    content: bytes,
    measured: Mapping[str, Any],
    dataset: DatasetParams,
    reason: str,
    num_val: int,
) -> dict[str, Any]:
    """Puts together the content of model.json; only a pruned model has a sparsity. `num_val`: validation images."""
    source = shipped.variant.source
    num_images = {"val": num_val, "test": sum(row["images"] for row in measured["classes"])}
    described = {
        "name": shipped.name,
        "source": source,
        "precision": shipped.precision,
        "reason": reason,
        "sha256": sha256(content).hexdigest(),
        "size_bytes": shipped.size_bytes,
        "gzip_size_bytes": shipped.gzip_size_bytes,
        "macs": shipped.macs,
        "parameters": shipped.parameters,
        **({"sparsity": shipped.sparsity} if source == "prune" else {}),
        "dataset": dataset.name,
        "image_size_px": dataset.image_size_px,
        "class_names": list(dataset.class_names),
        **{name: measured[name] for name in ("input", "output")},
        "use": render(
            "use.txt",
            class_names=dataset.class_names,
            size=dataset.image_size_px,
            precision=shipped.precision,
            temperature=measured["temperature"],
            min_confidence=measured["min_confidence"],
        ),
        "num_images": num_images,
        "val_accuracy": shipped.val_accuracy,
        **{name: value for name, value in measured.items() if name not in ("input", "output", "coverage")},
    }
    return add_intervals(described, num_images)


def list_pruning(variant: Variant, prune: PruneParams) -> dict[str, Any]:
    """Lists the epochs of all steps up to that of a pruned model, and the lowest and the highest of their rates."""
    num_steps = prune.sparsities.index(float(variant.target)) + 1
    rates = prune.learning_rate[:num_steps]
    return {"epochs": sum(prune.epochs[:num_steps]), "learning_rates": sorted({min(rates), max(rates)})}


def write_card(
    shipped: RankedFile, model: Mapping[str, Any], ood: Mapping[str, Any], choice: Mapping[str, Any], params: Params
) -> str:
    """Writes the model card.

    `model` is the content of model.json, `ood` that of ood.json, and `choice` names the dense model that was chosen.
    """
    variant, times = shipped.variant, read_times(())
    compared = find_comparison_with_dense(read_rows(COMPARISONS, Comparison), model)
    is_candidate = variant.source == "train"
    trained = variant if is_candidate else name_finished(variant.seed)
    training = times.find_training(trained.folder / "model.h5") or {}
    return render(
        "card.md",
        model=model,
        ood=ood,
        variant=variant,
        network=variant.way if is_candidate else choice["model"],
        augmentation=variant.target if is_candidate else choice["augmentation"],
        epochs=params.train.epochs if is_candidate else params.finish.epochs,
        pruning=list_pruning(variant, params.prune) if variant.source == "prune" else None,
        params=params,
        latency=times.find_latency(shipped.path),
        trained=trained.name,
        comparison=tell_comparison(compared, "the float32 file of the finished model") if compared else "",
        training_date=training.get("date"),
        versions=list_versions(training),
    )


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    max_loss = params.ship.max_loss
    files, finished = read_files(), name_finished(params.study.seeds[0])
    dense_accuracy = read_json(finished.folder / "metrics.json")["val_accuracy"]
    good = list_good_files(files, dense_accuracy, max_loss)
    shipped = select_file(good)
    num_val = count_val_images()
    reason = explain(shipped, len(good), len(files), dense_accuracy, max_loss, num_val)
    measured = run_file(
        shipped.path, params.dataset.class_names, params.evaluate.calibration_bins, params.ship.answered_accuracy
    )
    content = shipped.path.read_bytes()
    model = describe_model(shipped, content, measured, params.dataset, reason, num_val)
    ood, bins = compare_with_digits(
        shipped.path, params.dataset.image_size_px, measured["temperature"], measured["min_confidence"]
    )
    write_bytes(OUTPUT / "model.tflite", content)
    write_json(OUTPUT / "model.json", model)
    write_csv(OUTPUT / "coverage.csv", measured["coverage"])
    write_json(OUTPUT / "ood.json", ood)
    write_csv(OUTPUT / "ood.csv", bins)
    write_bytes(OUTPUT / "model_card.md", write_card(shipped, model, ood, read_json(CHOICE), params).encode())
    print(f"{OUTPUT}: {reason}")


if __name__ == "__main__":
    run_stage(main)
