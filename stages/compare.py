"""What came out of it all? Puts every trained, every pruned and the shipped model side by side.

Reads:
    params.yaml: which models, augmentations and sparsities belong to the run; others that lie in data/ are ignored.
    data/select_model/choice.json; metrics.json of train, complexity, evaluate, prune and shrink; layers.csv of
    complexity, prune and shrink; model.h5, history.csv and predictions.npz of candidates; data/ship/model.json.
    data/frontier/: frontier.csv and latency.csv, drawn here, where it is known which file is shipped.
    data/recorded_times.json: what stages and trainings took; data/timing/ for what it does not know.

Writes, in data/compare/:
    metrics.json: the chosen model, its pruned versions and the shipped file.
    test_accuracy.json: test accuracy of every candidate.
    candidates.csv: every candidate with accuracy, cost and training time.
    comparison.png, distortions.png: accuracy against MACs, and accuracy under each augmentation's distortion.
    files.csv: frontier.csv, the shipped file marked, for a plot.
    frontier.png, macs.png, latency.png: every file by accuracy and size, MACs or time, the shipped one marked.
    layers.png: MACs and parameters of each layer of the chosen model.
    curves.csv: the learning curves of all candidates, for one plot.
    confusion.csv: how many test images of each class the chosen model takes for which, in the order of the labels.
    pruning.csv, pruning.png: accuracy and size by ranking and sparsity, the chosen model first.
    sparsity.csv, sparsity.png: zeros of each kernel by ranking and sparsity.
    shrinking.csv, shrinking.png: accuracy and cost by way of shrinking and share of the MACs, the chosen model first.
    shrunk_layers.png: MACs of each layer before and after shrinking.
    timing.csv: what each stage took.   environment.json: versions and hardware.
    headline.md, grid.md: the tables of the README.

Nothing here feeds a choice.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.figures.draw import write_png
from stages.lib.params.load import load_params
from stages.lib.results.chance import add_intervals
from stages.lib.results.rows import (
    MEASURED,
    UNDER,
    Candidate,
    KernelZeros,
    LayerMacs,
    ModelFile,
    list_variants,
    mark_shipped,
    read_candidates,
    read_dense,
    read_evaluation,
    read_kernel_zeros,
    read_shrunk_layers,
    read_version,
    write_rows,
)
from stages.lib.results.tables import format_environment, format_grid, format_headline
from stages.lib.results.times import StageTime, Times, list_items, read_times
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import read_arrays, read_csv, read_json, write_bytes, write_csv, write_json

READS = ("seed", "study", "prune.rankings", "prune.sparsities", "shrink.filters", "shrink.macs_shares")
DATA = Path("data")
OUTPUT = Path("data/compare")


def describe_candidate(candidate: Candidate, times: Times) -> dict[str, Any]:
    """Describes all that is known of a candidate in a row of candidates.csv."""
    evaluation = read_evaluation(candidate)
    training = times.find_training(candidate.variant.folder / "model.h5") or {}
    return {
        "model": candidate.model,
        "augmentation": candidate.augmentation,
        "val_accuracy": candidate.val_accuracy,
        "val_loss": candidate.val_loss,
        "test_accuracy": evaluation.test_accuracy,
        "test_loss": evaluation.test_loss,
        "calibration_error": evaluation.calibration_error,
        **{f"{UNDER}{name}": accuracy for name, accuracy in evaluation.under.items()},
        "macs": candidate.macs,
        "parameters": candidate.parameters,
        "receptive_field_px": candidate.receptive_field_px,
        "training_seconds": training.get("seconds"),
    }


def read_curves(candidates: Sequence[Candidate]) -> list[dict[str, str]]:
    """Reads the learning curves of all candidates as one long table."""
    return [
        {"model": candidate.model, "augmentation": candidate.augmentation} | row
        for candidate in candidates
        for row in read_csv(candidate.variant.folder / "history.csv")
    ]


def count_confusion(labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Counts images by actual and predicted class; every pair has a row, for a chart takes its order from the rows.

    `labels` and `predicted` are (N,) indices of `class_names`.
    """
    counts = Counter(zip(labels.tolist(), predicted.tolist(), strict=True))
    return [
        {"actual": actual, "predicted": other, "images": counts[row, column]}
        for row, actual in enumerate(class_names)
        for column, other in enumerate(class_names)
    ]


def summarize(
    chosen: Mapping[str, Any], pruned: Sequence[ModelFile], shrunk: Sequence[ModelFile], shipped: Mapping[str, Any]
) -> dict[str, Any]:
    """Sums up the chosen model and what became of it in a flat table that reads well in `dvc metrics diff`.

    Args:
        chosen: its row of candidates.csv.
        pruned: its pruned versions.
        shrunk: its shrunk versions.
        shipped: the content of data/ship/model.json, which knows how many images there are.
    """
    of_candidate = ("val_accuracy", "test_accuracy", "test_loss", "calibration_error")
    names = (*of_candidate, "macs", "parameters", "receptive_field_px")
    summary = {"chosen": f"{chosen['model']}-{chosen['augmentation']}"} | {name: chosen[name] for name in names}
    summary["shipped"] = f"{shipped['name']}, {shipped['precision']}"
    summary |= {f"shipped_{name}": shipped[name] for name in MEASURED}
    for model in pruned:
        summary[f"pruned_{model.way}_{model.target}_test_accuracy"] = model.test_accuracy
        summary[f"pruned_{model.way}_{model.target}_gzip_size_bytes"] = model.gzip_size_bytes
    for model in shrunk:
        summary[f"shrunk_{model.way}_{model.target}_test_accuracy"] = model.test_accuracy
    return add_intervals(summary, shipped["num_images"])


def draw_candidates(
    rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any], num_images: Mapping[str, int]
) -> None:
    """Draws the candidates against their cost and under distortions, and the layers of the chosen one.

    `rows` are those of candidates.csv without intervals, of which `chosen` is one; `num_images` of val and test.
    """
    marked = [{**add_intervals(row, num_images), "is_chosen": row is chosen} for row in rows]
    title, label = "Accuracy and cost of every candidate", "million MACs an image"
    write_png(OUTPUT / "comparison.png", "comparison", marked, title, x="macs", x_label=label, width=720)
    columns = {name: f"under {name.removeprefix(UNDER)}" for name in rows[0] if name.startswith(UNDER)}
    distorted = [
        {"name": f"{row['model']}-{row['augmentation']}", "images": images, "accuracy": row[name]}
        for row in rows
        for name, images in {"test_accuracy": "as they are", **columns}.items()
    ]
    title = "Test accuracy (%) under each augmentation's own distortion"
    write_png(OUTPUT / "distortions.png", "distortions", distorted, title, width=680)
    layers = read_csv(DATA / "complexity" / chosen["model"] / "layers.csv")
    write_png(OUTPUT / "layers.png", "layers", layers, f"Cost of each layer of {chosen['model']}")


def draw_files(shipped: Mapping[str, Any]) -> None:
    """Draws every file against its cost in bytes, arithmetic and time, and marks the one that `shipped` describes.

    Writes the rows of the first two as files.csv too.
    """
    files, timed = (mark_shipped(read_csv(DATA / f"frontier/{name}.csv"), shipped) for name in ("frontier", "latency"))
    write_csv(OUTPUT / "files.csv", files)
    cpu = f"LiteRT on {timed[0]['cpu']}" if timed else "not measured"
    for name, rows, cost, x, label in (
        ("frontier", files, "bytes", "gzip_size_bytes", "kB, gzipped (published: kB at 4 bytes a parameter)"),
        ("macs", files, "arithmetic", "macs", "million MACs an image"),
        ("latency", timed, f"time: {cpu}", "median_ms", "median ms an image, one thread"),
    ):
        write_png(OUTPUT / f"{name}.png", "frontier", rows, f"What accuracy costs in {cost}", x=x, x_label=label)


def write_compressed(
    dense: ModelFile,
    pruned: Sequence[ModelFile],
    shrunk: Sequence[ModelFile],
    zeros: Sequence[KernelZeros],
    layers: Sequence[LayerMacs],
    num_images: Mapping[str, int],
) -> None:
    """Writes tables and pictures of what became of the model `dense`; `num_images` of val and test."""
    for name, files, x, label in (
        ("pruning", pruned, "sparsity", "weights that are zero (%)"),
        ("shrinking", shrunk, "macs", "million MACs an image"),
    ):
        write_rows(OUTPUT / f"{name}.csv", ModelFile, [dense, *files], num_images)
        rows, title = read_csv(OUTPUT / f"{name}.csv"), f"{name.capitalize()} {dense.name}, fine-tuned at each point"
        write_png(OUTPUT / f"{name}.png", "ladder", rows, title, x=x, x_label=label)
    write_rows(OUTPUT / "sparsity.csv", KernelZeros, zeros)
    title = "Where the zeros are: share of each kernel (%)"
    write_png(OUTPUT / "sparsity.png", "zeros", read_csv(OUTPUT / "sparsity.csv"), title)
    title = f"MACs of each layer of {dense.name} before and after shrinking"
    write_png(OUTPUT / "shrunk_layers.png", "shrunk_layers", [asdict(row) for row in layers], title, width=700)


def find_environment(candidates: Mapping[str, Candidate], key: str, times: Times) -> dict[str, Any]:
    """Finds with what the candidate `key` was trained; empty where that of any is not known: it would mix two runs."""
    trainings = {name: times.find_training(one.variant.folder / "model.h5") for name, one in candidates.items()}
    return dict(trainings[key] or {}) if times.stages and all(trainings.values()) else {}


def main() -> None:
    """Runs the stage."""
    params, choice = load_params(reads=READS), read_json(DATA / "select_model/choice.json")
    study, prune, shrink = params.study, params.prune, params.shrink
    shipped, key = read_json(DATA / "ship/model.json"), f"{choice['model']}-{choice['augmentation']}"
    times = read_times(list_items(study.models, study.augmentations, *prune.rankings, *shrink.filters))
    candidates = {candidate.key: candidate for candidate in read_candidates(study.models, study.augmentations)}
    described = {name: describe_candidate(candidate, times) for name, candidate in candidates.items()}
    num_images = shipped["num_images"]
    rows, chosen, dense = list(described.values()), described[key], read_dense(candidates[key])
    pruned = [read_version(one, dense) for one in list_variants("prune", prune.rankings, prune.sparsities)]
    shrunk = [read_version(one, dense) for one in list_variants("shrink", shrink.filters, shrink.macs_shares)]

    write_json(OUTPUT / "metrics.json", summarize(chosen, pruned, shrunk, shipped))
    measured = {name: add_intervals(row, num_images) for name, row in described.items()}
    ends = ("", "_low", "_high")
    tested = {f"{name}{end}": row[f"test_accuracy{end}"] for name, row in measured.items() for end in ends}
    write_json(OUTPUT / "test_accuracy.json", tested)
    write_csv(OUTPUT / "candidates.csv", list(measured.values()))
    draw_candidates(rows, chosen, num_images)
    draw_files(shipped)
    write_csv(OUTPUT / "curves.csv", read_curves(list(candidates.values())))
    labels, predicted = read_arrays(DATA / "evaluate" / key / "predictions.npz", "labels", "as_they_are")
    write_csv(OUTPUT / "confusion.csv", count_confusion(labels, predicted, shipped["class_names"]))
    zeros = read_kernel_zeros(prune.rankings, prune.sparsities)
    layers = read_shrunk_layers(shrink.filters[0], shrink.macs_shares)
    write_compressed(dense, pruned, shrunk, zeros, layers, num_images)

    environment = find_environment(candidates, key, times)
    stages = times.stages if environment else []
    write_json(OUTPUT / "environment.json", environment)
    write_rows(OUTPUT / "timing.csv", StageTime, stages)
    sentences = format_environment(environment, stages, params.seed) if environment else f"Seed {params.seed}.\n"
    headline = format_headline(chosen, dense, shipped)
    write_bytes(OUTPUT / "headline.md", f"{headline}\n{sentences}".encode())
    write_bytes(OUTPUT / "grid.md", format_grid(rows, num_images).encode())
    print(f"{OUTPUT}: the chosen model has a test accuracy of {chosen['test_accuracy']:.4f}")


if __name__ == "__main__":
    run_stage(main)
