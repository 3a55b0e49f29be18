"""Puts charts and pictures into the page itself, which asks no other file for them. No TensorFlow."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape
from PIL import Image, UnidentifiedImageError

from stages.lib.errors import UserError
from stages.lib.figures.draw import draw_svg

NUM_COLORS = 64  # of a picture: enough for grey images with a few lines, at a third of the size
CHART_WIDTH = 285  # pixels of a panel without its axis: so, a chart fits a phone in its own size


def embed_picture(path: Path) -> dict[str, Any]:
    """Reads a picture, with fewer colors, as `width`, `height` and the `url` that holds it.

    Raises:
        UserError: if there is no such picture.
    """
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB").quantize(NUM_COLORS, dither=Image.Dither.NONE)
    except (FileNotFoundError, UnidentifiedImageError) as error:
        raise UserError(f"{path}: expected a picture; {error}; run `dvc repro` to make it") from error
    content = io.BytesIO()
    small.save(content, "png", optimize=True)
    url = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    return {"width": small.width, "height": small.height, "url": url}


def embed_chart(chart: str, rows: Sequence[Any], summary: str, **options: Any) -> Markup:
    """Draws a chart of `stages.lib.figures` for the page; `summary` says in words what it shows."""
    values = [row if isinstance(row, Mapping) else asdict(row) for row in rows]
    svg = draw_svg(chart, values, **{"width": CHART_WIDTH, **options})
    opening = f'<svg class="chart" role="img" aria-label="{escape(summary)}"'
    named = re.sub(r'^<svg([^>]*?) class="marks"', lambda found: f"{opening}{found[1]}", svg, count=1)
    return Markup(named)  # noqa: S704  (Vega escapes)
