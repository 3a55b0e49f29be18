"""The look of the pictures that matplotlib draws: names in them are what they are."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib import pyplot as plt

from stages.lib.pictures.style import write_figure

NAMES = ("$5_$10", "$10-$20", "a|<b>&\"c\"'d'", "\\alpha \\", "two\nlines", "#5 100 %", "שלום")


def draw(path: Path, *names: str, **look: Any) -> bytes:
    figure, axes = plt.subplots()
    for number, name in enumerate(names):
        axes.text(0.1, number / len(names), name, **look)
    write_figure(path, figure)
    return path.read_bytes()


def test_names_are_drawn_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    as_they_are = draw(tmp_path / "b.png", *NAMES, parse_math=False)
    assert draw(tmp_path / "a.png", *NAMES) == as_they_are
    assert capsys.readouterr().err == ""


def test_letters_that_no_font_has_are_boxes_and_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "a.png", "\U000f0000 and \U000f0001")

    assert capsys.readouterr().err == (
        f"{tmp_path}/a.png: letters that no font here has are boxes; install one that has, such as Noto\n"
    )
