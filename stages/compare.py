"""What came out of it all? Puts every trained, every pruned and the shipped model side by side.

Reads:
    params.yaml: which models, augmentations and sparsities belong to the run; others that lie in data/ are ignored.
    data/select_model/choice.json; metrics.json of train, complexity, evaluate and prune; history.csv; confusion.csv;
    layers.csv of prune; metrics.json and layers.csv of shrink; data/ship/model.json.
    data/timing/: what the stages took, where that was on this machine.

Writes, in data/compare/, DVC outputs (the same bytes in every run):
    metrics.json: the chosen model, its pruned versions and the shipped file; kept in Git.
    test_accuracy.json: test accuracy of every candidate; kept in Git.
    curves.csv: the learning curves of all candidates, for one plot.
    confusion.csv: actual and predicted class of each test image, by the chosen model.
    pruning.csv: accuracy and size by ranking and sparsity.   pruning.png: the same as a picture.
    sparsity.csv: zeros of each kernel by ranking and sparsity.   sparsity.png: the same as a picture.
    shrinking.csv: accuracy and cost by way of shrinking and share of the MACs.   shrinking.png: the same as a picture,
        and the MACs of each layer before and after.
    distortions.png: accuracy of every candidate under each regime's own distortion.
and, outside that promise because times differ from run to run, but kept in Git:
    candidates.csv, candidates.png: every candidate with accuracy, cost and training time.
    timing.csv: what each stage took.   environment.json: versions and hardware.
    headline.md, grid.md: the tables of the README.

Nothing here feeds a choice.
"""

from collections.abc import Sequence
from hashlib import sha256
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from stages.lib.params.load import load_params
from stages.lib.pictures.style import COLORS, write_figure
from stages.lib.results.tables import format_environment, format_grid, format_headline
from stages.lib.running.runner import TIMING, run_stage
from stages.lib.storage.files import read_csv, read_json, write_bytes, write_csv, write_json

READS = (
    "seed",
    "study",
    "prune.rankings",
    "prune.sparsities",
    "shrink.filters",
    "shrink.macs_shares",
)
READS = ("seed", "study", "prune.rankings", "prune.sparsities", "shrink.filters", "shrink.macs_shares",)
DATA = Path("data")
OUTPUT = Path("data/compare")


def read_training(key: str) -> dict[str, Any]:
    """Reads with what a candidate was trained and what that took; empty if its model was not trained here."""
    path = TIMING / "training" / f"{key}.json"
    if not path.exists():
        return {}
    training = read_json(path)
    is_of_this_model = (
        training.pop("model_sha256") == sha256((DATA / "train" / key / "model.h5").read_bytes()).hexdigest()
    )
    return training if is_of_this_model else {}


def read_candidate(model: str, augmentation: str) -> dict[str, Any]:
    """Reads all that was measured of one candidate, as one flat row; counts are for one image."""
    key = f"{model}-{augmentation}"
    cost = read_json(DATA / "complexity" / model / "metrics.json")
    return {
        "model": model,
        "augmentation": augmentation,
        **read_json(DATA / "train" / key / "metrics.json"),
        **read_json(DATA / "evaluate" / key / "metrics.json"),
        **{name: cost[name] for name in ("macs", "parameters", "receptive_field_px")},
        "training_seconds": read_training(key).get("seconds"),
    }


def read_curves(candidates: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Reads the learning curves of all candidates as one long table."""
    rows = []
    for candidate in candidates:
        names = {"model": candidate["model"], "augmentation": candidate["augmentation"]}
        path = DATA / "train" / f"{names['model']}-{names['augmentation']}" / "history.csv"
        rows += [names | row for row in read_csv(path)]
    return rows


def list_pruned(rankings: Sequence[str], sparsities: Sequence[float]) -> list[dict[str, Any]]:
    """Lists what pruning gave, a row a ranking and target sparsity; the dense model comes first, with target 0."""
    names = ("sparsity", "val_accuracy", "test_accuracy", "size_bytes", "gzip_size_bytes")
    rows = []
    for ranking in rankings:
        for sparsity in sparsities:
            metrics = read_json(DATA / "prune" / ranking / str(sparsity) / "metrics.json")
            rows.append({"ranking": ranking, "target": sparsity} | {name: metrics[name] for name in names})
    dense = {"ranking": "dense", "target": 0, "sparsity": 0.0}
    return [dense | {name: metrics[f"dense_{name}"] for name in names[1:]}, *rows]


def list_sparsity_of_layers(rankings: Sequence[str], sparsities: Sequence[float]) -> list[dict[str, Any]]:
    """Lists the zeros of each kernel, a row a ranking, target sparsity and layer."""
    rows: list[dict[str, Any]] = []
    for ranking in rankings:
        for sparsity in sparsities:
            names = {"ranking": ranking, "target": sparsity}
            rows += [names | row for row in read_csv(DATA / "prune" / ranking / str(sparsity) / "layers.csv")]
    return rows


def list_shrunk(ways: Sequence[str], macs_shares: Sequence[float], chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """Lists what shrinking gave, a row a way and share of the MACs; the chosen model comes first, with share 1."""
    names = ("macs_share", "macs", "parameters", "val_accuracy", "test_accuracy")
    rows = []
    for way in ways:
        for share in macs_shares:
            metrics = read_json(DATA / "shrink" / way / str(share) / "metrics.json")
            rows.append({"filters": way, "target": share} | {name: metrics[name] for name in names})
    return [{"filters": "all", "target": 1, "macs_share": 1.0} | {name: chosen[name] for name in names[1:]}, *rows]


def list_macs_of_layers(way: str, macs_shares: Sequence[float]) -> dict[str, dict[str, int]]:
    """Lists the MACs of each layer that has some, before shrinking and for each share: all ways give the same."""
    macs: dict[str, dict[str, int]] = {"all filters": {}}
    for share in macs_shares:
        rows = [row for row in read_csv(DATA / "shrink" / way / str(share) / "layers.csv") if int(row["dense_macs"])]
        macs["all filters"] = {row["layer"]: int(row["dense_macs"]) for row in rows}
        macs[f"at most {100 * share:g} %"] = {row["layer"]: int(row["macs"]) for row in rows}
    return macs


def summarize(
    chosen: dict[str, Any],
    pruned: Sequence[dict[str, Any]],
    shrunk: Sequence[dict[str, Any]],
    shipped: dict[str, Any],
) -> dict[str, Any]:
    """Sums up the chosen model and what became of it in a flat table that reads well in `dvc metrics diff`."""
    names = (
        "val_accuracy",
        "test_accuracy",
        "test_loss",
        "calibration_error",
        "macs",
        "parameters",
        "receptive_field_px",
    )
    summary = {"chosen": f"{chosen['model']}-{chosen['augmentation']}"} | {name: chosen[name] for name in names}
    summary["shipped"] = f"{shipped['name']}, {shipped['precision']}"
    for name in ("val_accuracy", "test_accuracy", "size_bytes", "gzip_size_bytes"):
        summary[f"shipped_{name}"] = shipped[name]
    for row in pruned[1:]:
        prefix = f"pruned_{row['ranking']}_{row['target']}"
        summary[f"{prefix}_test_accuracy"] = row["test_accuracy"]
        summary[f"{prefix}_gzip_size_bytes"] = row["gzip_size_bytes"]
    for row in shrunk[1:]:
        summary[f"shrunk_{row['filters']}_{row['target']}_test_accuracy"] = row["test_accuracy"]
    return summary


def plot_distortions(candidates: Sequence[dict[str, Any]]) -> Figure:
    """Plots test accuracy as a heat map: a row a candidate, a column a distortion of the test images."""
    prefix = "test_accuracy_under_"
    columns = ["test_accuracy", *[name for name in candidates[0] if name.startswith(prefix)]]
    accuracy = 100 * np.array([[candidate[column] for column in columns] for candidate in candidates])
    figure, axis = plt.subplots(figsize=(1.2 * len(columns) + 2.4, 0.3 * len(candidates) + 1.3))
    image = axis.imshow(accuracy, aspect="auto", cmap="viridis")
    axis.set_xticks(range(len(columns)), ["as they are", *[f"under {c.removeprefix(prefix)}" for c in columns[1:]]])
    axis.set_yticks(range(len(candidates)), [f"{c['model']}-{c['augmentation']}" for c in candidates])
    axis.set(
        xlabel="test images", ylabel="model and its training", title="Test accuracy (%) under each regime's distortion"
    )
    middle = (accuracy.min() + accuracy.max()) / 2
    for (row, column), value in np.ndenumerate(accuracy):
        color = "black" if value > middle else "white"
        axis.text(column, row, f"{value:.1f}", ha="center", va="center", color=color, fontsize=8)
    axis.spines[:].set_visible(False)
    figure.colorbar(image, label="accuracy (%)")
    return figure


def plot_pruning(rows: Sequence[dict[str, Any]], key: str) -> Figure:
    """Plots accuracy and file size against the share of zeros, a color a ranking; the dense model begins each line."""
    dense, *pruned = rows
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(6, 5.6), sharex=True)
    for color, ranking in zip(COLORS, dict.fromkeys(row["ranking"] for row in pruned), strict=False):
        line = [dense, *[row for row in pruned if row["ranking"] == ranking]]
        target = [100 * row["target"] for row in line]
        for split, label, style in (("test", "test", "-"), ("val", "validation", ":")):
            accuracy = [100 * row[f"{split}_accuracy"] for row in line]
            top.plot(target, accuracy, style, marker="o", markersize=3, color=color, label=f"{ranking}, {label}")
        sizes = [row["gzip_size_bytes"] / 1e6 for row in line]
        bottom.plot(target, sizes, marker="o", markersize=3, color=color, label=ranking)
    top.set(ylabel="accuracy (%)", title=f"Magnitude pruning of {key}, fine-tuned at each point")
    top.legend(frameon=False)
    bottom.set(xlabel="zeros in the kernels that are pruned (%)", ylabel="gzipped model file (MB)", ylim=(0, None))
    bottom.legend(frameon=False)
    return figure


def plot_sparsity_of_layers(rows: Sequence[dict[str, Any]]) -> Figure:
    """Plots the share of zeros of each kernel as heat maps, one a ranking: a row a layer, a column a sparsity."""
    rankings, layers, targets = (
        list(dict.fromkeys(row[name] for row in rows)) for name in ("ranking", "layer", "target")
    )
    shares = {(row["ranking"], row["layer"], row["target"]): 100 * float(row["sparsity"]) for row in rows}
    size = (0.7 * len(targets) * len(rankings) + 2.2, 0.32 * len(layers) + 1.2)
    figure, axes = plt.subplots(1, len(rankings), figsize=size, sharey=True, squeeze=False)
    for axis, ranking in zip(axes[0], rankings, strict=True):
        values = np.array([[shares[ranking, layer, target] for target in targets] for layer in layers])
        image = axis.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=100)
        axis.set_xticks(range(len(targets)), [f"{100 * target:g}" for target in targets])
        axis.set_yticks(range(len(layers)), layers)
        axis.set(xlabel="zeros in the kernels that are pruned (%)", title=ranking)
        for (row, column), value in np.ndenumerate(values):
            color = "black" if value > 50 else "white"
            axis.text(
                column, row, f"{value:.0f}" if value < 99 else f"{value:.1f}", ha="center", va="center", color=color
            )
        axis.spines[:].set_visible(False)
    figure.suptitle("Where the zeros are: share of each kernel (%)")
    figure.colorbar(image, ax=axes[0], label="zeros (%)")
    return figure


def plot_shrinking(rows: Sequence[dict[str, Any]], macs: dict[str, dict[str, int]], key: str) -> Figure:
    """Plots accuracy against MACs, a color a way of shrinking, and beside it the MACs of each layer at each share."""
    dense, *shrunk = rows
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    for color, way in zip(cycle(COLORS), dict.fromkeys(row["filters"] for row in shrunk), strict=False):
        line = [dense, *[row for row in shrunk if row["filters"] == way]]
        million_macs = [row["macs"] / 1e6 for row in line]
        for split, label, style in (("test", "test", "-"), ("val", "validation", ":")):
            accuracy = [100 * row[f"{split}_accuracy"] for row in line]
            left.plot(million_macs, accuracy, style, marker="o", markersize=3, color=color, label=f"{way}, {label}")
    left.set(
        xlabel="million MACs an image", ylabel="accuracy (%)", title=f"{key} with fewer filters, by how they are chosen"
    )
    left.legend(frameon=False)
    for position, (color, (name, of_layers)) in enumerate(zip(cycle(COLORS), macs.items(), strict=False)):
        places = np.arange(len(of_layers)) + 0.8 * (position + 0.5) / len(macs) - 0.4
        right.barh(places, [count / 1e6 for count in of_layers.values()], 0.8 / len(macs), color=color, label=name)
        right.set_yticks(range(len(of_layers)), list(of_layers))
    right.invert_yaxis()
    right.set(xlabel="million MACs an image", title="MACs of each layer")
    right.legend(frameon=False, loc="lower right")
    return figure


def plot_candidates(candidates: Sequence[dict[str, Any]], chosen_key: str) -> Figure:
    """Plots the candidates as a table, the best validation accuracy first; the chosen row is bold."""
    header = [
        "candidate",
        "val\naccuracy",
        "test\naccuracy",
        "million\nMACs",
        "thousand\nparameters",
        "receptive\nfield",
        "training",
    ]
    rows = []
    for row in sorted(candidates, key=lambda candidate: -candidate["val_accuracy"]):
        seconds = row["training_seconds"]
        rows.append(
            [
                f"{row['model']}-{row['augmentation']}",
                f"{100 * row['val_accuracy']:.2f} %",
                f"{100 * row['test_accuracy']:.2f} %",
                f"{row['macs'] / 1e6:.1f}",
                f"{row['parameters'] / 1e3:,.0f}",
                f"{row['receptive_field_px']} px",
                "not here" if seconds is None else f"{seconds:.0f} s",
            ]
        )
    figure, axis = plt.subplots(figsize=(8, 0.27 * len(rows) + 1.2))
    axis.axis("off")
    axis.set_title("Every candidate, the best on validation first; the chosen one in bold")
    table = axis.table(rows, colLabels=header, loc="center", cellLoc="right", bbox=Bbox.unit())
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    for (row_index, column), cell in table.get_celld().items():
        cell.set_edgecolor("0.85")
        if row_index == 0:
            cell.set_height(2 * cell.get_height())
            cell.set_facecolor("0.94")
        elif rows[row_index - 1][0] == chosen_key:
            cell.set_text_props(fontweight="bold")
        if column == 0:
            cell.set_text_props(ha="left")
    return figure


def list_timing(
    models: Sequence[str], augmentations: Sequence[str], rankings: Sequence[str], ways_of_shrinking: Sequence[str]
) -> list[dict[str, Any]]:
    """Lists what each stage of this run took when it last ran on this machine; this stage still runs."""
    keys = [f"{model}-{augmentation}" for model in models for augmentation in augmentations]
    matrix: dict[str, Sequence[str]] = {
        "preview": augmentations,
        "complexity": models,
        "train": keys,
        "evaluate": keys,
        "prune": rankings,
        "shrink": ways_of_shrinking,
        "export": ["train", "prune", "shrink"],
    }
    stages = ["validate", "download", "prepare", "select_model", "frontier", "ship"]
    stages += [f"{stage}@{item}" for stage, items in matrix.items() for item in items]
    return [read_json(TIMING / f"{stage}.json") for stage in stages if (TIMING / f"{stage}.json").exists()]


def write_outputs(
    candidates: Sequence[dict[str, Any]],
    chosen: dict[str, Any],
    pruned: Sequence[dict[str, Any]],
    layers: Sequence[dict[str, Any]],
    shrunk: Sequence[dict[str, Any]],
    macs: dict[str, dict[str, int]],
    shipped: dict[str, Any],
) -> None:
    """Writes the DVC outputs of this stage."""
    key = f"{chosen['model']}-{chosen['augmentation']}"
    accuracies = {f"{row['model']}-{row['augmentation']}": row["test_accuracy"] for row in candidates}
    write_json(OUTPUT / "metrics.json", summarize(chosen, pruned, shrunk, shipped))
    write_json(OUTPUT / "test_accuracy.json", accuracies)
    write_csv(OUTPUT / "curves.csv", read_curves(candidates))
    write_bytes(OUTPUT / "confusion.csv", (DATA / "evaluate" / key / "confusion.csv").read_bytes())
    write_csv(OUTPUT / "pruning.csv", pruned)
    write_figure(OUTPUT / "pruning.png", plot_pruning(pruned, key))
    write_csv(OUTPUT / "sparsity.csv", layers)
    write_figure(OUTPUT / "sparsity.png", plot_sparsity_of_layers(layers))
    write_csv(OUTPUT / "shrinking.csv", shrunk)
    write_figure(OUTPUT / "shrinking.png", plot_shrinking(shrunk, macs, key))
    write_figure(OUTPUT / "distortions.png", plot_distortions(candidates))


def write_times(
    candidates: Sequence[dict[str, Any]],
    chosen: dict[str, Any],
    headline: str,
    timing: Sequence[dict[str, Any]],
    seed: int,
) -> None:
    """Writes the files that hold times, versions and hardware, the README's tables among them.

    What the run took is only said where every candidate was trained on this machine: else it would mix two runs.
    """
    key = f"{chosen['model']}-{chosen['augmentation']}"
    is_one_run = bool(timing) and all(candidate["training_seconds"] is not None for candidate in candidates)
    environment = read_training(key) if is_one_run else {}
    write_csv(OUTPUT / "candidates.csv", candidates)
    write_figure(OUTPUT / "candidates.png", plot_candidates(candidates, key))
    write_json(OUTPUT / "environment.json", environment)
    write_csv(OUTPUT / "timing.csv", timing if is_one_run else [dict.fromkeys(("stage", "seconds", "peak_memory_mib"))])
    sentences = format_environment(environment, timing, seed) if is_one_run else f"Seed {seed}.\n"
    write_bytes(OUTPUT / "headline.md", f"{headline}\n{sentences}".encode())
    write_bytes(OUTPUT / "grid.md", format_grid(candidates).encode())


def main() -> None:
    """Runs the stage."""
    params, choice = load_params(reads=READS), read_json(DATA / "select_model/choice.json")
    study, prune, shrink = params.study, params.prune, params.shrink
    shipped = read_json(DATA / "ship/model.json")
    candidates = [read_candidate(model, name) for model in study.models for name in study.augmentations]
    names = ("model", "augmentation")
    (chosen,) = (candidate for candidate in candidates if all(candidate[name] == choice[name] for name in names))
    pruned = list_pruned(prune.rankings, prune.sparsities)
    layers = list_sparsity_of_layers(prune.rankings, prune.sparsities)
    shrunk = list_shrunk(shrink.filters, shrink.macs_shares, chosen)
    macs = list_macs_of_layers(shrink.filters[0], shrink.macs_shares)
    timing = list_timing(study.models, study.augmentations, prune.rankings, shrink.filters)
    write_outputs(candidates, chosen, pruned, layers, shrunk, macs, shipped)
    write_times(candidates, chosen, format_headline(chosen, pruned[0], shipped), timing, params.seed)
    print(f"{OUTPUT}: the chosen model has a test accuracy of {chosen['test_accuracy']:.4f}")


if __name__ == "__main__":
    run_stage(main)
