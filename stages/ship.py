"""Which file goes to production? Chooses one of the exported files, on validation images only, and describes it.

Reads:
    data/frontier/frontier.csv: every file with its numbers.
    data/select_model/: choice.json, metrics.json and model.h5 of the chosen dense model.
    data/export/<source>/<name>/<precision>.tflite: the file that is chosen.
    data/prepare/test.npz: `images` (N, size, size) uint8, `labels` (N,) uint8; the chosen file is run on them.
    Times and versions, recorded or of this machine (`stages.lib.results.times`).

Writes, in data/ship/:
    model.tflite: a copy of the chosen file.
    model.json: what a program has to know to run it, why it was chosen, and how good it is.
    model_card.md: the same for people, with times and versions.

The rule: of the files that lose at most `ship.max_loss` of validation accuracy against the chosen dense model, the
smallest gzipped; then the more accurate on validation images; then the first by name. The test images choose nothing.
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
from stages.lib.report.answers import percent
from stages.lib.report.render import render
from stages.lib.report.tables import list_versions
from stages.lib.results.rows import RankedFile, read_frontier
from stages.lib.results.times import read_times
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import read_json, read_split, write_bytes, write_json
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
CHOICE = Path("data/select_model/choice.json")
CHOSEN = Path("data/select_model/metrics.json")
DENSE_MODEL = Path("data/select_model/model.h5")
TEST_SET = Path("data/prepare/test.npz")
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


def explain(shipped: RankedFile, num_good: int, num_files: int, chosen: Mapping[str, Any], max_loss: float) -> str:
    """Writes the reason of the choice in a sentence."""
    return (
        f"{shipped.name} in {shipped.precision} is the smallest once gzipped ({shipped.gzip_size_bytes:,} bytes) of "
        f"the {num_good} of {num_files} files that lose at most {100 * max_loss:g} points of validation accuracy "
        f"against {chosen['chosen']} ({percent(chosen['val_accuracy'])}): it has {percent(shipped.val_accuracy)}."
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


def score_logits(y_true: np.ndarray, logits: np.ndarray, class_names: Sequence[str], num_bins: int) -> dict[str, Any]:
    """Measures accuracy, calibration, recall and precision by class, and the most frequent mistakes.

    `y_true` are (N,) labels, `logits` (N, classes) float32; `num_bins` are those of the calibration error.
    """
    probabilities = metrics.compute_probabilities(logits)
    y_pred = probabilities.argmax(axis=1)
    confusion_matrix = metrics.compute_confusion_matrix(y_true, y_pred, len(class_names))
    scores = zip(class_names, metrics.compute_class_scores(confusion_matrix), confusion_matrix.sum(axis=1), strict=True)
    reliability = metrics.compute_reliability(y_true, probabilities, num_bins)
    return {
        "test_accuracy": metrics.compute_accuracy(y_true, y_pred),
        "mean_confidence": round(float(probabilities.max(axis=1).mean()), 6),
        "calibration_error": round(metrics.compute_expected_calibration_error(reliability), 6),
        "classes": [
            {"class": name, "recall": round(float(r), 6), "precision": round(float(p), 6), "images": int(count)}
            for name, (p, r, _), count in scores
        ],
        "most_confused": list_confused(confusion_matrix, class_names),
    }


def run_file(path: Path, class_names: Sequence[str], num_bins: int) -> dict[str, Any]:
    """Runs a LiteRT file on the test images; describes its input and output, and measures it."""
    interpreter = read_interpreter(path, BATCH_SIZE, num_threads=1)
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
    images, y_true = read_split(TEST_SET)
    return {
        "input": describe_input(given),
        "output": describe_tensor(found, "logits, one a class; their softmax is the confidence"),
        **score_logits(y_true, predict_logits(interpreter, images), class_names, num_bins),
    }


def describe_model(
    shipped: RankedFile, content: bytes, measured: Mapping[str, Any], dataset: DatasetParams, reason: str
) -> dict[str, Any]:
    """Puts together the content of model.json; only a pruned model has a sparsity."""
    source = shipped.variant.source
    return {
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
        ),
        "val_accuracy": shipped.val_accuracy,
        **{name: value for name, value in measured.items() if name not in ("input", "output")},
    }


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
        chosen=f"{choice['model']}-{choice['augmentation']}",
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
    reason = explain(shipped, num_good=len(good), num_files=len(files), chosen=chosen, max_loss=max_loss)
    measured = run_file(shipped.path, params.dataset.class_names, params.evaluate.calibration_bins)
    content = shipped.path.read_bytes()
    model = describe_model(shipped, content, measured, params.dataset, reason)
    write_bytes(OUTPUT / "model.tflite", content)
    write_json(OUTPUT / "model.json", model)
    write_bytes(OUTPUT / "model_card.md", write_card(shipped, model, read_json(CHOICE), params).encode())
    print(f"{OUTPUT}: {reason}")


if __name__ == "__main__":
    run_stage(main)
