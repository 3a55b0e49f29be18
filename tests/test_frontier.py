import gzip
import itertools
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from sections import replace

from stages import frontier as stage
from stages.frontier import (
    LEADERBOARD,
    MACS_PANEL,
    SIZE_PANEL,
    format_frontier,
    format_shrinking,
    list_models,
    list_points,
    list_published,
    list_timed,
    list_times,
    mark_fronts,
    plot_frontier,
    plot_latency,
    read_latency,
)
from stages.lib.errors import UserError
from stages.lib.params.load import load_params
from stages.lib.params.sections import StudyParams
from stages.lib.storage.files import read_csv, write_bytes, write_csv, write_json

DVC_OUTPUTS = {"frontier.csv", "frontier.png"}
TIMES = {"latency.csv", "latency.png", "frontier.md", "shrinking.md"}
CHOSEN = {"model": "small", "augmentation": "flip"}
COMPRESSION = load_params()
PRUNE = replace(COMPRESSION.prune, rankings=("uniform", "lamp"), sparsities=(0.5, 0.9))
SHRINK = replace(COMPRESSION.shrink, filters=("magnitude", "scratch"), macs_shares=(0.5,))


def write_exported(source: str, name: str, float32: tuple[float, int], int8: tuple[float, int]) -> None:
    """Writes what export writes of one model; a precision is given by validation accuracy and gzipped size."""
    metrics: dict[str, float] = {"keras_val_accuracy": 0.9}
    for precision, (val_accuracy, gzip_size) in (("float32", float32), ("int8", int8)):
        write_bytes(Path(f"data/export/{source}/{name}/{precision}.tflite"), f"{name} in {precision}".encode())
        metrics[f"{precision}_val_accuracy"] = val_accuracy
        metrics[f"{precision}_test_accuracy"] = round(val_accuracy - 0.01, 4)
        metrics[f"{precision}_size_bytes"] = 2 * gzip_size
        metrics[f"{precision}_gzip_size_bytes"] = gzip_size
    write_json(Path(f"data/export/{source}/{name}/metrics.json"), metrics)


def write_latency(source: str, name: str, precision: str, median_ms: float) -> None:
    """Writes what export measures of one file."""
    content = Path(f"data/export/{source}/{name}/{precision}.tflite").read_bytes()
    timing = {
        "sha256": sha256(content).hexdigest(),
        "cpu": "a CPU",
        "runtime": "ai-edge-litert 2.3.0",
        "num_threads": 1,
        "batch_1": {"median_ms": median_ms, "p25_ms": 0.9 * median_ms, "p75_ms": 1.1 * median_ms, "runs": 100},
        "batch_32": {"median_ms": 30 * median_ms, "p25_ms": 29.0, "p75_ms": 31.0, "runs": 30},
        "peak_memory_mib": 60.0,
        "runtime_memory_mib": 8.5,
    }
    write_json(Path(f"data/timing/latency/{source}/{name}-{precision}.json"), timing)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Is a folder with all that the stages before this one leave of two models, and no times."""
    params = replace(load_params(), study=StudyParams(models=("small", "third"), augmentations=("none", "flip")))
    compression = replace(COMPRESSION, prune=PRUNE, shrink=SHRINK)
    monkeypatch.setattr(stage, "load_params", lambda **_: params)
    monkeypatch.setattr(stage, "load_params", lambda **_: compression)
    monkeypatch.chdir(tmp_path)
    write_json(Path("data/select_model/choice.json"), CHOSEN)
    for model, macs in (("small", 1_000_000), ("third", 3_000_000)):
        cost = {"macs": macs, "flops": 2 * macs, "parameters": macs // 10, "receptive_field_px": 16}
        write_json(Path(f"data/complexity/{model}/metrics.json"), cost)
        for augmentation, accuracy in (("none", 0.90), ("flip", 0.94)):
            key = f"{model}-{augmentation}"
            write_bytes(Path(f"data/train/{key}/model.h5"), f"the model of {key}".encode() * 100)
            write_json(Path(f"data/train/{key}/metrics.json"), {"val_accuracy": accuracy, "val_loss": 0.25})
            write_json(Path(f"data/evaluate/{key}/metrics.json"), {"test_accuracy": accuracy - 0.005})
    write_exported("train", "small-flip", (0.94, 4000), (0.939, 1000))
    write_exported("train", "third-flip", (0.94, 9000), (0.938, 2500))
    for ranking, sparsity in itertools.product(PRUNE.rankings, PRUNE.sparsities):
        accuracy = {"uniform": 0.93, "lamp": 0.935}[ranking] - sparsity / 100
        size = round(4000 * (1 - sparsity))
        write_exported("prune", f"{ranking}-{sparsity}", (accuracy, size), (accuracy - 0.001, size // 4))
        pruned = {"sparsity": sparsity - 0.001, "nonzero_macs": round(1_000_000 * (1 - sparsity))}
        write_json(Path(f"data/prune/{ranking}/{sparsity}/metrics.json"), pruned)
    for way in SHRINK.filters:
        write_exported("shrink", f"{way}-0.5", (0.92, 1800), (0.91, 500))
        shrunk = {"macs_share": 0.48, "macs": 480_000, "parameters": 45_000}
        write_json(Path(f"data/shrink/{way}/0.5/metrics.json"), shrunk)
        layers = [("conv1", 900_000, 400_000), ("conv1_bn", 0, 0), ("logits", 100_000, 80_000)]
        rows = [{"layer": layer, "dense_macs": dense, "macs": macs} for layer, dense, macs in layers]
        write_csv(Path(f"data/shrink/{way}/0.5/layers.csv"), rows)
    yield tmp_path
    plt.close("all")


def read_models() -> list[dict[str, Any]]:
    return list_models(("small", "third"), ("none", "flip"), CHOSEN, PRUNE, SHRINK)


def find(rows: list[dict[str, Any]], name: str, precision: str = "float32", format_: str = "tflite") -> dict[str, Any]:
    (row,) = (row for row in rows if (row["name"], row["precision"], row["format"]) == (name, precision, format_))
    return row


def row_of(name: str, val_accuracy: float, gzip_size: int, macs: int = 100, **changes: Any) -> dict[str, Any]:
    """A row of the table, for the functions that draw and write it."""
    return {
        "name": name,
        "kind": "dense",
        "format": "tflite",
        "precision": "float32",
        "val_accuracy": val_accuracy,
        "test_accuracy": val_accuracy,
        "size_bytes": 2 * gzip_size,
        "gzip_size_bytes": gzip_size,
        "macs": macs,
        "nonzero_macs": macs,
        "parameters": 10,
        "sparsity": 0.0,
    } | changes


def test_every_candidate_is_a_row_as_the_keras_file_that_was_trained() -> None:
    content = b"the model of small-flip" * 100
    assert find(read_models(), "small-flip", format_="keras") == {
        "name": "small-flip",
        "kind": "dense",
        "format": "keras",
        "precision": "float32",
        "val_accuracy": 0.94,
        "test_accuracy": 0.94 - 0.005,
        "size_bytes": len(content),
        "gzip_size_bytes": len(gzip.compress(content, mtime=0)),
        "macs": 1_000_000,
        "nonzero_macs": 1_000_000,
        "parameters": 100_000,
        "sparsity": 0.0,
        "is_on_size_front": True,
        "is_on_macs_front": True,
        "published_by": "",
    }


def test_a_pruned_model_costs_all_macs_of_the_dense_one_and_names_those_that_are_not_zero() -> None:
    row = find(read_models(), "lamp-0.9", "int8")

    assert (row["kind"], row["macs"], row["nonzero_macs"]) == ("pruned", 1_000_000, 100_000)
    assert (row["parameters"], row["sparsity"]) == (100_000, 0.9 - 0.001)
    assert (row["gzip_size_bytes"], row["size_bytes"]) == (100, 200)


def test_a_shrunk_model_costs_what_is_left_of_it() -> None:
    row = find(read_models(), "scratch-0.5")

    assert (row["kind"], row["macs"], row["nonzero_macs"], row["parameters"]) == ("shrunk", 480_000, 480_000, 45_000)


def test_every_file_is_a_row() -> None:
    rows = [(row["name"], row["format"]) for row in read_models()]

    keras = [f"{model}-{augmentation}" for model in ("small", "third") for augmentation in ("none", "flip")]
    exported = ["small-flip", "third-flip", "uniform-0.5", "uniform-0.9", "lamp-0.5", "lamp-0.9"]
    exported += ["magnitude-0.5", "scratch-0.5"]
    assert rows == [(key, "keras") for key in keras] + [(name, "tflite") for name in exported for _ in range(2)]


@pytest.mark.parametrize("path", ["export/train/small-none", "export/prune/lamp-0.7", "prune/lamp/0.7", "shrink/x/0.5"])
def test_what_does_not_belong_to_the_run_is_not_read(path: str) -> None:
    write_bytes(Path(f"data/{path}/metrics.json"), b"no JSON")

    assert len(read_models()) == 4 + 16


def test_what_is_missing_is_named_with_the_remedy() -> None:
    Path("data/export/prune/lamp-0.9/metrics.json").unlink()

    with pytest.raises(UserError, match=r"data/export/prune/lamp-0\.9/metrics\.json: not found; run `dvc repro`"):
        read_models()


def test_fronts_are_found_by_validation_accuracy_each_cost_for_itself() -> None:
    small = row_of("small", 0.90, gzip_size=10, macs=200, test_accuracy=0.5)
    light = row_of("light", 0.90, gzip_size=20, macs=100, test_accuracy=0.5)
    worse = row_of("worse", 0.89, gzip_size=30, macs=300, test_accuracy=0.99)

    marked = mark_fronts([small, light, worse])

    assert [row["is_on_size_front"] for row in marked] == [True, False, False]
    assert [row["is_on_macs_front"] for row in marked] == [False, True, False]


def test_the_leaderboard_is_as_its_readme_says() -> None:
    rows = list_published([])

    assert [(row["parameters"], row["test_accuracy"]) for row in rows] == [
        (100_000, 0.925),
        (113_000, 0.922),
        (1_800_000, 0.932),
        (26_000_000, 0.935),
        (8_000_000, 0.936),
        (768_000, 0.954),
        (8_900_000, 0.967),
    ]
    assert {row["published_by"] for row in rows} == {
        "README of github.com/zalandoresearch/fashion-mnist, not verified by its authors"
    }


def test_published_models_are_marked_sized_by_their_parameters_and_on_no_front() -> None:
    row = list_published([])[5]

    assert (row["name"], row["kind"], row["size_bytes"]) == ("DenseNet-BC", "published", 4 * 768_000)
    assert (row["val_accuracy"], row["macs"], row["gzip_size_bytes"]) == (None, None, None)
    assert (row["is_on_size_front"], row["is_on_macs_front"]) == (False, False)


def test_of_the_study_the_better_training_of_each_model_of_the_run_is_listed() -> None:
    rows = [row for row in list_published(["small", "third"]) if row["published_by"] == "the study"]

    assert [(row["name"], row["test_accuracy"], row["macs"]) for row in rows] == [
        ("the study's third", 0.8958, 3_000_000)
    ]


def test_a_file_that_was_timed_here_has_its_times() -> None:
    write_latency("prune", "lamp-0.9", "int8", 0.2)
    content = Path("data/export/prune/lamp-0.9/int8.tflite").read_bytes()

    assert read_latency(find(read_models(), "lamp-0.9", "int8")) == {
        "median_ms": 0.2,
        "p25_ms": 0.9 * 0.2,
        "p75_ms": 1.1 * 0.2,
        "runs": 100,
        "batch_32_median_ms": 6.0,
        "batch_32_p25_ms": 29.0,
        "batch_32_p75_ms": 31.0,
        "batch_32_runs": 30,
        "peak_memory_mib": 60.0,
        "runtime_memory_mib": 8.5,
        "num_threads": 1,
        "cpu": "a CPU",
        "runtime": "ai-edge-litert 2.3.0",
        "sha256": sha256(content).hexdigest(),
    }


def test_the_times_of_another_file_are_left_out() -> None:
    write_latency("prune", "lamp-0.9", "int8", 0.2)
    write_bytes(Path("data/export/prune/lamp-0.9/int8.tflite"), b"a later one")

    assert read_latency(find(read_models(), "lamp-0.9", "int8")) == {}
    assert list_timed(read_models()) == []


def test_the_front_of_time_is_found_among_the_files_that_were_timed() -> None:
    write_latency("train", "small-flip", "float32", 0.8)
    write_latency("train", "small-flip", "int8", 0.2)
    write_latency("shrink", "scratch-0.5", "int8", 0.3)

    timed = list_timed(read_models())

    assert [(row["name"], row["precision"], row["is_on_time_front"]) for row in timed] == [
        ("small-flip", "float32", True),
        ("small-flip", "int8", True),
        ("scratch-0.5", "int8", False),
    ]


def test_a_time_that_differs_after_two_digits_puts_nothing_on_the_front() -> None:
    write_latency("train", "small-flip", "int8", 0.2049)
    write_latency("shrink", "scratch-0.5", "int8", 0.2001)

    assert [(row["name"], row["is_on_time_front"]) for row in list_timed(read_models())] == [
        ("small-flip", True),
        ("scratch-0.5", False),
    ]


def test_without_times_the_table_of_times_has_its_columns_and_no_values() -> None:
    (row,) = list_times([])

    assert list(row)[:3] == ["name", "kind", "precision"]
    assert set(row.values()) == {None}


def test_points_are_in_the_unit_of_the_axis_the_cheapest_first() -> None:
    rows = [row_of("b", 0.9, 5000, 2_000_000), row_of("a", 0.8, 4000, 3_000_000)]

    assert [point[:2] for point in list_points(rows, SIZE_PANEL)] == [(4.0, 80.0), (5.0, 90.0)]
    assert [point[:2] for point in list_points(rows, MACS_PANEL)] == [(2.0, 90.0), (3.0, 80.0)]


def test_published_models_are_drawn_at_their_size_and_only_where_their_macs_are_known() -> None:
    published = list_published(["third"])

    assert [point[0] for point in list_points(published[:2], SIZE_PANEL)] == [400.0, 1200.0]
    assert [point[2]["name"] for point in list_points(published, MACS_PANEL)] == ["the study's third"]


def read_markers(axis: Axes) -> list[tuple[float, float, str, str, bool]]:
    """Reads x, y, color, marker and whether it is filled, of each point of a panel."""
    markers = [(line, np.asarray(line.get_xydata())) for line in axis.lines if line.get_marker() != "None"]
    return [
        (
            float(place[0, 0]),
            float(place[0, 1]),
            str(line.get_color()),
            str(line.get_marker()),
            line.get_markerfacecolor() == line.get_color(),
        )
        for line, place in markers
    ]


def test_color_and_shape_tell_the_kind_and_filling_the_precision() -> None:
    rows = mark_fronts(
        [
            row_of("a", 0.94, 1000),
            row_of("b", 0.94, 2000, precision="int8"),
            row_of("c", 0.94, 3000, kind="pruned"),
            row_of("d", 0.94, 4000, kind="shrunk"),
        ]
    )

    markers = read_markers(plot_frontier(rows).axes[0])

    assert [marker[0] for marker in markers] == [1.0, 2.0, 3.0, 4.0]
    assert [marker[4] for marker in markers] == [True, False, True, True]
    assert markers[0][2:4] == markers[1][2:4]
    assert len({marker[2] for marker in markers}) == len({marker[3] for marker in markers}) == 3


def test_published_points_are_hollow_and_grey() -> None:
    rows = mark_fronts([row_of("a", 0.94, 1000)]) + list_published([])

    markers = read_markers(plot_frontier(rows).axes[0])[1:]

    assert len(markers) == len(LEADERBOARD)
    assert {(marker[2], marker[4]) for marker in markers} == {("0.5", False)}


def read_labels(axis: Axes) -> set[str]:
    return {child.get_text() for child in axis.get_children() if isinstance(child, Annotation)}


def test_the_front_and_what_others_published_are_labelled_and_nothing_else() -> None:
    rows = mark_fronts([row_of("a", 0.94, 1000, precision="int8"), row_of("b", 0.93, 2000)]) + list_published([])[5:6]

    figure = plot_frontier(rows)

    assert read_labels(figure.axes[0]) == {"a int8", "DenseNet-BC"}
    assert read_labels(figure.axes[1]) == {"a int8"}


def test_labels_hide_neither_each_other_nor_a_marker() -> None:
    """Forty models within a few pixels: for most there is no room."""
    rows = mark_fronts([row_of("low", 0.87, 10), *[row_of(f"m-{i}", 0.94 + i / 1e5, 1000 + i) for i in range(40)]])
    figure = plot_frontier(rows)
    axis = figure.axes[0]

    labels = [child for child in axis.get_children() if isinstance(child, Annotation)]
    boxes = [Text.get_window_extent(label) for label in labels]
    centers = axis.transData.transform([point[:2] for point in list_points(rows, SIZE_PANEL)])

    assert 0 < len(boxes) < 40
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert not any(box.contains(x, y) for box in boxes for x, y in centers)


def test_the_front_is_a_step_line_that_rises_at_the_more_expensive_model() -> None:
    rows = mark_fronts([row_of("a", 0.92, 1000), row_of("b", 0.94, 3000), row_of("c", 0.91, 2000)])

    (line,) = (line for line in plot_frontier(rows).axes[0].lines if line.get_drawstyle() == "steps-post")

    assert np.asarray(line.get_xydata()).tolist() == [[1.0, 92.0], [3.0, 94.0]]


def caption_of(figure: Figure) -> str:
    return figure.get_supxlabel()


def test_the_caption_says_that_the_front_is_of_validation_and_the_axis_of_test() -> None:
    figure = plot_frontier(mark_fronts([row_of("a", 0.94, 1000)]))

    assert "validation" in caption_of(figure)
    assert "The test accuracy, drawn here, chose nothing" in caption_of(figure)
    assert figure.axes[0].get_ylabel() == "test accuracy (%)"


def test_models_far_below_the_best_are_left_out_and_counted() -> None:
    rows = mark_fronts([row_of("a", 0.94, 1000), row_of("b", 0.865, 800), row_of("c", 0.85, 500)])

    figure = plot_frontier(rows)

    assert [marker[1] for marker in read_markers(figure.axes[0])] == [86.5, 94.0]
    assert "Not drawn: 1 below 86.0 %" in caption_of(figure)


def test_a_picture_of_everything_says_nothing_of_models_left_out() -> None:
    assert "Not drawn" not in caption_of(plot_frontier(mark_fronts([row_of("a", 0.94, 1000)])))


def test_the_picture_of_times_names_the_processor() -> None:
    timed = [row_of("a", 0.94, 1000, median_ms=0.5, cpu="a CPU", is_on_time_front=True)]

    figure = plot_latency(timed)

    assert "LiteRT on a CPU." in caption_of(figure)
    assert read_markers(figure.axes[0])[0][:2] == (0.5, 94.0)


def test_without_times_a_sentence_stands_in_for_the_picture() -> None:
    assert "No exported file was timed" in plot_latency([]).axes[0].texts[0].get_text()


def list_table() -> list[dict[str, Any]]:
    """Marks the rows of a dense model, of a pruned one on the front and of one that is not."""
    return mark_fronts(
        [
            row_of("small-flip", 0.94, 4000, 2_000_000),
            row_of("lamp-0.9", 0.95, 500, 2_000_000, kind="pruned", precision="int8", test_accuracy=0.93),
            row_of("magnitude-0.5", 0.92, 900, 1_000_000, kind="shrunk", precision="int8"),
        ]
    )


def time(rows: list[dict[str, Any]], *times_ms: float) -> list[dict[str, Any]]:
    return [row | {"median_ms": ms} for row, ms in zip(rows, times_ms, strict=True)]


def test_the_readme_table_has_the_dense_file_the_front_and_the_fastest() -> None:
    rows = list_table()

    assert format_frontier(rows, time(rows, 0.8, 0.2, 0.1), "small-flip").splitlines()[2:] == [
        "| small-flip, dense | float32 | 94.00 % | 94.00 % | 8 kB | 4 kB | 2,000,000 | 0.800 | 1.0 | 1.0 |",
        "| lamp-0.9, pruned | int8 | 95.00 % | 93.00 % | 1 kB | 0 kB | 2,000,000 | 0.200 | 4.0 | 8.0 |",
        "| magnitude-0.5, shrunk | int8 | 92.00 % | 92.00 % | 2 kB | 1 kB | 1,000,000 | 0.100 | 8.0 | 4.4 |",
    ]


def test_without_times_the_readme_table_leaves_them_blank_and_has_no_fastest() -> None:
    assert format_frontier(list_table(), [], "small-flip").splitlines()[2:] == [
        "| small-flip, dense | float32 | 94.00 % | 94.00 % | 8 kB | 4 kB | 2,000,000 |  |  | 1.0 |",
        "| lamp-0.9, pruned | int8 | 95.00 % | 93.00 % | 1 kB | 0 kB | 2,000,000 |  |  | 8.0 |",
    ]


def test_without_the_time_of_the_dense_file_nothing_is_said_to_be_faster() -> None:
    rows = list_table()

    table = format_frontier(rows, time(rows[1:], 0.2, 0.1), "small-flip")

    assert "| 2,000,000 | 0.200 |  | 8.0 |" in table


def test_of_files_equally_fast_to_two_digits_the_more_accurate_is_the_fastest() -> None:
    rows = [*list_table(), *mark_fronts([row_of("random-0.5", 0.91, 900, kind="shrunk", precision="int8")])]
    rows[-1]["is_on_size_front"] = False

    table = format_frontier(rows, time(rows, 0.8, 0.2, 0.1004, 0.0996), "small-flip")

    assert "magnitude-0.5" in table
    assert "random-0.5" not in table


def test_the_macs_of_each_layer_stand_beside_the_times() -> None:
    times = {"small-flip": 0.8, "scratch-0.5": 0.2}
    timed = [{"name": name, "precision": "int8", "median_ms": ms} for name, ms in times.items()]

    assert format_shrinking(replace(SHRINK, filters=("scratch",)), timed, "small-flip").splitlines()[2:] == [
        "| conv1 | 900,000 | 400,000 |",
        "| logits | 100,000 | 80,000 |",
        "| all | 1,000,000 | 480,000 |",
        "| share | 100.0 % | 48.0 % |",
        "| ms, float32 |  |  |",
        "| ms, int8 | 0.800 | 0.200 |",
    ]


def test_the_stage_writes_its_six_files_and_no_others(folder: Path) -> None:
    stage.main()

    assert {path.name for path in (folder / "data/frontier").iterdir()} == DVC_OUTPUTS | TIMES


def test_the_table_ends_with_the_published_models(folder: Path) -> None:
    stage.main()

    rows = read_csv(folder / "data/frontier/frontier.csv")
    assert [row["kind"] for row in rows] == ["dense"] * 8 + ["pruned"] * 8 + ["shrunk"] * 4 + ["published"] * 8
    assert rows[-1]["val_accuracy"] == ""


def write_some_times() -> None:
    write_latency("train", "small-flip", "float32", 0.5)
    write_latency("prune", "lamp-0.9", "int8", 0.1)


@pytest.mark.parametrize("change", [lambda: None, write_some_times])
def test_dvc_outputs_are_the_same_bytes_in_every_run_whatever_the_times(
    folder: Path, change: Callable[[], None]
) -> None:
    def run() -> dict[str, bytes]:
        stage.main()
        return {name: (folder / "data/frontier" / name).read_bytes() for name in DVC_OUTPUTS}

    before = run()
    change()

    assert run() == before


def test_times_are_in_the_files_outside_dvc(folder: Path) -> None:
    write_some_times()

    stage.main()

    rows = read_csv(folder / "data/frontier/latency.csv")
    assert [(row["name"], row["median_ms"]) for row in rows] == [("small-flip", "0.5"), ("lamp-0.9", "0.1")]
    assert "| 0.100 | 5.0 | 40.0 |" in (folder / "data/frontier/frontier.md").read_text()
