"""What is put into a page is escaped, and nothing that is missing is passed over."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from stages.lib.errors import UserError
from stages.lib.report.embed import embed_chart, embed_picture
from stages.lib.report.render import format_text, make_environment, render
from stages.lib.results.rows import LayerMacs

HOSTILE = r'<img src=x onerror="alert(1)"> \q'


def write_table(rows: list[dict[str, object]], marked: str = "", heat: tuple[float, float] | None = None) -> str:
    parts = make_environment().get_template("parts.html").module
    columns = [("model", "name"), ("test", "accuracy", "percent"), ("time", "ms", "ms")]
    return str(parts.table("Accuracy", columns, rows, marked=marked, heat=heat))  # type: ignore[attr-defined]


def test_cells_show_text_and_carry_the_number_to_sort_by() -> None:
    written = write_table([{"name": "a", "accuracy": 0.94051, "ms": None}, {"name": "b", "accuracy": None, "ms": ""}])

    assert re.findall('<td class="number" data-value="(.*?)">(.*?)</td>', written) == [
        ("0.94051", "94.05 %"),
        ("", "not measured here"),
        ("", ""),
        ("", ""),
    ]


def test_one_row_stands_out_and_cells_are_colored_by_their_place_between_two_values() -> None:
    rows: list[dict[str, object]] = [{"name": name, "accuracy": 0.75, "ms": None} for name in ("a", "b")]
    written = write_table(rows, marked="b", heat=(0.5, 1.0))

    assert re.findall('<tr class="marked"><th scope="row">(.*?)</th>', written) == ["b"]
    assert written.count("--heat:0.500") == 2


def test_names_are_escaped_in_tables_texts_and_charts() -> None:
    layers = [LayerMacs(HOSTILE, HOSTILE, 1), LayerMacs("conv1", HOSTILE, 2)]
    written = write_table([{"name": HOSTILE, "accuracy": 1, "ms": 1}], marked=HOSTILE)
    written += format_text(HOSTILE) + embed_chart("shrunk_layers", layers, HOSTILE)

    assert "<img" not in written
    assert written.count("&lt;img") >= 5


def test_a_name_that_a_template_does_not_get_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="model"):
        render("card.md")


def test_picture_is_in_the_page_itself(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(pixels).save(tmp_path / "grey.png")

    embedded = embed_picture(tmp_path / "grey.png")

    assert (embedded["width"], embedded["height"]) == (8, 6)
    with Image.open(io.BytesIO(base64.b64decode(embedded["url"].partition("base64,")[2]))) as picture:
        assert np.array_equal(np.asarray(picture.convert("L")), pixels)


def test_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.png: expected a picture.*dvc repro"):
        embed_picture(tmp_path / "none.png")
