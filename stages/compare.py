"""What came out of it all? Puts every trained, every pruned and the shipped model side by side.

Reads:
    params.yaml: which models, augmentations, seeds and sparsities belong to the run; others in data/ are ignored.
    data/select_model/choice.json; metrics.json of train, finish, complexity, evaluate, prune and shrink; layers.csv of
    complexity, prune and shrink; model.h5 and history.csv of trainings; predictions.npz of the finished model;
    data/ship/model.json.
    data/frontier/: frontier.csv and latency.csv, drawn here, where it is known which file is shipped.
    data/recorded_times.json: what stages and trainings took; data/timing/ for what it does not know.

Writes, in data/compare/:
    metrics.json: the chosen candidate, the finished model, its pruned versions and the shipped file; balanced accuracy
    and macro-F1 of all but the pruned ones.
    test_accuracy.json: test accuracy of every candidate.
    candidates.csv: every candidate with accuracy, cost and training time.
    comparison.png, distortions.png: accuracy against MACs, and accuracy under each augmentation's distortion.
    files.csv: frontier.csv, the shipped file marked, for a plot.
    device.png: every file in C by accuracy and flash, the shipped one marked.
    frontier.png, macs.png, latency.png: every file by accuracy and size, MACs or time, the shipped one marked.
    layers.png: MACs and parameters of each layer of the chosen model.
    seeds.csv: what each seed gives: mean and standard deviation of candidates and of what was made of them.
    curves.csv: the learning curves of all candidates with the first seed, for one plot.
    confusion.csv: how many test images of each class the finished model takes for which, in the order of the labels.
    pruning.csv, pruning.png: accuracy and size by ranking and sparsity, the finished model first.
    sparsity.csv, sparsity.png: zeros of each kernel by ranking and sparsity.
    shrinking.csv, shrinking.png: accuracy and cost by way of shrinking and share of the MACs, the finished one first.
    shrunk_layers.png: MACs of each layer before and after shrinking.
    timing.csv: what each stage took.   environment.json: versions and hardware.
    headline.md, grid.md: the tables of the README.

Nothing here feeds a choice.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.figures.draw import write_png
from stages.lib.params.load import load_params
from stages.lib.params.sections import PruneParams, ShrinkParams, StudyParams
from stages.lib.results.chance import add_intervals, compute_interval
from stages.lib.results.published import is_of_study
from stages.lib.results.rows import (
    CLASS_SCORES,
    DEVICE_COSTS,
    MEASURED,
    TESTED,
    UNDER,
    Candidate,
    KernelZeros,
    LayerMacs,
    ModelFile,
    average,
    deviate,
    find_chosen,
    find_evaluated,
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
from stages.lib.storage.variant import Variant, name_finished

READS = (
    "study",
    "prune.rankings",
    "prune.shrunk_shares",
    "prune.shrunk_rankings",
    "prune.seeds",
    "prune.sparsities",
    "shrink.filters",
    "shrink.seeds",
    "shrink.macs_shares",
)
DATA = Path("data")
OUTPUT = Path("data/compare")


def describe_candidate(candidate: Candidate, times: Times) -> dict[str, Any]:
    """Describes all that is known of a candidate in a row of candidates.csv."""
    evaluation = read_evaluation(candidate.variants)
    training = times.find_training(candidate.variant.folder / "model.h5") or {}
    return {
        "model": candidate.model,
        "augmentation": candidate.augmentation,
        "seeds": candidate.seeds,
        "val_accuracy": candidate.val_accuracy,
        "val_accuracy_sd": candidate.val_accuracy_sd,
        "val_balanced_accuracy": candidate.val_balanced_accuracy,
        "val_macro_f1": candidate.val_macro_f1,
        "val_loss": candidate.val_loss,
        "test_accuracy": evaluation.test_accuracy,
        "test_accuracy_sd": evaluation.test_accuracy_sd,
        "test_balanced_accuracy": evaluation.test_balanced_accuracy,
        "test_macro_f1": evaluation.test_macro_f1,
        "test_loss": evaluation.test_loss,
        "calibration_error": evaluation.calibration_error,
        **{f"{UNDER}{name}": accuracy for name, accuracy in evaluation.under.items()},
        "macs": candidate.macs,
        "parameters": candidate.parameters,
        "receptive_field_px": candidate.receptive_field_px,
        "training_seconds": training.get("seconds"),
    }


def read_curves(candidates: Sequence[Candidate], num_val: int) -> list[dict[str, Any]]:
    """Reads the learning curves of all candidates, with their first seed, as one long table.

    Accuracies on validation images, of which there are `num_val`, have their intervals.
    """
    rows: list[dict[str, Any]] = []
    for candidate in candidates:
        for row in read_csv(candidate.variant.folder / "history.csv"):
            is_val = row["split"] == "val"
            low, high = compute_interval(float(row["accuracy"]), num_val) if is_val else ("", "")
            named = {"model": candidate.model, "augmentation": candidate.augmentation}
            rows.append({**named, **row, "accuracy_low": low, "accuracy_high": high})
    return rows


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
    chosen: Mapping[str, Any],
    finished: Mapping[str, float],
    pruned: Sequence[ModelFile],
    shrunk: Sequence[ModelFile],
    shipped: Mapping[str, Any],
) -> dict[str, Any]:
    """Sums up the chosen candidate and what became of it in a flat table that reads well in `dvc metrics diff`.

    Args:
        chosen: its row of candidates.csv.
        finished: what it is worth as it was trained for long.
        pruned: its pruned versions.
        shrunk: its shrunk versions.
        shipped: the content of data/ship/model.json, which knows how many images there are.
    """
    names = ("val_accuracy", *TESTED, "macs", "parameters", "receptive_field_px")
    summary = {"chosen": f"{chosen['model']}-{chosen['augmentation']}"} | {name: chosen[name] for name in names}
    summary |= {f"finished_{name}": value for name, value in finished.items()}
    summary["shipped"] = f"{shipped['name']}, {shipped['precision']}"
    summary |= {f"shipped_{name}": shipped[name] for name in (*MEASURED, *CLASS_SCORES)}
    summary |= {f"shipped_{column}": shipped["device"][name] for column, name in DEVICE_COSTS.items()}
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


def draw_files(shipped: Mapping[str, Any], is_beside_study: bool) -> None:
    """Draws every file against its cost in bytes, arithmetic and time, and marks the one that `shipped` describes.

    Writes the rows of all but the last as files.csv too. `is_beside_study` tells whether published results are among
    them.
    """
    files, timed = (mark_shipped(read_csv(DATA / f"frontier/{name}.csv"), shipped) for name in ("frontier", "latency"))
    write_csv(OUTPUT / "files.csv", files)
    cpu = f"LiteRT on {timed[0]['cpu']}" if timed else "not measured"
    for name, chart, rows, cost, x, label in (
        ("device", "device", files, "flash", "flash_bytes", "kB of flash on a Cortex-M4"),
        (
            "frontier",
            "frontier",
            files,
            "bytes",
            "gzip_size_bytes",
            f"kB, gzipped{' (published: kB at 4 bytes a parameter)' if is_beside_study else ''}",
        ),
        ("macs", "frontier", files, "arithmetic", "macs", "million MACs an image, zeros included"),
        ("latency", "frontier", timed, f"time: {cpu}", "median_ms", "median ms an image, one thread"),
    ):
        write_png(OUTPUT / f"{name}.png", chart, rows, f"What accuracy costs in {cost}", x=x, x_label=label)


def write_compressed(
    dense: ModelFile,
    pruned: Sequence[ModelFile],
    shrunk: Sequence[ModelFile],
    zeros: Sequence[KernelZeros],
    layers: Sequence[LayerMacs],
    num_images: Mapping[str, int],
) -> None:
    """Writes tables and pictures of what became of the finished model `dense`; `num_images` of val and test."""
    for name, files, x, label in (
        ("pruning", pruned, "sparsity", "weights that are zero (%)"),
        ("shrinking", shrunk, "macs", "million MACs an image"),
    ):
        write_rows(OUTPUT / f"{name}.csv", ModelFile, [dense, *files], num_images)
        rows, title = read_csv(OUTPUT / f"{name}.csv"), f"{name.capitalize()} the finished model, step by step"
        write_png(OUTPUT / f"{name}.png", "ladder", rows, title, x=x, x_label=label)
    write_rows(OUTPUT / "sparsity.csv", KernelZeros, zeros)
    title = "Where the zeros are: share of each kernel (%)"
    write_png(OUTPUT / "sparsity.png", "zeros", read_csv(OUTPUT / "sparsity.csv"), title)
    title = "MACs of each layer of the finished model before and after shrinking"
    write_png(OUTPUT / "shrunk_layers.png", "shrunk_layers", [asdict(row) for row in layers], title, width=700)


def read_accuracies(variant: Variant) -> tuple[float, float]:
    """Reads the accuracy of a model on validation and on test images, which evaluate measured of a trained one."""
    measured = read_json(variant.folder / "metrics.json")
    is_trained = variant.source in ("train", "finish")
    tested = read_evaluation([variant]).test_accuracy if is_trained else measured["test_accuracy"]
    return measured["val_accuracy"], tested


def list_seeds(study: StudyParams, prune: PruneParams, shrink: ShrinkParams) -> list[dict[str, Any]]:
    """Lists mean and standard deviation over the seeds: of candidates, the finished model and compressed ones."""
    models = [candidate.variants for candidate in read_candidates(study)]
    models.append([name_finished(seed) for seed in study.seeds])
    for source, ways, targets, seeds in (
        ("prune", prune.ways, prune.sparsities, prune.seeds),
        ("shrink", shrink.filters, shrink.macs_shares, shrink.seeds),
    ):
        models += [[Variant(source, *named, seed) for seed in seeds] for named in product(ways, targets)]
    rows = []
    for variants in models:
        of_val, of_test = zip(*map(read_accuracies, variants), strict=True)
        rows.append(
            {
                "name": variants[0].name,
                "seeds": " ".join(str(variant.seed) for variant in variants),
                "val_accuracy": round(average(of_val), 6),
                "val_accuracy_sd": deviate(of_val),
                "test_accuracy": round(average(of_test), 6),
                "test_accuracy_sd": deviate(of_test),
            }
        )
    return rows


def find_environment(candidates: Mapping[str, Candidate], finished: Path, times: Times) -> dict[str, Any]:
    """Finds with what `finished` was trained; empty where that of any training is not known: it would mix two runs."""
    paths = [one.variant.folder / "model.h5" for one in candidates.values()]
    trainings = [times.find_training(path) for path in (finished, *paths)]
    return dict(trainings[0] or {}) if times.stages and all(trainings) else {}


def main() -> None:
    """Runs the stage."""
    params, choice = load_params(reads=READS), read_json(DATA / "select_model/choice.json")
    study, prune, shrink, seed = params.study, params.prune, params.shrink, params.study.seeds[0]
    shipped, variant = read_json(DATA / "ship/model.json"), name_finished(seed)
    is_beside_study = is_of_study(shipped["dataset"], shipped["class_names"])
    times = read_times(list_items(study, prune, shrink))
    candidates = {candidate.key: candidate for candidate in read_candidates(study)}
    described = {name: describe_candidate(candidate, times) for name, candidate in candidates.items()}
    num_images, key = shipped["num_images"], find_chosen(list(candidates.values()), choice).key
    rows, chosen, finished = list(described.values()), described[key], read_dense(variant, candidates[key])
    pruned = [read_version(one, finished) for one in list_variants("prune", prune.ways, prune.sparsities, seed)]
    shrunk = [read_version(one, finished) for one in list_variants("shrink", shrink.filters, shrink.macs_shares, seed)]

    worth = asdict(read_evaluation([variant]))
    of_finished = {"val_accuracy": finished.val_accuracy, **{name: worth[name] for name in TESTED}}
    write_json(OUTPUT / "metrics.json", summarize(chosen, of_finished, pruned, shrunk, shipped))
    measured = {name: add_intervals(row, num_images) for name, row in described.items()}
    ends = ("", "_low", "_high")
    tested = {f"{name}{end}": row[f"test_accuracy{end}"] for name, row in measured.items() for end in ends}
    write_json(OUTPUT / "test_accuracy.json", tested)
    write_csv(OUTPUT / "candidates.csv", list(measured.values()))
    write_csv(OUTPUT / "seeds.csv", list_seeds(study, prune, shrink))
    draw_candidates(rows, chosen, num_images)
    draw_files(shipped, is_beside_study)
    write_csv(OUTPUT / "curves.csv", read_curves(list(candidates.values()), num_images["val"]))
    labels, predicted = read_arrays(find_evaluated(variant) / "predictions.npz", "labels", "as_they_are")
    write_csv(OUTPUT / "confusion.csv", count_confusion(labels, predicted, shipped["class_names"]))
    zeros = read_kernel_zeros(prune.ways, prune.sparsities, seed)
    layers = read_shrunk_layers(shrink.filters[0], shrink.macs_shares, seed)
    write_compressed(finished, pruned, shrunk, zeros, layers, num_images)

    environment = find_environment(candidates, variant.folder / "model.h5", times)
    stages = times.stages if environment else []
    write_json(OUTPUT / "environment.json", environment)
    write_rows(OUTPUT / "timing.csv", StageTime, stages)
    sentences = format_environment(environment, stages, seed) if environment else f"Seed {seed}.\n"
    headline = format_headline(key, finished, shipped, is_beside_study)
    write_bytes(OUTPUT / "headline.md", f"{headline}\n{sentences}".encode())
    write_bytes(OUTPUT / "grid.md", format_grid(rows, num_images, is_beside_study).encode())
    print(f"{OUTPUT}: the finished model has a test accuracy of {finished.test_accuracy:.4f}")


if __name__ == "__main__":
    run_stage(main)
