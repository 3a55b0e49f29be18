"""Which file goes to production? Chooses one of the exported files, on validation images only, and describes it.

Reads:
    data/frontier/frontier.csv: every file with its numbers; data/select_model/metrics.json: the chosen dense model.
    data/export/<source>/<name>/<precision>.tflite: the file that is chosen.
    data/prepare/test.npz: `images` (N, size, size) uint8, `labels` (N,) uint8; the chosen file is run on them.
    data/frontier/latency.csv: how long the file takes, where that was measured; no dependency, as it tells times.

Writes, in data/ship/, DVC outputs (the same bytes in every run):
    model.tflite: a copy of the chosen file.
    model.json: what a program has to know to run it, why it was chosen, and how good it is.
and, outside that promise because it tells times and versions, but kept in Git:
    model_card.md: the same for people.

The rule: of the files that lose at most `ship.max_loss` of validation accuracy against the chosen dense model, the
smallest gzipped; then the more accurate on validation images; then the first by name. The test images choose nothing.
"""

import platform
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.errors import UserError
from stages.lib.litert.runtime import predict_logits, quantize, read_interpreter
from stages.lib.network.metrics import (
    compute_accuracy,
    compute_class_scores,
    compute_confusion_matrix,
    compute_expected_calibration_error,
    compute_probabilities,
    compute_reliability,
)
from stages.lib.params.load import load_params
from stages.lib.params.sections import DatasetParams, Params, PruneParams, ShrinkParams
from stages.lib.report.card import FASHION_MNIST, format_card
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import read_csv, read_json, read_split, write_bytes, write_json

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
LATENCY = Path("data/frontier/latency.csv")
CHOSEN = Path("data/select_model/metrics.json")
EXPORTED = Path("data/export")
TEST_SET = Path("data/prepare/test.npz")
OUTPUT = Path("data/ship")

SOURCE_OF = {"dense": "train", "pruned": "prune", "shrunk": "shrink"}  # by the kind of the model
COUNTS = ("size_bytes", "gzip_size_bytes", "macs", "parameters")
FRACTIONS = ("val_accuracy", "sparsity")
FASHION_MNIST_SHA256 = "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"  # of its training images
BATCH_SIZE = 100
NUM_CONFUSED = 3  # pairs of classes that the card names
PACKAGES = ("ai-edge-litert", "tensorflow", "tf-keras", "tensorflow-model-optimization", "numpy")


def read_files() -> list[dict[str, Any]]:
    """Reads the exported files of this run, with their numbers; the other rows of the table cannot be shipped."""
    return [
        {
            "name": row["name"],
            "source": SOURCE_OF[row["kind"]],
            "precision": row["precision"],
            **{column: int(row[column]) for column in COUNTS},
            **{column: float(row[column]) for column in FRACTIONS},
        }
        for row in read_csv(FRONTIER)
        if row["format"] == "tflite"
    ]


def list_good_files(
    files: Sequence[dict[str, Any]], chosen: Mapping[str, Any], max_loss: float
) -> list[dict[str, Any]]:
    """Lists the files that lose at most `max_loss` of validation accuracy against the chosen dense model.

    Raises:
        UserError: if there are none; the message names the nearest.
    """
    slack = 1e-9  # for binary rounding; one image more or less is far more
    good = [file for file in files if chosen["val_accuracy"] - file["val_accuracy"] <= max_loss + slack]
    if not good:
        nearest = max(files, key=lambda file: file["val_accuracy"])
        raise UserError(
            f"params.yaml: ship.max_loss: expected a file whose validation accuracy is at most {max_loss:g} below the "
            f"{chosen['val_accuracy']:.4f} of {chosen['chosen']}; got {nearest['val_accuracy']:.4f} at best, of "
            f"{nearest['name']} in {nearest['precision']}; raise that limit, or compress less"
        )
    return good


def select_file(good: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Applies the rest of the rule of this stage."""
    return min(good, key=lambda file: (file["gzip_size_bytes"], -file["val_accuracy"], file["name"], file["precision"]))


def explain(
    shipped: Mapping[str, Any], num_good: int, num_files: int, chosen: Mapping[str, Any], max_loss: float
) -> str:
    """Writes the reason of the choice in a sentence."""
    return (
        f"{shipped['name']} in {shipped['precision']} is the smallest once gzipped "
        f"({shipped['gzip_size_bytes']:,} bytes) of the {num_good} of {num_files} files that lose at most "
        f"{100 * max_loss:g} points of validation accuracy against {chosen['chosen']} "
        f"({100 * chosen['val_accuracy']:.2f} %): it has {100 * shipped['val_accuracy']:.2f} %."
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
    if tensor["dtype"] == "int8":
        black_and_white = quantize(np.array([0.0, 1.0]), tensor["scale"], tensor["zero_point"])
        return tensor | {"range": black_and_white.tolist()}
    return tensor | {"range": [0.0, 1.0]}


def list_confused(confusion_matrix: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Lists the most frequent mistakes in a (classes, classes) matrix, rows true: at most `NUM_CONFUSED`."""
    mistakes = confusion_matrix - np.diag(np.diag(confusion_matrix))
    cells = np.argsort(-mistakes, axis=None, kind="stable")[:NUM_CONFUSED]
    return [
        {"actual": class_names[actual], "predicted": class_names[predicted], "images": int(mistakes[actual, predicted])}
        for actual, predicted in zip(*np.unravel_index(cells, mistakes.shape), strict=True)
        if mistakes[actual, predicted]
    ]


def measure(y_true: np.ndarray, logits: np.ndarray, class_names: Sequence[str], num_bins: int) -> dict[str, Any]:
    """Measures accuracy, calibration, recall and precision by class, and the most frequent mistakes.

    Args:
        y_true: (N,) labels.
        logits: (N, classes) float32.
        class_names: by label.
        num_bins: of the calibration error.
    """
    probabilities = compute_probabilities(logits)
    y_pred = probabilities.argmax(axis=1)
    confusion_matrix = compute_confusion_matrix(y_true, y_pred, len(class_names))
    scores = zip(class_names, compute_class_scores(confusion_matrix), confusion_matrix.sum(axis=1), strict=True)
    reliability = compute_reliability(y_true, probabilities, num_bins)
    return {
        "test_accuracy": compute_accuracy(y_true, y_pred),
        "mean_confidence": round(float(probabilities.max(axis=1).mean()), 6),
        "calibration_error": round(compute_expected_calibration_error(reliability), 6),
        "classes": [
            {"class": name, "recall": round(float(r), 6), "precision": round(float(p), 6), "images": int(count)}
            for name, (p, r, _), count in scores
        ],
        "most_confused": list_confused(confusion_matrix, class_names),
    }


def run_file(
    path: Path, test: tuple[np.ndarray, np.ndarray], class_names: Sequence[str], num_bins: int
) -> dict[str, Any]:
    """Runs a LiteRT file on test images; describes its input and output, and measures it."""
    interpreter = read_interpreter(path, BATCH_SIZE, num_threads=1)
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
    images, y_true = test
    return {
        "input": describe_input(given),
        "output": describe_tensor(found, "logits, one a class; their softmax is the confidence"),
        **measure(y_true, predict_logits(interpreter, images), class_names, num_bins),
    }


def describe_model(
    shipped: Mapping[str, Any],
    content: bytes,
    measured: Mapping[str, Any],
    dataset: DatasetParams,
    reason: str,
) -> dict[str, Any]:
    """Puts together the content of model.json; only a pruned model has a sparsity."""
    counts = {name: shipped[name] for name in ("macs", "parameters")}
    if shipped["source"] == "prune":
        counts["sparsity"] = shipped["sparsity"]
    return {
        **{name: shipped[name] for name in ("name", "source", "precision")},
        "reason": reason,
        "sha256": sha256(content).hexdigest(),
        **{name: shipped[name] for name in ("size_bytes", "gzip_size_bytes")},
        **counts,
        "dataset": FASHION_MNIST if FASHION_MNIST_SHA256 in dataset.files.model_dump().values() else "another data set",
        "image_size_px": dataset.image_size_px,
        "class_names": list(dataset.class_names),
        **{name: measured[name] for name in ("input", "output")},
        "val_accuracy": shipped["val_accuracy"],
        **{name: value for name, value in measured.items() if name not in ("input", "output")},
    }


def read_latency(sha256: str) -> dict[str, str] | None:
    """Reads what the file with this SHA-256 took; None if it was not timed."""
    rows = read_csv(LATENCY) if LATENCY.exists() else []
    return next((row for row in rows if row["sha256"] == sha256), None)


def read_versions() -> dict[str, str]:
    """Reads the versions of Python and of the packages that make and run the models."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def count_scratch_epochs(name: str, epochs: int, shrink: ShrinkParams) -> int:
    """Counts the epochs of a shrunk network that was trained anew at the share of the MACs in `name`; 0 for others."""
    shares = [f"scratch-{share}" for share in shrink.macs_shares]
    return epochs + (shares.index(name) + 1) * shrink.epochs if name in shares else 0


def list_prune_recipe(name: str, prune: PruneParams) -> dict[str, Any]:
    """Lists the epochs of all steps up to the one that pruned the model `name`, and between what their rates lie."""
    sparsities = [str(sparsity) for sparsity in prune.sparsities]
    num_steps = sparsities.index(name.partition("-")[2]) + 1
    rates = prune.learning_rate[:num_steps]
    return {
        "prune_epochs": sum(prune.epochs[:num_steps]),
        "prune_batch_size": prune.batch_size,
        "prune_learning_rates": (min(rates), max(rates)),
    }


def list_recipe(shipped: Mapping[str, Any], chosen: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """Lists what the card tells of how the file was made; `dense` names the model that it was made of."""
    name, source, train = shipped["name"], shipped["source"], params.train
    return {
        "dense": name if source == "train" else chosen["chosen"],
        "epochs": train.epochs,
        "optimizer": train.optimizer,
        "learning_rate": train.learning_rate,
        "batch_size": train.batch_size,
        "schedule": train.schedule,
        "label_smoothing": train.label_smoothing,
        **(list_prune_recipe(name, params.prune) if source == "prune" else {}),
        "shrink_epochs": params.shrink.epochs,
        "scratch_epochs": count_scratch_epochs(name, train.epochs, params.shrink) if source == "shrink" else 0,
        "calibration_images": params.export.calibration_images,
        "weight_bits": params.export.weight_bits,
    }


def write_outputs(model: Mapping[str, Any], content: bytes, card: str) -> None:
    """Writes the three files of this stage."""
    write_bytes(OUTPUT / "model.tflite", content)
    write_json(OUTPUT / "model.json", model)
    write_bytes(OUTPUT / "model_card.md", card.encode())


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    max_loss = params.ship.max_loss
    files, chosen = read_files(), read_json(CHOSEN)
    good = list_good_files(files, chosen, max_loss)
    shipped = select_file(good)
    reason = explain(shipped, len(good), len(files), chosen, max_loss)
    path = EXPORTED / shipped["source"] / shipped["name"] / f"{shipped['precision']}.tflite"
    measured = run_file(path, read_split(TEST_SET), params.dataset.class_names, params.evaluate.calibration_bins)
    content = path.read_bytes()
    model = describe_model(shipped, content, measured, params.dataset, reason)
    recipe = list_recipe(shipped, chosen, params)
    write_outputs(model, content, format_card(model, recipe, read_latency(model["sha256"]), read_versions()))
    print(f"{OUTPUT}: {reason}")


if __name__ == "__main__":
    run_stage(main)
