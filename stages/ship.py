"""Which file goes to production? Chooses one of the int8 files, on validation images only, and describes it.

Reads:
    data/frontier/frontier.csv: every file with its numbers.   comparisons.csv: which files differ on the test images.
    data/prepare/val.npz: the chosen file is run on them, to fit its confidence; and how many there are.
    data/select_model/choice.json; data/finish/<seed>/model.h5: the finished dense model.
    data/export/<source>/<name>/int8.tflite: the file that is chosen; data/deploy/<source>/<name>/: its C, and what that
        costs.
    data/prepare/test.npz: `images` (N, size, size) uint8, `labels` (N,) uint8; the chosen file is run on them.
    The 1,797 handwritten digits that scikit-learn brings: pictures of other things, on which it is run, too.
    Times and versions, recorded or of this machine (`stages.lib.results.times`).

Writes, in data/ship/:
    model.tflite: a copy of the chosen file.   model.c, model.h: its C.   example.c: a program that uses that.
    model.json: what a program has to know to run it, why it was chosen, how good it is, and what it costs.
    model_card.md: the same for people, with times and versions.
    coverage.csv: how accurate it is on the test images where it answers only those that it is surest of.
    ood.json: how well its scores tell test images from digits.   ood.csv: how those scores are distributed.

The rule: of the int8 files within all limits of `ship` in params.yaml, the best on validation images by `ship.metric`,
such as accuracy; then the one with less flash; then the first by name. Files in float32 have no C. The test images
choose nothing.

Its logits are divided by a temperature, so that its confidence fits; below a certain confidence, it is
unsure. Both are chosen on validation images, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from stages.lib import device
from stages.lib.errors import UserError
from stages.lib.litert.runtime import predict_logits, quantize, read_interpreter
from stages.lib.network import metrics
from stages.lib.params.load import load_params
from stages.lib.params.sections import DatasetParams, Params, PruneParams, ShipParams
from stages.lib.report.answers import METRICS, find_comparison_with_dense, join, tell_class_scores, tell_comparison
from stages.lib.report.render import render
from stages.lib.report.tables import list_versions
from stages.lib.report.wording import describe_data
from stages.lib.results.chance import add_intervals, describe_share
from stages.lib.results.comparisons import Comparison
from stages.lib.results.confidence import choose_min_confidence, fit_temperature, list_coverage
from stages.lib.results.ood import list_bins, measure_separation
from stages.lib.results.rows import CLASS_SCORES, RankedFile, count_val_images, read_deployed, read_frontier, read_rows
from stages.lib.results.tables import format_accuracy
from stages.lib.results.times import read_times
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import check_exists, read_json, read_split, write_bytes, write_csv, write_json
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
EXAMPLE = Path(device.__file__).parent / "example.c"
UNITS = {
    "max_flash_bytes": "bytes of flash",
    "max_ram_bytes": "bytes of RAM",
    "max_instructions": "instructions an image",
    "max_size_bytes": "bytes as a .tflite file",
}  # the limits of params.yaml: each is of the column of that name without max_
NUM_CONFUSED = 3  # pairs of classes that the card names


@dataclass(frozen=True)
class Cost:
    """What a file takes of something that has a limit: the key of that limit in params.yaml, and the unit of both."""

    key: str
    value: int
    limit: int
    unit: str


def read_files() -> list[RankedFile]:
    """Reads the int8 files of this run, with their numbers; the other rows of the table have no C.

    Raises:
        UserError: if export left out every file in int8.
    """
    files = [file for file in read_frontier(FRONTIER)[0] if file.flash_bytes is not None]
    if not files:
        raise UserError(
            "data/export: expected at least one LiteRT file in int8, got none: every conversion lost more than "
            "export.max_loss_int8 in params.yaml allows; raise that limit"
        )
    return files


def list_costs(file: RankedFile, limits: ShipParams) -> list[Cost]:
    """Lists what a file takes of everything that has a limit."""
    return [
        Cost(key, getattr(file, key.removeprefix("max_")), limit, unit)
        for key, unit in UNITS.items()
        if (limit := getattr(limits, key)) is not None
    ]


def list_files_within(files: Sequence[RankedFile], limits: ShipParams) -> list[RankedFile]:
    """Lists the files that take no more than the limits allow.

    Raises:
        UserError: if there are none; the message names the nearest, which is the least above the limit that it exceeds
            most, in parts of that limit.
    """
    within = [file for file in files if all(cost.value <= cost.limit for cost in list_costs(file, limits))]
    if not within:
        nearest = min(files, key=lambda file: max(cost.value / cost.limit for cost in list_costs(file, limits)))
        keys = " and ".join(f"ship.{cost.key} ({cost.limit:,})" for cost in list_costs(nearest, limits))
        raise UserError(
            f"params.yaml: expected an int8 file within {keys}; got none of {len(files)}: the nearest, {nearest.name}, "
            f"{tell_excess(nearest, limits)}; raise what it exceeds, compress further (prune.sparsities, "
            "shrink.macs_shares), or study smaller networks (study.models)"
        )
    return within


def tell_excess(file: RankedFile, limits: ShipParams) -> str:
    """Says what a file takes more than the limits allow."""
    beyond = [cost for cost in list_costs(file, limits) if cost.value > cost.limit]
    return "takes " + join([f"{cost.value:,} {cost.unit}, more than ship.{cost.key}" for cost in beyond])


def list_scores(files: Sequence[RankedFile], metric: str) -> dict[str, float]:
    """Lists what int8 files have of a metric, on validation images, by their names."""
    return {file.name: float(getattr(file, f"val_{metric}")) for file in files}


def select_file(within: Sequence[RankedFile], scores: Mapping[str, float]) -> RankedFile:
    """Applies the rest of the rule of this stage."""
    return min(within, key=lambda file: (-scores[file.name], file.flash_bytes, file.name))


def explain(
    shipped: RankedFile,
    within: Sequence[RankedFile],
    files: Sequence[RankedFile],
    limits: ShipParams,
    num_val: int,
    scores: Mapping[str, float],
) -> str:
    """Writes the reason of the choice: the rule, and which limits decided it.

    Args:
        shipped: the chosen file.
        within: those that it was chosen from.
        files: all in int8.
        limits: of what a file may take, and the metric that decided.
        num_val: number of validation images.
        scores: what each file has of that metric, by its name.
    """
    costs = list_costs(shipped, limits)
    allowed = join([f"{cost.limit:,} {cost.unit}" for cost in costs])
    of_which = (
        f"the {len(within)} of {len(files)} int8 files that take at most {allowed}" if costs else "all int8 files"
    )
    taken = f", and takes {join([f'{cost.value:,} {cost.unit}' for cost in costs])}" if costs else ""
    score = scores[shipped.name]
    if limits.metric == "accuracy":
        best, points = "is the most accurate", "points more accurate"
        reached = f"{format_accuracy(score, num_val)} of the validation images right"
    else:
        best, points = f"has the best {METRICS[limits.metric]}", f"points of {METRICS[limits.metric]} better"
        reached = f"{100 * score:.2f} % on validation images"
    text = f"{shipped.name} in int8 {best} of {of_which}: it has {reached}{taken}."
    better = sorted((file for file in files if scores[file.name] > score), key=lambda file: scores[file.name])
    if not better:
        return f"{text} No int8 file of this run is {'more accurate' if limits.metric == 'accuracy' else 'better'}."
    told = [
        f"{file.name} would be {100 * (scores[file.name] - score):.2f} {points}, but {tell_excess(file, limits)}"
        for file in dict.fromkeys([better[0], better[-1]])
    ]
    return f"{text} {'; '.join(told)}."


def describe_tensor(details: Mapping[str, Any], meaning: str) -> dict[str, Any]:
    """Describes an int8 input or output of the runtime for one image.

    A real number x is stored as round(x / scale) + zero_point.
    """
    scale, zero_point = details["quantization"]
    return {
        "dtype": details["dtype"].__name__,
        "shape": [1, *map(int, details["shape"][1:])],
        "scale": float(scale),
        "zero_point": int(zero_point),
        "meaning": meaning,
    }


def describe_input(details: Mapping[str, Any], fit: str) -> dict[str, Any]:
    """Describes the input: `range` holds what stands for black and for white; `fit` is how pictures become inputs."""
    shown = "; what is shown is light on black" if fit == "garment" else ""
    meaning = {
        1: f"grey level / 255, 0 black to 1 white{shown}",
        3: f"red, green and blue / 255, each 0 to 1{shown}",
    }
    tensor = describe_tensor(details, meaning[int(details["shape"][3])])
    black_and_white = quantize(np.array([0.0, 1.0]), tensor["scale"], tensor["zero_point"])
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


def run_file(path: Path, dataset: DatasetParams, num_bins: int, answered_accuracy: float) -> dict[str, Any]:
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
        "input": describe_input(given, dataset.fit),
        "output": describe_tensor(found, meaning),
        **trusted,
        **score_logits(y_true, scaled, dataset.class_names, num_bins),
        "unscaled_calibration_error": round(metrics.compute_expected_calibration_error(unscaled), 6),
        "answered": score_answers(y_true, probabilities, trusted["min_confidence"]),
        "coverage": list_coverage(probabilities.max(axis=1), probabilities.argmax(axis=1) == y_true),
    }


def read_digits(image_size_px: int, channels: int, is_light_on_dark: bool) -> np.ndarray:
    """Reads the handwritten digits that scikit-learn brings, light on black or black on light.

    They are scans of 8 x 8 pixels with levels from 0 to 16: Alpaydin and Kaynak 1998, Optical Recognition of
    Handwritten Digits, https://doi.org/10.24432/C50P49, CC BY 4.0.

    Returns:
        (1797, image_size_px, image_size_px, channels) uint8 in [0, 255], grey in all channels.
    """
    levels = load_digits().images if is_light_on_dark else 16 - load_digits().images
    digits = np.rint(levels * (255 / 16)).astype(np.uint8)
    size = (image_size_px, image_size_px)
    resized = [np.asarray(Image.fromarray(digit).resize(size, Image.Resampling.LANCZOS)) for digit in digits]
    return np.repeat(np.stack(resized)[..., np.newaxis], channels, axis=-1)


def compare_with_digits(
    path: Path, dataset: DatasetParams, temperature: float, min_confidence: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Runs a LiteRT file on test images and digits; returns the content of ood.json, and the rows of ood.csv.

    The digits lie on the background of the inputs, so that this alone does not tell them apart.
    """
    interpreter = read_interpreter(path, BATCH_SIZE, num_threads=1)
    images, _ = read_split(TEST_SET)
    is_light_on_dark = dataset.fit == "garment" or dataset.background < 128
    channels = interpreter.get_input_details()[0]["shape"][3]
    digits = read_digits(dataset.image_size_px, channels, is_light_on_dark)
    known, others = (
        metrics.compute_scores(predict_logits(interpreter, each), temperature) for each in (images, digits)
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
        "device": read_deployed(shipped.variant),
        **({"sparsity": shipped.sparsity} if source == "prune" else {}),
        "dataset": dataset.name,
        "image_size_px": dataset.image_size_px,
        "channels": dataset.channels,
        "fit": dataset.fit,
        "background": dataset.background,
        "class_names": list(dataset.class_names),
        **{name: measured[name] for name in ("input", "output")},
        "use": render(
            "use.txt",
            class_names=dataset.class_names,
            size=dataset.image_size_px,
            mode="L" if dataset.channels == 1 else "RGB",
            temperature=measured["temperature"],
            min_confidence=measured["min_confidence"],
        ),
        "num_images": num_images,
        "val_accuracy": shipped.val_accuracy,
        **{name: getattr(shipped, name) for name in CLASS_SCORES},
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
    compared = find_comparison_with_dense(read_rows(COMPARISONS, Comparison), model["name"], variant.source)
    is_candidate = variant.source == "train"
    trained = variant if is_candidate else name_finished(variant.seed)
    training = times.find_training(trained.folder / "model.h5") or {}
    return render(
        "card.md",
        model=model,
        words=describe_data(model),
        class_scores=tell_class_scores(model),
        ood=ood,
        variant=variant,
        network=variant.way if is_candidate else choice["model"],
        augmentation=variant.target if is_candidate else choice["augmentation"],
        epochs=params.train.epochs if is_candidate else params.finish.epochs,
        pruning=list_pruning(variant, params.prune) if variant.source == "prune" else None,
        params=params,
        latency=times.find_latency(shipped.path),
        c_latency=times.find_c_latency(variant.deployed / "model.c"),
        trained=trained.name,
        comparison=tell_comparison(compared, "the float32 file of the finished model"),
        training_date=training.get("date"),
        versions=list_versions(training),
    )


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    limits, files, num_val = params.ship, read_files(), count_val_images()
    within = list_files_within(files, limits)
    scores = list_scores(files, limits.metric)
    shipped = select_file(within, scores)
    reason = explain(shipped, within, files, limits, num_val, scores)
    measured = run_file(shipped.path, params.dataset, params.evaluate.calibration_bins, params.ship.answered_accuracy)
    content, folder = shipped.path.read_bytes(), shipped.variant.deployed
    for path in (folder / "model.c", folder / "model.h"):
        check_exists(path)
    model = describe_model(shipped, content, measured, params.dataset, reason, num_val)
    ood, bins = compare_with_digits(shipped.path, params.dataset, measured["temperature"], measured["min_confidence"])
    write_bytes(OUTPUT / "model.tflite", content)
    for path in (folder / "model.c", folder / "model.h", EXAMPLE):
        write_bytes(OUTPUT / path.name, path.read_bytes())
    write_json(OUTPUT / "model.json", model)
    write_csv(OUTPUT / "coverage.csv", measured["coverage"])
    write_json(OUTPUT / "ood.json", ood)
    write_csv(OUTPUT / "ood.csv", bins)
    write_bytes(OUTPUT / "model_card.md", write_card(shipped, model, ood, read_json(CHOICE), params).encode())
    print(f"{OUTPUT}: {reason}")


if __name__ == "__main__":
    run_stage(main)
