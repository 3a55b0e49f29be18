"""Puts the labels of a drawn chart beside their marks, where they touch no other mark, line or label."""

import re
from html import unescape
from itertools import pairwise

Box = tuple[float, float, float, float]  # left, top, right, bottom

_AT = r'transform="translate\(([^,]+),([^)]+)\)"'
_MARK = re.compile(rf'aria-roledescription="point" {_AT}')
_LINE = re.compile(r'<g class="mark-line[^>]*><path d="M([^"Z]+)')
_GROUP = re.compile(r'(<g class="mark-text role-mark labels_\w+"[^>]*>)(.*?)(?=</g>)', re.DOTALL)
_LABEL = re.compile(rf'<text text-anchor="end" {_AT}([^>]*)>([^<]+)</text>')
_PANEL = re.compile(r'class="background"[^>]* d="M[\d.,]+h([\d.]+)v([\d.]+)')
GAP = 12  # pixels to the left of its mark: where a specification puts a label
_BASELINE = 3  # pixels from the middle of a text to where it is written
_CHARACTER, _HALF_LINE = 6.1, 6.0  # pixels, at the size of labels
_MARK_RADIUS = 7.0  # pixels around a mark that stay free
_SHARES = {"end": 1.0, "middle": 0.5, "start": 0.0}  # of a text's width, left of where it is written
PLACES = (
    (-GAP, 0, "end"),
    (-8, -10, "end"),
    (0, -16, "middle"),
    (8, -10, "start"),
    (GAP, 0, "start"),
    (8, 10, "start"),
    (0, 16, "middle"),
    (-8, 10, "end"),
)
"""Where a label may stand, from its mark, and which end of it; the best first."""


def place_labels(svg: str) -> str:
    """Puts the texts of the layers `labels_...` of a chart of one panel where they are free; the first have the choice.

    A text that has no place is left out: its mark tells its name to a pointer and to a screen reader.
    """
    marks = [(float(x), float(y)) for x, y in _MARK.findall(svg)]
    taken = [(x - _MARK_RADIUS, y - _MARK_RADIUS, x + _MARK_RADIUS, y + _MARK_RADIUS) for x, y in marks]
    for line in _LINE.findall(svg):
        points = [tuple(map(float, point.split(","))) for point in line.split("L")]
        taken += [(min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1])) for a, b in pairwise(points)]
    panel = max(((float(width), float(height)) for width, height in _PANEL.findall(svg)), default=(0.0, 0.0))

    def place(label: re.Match[str]) -> str:
        x, y, style, text = float(label[1]) + GAP, float(label[2]) - _BASELINE, label[3], label[4]
        width = _CHARACTER * len(unescape(text))
        for right, down, anchor in PLACES:
            left, middle = x + right - _SHARES[anchor] * width, y + down
            box = (left, middle - _HALF_LINE, left + width, middle + _HALF_LINE)
            if _holds(panel, box) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                at = f"translate({x + right:.2f},{middle + _BASELINE:.2f})"
                return f'<text text-anchor="{anchor}" transform="{at}"{style}>{text}</text>'
        return ""

    return _GROUP.sub(lambda group: group[1] + _LABEL.sub(place, group[2]), svg)


def _holds(panel: tuple[float, float], box: Box) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= panel[0] and box[3] <= panel[1]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
