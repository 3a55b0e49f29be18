import json
import os
import re
import subprocess
import sys
from html import unescape
from itertools import combinations, product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import vl_convert
import yaml
from PIL import Image

from stages.lib.figures.draw import CHARTS, LOOK, VEGA_LITE, _fix_colors, draw_svg, fill_chart, write_png
from stages.lib.results.published import ST_MNIST

ROOT = Path(__file__).parents[1]
NAMES = [path.stem for path in sorted(CHARTS.glob("*.json"))]


ENDS = (("", 0), ("_low", -0.01), ("_high", 0.01))  # of the names of an accuracy and its interval


def file_of(kind: str, way: str, accuracy: float, cost: int, **changes: Any) -> dict[str, Any]:
    """A row of frontier.csv."""
    row = {"name": f"{way}-1", "kind": kind, "way": way, "format": "keras", "precision": "float32", "published_by": ""}
    costs = dict.fromkeys(("size_bytes", "gzip_size_bytes", "macs", "median_ms"), cost)
    fronts = dict.fromkeys(("is_on_size_front", "is_on_macs_front", "is_on_time_front"), way == "first")
    accuracies = {f"{split}_accuracy{end}": accuracy + by for split in ("val", "test") for end, by in ENDS}
    return row | accuracies | {"sparsity": 0.5} | costs | fronts | changes


def interval(name: str, accuracy: float) -> dict[str, float]:
    return {f"{name}{end}": accuracy + by for end, by in ENDS}


FILES = [
    file_of("dense", "first", 0.9, 2000),
    file_of("pruned", "lamp", 0.91, 1000),
    file_of("shrunk", "random", 0.88, 500, precision="int8"),
    file_of("published", "2 conv", 0.92, 9000, gzip_size_bytes=None, val_accuracy=None, published_by="others"),
]
OF_MODEL = {"model": "first", "augmentation": "none"}
LAYER = {"layer": "conv1", "kind": "conv", "output_shape": "3x3", "macs": 9, "macs_share": 1, "receptive_field_px": 3}
EPOCHS = [{**OF_MODEL, "epoch": n, "split": s, "accuracy": 0.8, "loss": 1} for n in (1, 2) for s in ("train", "val")]
CASES: dict[str, tuple[list[dict[str, Any]], dict[str, str], int]] = {  # rows, options, marks that have values to tell
    "augmentations": ([{**OF_MODEL, "images": "as they are", **interval("accuracy", 0.9)}], {}, 1),
    "candidates": ([row for row in FILES if row["kind"] == "dense"], {}, 2),
    "classes": (
        [{"class": name, **interval("recall", recall)} for name, recall in (("Bag", 0.9), ("Coat", 0.8))],
        {},
        2,
    ),
    "comparison": (
        [
            {
                **OF_MODEL,
                **interval("val_accuracy", 0.9),
                "macs": 1e6,
                "parameters": 100,
                "receptive_field_px": 9,
                "is_chosen": True,
            },
            {
                **OF_MODEL,
                **interval("val_accuracy", 0.8),
                "macs": 2e6,
                "parameters": 100,
                "receptive_field_px": 9,
                "is_chosen": False,
            },
        ],
        {"x": "macs", "x_label": "million MACs"},
        2,
    ),
    "confusion_matrix": ([{"actual": a, "predicted": b, "images": 3 * (b == "x")} for a in "yx" for b in "yx"], {}, 4),
    "coverage": (
        [
            {"coverage": share, "accuracy": 0.99, "min_confidence": 0.9, "is_chosen": is_chosen}
            for share, is_chosen in ((0.5, False), (0.8, True))
        ],
        {},
        2,
    ),
    "curves": (EPOCHS, {}, 4),
    "device": (
        [
            row | dict.fromkeys(("flash_bytes", "ram_bytes", "instructions", "arena_bytes"), cost)
            for row, cost in zip(FILES, (2000, 1000, 500, None), strict=True)
        ],
        {"x": "flash_bytes", "x_label": "kB of flash"},
        6,
    ),
    "distortions": ([{"name": "a", "images": "plain", "accuracy": 0.9}], {}, 1),
    "frontier": (FILES, {"x": "gzip_size_bytes", "x_label": "kB"}, 4),
    "history": ([row | {"learning_rate": 0.1, "rev": "workspace"} for row in EPOCHS], {}, 10),
    "ladder": (FILES[:3], {"x": "sparsity", "x_label": "zeros (%)"}, 9),
    "layers": ([LAYER | {"parameters": 90, "parameters_share": 1}], {}, 2),
    "ood": (
        [
            {"score": score, "pictures": pictures, "low": 0.5, "high": 0.6, "fraction": 0.25, "answered_from": least}
            for score, least in (("confidence", 0.7), ("energy score", None))
            for pictures in ("known", "others")
        ],
        {},
        4,
    ),
    "receptive_field": ([{"model": "first", "layer": "conv1", "depth": 1, "receptive_field_px": 3}], {}, 1),
    "shrunk_layers": ([{"layer": "conv1", "share": share, "macs": 9} for share in ("all", "half")], {}, 2),
    "zeros": ([{"ranking": "lamp", "target": 0.5, "layer": "conv1", "weights": 9, "sparsity": 0.4}], {}, 1),
}


def list_told(svg: str) -> list[str]:
    """Lists what a chart tells of its points, bars and fields to those who do not see it."""
    marks = re.findall(r'<path [^>]*aria-roledescription="(?:point|bar|rect mark)"[^>]*>', svg)
    return [label for mark in marks for label in re.findall(r'aria-label="([^"]*)"', mark)]


def test_every_chart_has_a_case_here() -> None:
    assert sorted(CASES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_chart_draws_every_row_and_tells_it_in_words(name: str) -> None:
    rows, options, count = CASES[name]
    told = list_told(draw_svg(name, rows, **options))
    assert len(told) == count
    assert not [label for label in told if "undefined" in label or "NaN" in label or "null" in label]


@pytest.mark.parametrize("name", NAMES)
def test_a_specification_names_its_data_and_says_what_it_shows(name: str) -> None:
    content = json.loads((CHARTS / f"{name}.json").read_text())
    assert content["data"]["values"] == "<DVC_METRIC_DATA>"
    assert content["title"]["text"] == "<DVC_METRIC_TITLE>"
    assert content["description"].endswith(".")


@pytest.mark.parametrize(
    ("name", "count"), [("augmentations", 1), ("candidates", 2), ("classes", 2), ("comparison", 2)]
)
def test_every_mark_has_its_interval(name: str, count: int) -> None:
    rows, options, _ = CASES[name]
    lines = re.findall(r'<g class="mark-rule [^>]*layer_\d_marks.*?</g>', draw_svg(name, rows, **options), re.DOTALL)
    lengths = [
        abs(float(across)) + abs(float(down))
        for group in lines
        for across, down in re.findall(r'<line [^>]*x2="([^"]*)" y2="([^"]*)"', group)
    ]
    assert len(lengths) == count
    assert min(lengths) > 1


@pytest.mark.parametrize(
    ("x", "theirs", "size"),
    [
        ("flash_bytes", "LiteRT, file alone", "58.266"),
        ("ram_bytes", "LiteRT Micro", "22.221"),
        ("instructions", "", ""),
    ],
)
def test_costs_on_a_device_stand_beside_those_without_c_where_there_are_any(x: str, theirs: str, size: str) -> None:
    rows, _, _ = CASES["device"]
    told = list_told(draw_svg("device", rows, x=x, x_label="cost", width=305))
    assert [sum(f"runs as: {what}" in label for label in told) for what in ("pruned", "LiteRT")] == [
        1,
        3 * bool(theirs),
    ]
    assert all(f"runs as: {theirs}" in label for label in told if "runs as: LiteRT" in label)
    spec = json.dumps(fill_chart("device", rows, x=x))
    assert size in spec
    svg = draw_svg("device", rows, x=x)
    assert (">ST's st_mnist<" in unescape(svg)) == bool(size)


@pytest.mark.parametrize("x", ["flash_bytes", "ram_bytes"])
def test_where_no_result_of_others_stands_st_is_not_named(x: str) -> None:
    rows, _, _ = CASES["device"]
    kept = [row for row in rows if row["kind"] != "published"]
    assert len(kept) < len(rows)
    shown = [unescape(draw_svg("device", some, "A title", x=x)) for some in (rows, kept)]
    assert ["Dashed: the size of ST's st_mnist." in svg for svg in shown] == [True, False]
    assert [">ST's st_mnist<" in svg for svg in shown] == [True, False]


def test_the_mark_of_st_is_that_which_the_report_names() -> None:
    text = (CHARTS / "device.json").read_text()
    assert all(f"'{name}': {size / 1000}" in text for name, size in ST_MNIST.items())


@pytest.mark.parametrize("x", ["flash_bytes", "ram_bytes", "instructions"])
def test_the_front_on_a_device_is_that_of_its_axis_and_the_shipped_file_is_named(x: str) -> None:
    rows = [
        row
        | {"is_shipped": row["kind"] == "pruned", f"is_on_{x.removesuffix('_bytes')}_front": row["kind"] == "shrunk"}
        for row in CASES["device"][0]
    ]
    texts = re.findall(r">([^<>]+)</text>", draw_svg("device", rows, x=x))
    assert "ships" in texts
    assert [text for text in texts if text.endswith("-1")] == ["random-1"]


def test_classes_keep_the_order_of_the_rows() -> None:
    svg = draw_svg("confusion_matrix", CASES["confusion_matrix"][0])
    assert re.findall(r">([xy])</text>", svg) == ["y", "x", "y", "x"]


def test_revisions_of_one_epoch_have_marks_of_their_own() -> None:
    rows = [row | {"learning_rate": 0.1, "rev": rev} for rev in ("HEAD", "workspace") for row in EPOCHS[:2]]
    points = re.findall(r'<path [^>]*aria-roledescription="point"[^>]*>', draw_svg("history", rows))
    shapes = {re.findall(r"revision: (\w+)", point)[0]: re.findall(r' d="([^"]*)"', point)[0] for point in points}
    assert shapes["HEAD"] != shapes["workspace"]


@pytest.mark.parametrize("width", [250, 480, 740])
def test_a_label_touches_no_mark_and_no_other_label_and_the_shipped_file_has_one(width: int) -> None:
    rows = [row | {"is_shipped": row["kind"] == "pruned"} for row in FILES]
    rows += [FILES[3] | {"name": f"other {n}", "size_bytes": 5000 + 500 * n, "test_accuracy": 0.9} for n in range(9)]
    svg = draw_svg("frontier", rows, x="gzip_size_bytes", width=width)
    groups = "".join(re.findall(r'<g class="mark-text role-mark labels_.*?</g>', svg))
    at = r'transform="translate\(([^,]+),([^)]+)\)"'
    texts = re.findall(rf'text-anchor="(\w+)" {at}[^>]*>([^<]+)<', groups)
    starts = [float(x) - 5 * len(text) * {"end": 1, "middle": 0.5, "start": 0}[end] for end, x, _, text in texts]
    boxes = [(x, x + 5 * len(t[3]), float(t[2]) - 8, float(t[2])) for x, t in zip(starts, texts, strict=True)]
    marks = [(float(x), float(y)) for x, y in re.findall(rf'description="point" {at}', svg)]
    around = [(x - 4, x + 4, y - 4, y + 4) for x, y in marks]
    both = [*combinations(boxes, 2), *product(boxes, around)]
    touching = [(a, b) for a, b in both if a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]]
    assert touching == []
    assert "ships" in [text for *_, text in texts]


NAMED = {
    "name",
    "way",
    "model",
    "augmentation",
    "layer",
    "class",
    "actual",
    "predicted",
    "ranking",
    "share",
    "images",
    "score",
    "rev",
}
NASTY = [
    "$5_$10 | <b>&\"'",
    "\\1 # 50% [0] a.b",
    "two\nlines",
    "\u05e9\u05dc\u05d5\u05dd",
    "currentColor",
    "transparent",
    "<DVC_METRIC_X>",
    "null",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_data_whatever_they_hold(name: str, tmp_path: Path) -> None:
    rows, options, _ = CASES[name]
    title = "".join(NASTY)
    for nasty in NASTY:
        named = [{key: f"{value}{nasty}" if key in NAMED else value for key, value in row.items()} for row in rows]
        svg = draw_svg(name, named, title, **options)
        words = "".join(unescape(text) for text in ElementTree.fromstring(svg).itertext())  # noqa: S314  (ours)
        assert title in words
        assert nasty in unescape(svg)
        spec = _fix_colors(fill_chart(name, named, title))
        assert spec["data"]["values"] == fill_chart(name, named)["data"]["values"]
    write_png(tmp_path / "a.png", name, named, title, **options)


def test_every_plot_of_dvc_has_a_specification() -> None:
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    declared = [plot for plot in pipeline["plots"] if isinstance(plot, dict)]
    declared += [plot for stage in pipeline["stages"].values() for plot in stage.get("plots", [])]
    templates = [options["template"] for plot in declared for options in plot.values()]
    assert len(templates) >= 9
    assert [path for path in templates if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(("least", "count"), [(0.7, 1), (2.0, 0)])
def test_the_line_of_the_least_confidence_stands_in_its_panel_alone_and_nowhere_if_no_answer_has_it(
    least: float, count: int
) -> None:
    rows = [row | {"answered_from": row["answered_from"] and least} for row in CASES["ood"][0]]
    assert len(re.findall(r'<line [^>]*stroke-dasharray="4,3" opacity="1"', draw_svg("ood", rows))) == count


def test_a_title_may_hold_quotes() -> None:
    svg = draw_svg("classes", CASES["classes"][0], 'What "good" means')
    assert "What &quot;good&quot; means" in svg


def test_colors_of_a_page_are_its_own() -> None:
    svg = draw_svg("curves", EPOCHS)
    assert 'stroke="var(--s0, #4477AA)"' in svg
    assert 'fill="currentColor"' in svg


def test_a_picture_is_opaque_and_has_colors_of_its_own(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", "classes", CASES["classes"][0])
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGBA")).reshape(-1, 4)
    colors = {tuple(color) for color in np.unique(pixels, axis=0).tolist()}
    assert (pixels[:, 3] == 255).all()
    assert {(255, 255, 255, 255), (0x44, 0x77, 0xAA, 255), (0x1B, 0x1F, 0x24, 255)} <= colors


def test_a_chart_without_rows_is_drawn_empty(tmp_path: Path) -> None:
    assert list_told(draw_svg("frontier", [], x="median_ms", x_label="ms")) == []
    write_png(tmp_path / "a.png", "frontier", [], "Times", x="median_ms", x_label="ms")


def test_a_legend_names_only_kinds_that_have_marks() -> None:
    svg = draw_svg("frontier", FILES[:2], x="median_ms", x_label="ms")
    assert re.findall(r">(dense|shrunk|pruned|published)</text>", svg) == ["dense", "pruned"]


def test_models_of_the_same_cost_stand_beside_each_other() -> None:
    rows, options, _ = CASES["comparison"]
    twins = [row | {"model": model, "macs": 1e6} for row, model in zip(rows, ("first", "second"), strict=True)]
    svg = draw_svg("comparison", twins, **options)
    places = [float(x) for x in re.findall(r'description="point" transform="translate\(([^,]+),', svg)]
    assert places[1] - places[0] >= 10


def test_a_picture_says_on_which_images_its_line_was_chosen_and_on_which_it_stands() -> None:
    svg = draw_svg("frontier", FILES, "Bytes", x="gzip_size_bytes")
    assert "validation images; all stand at their test accuracy" in svg


def test_panels_stand_below_each_other_on_a_narrow_page() -> None:
    svg = draw_svg("ladder", FILES[:3], x="sparsity", width=300, columns=1)
    assert float(re.findall(r'<svg [^>]*width="([\d.]+)"', svg)[0]) < 390


def test_the_same_rows_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    write_png(tmp_path / "here.png", "classes", CASES["classes"][0])
    code = (
        "import sys; from pathlib import Path; from stages.lib.figures.draw import write_png; "
        f"write_png(Path(sys.argv[1]), 'classes', {CASES['classes'][0]})"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there.png")], cwd=ROOT, env=environment, check=True)
    assert (tmp_path / "here.png").read_bytes() == (tmp_path / "there.png").read_bytes()


def test_vl_convert_brings_the_version_and_the_font() -> None:
    binaries = b"".join(path.read_bytes() for path in Path(vl_convert.__file__).parent.glob("*.so"))
    font = LOOK["font"].split(",")[0]
    assert VEGA_LITE in vl_convert.get_vegalite_versions()
    assert font.encode("utf-16-be") in binaries
