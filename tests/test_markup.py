import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.lib.errors import UserError
from stages.lib.report.markup import Cell, Number, format_details, format_figure, format_picture, format_table

ROWS: list[list[Cell]] = [["a", Number(0.94051, "94.05 %", heat=0.5)], ["b", Number(None, "not measured here")]]


def test_cells_show_text_and_carry_the_number_to_sort_by() -> None:
    table = format_table("Accuracy", ["model", "test"], ROWS)
    assert '<td class="number" data-value="0.94051" style="--heat:0.500">94.05 %</td>' in table
    assert '<td class="number" data-value="">not measured here</td>' in table


def test_first_cell_is_the_header_of_its_row_and_one_row_stands_out() -> None:
    table = format_table("Accuracy", ["model", "test"], ROWS, marked="b")
    assert '<tr><th scope="row">a</th>' in table
    assert '<tr class=marked><th scope="row">b</th>' in table


def test_text_is_escaped_wherever_it_comes_in() -> None:
    name = "<i>&"
    written = format_table(name, [name, name], [[name, Number(1, name)]]) + format_details(name, "")
    written += format_figure("", name)
    assert "<i>" not in written
    assert written.count("&lt;i&gt;&amp;") == 8


def test_picture_is_in_the_page_with_its_text_alternative(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    written = format_picture(tmp_path / "grey.png", 'a "ramp"')
    (data,) = re.findall(r"base64,([^\"]+)", written)
    assert 'alt="a &quot;ramp&quot;" width="8" height="6"' in written
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert np.array_equal(np.asarray(picture.convert("L")), pixels)


def test_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.png: expected a picture.*dvc repro"):
        format_picture(tmp_path / "none.png", "")
