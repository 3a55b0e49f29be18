"""Which model gives the most accuracy for its bytes, its arithmetic and its time? Puts every model into one picture.

Reads:
    params.yaml: which models, augmentations, prunings and shrinkings belong to the run; others in data/ are ignored.
    data/select_model/choice.json; metrics.json of train, evaluate, complexity, prune, shrink and export; model.h5.
    data/timing/latency/: how long the exported files take, where that was measured on this machine.

Writes, in data/frontier/, DVC outputs (the same bytes in every run):
    frontier.csv: a row a model file, and a row a published model of others, which is never on a front.
    frontier.png: test accuracy against size and against MACs.
and, outside that promise because times differ from run to run, but kept in Git:
    latency.csv, latency.png: test accuracy against time.
    frontier.md: a table of the README.   shrinking.md: another, MACs by layer before and after shrinking, and times.

A model is on a front if no other is at least as accurate on the validation images for at most its cost, and better in
one of the two. The test accuracy is only shown.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from stages.lib.params.load import load_params
from stages.lib.params.sections import PruneParams, ShrinkParams
from stages.lib.pictures.style import COLORS, write_figure
from stages.lib.results.pareto import find_front
from stages.lib.results.tables import STUDY_TEST_ACCURACY, format_table
from stages.lib.running.runner import TIMING, run_stage
from stages.lib.storage.files import compute_gzip_size_bytes, read_csv, read_json, write_bytes, write_csv

READS = (
    "study",
    "prune.rankings",
    "prune.sparsities",
    "shrink.filters",
    "shrink.macs_shares",
)
READS = ("study", "prune.rankings", "prune.sparsities", "shrink.filters", "shrink.macs_shares",)
DATA = Path("data")
OUTPUT = Path("data/frontier")

FLOAT32_BYTES = 4
PRECISIONS = ("float32", "int8")
TIMES = ("median_ms", "p25_ms", "p75_ms", "runs")
MEASURED_WITH = ("peak_memory_mib", "runtime_memory_mib", "num_threads", "cpu", "runtime", "sha256")
KIND_OF = {"train": "dense", "prune": "pruned", "shrink": "shrunk"}  # by the stage that made the model
SOURCE_OF = {kind: source for source, kind in KIND_OF.items()}
STYLES = {"dense": (COLORS[0], "o"), "pruned": (COLORS[2], "^"), "shrunk": (COLORS[1], "s"), "published": ("0.5", "D")}
LEADERBOARD = (  # name, parameters (the first's is a bound), test accuracy
    ("2 conv, <100K", 100_000, 0.925),
    ("2 conv, 113K", 113_000, 0.922),
    ("2 conv + 3 FC", 1_800_000, 0.932),
    ("VGG16", 26_000_000, 0.935),
    ("CapsNet", 8_000_000, 0.936),
    ("DenseNet-BC", 768_000, 0.954),
    ("WRN40-4", 8_900_000, 0.967),
)
LEADERBOARD_SOURCE = "README of github.com/zalandoresearch/fashion-mnist, not verified by its authors"
SHOWN_POINTS = 8  # percent points below the best test accuracy of ours; worse models are in the table only
LABEL_DISTANCES = (6, 14, 22, 34, 48)  # printer's points between a marker and its label; the near ones are tried first
LABEL_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (-1, 1), (1, 1), (1, -1), (-1, -1))  # to the right, up

Point = tuple[float, float, Mapping[str, Any]]
"""Where a model is in a picture, x in the unit of the axis and y in percent, and its row of the table."""


@dataclass(frozen=True)
class Panel:
    """One cost to draw: its columns for our models and for published ones, its front, its unit, its label."""

    cost: str
    published_cost: str
    front: str
    scale: float
    label: str


SIZE_PANEL = Panel(
    "gzip_size_bytes",
    "size_bytes",
    "is_on_size_front",
    1e-3,
    "kB gzipped (published: kB at 4 bytes a parameter)",
)
MACS_PANEL = Panel("macs", "macs", "is_on_macs_front", 1e-6, "million MACs an image")
TIME_PANEL = Panel("median_ms", "", "is_on_time_front", 1, "median ms an image, one thread")


def read_cost(model: str) -> dict[str, Any]:
    """Reads what a dense model costs: counts for one image."""
    cost = read_json(DATA / "complexity" / model / "metrics.json")
    return {
        "macs": cost["macs"],
        "nonzero_macs": cost["macs"],
        "parameters": cost["parameters"],
        "sparsity": 0.0,
    }


def read_dense(model: str, augmentation: str) -> dict[str, Any]:
    """Reads the row of one candidate, as the Keras file that training wrote."""
    key = f"{model}-{augmentation}"
    content = (DATA / "train" / key / "model.h5").read_bytes()
    return {
        "name": key,
        "kind": "dense",
        "format": "keras",
        "precision": "float32",
        "val_accuracy": read_json(DATA / "train" / key / "metrics.json")["val_accuracy"],
        "test_accuracy": read_json(DATA / "evaluate" / key / "metrics.json")["test_accuracy"],
        "size_bytes": len(content),
        "gzip_size_bytes": compute_gzip_size_bytes(content),
        **read_cost(model),
    }


def read_exported(source: str, name: str, cost: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Reads the rows of one model's LiteRT files, one a precision; `cost`, zeros included, is the Keras model's."""
    measured = read_json(DATA / "export" / source / name / "metrics.json")
    columns = ("val_accuracy", "test_accuracy", "size_bytes", "gzip_size_bytes")
    return [
        {
            "name": name,
            "kind": KIND_OF[source],
            "format": "tflite",
            "precision": precision,
            **{column: measured[f"{precision}_{column}"] for column in columns},
            **cost,
        }
        for precision in PRECISIONS
    ]


def list_pruned(rankings: Sequence[str], sparsities: Sequence[float], dense: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lists the files of all pruned versions of the model whose cost is `dense`."""
    rows = []
    for ranking in rankings:
        for sparsity in sparsities:
            pruned = read_json(DATA / "prune" / ranking / str(sparsity) / "metrics.json")
            cost = {**dense, "nonzero_macs": pruned["nonzero_macs"], "sparsity": pruned["sparsity"]}
            rows += read_exported("prune", f"{ranking}-{sparsity}", cost)
    return rows


def list_shrunk(filters: Sequence[str], macs_shares: Sequence[float]) -> list[dict[str, Any]]:
    """Lists the files of all shrunk models."""
    rows = []
    for way in filters:
        for share in macs_shares:
            shrunk = read_json(DATA / "shrink" / way / str(share) / "metrics.json")
            cost = {"macs": shrunk["macs"], "nonzero_macs": shrunk["macs"], "parameters": shrunk["parameters"]}
            rows += read_exported("shrink", f"{way}-{share}", cost | {"sparsity": 0.0})
    return rows


def mark_fronts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Adds to each row whether it is on the front of gzipped size, and on that of MACs, by validation accuracy."""
    accuracies = [row["val_accuracy"] for row in rows]
    by_size = find_front([row["gzip_size_bytes"] for row in rows], accuracies)
    by_macs = find_front([row["macs"] for row in rows], accuracies)
    return [
        {**row, "is_on_size_front": on_size, "is_on_macs_front": on_macs, "published_by": ""}
        for row, on_size, on_macs in zip(rows, by_size, by_macs, strict=True)
    ]


def list_published(models: Sequence[str]) -> list[dict[str, Any]]:
    """Lists what others published: the leaderboard, and the study's models where they are in `models`.

    Of a model that the study trained twice, the better accuracy counts. Sizes are 4 bytes a parameter, as float32.
    """
    best: dict[str, float] = {}
    for (model, _), accuracy in STUDY_TEST_ACCURACY.items():
        best[model] = max(accuracy, best.get(model, 0.0))
    costs = {model: read_cost(model) for model in best if model in models}
    rows: list[tuple[str, dict[str, Any], float, str]]
    rows = [(f"the study's {model}", cost, best[model], "the study") for model, cost in costs.items()]
    rows += [
        (name, {"parameters": parameters}, accuracy, LEADERBOARD_SOURCE) for name, parameters, accuracy in LEADERBOARD
    ]
    return [
        {
            "name": name,
            "kind": "published",
            "format": "",
            "precision": "float32",
            "val_accuracy": None,
            "test_accuracy": accuracy,
            "size_bytes": FLOAT32_BYTES * cost["parameters"],
            "gzip_size_bytes": None,
            "macs": cost.get("macs"),
            "nonzero_macs": None,
            "parameters": cost["parameters"],
            "sparsity": None,
            "is_on_size_front": False,
            "is_on_macs_front": False,
            "published_by": source,
        }
        for name, cost, accuracy, source in rows
    ]


def read_latency(row: Mapping[str, Any]) -> dict[str, Any]:
    """Reads what the LiteRT file of a row took; empty if this very file was not timed here."""
    source, name = SOURCE_OF[row["kind"]], f"{row['name']}-{row['precision']}.json"
    path = TIMING / "latency" / source / name
    if not path.exists():
        return {}
    timing = read_json(path)
    content = (DATA / "export" / source / row["name"] / f"{row['precision']}.tflite").read_bytes()
    if timing["sha256"] != sha256(content).hexdigest():
        return {}
    return {
        **{name: timing["batch_1"][name] for name in TIMES},
        **{f"batch_32_{name}": timing["batch_32"][name] for name in TIMES},
        **{name: timing[name] for name in MEASURED_WITH},
    }


def round_time(milliseconds: float) -> float:
    """Rounds a time to two digits: what differs after them is noise, and shall decide nothing.

    >>> round_time(0.2049)
    0.2
    """
    return float(f"{milliseconds:.2g}")


def list_timed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lists the rows whose files were timed here, with what they took and whether they are on the front of time."""
    timed = [{**row, **latency} for row in rows if row["format"] == "tflite" and (latency := read_latency(row))]
    on_front = find_front([round_time(row["median_ms"]) for row in timed], [row["val_accuracy"] for row in timed])
    return [{**row, "is_on_time_front": is_on_front} for row, is_on_front in zip(timed, on_front, strict=True)]


def list_points(rows: Sequence[Mapping[str, Any]], panel: Panel) -> list[Point]:
    """Lists where the rows are that have the panel's cost, the cheapest first; others' MACs are seldom known."""
    points = []
    for row in rows:
        cost = row[panel.published_cost if row["kind"] == "published" else panel.cost]
        if cost is not None:
            points.append((panel.scale * cost, 100 * row["test_accuracy"], row))
    return sorted(points, key=lambda point: point[:2])


def describe_point(row: Mapping[str, Any]) -> str:
    """Writes the label of a point; int8 is named, because most files are float32, and Keras, because most are LiteRT.

    >>> describe_point({"name": "first-flip", "precision": "float32", "format": "keras"})
    'first-flip (Keras)'
    """
    suffix = " (Keras)" if row["format"] == "keras" else " int8" if row["precision"] == "int8" else ""
    return f"{row['name']}{suffix}"


def draw_points(axis: Axes, points: Sequence[Point]) -> None:
    """Draws a marker for each point: kind by color and shape, float32 filled, int8 and what others published hollow."""
    for x, y, row in points:
        color, marker = STYLES[row["kind"]]
        is_filled = row["kind"] != "published" and row["precision"] == "float32"
        face = color if is_filled else "white"
        axis.plot([x], [y], marker, markersize=5.5, color=color, markerfacecolor=face, zorder=3)


def list_taken(axis: Axes, points: Sequence[Point], front: str) -> list[Bbox]:
    """Lists the boxes, in pixels, of the markers and of the front's steps."""
    marker_px, line_px = 5, 1
    taken = [Bbox.from_extents(x, y, x, y).padded(marker_px) for x, y in to_pixels(axis, points)]
    for (x, y), (next_x, next_y) in itertools.pairwise(to_pixels(axis, [p for p in points if p[2][front]])):
        taken.append(Bbox.from_extents(x, y, next_x, y).padded(line_px))
        taken.append(Bbox.from_extents(next_x, min(y, next_y), next_x, max(y, next_y)).padded(line_px))
    return taken


def to_pixels(axis: Axes, points: Sequence[Point]) -> list[tuple[float, float]]:
    """Computes where points are in the picture."""
    return [tuple(axis.transData.transform((x, y))) for x, y, _ in points]


def draw_labels(axis: Axes, points: Sequence[Point], front: str) -> None:
    """Labels what others published, then the front from its best model down, each where there is room.

    A label hides no marker, no step of the front and no earlier label, and stays in the panel. It is tried on eight
    sides of its point, near ones first; without room, the point has no label.
    """
    taken, frame = list_taken(axis, points, front), axis.get_window_extent()
    published = [point for point in points if point[2]["kind"] == "published"]
    for x, y, row in published + sorted((p for p in points if p[2][front]), key=lambda point: -point[1]):
        label = axis.annotate(
            describe_point(row),
            (x, y),
            (0, 0),
            textcoords="offset points",
            color=STYLES[row["kind"]][0],
            fontsize=7.5,
            arrowprops={"arrowstyle": "-", "color": "0.75", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
        )
        label.set_in_layout(False)
        for distance, (right, up) in itertools.product(LABEL_DISTANCES, LABEL_SIDES):
            horizontal, vertical = ("center", "left", "right")[right], ("center", "bottom", "top")[up]
            label.set(position=(distance * right, distance * up), ha=horizontal, va=vertical)
            label.get_window_extent()  # settles where the text is; its answer includes the line that leads to it
            box = Text.get_window_extent(label)
            is_inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if is_inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
        else:
            label.remove()


def draw_panel(axis: Axes, points: Sequence[Point], front: str, xlabel: str) -> None:
    """Draws points, sorted by x, and as a step line those whose rows are on the front that `front` names."""
    low, high = points[0][0], points[-1][0]
    room = (high / low) ** 0.11 if high >= 2 * low else 2  # beside the points, for labels, and for a tick at least
    axis.set_xlim(low / room, high * room)
    axis.set(xscale="log", xlabel=xlabel)
    axis.margins(y=0.06)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(color="0.93")
    on_front = [(x, y) for x, y, row in points if row[front]]
    axis.step([x for x, _ in on_front], [y for _, y in on_front], where="post", color="0.4", linewidth=1, zorder=2)
    draw_points(axis, points)


def draw_legend(figure: Figure, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draws above the panels the title, and what colors, shapes and filling mean."""
    entries = []
    for kind, (color, marker) in STYLES.items():
        for precision in PRECISIONS:
            if any((row["kind"], row["precision"]) == (kind, precision) for row in rows):
                is_published = kind == "published"
                label = "published by others" if is_published else f"{kind} {precision}"
                face = color if precision == "float32" and not is_published else "white"
                entries.append(Line2D([], [], color=color, marker=marker, ls="none", markerfacecolor=face, label=label))
    entries.append(Line2D([], [], color="0.4", linewidth=1, label="front"))
    figure.legend(
        handles=entries,
        loc="outside upper center",
        ncols=len(entries),
        frameon=False,
        columnspacing=1.2,
        handletextpad=0.2,
        title=title,
        title_fontproperties={"size": 12},
    )


def plot_fronts(rows: Sequence[Mapping[str, Any]], panels: Sequence[Panel], title: str, notes: str) -> Figure:
    """Plots test accuracy against one cost in each panel; `notes` end the caption.

    What is more than `SHOWN_POINTS` percent points below the best of ours is left out, and the caption says so.
    """
    floor = max(row["test_accuracy"] for row in rows if row["kind"] != "published") - SHOWN_POINTS / 100
    shown = [row for row in rows if row["test_accuracy"] >= floor]
    caption = (
        "Front: no other model of ours is at least as good in both, validation accuracy and cost, and better in one. "
        "The test accuracy, drawn here, chose nothing.\n" + notes
    )
    if len(shown) < len(rows):
        caption += f" Not drawn: {len(rows) - len(shown)} below {100 * floor:.1f} %."
    figure, (axes,) = plt.subplots(1, len(panels), sharey=True, squeeze=False, figsize=(10, 5.6))
    figure.supxlabel(caption, fontsize=8, color="0.35")
    draw_legend(figure, shown, title)
    axes[0].set_ylabel("test accuracy (%)")
    for axis, panel in zip(axes, panels, strict=True):
        draw_panel(axis, list_points(shown, panel), panel.front, panel.label)
    figure.draw_without_rendering()  # settles where everything is, before labels look for room
    for axis, panel in zip(axes, panels, strict=True):
        draw_labels(axis, list_points(shown, panel), panel.front)
    return figure


def plot_frontier(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Plots every model, ours and published, against gzipped size and against MACs."""
    notes = (
        "Zeros count as MACs: no runtime here skips them. Grey: as published by the study and in the dataset's README, "
        "where nobody verified it."
    )
    return plot_fronts(rows, (SIZE_PANEL, MACS_PANEL), "What accuracy costs in bytes and in arithmetic", notes)


def plot_latency(timed: Sequence[Mapping[str, Any]]) -> Figure:
    """Plots the files that were timed here against time; a sentence stands in for the picture if there are none."""
    if timed:
        title = "What accuracy costs in time: one image at a time"
        return plot_fronts(
            timed, (TIME_PANEL,), title, f"LiteRT on {timed[0]['cpu']}. Times are compared by two digits."
        )
    figure, axis = plt.subplots(figsize=(10, 1))
    axis.axis("off")
    axis.text(0.5, 0.5, "No exported file was timed on the machine that drew this.", ha="center", va="center")
    return figure


def list_times(timed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lists the rows of latency.csv; a row without values if nothing was timed here."""
    columns = (
        "name",
        "kind",
        "precision",
        "val_accuracy",
        "test_accuracy",
        "size_bytes",
        "gzip_size_bytes",
        "macs",
        *TIMES,
        *(f"batch_32_{name}" for name in TIMES),
        *MEASURED_WITH,
        "is_on_time_front",
    )
    return [{column: row[column] for column in columns} for row in timed] or [dict.fromkeys(columns)]


def format_frontier(rows: Sequence[Mapping[str, Any]], timed: Sequence[Mapping[str, Any]], chosen: str) -> str:
    """Writes the table of the README: the chosen dense model, the front by gzipped size, and the fastest.

    Args:
        rows: of frontier.csv.
        timed: rows of the files that were timed here; of others the times stay blank.
        chosen: name of the dense model whose float32 file the others are compared with.
    """
    keys = ("kind", "name", "format", "precision")
    time_of = {tuple(row[key] for key in keys): row["median_ms"] for row in timed}
    (dense,) = (row for row in rows if tuple(row[key] for key in keys) == ("dense", chosen, "tflite", "float32"))
    dense_ms = time_of.get(tuple(dense[key] for key in keys))
    fastest = sorted(timed, key=lambda row: (round_time(row["median_ms"]), -row["val_accuracy"]))[:1]
    front = sorted((row for row in rows if row["is_on_size_front"]), key=lambda row: -row["gzip_size_bytes"])
    lines = {}
    for row in [dense, *front, *fastest]:
        key = tuple(row[key] for key in keys)
        ms = time_of.get(key)
        lines[key] = [
            f"{row['name']}, {row['kind']}{' (Keras)' if row['format'] == 'keras' else ''}",
            row["precision"],
            f"{100 * row['val_accuracy']:.2f} %",
            f"{100 * row['test_accuracy']:.2f} %",
            f"{row['size_bytes'] / 1000:,.0f} kB",
            f"{row['gzip_size_bytes'] / 1000:,.0f} kB",
            f"{row['macs']:,}",
            "" if ms is None else f"{ms:.3f}",
            "" if ms is None or dense_ms is None else f"{dense_ms / ms:.1f}",
            f"{dense['gzip_size_bytes'] / row['gzip_size_bytes']:.1f}",
        ]
    header = [
        "model",
        "precision",
        "validation",
        "test",
        "file",
        "gzipped",
        "MACs",
        "ms",
        "times faster",
        "times smaller",
    ]
    return format_table(header, list(lines.values()))


def read_layers(way: str, share: float) -> list[dict[str, str]]:
    """Reads the layers with MACs of one shrunk model, those of the chosen model beside them."""
    rows = read_csv(DATA / "shrink" / way / str(share) / "layers.csv")
    return [row for row in rows if int(row["dense_macs"])]


def format_shrinking(shrink: ShrinkParams, timed: Sequence[Mapping[str, Any]], chosen: str) -> str:
    """Writes a table of the README: MACs by layer of the chosen model and of each share, and what the files take.

    The networks of one share are the same in every way of shrinking, so those of the first way stand for all.
    """
    way = shrink.filters[0]
    columns = [read_layers(way, share) for share in shrink.macs_shares]
    rows = [
        [layer["layer"], f"{int(layer['dense_macs']):,}", *[f"{int(column[place]['macs']):,}" for column in columns]]
        for place, layer in enumerate(columns[0])
    ]
    totals = [sum(int(row["dense_macs"]) for row in columns[0])]
    totals += [sum(int(row["macs"]) for row in column) for column in columns]
    rows.append(["all", *[f"{total:,}" for total in totals]])
    rows.append(["share", *[f"{100 * total / totals[0]:.1f} %" for total in totals]])
    ms_of = {(row["name"], row["precision"]): f"{row['median_ms']:.3f}" for row in timed}
    names = [chosen, *[f"{way}-{share}" for share in shrink.macs_shares]]
    rows += [[f"ms, {precision}", *[ms_of.get((name, precision), "") for name in names]] for precision in PRECISIONS]
    return format_table(["MACs of layer", *names], rows)


def list_models(
    models: Sequence[str],
    augmentations: Sequence[str],
    chosen: Mapping[str, Any],
    prune: PruneParams,
    shrink: ShrinkParams,
) -> list[dict[str, Any]]:
    """Lists a row for every model file of this run: Keras files of all candidates, then all exported files."""
    rows = [read_dense(model, augmentation) for model in models for augmentation in augmentations]
    for model in models:
        rows += read_exported("train", f"{model}-{chosen['augmentation']}", read_cost(model))
    rows += list_pruned(prune.rankings, prune.sparsities, read_cost(chosen["model"]))
    rows += list_shrunk(shrink.filters, shrink.macs_shares)
    return mark_fronts(rows)


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    study, chosen = params.study, read_json(DATA / "select_model" / "choice.json")
    models = list_models(study.models, study.augmentations, chosen, params.prune, params.shrink)
    rows, timed = models + list_published(study.models), list_timed(models)
    write_csv(OUTPUT / "frontier.csv", rows)
    write_figure(OUTPUT / "frontier.png", plot_frontier(rows))
    write_csv(OUTPUT / "latency.csv", list_times(timed))
    write_figure(OUTPUT / "latency.png", plot_latency(timed))
    table = format_frontier(rows, timed, f"{chosen['model']}-{chosen['augmentation']}")
    write_bytes(OUTPUT / "frontier.md", table.encode())
    table = format_shrinking(params.shrink, timed, f"{chosen['model']}-{chosen['augmentation']}")
    write_bytes(OUTPUT / "shrinking.md", table.encode())
    on_front = sum(row["is_on_size_front"] for row in rows)
    print(f"{OUTPUT}: {len(models)} model files, {on_front} of them on the front by size; {len(timed)} timed here")


if __name__ == "__main__":
    run_stage(main)
