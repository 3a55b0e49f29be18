"""Draws a chart: fills its specification with rows, as `dvc plots` does, and makes SVG or PNG of it. No network."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import vl_convert

from stages.lib.figures.labels import place_labels
from stages.lib.storage.files import write_bytes

CHARTS = Path(__file__).parent / "charts"
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"  # vl-convert brings the first; the others are as wide
SERIES = ("#4477AA", "#EE6677", "#228833", "#AA3377", "#CCBB44", "#66CCEE", "#BBBBBB")
"""Colors of series where the page sets none: Paul Tol's bright scheme, which is color-blind safe."""
INK, PAPER = "#1B1F24", "#FFFFFF"  # text and background of a PNG, which cannot follow the page's theme
VEGA_LITE = "5.21"  # of those that vl-convert brings, the nearest to that of the page of `dvc plots`
PNG_SCALE = 2  # pixels of a PNG for one of the chart: sharp on a fine screen

_TEXT = {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12, "titleFontSize": 12}
NARROW_PX = 500  # below it, a legend takes several lines
NARROW_LEGEND = {
    "columns": 2,
    "titleOrient": "top",
    "titlePadding": 4,
    "layout": {"top": {"direction": "vertical", "margin": 8}},
}

LOOK: dict[str, Any] = {
    "background": "transparent",
    "font": FONT,
    "range": {"category": [f"var(--s{index}, {color})" for index, color in enumerate(SERIES)]},
    "axis": {
        **_TEXT,
        "domainColor": "currentColor",
        "tickColor": "currentColor",
        "gridColor": "#80808040",
        "titleFontWeight": "normal",
        "labelFlush": False,
    },
    "header": {**_TEXT, "labelFontSize": 13, "labelAnchor": "start", "labelFontWeight": "bold"},
    "legend": {
        **_TEXT,
        "orient": "top",
        "titleFontWeight": "normal",
        "titleOrient": "left",
        "titlePadding": 10,
        "columnPadding": 16,
        "labelLimit": 250,
        "layout": {"top": {"anchor": "start", "direction": "horizontal", "margin": 32}},
        "symbolBaseFillColor": "currentColor",
        "symbolBaseStrokeColor": "currentColor",
    },
    "text": {"color": "currentColor", "fontSize": 11},
    "title": {
        "color": "currentColor",
        "fontSize": 15,
        "offset": 12,
        "subtitleColor": "currentColor",
        "subtitleFontSize": 12,
    },
    "view": {"stroke": "#80808060"},
}
"""The look that all charts share; the page of `dvc plots` (.dvc/plots_page.html) says the same."""


def fill_chart(
    chart: str,
    rows: Sequence[Mapping[str, Any]],
    title: str = "",
    *,
    x: str = "",
    x_label: str = "",
    width: int | None = None,
    columns: int | None = None,
) -> dict[str, Any]:
    """Fills the specification of a chart.

    Args:
        chart: its name: that of a file in `charts/`.
        rows: with the columns that the specification names; they become what a CSV file would hold.
        title: above the chart.
        x: the column of the horizontal axis, of a chart that leaves it open.
        x_label: the title of that axis.
        width: of each panel, in pixels, in place of the specification's.
        columns: of panels beside each other, in place of the specification's.
    """
    text = (CHARTS / f"{chart}.json").read_text(encoding="utf-8")
    anchors = {"TITLE": title, "X": x, "X_LABEL": x_label}
    text = re.sub("<DVC_METRIC_(TITLE|X|X_LABEL)>", lambda anchor: json.dumps(anchors[anchor[1]])[1:-1], text)
    filled: dict[str, Any] = json.loads(text)
    if not title:
        del filled["title"]  # of a figure that has a caption
    cells = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    filled["data"]["values"] = cells
    if columns:
        filled["columns"] = columns
    if width:
        for panel in filled.get("concat", [filled.get("spec", filled)]):
            panel["width"] = width
        if width < NARROW_PX:
            filled["config"] = {"legend": NARROW_LEGEND}
    return filled


def draw_svg(chart: str, rows: Sequence[Mapping[str, Any]], title: str = "", **options: Any) -> str:
    """Draws a chart as SVG, whose colors are the page's: `currentColor`, and `--s0` to `--s6` for series.

    Args are those of `fill_chart`. Each mark has an `aria-label` that says its values.
    """
    return _draw(fill_chart(chart, rows, title, **options), LOOK)


def write_png(path: Path, chart: str, rows: Sequence[Mapping[str, Any]], title: str = "", **options: Any) -> None:
    """Writes what `fill_chart` fills as PNG on an opaque ground, which can be read on a light and on a dark page."""
    spec, look = (_fix_colors(part) for part in (fill_chart(chart, rows, title, **options), LOOK))
    write_bytes(path, vl_convert.svg_to_png(_draw(spec, look), scale=PNG_SCALE))


def _draw(spec: dict[str, Any], look: dict[str, Any]) -> str:
    return place_labels(vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, config=look))


def _fix_colors(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Puts colors in place of those that only a page has; titles and rows are data, and stay as they are."""
    data = {key: spec[key] for key in ("data", "title") if key in spec and "$schema" in spec}
    text = json.dumps({**spec, **dict.fromkeys(data)}).replace("currentColor", INK).replace("transparent", PAPER)
    fixed: dict[str, Any] = json.loads(re.sub(r"var\(--\w+, (#\w+)\)", r"\1", text))
    return fixed | data
