"""Makes the rows of the page's tables out of what was measured: a dict for each row. No TensorFlow."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import compress
from typing import Any

from stages.lib.report.answers import CurvePoint, Layer, MeasuredCandidate, Times
from stages.lib.results.chance import add_intervals, compute_interval
from stages.lib.results.comparisons import Comparison, list_family
from stages.lib.results.published import NUM_IMAGES, STUDY_CHOICE
from stages.lib.results.rows import CLASS_SCORES, KernelZeros, ModelFile, PublishedModel, RankedFile, mark_shipped
from stages.lib.results.times import NOT_VERSIONS, TimedC

ENDS = ("_low", "_high")  # of the names of an interval, behind that of its accuracy

Rows = list[dict[str, Any]]

NOT_MEASURED = "not measured here"


def list_replaced(found: Any) -> Rows:
    """Lists what the shipped file replaces, and that file last, with the MACs that its C executes; unknown is None."""
    shipped = found.shipped
    dense = add_intervals(asdict(found.dense), found.num_images)
    ours = [
        {**dense, "name": "finished, dense, float32", "median_ms": found.dense_ms},
        {
            **shipped,
            "name": f"{shipped['name']}, {shipped['precision']}, ships",
            "flash_bytes": shipped["device"]["flash_bytes"],
            "macs": shipped["device"]["macs"],
            "median_ms": found.shipped_ms,
        },
    ]
    if found.published is None:
        return ours
    study = {"name": f"{'-'.join(STUDY_CHOICE)}, the study's choice as published", "test_accuracy": found.published}
    unknown = dict.fromkeys(("size_bytes", "gzip_size_bytes", "flash_bytes", "macs"))
    return [{**add_intervals(study, NUM_IMAGES), **unknown, "median_ms": ""}, *ours]


def list_facts(found: Any) -> Rows:
    """Lists seed, data, versions and hardware; what belongs to another machine says that it was not measured here."""
    made, timed = found.environment, next(iter(found.times.values()), None)
    facts = {
        "seeds": " ".join(map(str, found.seeds)),
        "test images": f"{found.num_images['test']:,}",
        "SHA-256 of the shipped file": found.shipped["sha256"],
    }
    if made:
        facts["date of the training"] = made["date"]
        facts["hardware of the training"] = f"{made['num_cpus']} cores, {made['cpu']}, {made['policy']}"
        if made.get("settings"):
            facts["settings of the training"] = ", ".join(f"{name}={value}" for name, value in made["settings"].items())
        facts |= list_versions(made)
    else:
        facts["date, hardware and versions of the training"] = NOT_MEASURED
    facts["times of the files"] = f"{timed.cpu}, {timed.num_threads} thread" if timed else NOT_MEASURED
    if found.stages:
        facts["all stages together"] = f"{sum(stage.seconds for stage in found.stages) / 60:.1f} minutes"
    return [{"what": name, "value": value} for name, value in facts.items()]


def list_versions(made: Mapping[str, Any]) -> dict[str, str]:
    """Lists the versions in what is known of a training."""
    return {name: value for name, value in made.items() if name not in NOT_VERSIONS}


def list_classes(shipped: Mapping[str, Any], recall_of_finished: Mapping[str, float]) -> Rows:
    """Lists the classes of the shipped file, each with its recall in the finished model."""
    return [
        {**row, **name_accuracy("recall_of_finished", recall_of_finished.get(row["class"]), row["images"])}
        for row in shipped["classes"]
    ]


def name_accuracy(name: str, accuracy: float | None, num_images: int) -> dict[str, float | None]:
    """Names an accuracy, and behind it the ends of its 95 % interval; None where it is not known."""
    interval = (None, None) if accuracy is None else compute_interval(accuracy, num_images)
    return {name: accuracy} | {f"{name}{end}": bound for end, bound in zip(ENDS, interval, strict=True)}


def list_candidates(
    candidates: Sequence[MeasuredCandidate], chosen: MeasuredCandidate, num_images: Mapping[str, int]
) -> Rows:
    """Lists all candidates, and which is chosen; `num_images` here and below are those of val and test."""
    return [
        {
            **add_intervals(asdict(candidate), num_images),
            "key": candidate.key,
            **name_accuracy("published", candidate.published, NUM_IMAGES["test"]),
            "is_chosen": candidate == chosen,
        }
        for candidate in candidates
    ]


def list_accuracies(candidates: Sequence[MeasuredCandidate], num_images: Mapping[str, int]) -> Rows:
    """Lists the test accuracies of all candidates: a row for each kind of images."""
    return [
        {"model": candidate.model, "augmentation": candidate.augmentation, "images": images}
        | name_accuracy("accuracy", accuracy, num_images["test"])
        for candidate in candidates
        for images, accuracy in _list_accuracies(candidate).items()
    ]


def list_distortions(candidates: Sequence[MeasuredCandidate], num_images: Mapping[str, int]) -> Rows:
    """Lists the test accuracies of all candidates: a row for each of them."""
    rows: Rows = []
    for candidate in candidates:
        rows.append({"key": candidate.key})
        for images, accuracy in _list_accuracies(candidate).items():
            rows[-1] |= name_accuracy(images, accuracy, num_images["test"])
    return rows


def _list_accuracies(candidate: MeasuredCandidate) -> dict[str, float]:
    distorted = {f"under {name}": accuracy for name, accuracy in candidate.under.items()}
    return {"as they are": candidate.test_accuracy, **distorted}


def list_comparisons(comparisons: Sequence[Comparison], family: str) -> Rows:
    """Lists the comparisons of a family."""
    rows = [asdict(row) for row in list_family(comparisons, family)]
    return [{**row, "difference_low": row["low"], "difference_high": row["high"]} for row in rows]


def list_epochs(curves: Sequence[CurvePoint], num_images: Mapping[str, int]) -> Rows:
    """Lists the epochs of all candidates: accuracy on `train` images, while the weights change, and on `val` images."""
    epochs: dict[tuple[str, int], dict[str, Any]] = {}
    for point in curves:
        key = f"{point.model}-{point.augmentation}"
        row = epochs.setdefault((key, point.epoch), {"key": key, "epoch": point.epoch})
        is_val = point.split == "val"
        row |= name_accuracy("val", point.accuracy, num_images["val"]) if is_val else {point.split: point.accuracy}
    return list(epochs.values())


def list_grids(layers: Mapping[str, Sequence[Layer]]) -> Rows:
    """Lists the convolutions and pools of all models that see more than the layer before; some models have none."""
    rows: Rows = []
    for model, of_model in layers.items():
        before = [1.0, *(layer.receptive_field_px for layer in of_model[:-1])]
        sees_more = [layer.receptive_field_px > size for layer, size in zip(of_model, before, strict=True)]
        grid = [layer for layer in compress(of_model, sees_more) if layer.jump_px is not None]  # from dense on, no grid
        for depth, layer in enumerate(grid, start=1):
            name, output = f"{model}, {layer.layer}", layer.output_shape.replace("x", " x ")
            rows.append({**asdict(layer), "model": model, "depth": depth, "name": name, "output": output})
    return rows


def list_pruned(files: Sequence[ModelFile], epochs: Mapping[float, int], num_images: Mapping[str, int]) -> Rows:
    """Lists the dense model, which comes first, and all pruned ones with the epochs of their own fine-tuning."""
    return [
        {
            **add_intervals(asdict(file), num_images),
            "epochs": epochs[float(file.target)] if file.kind == "pruned" else None,
        }
        for file in files
    ]


def list_zeros(zeros: Sequence[KernelZeros]) -> Rows:
    """Lists the share of zeros by kernel, a row for each pruned model."""
    rows: dict[str, dict[str, Any]] = {}
    for kernel in zeros:
        name = f"{kernel.ranking}-{kernel.target}"
        rows.setdefault(name, {"name": name})[kernel.layer] = kernel.sparsity
    return list(rows.values())


def list_shrunk(files: Sequence[ModelFile], times: Times, num_images: Mapping[str, int]) -> Rows:
    """Lists the whole model, which comes first, and all shrunk ones, with the time of an image by precision."""
    return [
        {
            **add_intervals(asdict(file), num_images),
            "share": file.macs / files[0].macs,
            **{precision: find_ms(times, file.kind, file.name, precision) for precision in ("float32", "int8")},
        }
        for file in files
    ]


def list_files(
    files: Sequence[RankedFile], published: Sequence[PublishedModel], times: Times, num_images: Mapping[str, int]
) -> Rows:
    """Lists our files, with the time of an image, and what others published; "" stands where none can be timed."""
    rows: Rows = []
    for file in files:
        is_timed = file.format == "tflite"
        milliseconds = find_ms(times, file.kind, file.name, file.precision) if is_timed else ""
        rows.append({**add_intervals(asdict(file), num_images), "label": file.label, "median_ms": milliseconds})
    unknown = {**dict.fromkeys(("val_accuracy", "gzip_size_bytes", *CLASS_SCORES)), "median_ms": ""}
    known = {"kind": "published", "precision": "float32"}
    others = [{**asdict(model), **known, **unknown, "label": model.name} for model in published]
    return rows + [add_intervals(row, NUM_IMAGES) for row in others]


def list_points(rows: Sequence[Any], shipped: Mapping[str, Any]) -> Rows:
    """Lists results for a chart that shows which of them is shipped."""
    return mark_shipped([row if isinstance(row, dict) else asdict(row) for row in rows], shipped)


def find_ms(times: Times, kind: str, name: str, precision: str) -> float | None:
    """Finds the time of an image, in milliseconds, of a model in a precision."""
    timed = times.get((kind, name, precision))
    return timed.median_ms if timed else None


def find_c_time(times: Sequence[TimedC], kind: str, name: str) -> TimedC | None:
    """Finds what the C of a model takes."""
    return next((timed for timed in times if (timed.kind, timed.name) == (kind, name)), None)


def list_device_costs(files: Sequence[RankedFile], times: Sequence[TimedC], num_images: Mapping[str, int]) -> Rows:
    """Lists the files that have C, with the time of an image in it."""
    rows: Rows = []
    for file in files:
        timed = find_c_time(times, file.kind, file.name)
        measured = add_intervals(asdict(file), num_images)
        rows.append({**measured, "c_median_ms": timed.c_median_ms if timed else None})
    return rows


def list_coverage(coverage: Sequence[Mapping[str, str]], shipped: Mapping[str, Any]) -> Rows:
    """Lists how accurate the surest answers are, by their share, and the point at which the shipped file is sure."""
    answered, rows = shipped["answered"], [{**row, "is_chosen": False} for row in coverage]
    if not answered["images"]:
        return rows
    chosen = {"coverage": answered["coverage"], "accuracy": answered["test_accuracy"]}
    return [*rows, {**chosen, "min_confidence": shipped["min_confidence"], "is_chosen": True}]


def list_confusion(confusion: Mapping[tuple[str, str], int], class_names: Sequence[str]) -> Rows:
    """Lists the confusion matrix: a row for each actual class, by predicted class; None where no image was."""
    return [
        {"actual": actual, **{predicted: confusion.get((actual, predicted)) for predicted in class_names}}
        for actual in class_names
    ]


def list_duplicates(audit: Mapping[str, Any]) -> Rows:
    """Lists how many pairs of images are duplicates, within and across the original files, then the splits."""
    return [
        {"where": f"{kind}: {name.replace('_', ' and ')}", **counts}
        for kind, of_kind in audit["duplicates"].items()
        for name, counts in of_kind.items()
    ]


def list_parts(audit: Mapping[str, Any]) -> Rows:
    """Lists the accuracy with and without the test images that have a duplicate among the training images."""
    return [{"part": name.replace("_", " "), **measured} for name, measured in audit["test_accuracy"].items()]


def list_costs(costs: Mapping[str, Mapping[str, Any]]) -> Rows:
    """Lists what complexity counted, a row for each model."""
    return [{"model": model, **cost} for model, cost in costs.items()]


def list_columns(rows: Rows, first: str, unit: str) -> list[tuple[str, ...]]:
    """Lists the columns of a table whose rows all have the same keys: a name, and values in one unit.

    The ends of an interval stand behind the value that both are of.
    """
    ends = {f"{key}{end}" for key in rows[0] for end in ENDS if all(f"{key}{each}" in rows[0] for each in ENDS)}
    name, *others = (key for key in rows[0] if key not in ends)
    return [(first, name), *[(other, other, unit) for other in others]]


def find_range(rows: Rows) -> tuple[float, float]:
    """Finds the least and the greatest value of such a table."""
    values = [value for row in rows for key, value in row.items() if key != "key" and not key.endswith(ENDS)]
    return min(values), max(values)


def find_most_confused(confusion: Mapping[tuple[str, str], int]) -> int:
    """Finds how often the most frequent mistake was made; at least 1."""
    return max((count for (actual, predicted), count in confusion.items() if actual != predicted), default=1)
