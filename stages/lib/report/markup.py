"""Writes the parts of an HTML page: tables, pictures, figures. Text that comes in is escaped."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from stages.lib.errors import UserError

NUM_COLORS = 64  # of an embedded picture: enough for grey images with a few lines, at a third of the size


@dataclass(frozen=True)
class Number:
    """A cell that shows `text` and sorts by `value`; without a value it is empty and comes last.

    `heat` in [0, 1] colors it.
    """

    value: float | None
    text: str
    heat: float | None = None


Cell = str | Number


def format_cell(cell: Cell, is_first: bool) -> str:
    """Writes one cell of a table; the first of a row is its header."""
    if is_first:
        text = cell if isinstance(cell, str) else cell.text
        return f'<th scope="row">{escape(text)}</th>'
    if isinstance(cell, str):
        return f"<td>{escape(cell)}</td>"
    value = "" if cell.value is None else f"{cell.value:.10g}"
    heat = "" if cell.heat is None else f' style="--heat:{cell.heat:.3f}"'
    return f'<td class="number" data-value="{value}"{heat}>{escape(cell.text)}</td>'


def format_table(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[Cell]], marked: str = "", is_sortable: bool = True
) -> str:
    """Writes a table that scrolls sideways where it is wider than the page.

    Args:
        caption: says what it shows, in a few words; no two tables of a page have the same.
        header: names of the columns.
        rows: cells in the order of `header`; the first of each names the row.
        marked: the row whose name this is stands out.
        is_sortable: whether the reader can sort it by a column.
    """
    heads = []
    for index, name in enumerate(header):
        is_number = any(isinstance(row[index], Number) for row in rows)
        heads.append(f'<th scope="col"{" class=number" if is_number and index else ""}>{escape(name)}</th>')
    lines = []
    for row in rows:
        cells = "".join(format_cell(cell, is_first=index == 0) for index, cell in enumerate(row))
        lines.append(f"<tr{' class=marked' if marked and row[0] == marked else ''}>{cells}</tr>")
    kind = ' class="sortable"' if is_sortable else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table{kind}><caption><span>{escape(caption)}</span></caption>\n<thead><tr>{''.join(heads)}</tr></thead>\n"
        "<tbody>\n" + "\n".join(lines) + "\n</tbody></table></div>"
    )


def format_details(summary: str, content: str) -> str:
    """Writes a part that the reader opens; paper shows it open."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>"


def format_figure(content: str, caption: str, legend: str = "") -> str:
    """Writes a chart or a picture with a caption above it, and a legend below that."""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{legend}\n{content}</figure>"


def format_grid(figures: Sequence[str]) -> str:
    """Writes figures side by side, two in a row where the page is wide enough."""
    return '<div class="grid">\n' + "\n".join(figures) + "\n</div>"


def format_picture(path: Path, description: str) -> str:
    """Writes a picture into the page itself, with fewer colors.

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
    data = base64.b64encode(content.getvalue()).decode()
    width, height = small.size
    return f'<img alt="{escape(description)}" width="{width}" height="{height}" src="data:image/png;base64,{data}">'
