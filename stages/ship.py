"""Which file goes to production? Chooses one of the exported files, on validation images only, and describes it.

Reads:
    data/frontier/frontier.csv: every file with its numbers.   comparisons.csv: which files differ on the test images.
    data/prepare/val.npz: the chosen file is run on them, to fit its confidence; and how many there are.
    data/select_model/: choice.json, metrics.json and model.h5 of the chosen dense model.
    data/export/<source>/<name>/<precision>.tflite: the file that is chosen.
    data/prepare/test.npz: `images` (N, size, size) uint8, `labels` (N,) uint8; the chosen file is run on them.
    Times and versions, recorded or of this machine (`stages.lib.results.times`).

Writes, in data/ship/:
    model.tflite: a copy of the chosen file.
    model.json: what a program has to know to run it, why it was chosen, and how good it is.
    model_card.md: the same for people, with times and versions.
    coverage.csv: how accurate it is on the test images where it answers only those that it is surest of.

The rule: of the files that lose at most `ship.max_loss` of validation accuracy against the chosen dense model, the
smallest gzipped; then the more accurate on validation images; then the first by name. The test images choose nothing.

Its logits are divided by a temperature, so that its confidence fits; below a certain confidence, it is
unsure. Both are chosen on validation images, too.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.errors import UserError
from stages.lib.litert.runtime import predict_logits, quantize, read_interpreter
from stages.lib.network import metrics
from stages.lib.params.load import load_params
from stages.lib.params.sections import DatasetParams, Params, PruneParams
from stages.lib.report.answers import find_comparison_with_dense, tell_comparison
from stages.lib.report.render import render
from stages.lib.report.tables import list_versions
from stages.lib.results.chance import add_intervals, compute_interval
from stages.lib.results.comparisons import Comparison
from stages.lib.results.confidence import choose_min_confidence, fit_temperature, list_coverage
from stages.lib.results.rows import RankedFile, count_val_images, read_frontier, read_rows
from stages.lib.results.tables import format_accuracy
from stages.lib.results.times import read_times
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import read_json, read_split, write_bytes, write_csv, write_json
from stages.lib.storage.variant import Variant

READS = (
    "dataset",
    "evaluate.calibration_bins",
    "train",
    "prune.sparsities",
    "prune.epochs",
    "prune.batch_size",
    "prune.learning_rate",
    "shrink.macs_shares",
    "shrink.epochs",
    "export.calibration_images",
    "export.weight_bits",
    "ship",
)
FRONTIER = Path("data/frontier/frontier.csv")
COMPARISONS = Path("data/frontier/comparisons.csv")
CHOICE = Path("data/select_model/choice.json")
CHOSEN = Path("data/select_model/metrics.json")
DENSE_MODEL = Path("data/select_model/model.h5")
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


def list_good_files(files: Sequence[RankedFile], chosen: Mapping[str, Any], max_loss: float) -> list[RankedFile]:
    """Lists the files that lose at most `max_loss` of validation accuracy against the chosen dense model.

    Raises:
        UserError: if there are none; the message names the nearest.
    """
    good = [file for file in files if metrics.is_loss_within(chosen["val_accuracy"], file.val_accuracy, max_loss)]
    if not good:
        nearest = max(files, key=lambda file: file.val_accuracy)
        raise UserError(
            f"params.yaml: ship.max_loss: expected a file whose validation accuracy is at most {max_loss:g} below the "
            f"{chosen['val_accuracy']:.4f} of {chosen['chosen']}; got {nearest.val_accuracy:.4f} at best, of "
            f"{nearest.name} in {nearest.precision}; raise that limit, or compress less"
        )
    return good


def select_file(good: Sequence[RankedFile]) -> RankedFile:
    """Applies the rest of the rule of this stage."""
    return min(good, key=lambda file: (file.gzip_size_bytes, -file.val_accuracy, file.name, file.precision))


def explain(
    shipped: RankedFile, num_good: int, num_files: int, chosen: Mapping[str, Any], max_loss: float, num_val: int
) -> str:
    """Writes the reason of the choice in a sentence; `num_val` are the validation images."""
    return (
        f"{shipped.name} in {shipped.precision} is the smallest once gzipped ({shipped.gzip_size_bytes:,} bytes) of "
        f"the {num_good} of {num_files} files that lose at most {100 * max_loss:g} points of validation accuracy "
        f"against {chosen['chosen']}, which has {format_accuracy(chosen['val_accuracy'], num_val)}: it has "
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


def describe_share(name: str, share: float, n: int) -> dict[str, float]:
    """Describes a share of n images, and its 95 % interval, with six decimals."""
    low, high = compute_interval(share, n)
    return {name: round(share, 6), f"{name}_low": low, f"{name}_high": high}


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


def count_epochs(variant: Variant, params: Params) -> int:
    """Counts the epochs of training; a network that was trained anew got those of all steps of shrinking, too."""
    if (variant.source, variant.way) != ("shrink", "scratch"):
        return params.train.epochs
    num_steps = params.shrink.macs_shares.index(float(variant.target)) + 1
    return params.train.epochs + num_steps * params.shrink.epochs


def list_pruning(variant: Variant, prune: PruneParams) -> dict[str, Any]:
    """Lists the epochs of all steps up to that of a pruned model, and the lowest and the highest of their rates."""
    num_steps = prune.sparsities.index(float(variant.target)) + 1
    rates = prune.learning_rate[:num_steps]
    return {"epochs": sum(prune.epochs[:num_steps]), "learning_rates": sorted({min(rates), max(rates)})}


def write_card(shipped: RankedFile, model: Mapping[str, Any], choice: Mapping[str, Any], params: Params) -> str:
    """Writes the model card; `model` is the content of model.json, `choice` names the dense model that was chosen."""
    variant, times = shipped.variant, read_times(())
    dense = f"{choice['model']}-{choice['augmentation']}"
    compared = find_comparison_with_dense(read_rows(COMPARISONS, Comparison), model)
    training = times.find_training(DENSE_MODEL) or {}
    is_dense = variant.source == "train"
    return render(
        "card.md",
        model=model,
        variant=variant,
        network=variant.way if is_dense else choice["model"],
        augmentation=variant.target if is_dense else choice["augmentation"],
        epochs=count_epochs(variant, params),
        pruning=list_pruning(variant, params.prune) if variant.source == "prune" else None,
        params=params,
        latency=times.find_latency(shipped.path),
        chosen=dense,
        comparison=tell_comparison(compared, f"the float32 file of the chosen model ({dense})") if compared else "",
        training_date=training.get("date"),
        versions=list_versions(training),
    )


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    max_loss = params.ship.max_loss
    files, chosen = read_files(), read_json(CHOSEN)
    good = list_good_files(files, chosen, max_loss)
    shipped = select_file(good)
    num_val = count_val_images()
    reason = explain(shipped, len(good), len(files), chosen, max_loss, num_val)
    measured = run_file(
        shipped.path, params.dataset.class_names, params.evaluate.calibration_bins, params.ship.answered_accuracy
    )
    content = shipped.path.read_bytes()
    model = describe_model(shipped, content, measured, params.dataset, reason, num_val)
    write_bytes(OUTPUT / "model.tflite", content)
    write_json(OUTPUT / "model.json", model)
    write_csv(OUTPUT / "coverage.csv", measured["coverage"])
    write_bytes(OUTPUT / "model_card.md", write_card(shipped, model, read_json(CHOICE), params).encode())
    print(f"{OUTPUT}: {reason}")


if __name__ == "__main__":
    run_stage(main)
