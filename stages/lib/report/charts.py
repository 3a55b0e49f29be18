"""Draws charts as SVG that belongs into an HTML page: values come in, markup goes out. No dependency.

Colors are classes (`s0` to `s6`, one a series) and `currentColor`, so that the page's style sheet decides them, also
for a dark screen and for paper. Each mark has a `<title>`, which browsers show as a tooltip. The same values give the
same bytes. A chart is `WIDTH` units wide, which are pixels on a phone: wider pictures are made of several charts.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 264
TOP, RIGHT, BOTTOM = 10, 14, 42  # room around the plot; on the left, ticks decide it
LETTER = 6.3  # mean width of a letter of 11 pixels
NUM_STYLES = 7  # colors and shapes that the style sheet knows
LABEL_DISTANCES = (8, 18, 30, 44, 60)  # between the center of a mark and its label; near ones are tried first
LABEL_SIDES = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))  # to the right, down
ROW, BAR = 17, 12  # height of a bar with and without the gap below it

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Axis:
    """What an axis shows: its label, the values at its ends, and where a text stands at which value."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    is_log: bool = False


@dataclass(frozen=True)
class Point:
    """One value of a chart, its tooltip, and a label beside it, if any."""

    x: float
    y: float
    tip: str
    label: str = ""
    is_hollow: bool = False


@dataclass(frozen=True)
class Series:
    """Points that belong together. `style` chooses color and shape; `line` is "", "solid", "dashed" or "steps"."""

    name: str
    style: int
    points: tuple[Point, ...]
    line: str = ""
    has_marks: bool = True


@dataclass(frozen=True)
class Bar:
    """A horizontal bar that begins at 0: its name, length, the text at its end, and its color."""

    name: str
    value: float
    text: str
    style: int = 0


def compute_step(low: float, high: float, count: int) -> float:
    """Computes the distance of about `count` ticks between two different values: 1, 2 or 5 times a power of ten.

    >>> compute_step(0.0, 1.0, 5)
    0.2
    """
    least = (high - low) / count
    power = 10.0 ** math.floor(math.log10(least))
    return min(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def make_axis(
    label: str, values: Sequence[float], count: int = 5, is_from_zero: bool = False, is_tight: bool = False
) -> Axis:
    """Makes an axis that holds `values`, at least one, with ticks at round numbers; a tight one ends at the values."""
    low, high = min(values), max(values)
    low = min(low, 0.0) if is_from_zero else low
    if low == high:
        low, high = low - 0.5, high + 0.5
    step = compute_step(low, high, count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = tuple((index * step, f"{index * step:,.{digits}f}") for index in range(first, last + 1))
    if is_tight:
        return Axis(label, low, high, tuple(tick for tick in ticks if low <= tick[0] <= high))
    return Axis(label, first * step, last * step, ticks)


def make_log_axis(label: str, values: Sequence[float]) -> Axis:
    """Makes a logarithmic axis that holds `values`, at least one, all positive, with some room beside them."""
    low, high = min(values), max(values)
    room = max((high / low) ** 0.08, 1.25) if high >= 2 * low else 2  # for a tick at least
    low, high = low / room, high * room
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high < 300 * low else (1,)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    return Axis(label, low, high, tuple((t, f"{t:,.10g}") for t in ticks if low <= t <= high), is_log=True)


def make_name_axis(label: str, names: Sequence[str]) -> Axis:
    """Makes an axis of names, which stand at 0, 1, 2 and so on."""
    return Axis(label, -0.5, len(names) - 0.5, tuple((float(index), name) for index, name in enumerate(names)))


def make_scale(axis: Axis, start: float, end: float) -> Callable[[float], float]:
    """Makes the function from values of `axis` to places between `start` and `end`."""

    def scale(value: float) -> float:
        low, high = axis.low, axis.high
        if axis.is_log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return start + (end - start) * (value - low) / (high - low)

    return scale


def draw_plot(series: Sequence[Series], x: Axis, y: Axis, summary: str) -> str:
    """Draws points and lines over two axes.

    Args:
        series: the first is drawn first, so the important ones come last.
        x: to the right.
        y: upwards.
        summary: says in words what the chart shows, for those who do not see it.
    """
    left = 26 + LETTER * max(len(text) for _, text in y.ticks)
    to_x, to_y = make_scale(x, left, WIDTH - RIGHT), make_scale(y, HEIGHT - BOTTOM, TOP)
    parts = [_draw_axes(x, y, left, to_x, to_y)]
    parts += [_draw_line(one, to_x, to_y) for one in series if one.line]
    parts += [_draw_mark(one, point, to_x, to_y) for one in series if one.has_marks for point in one.points]
    points = [point for one in series for point in one.points]
    boxes = [_surround(to_x(point.x), to_y(point.y)) for point in points]
    labelled = [(point.label, to_x(point.x), to_y(point.y)) for point in reversed(points) if point.label]
    for text, box, lead in place_labels(labelled, boxes, (left, TOP, WIDTH - 2, HEIGHT - BOTTOM)):
        parts.append(f'<path class="lead" d="M{lead[0]:.1f} {lead[1]:.1f}L{lead[2]:.1f} {lead[3]:.1f}"/>')
        at, anchor = _find_anchor(box, lead[0])
        parts.append(f'<text text-anchor="{anchor}" x="{at:.1f}" y="{box[3] - 2:.1f}">{escape(text)}</text>')
    return _wrap(parts, HEIGHT, summary)


def place_labels(
    labelled: Sequence[tuple[str, float, float]], marks: Sequence[Box], frame: Box
) -> list[tuple[str, Box, Box]]:
    """Finds a place for each label where it hides no mark; one without such a place is left out.

    No label, with the line that leads to it, crosses an earlier one.

    Args:
        labelled: text and center of the mark of each; the important ones first.
        marks: where all marks are.
        frame: what the labels stay in.

    Returns:
        Text, place, and ends of the line from the mark to it, of each label that has a place.
    """
    taken, placed = list(marks), []
    labels: list[Box] = []
    for text, x, y in labelled:
        width, height = LETTER * len(text), 11
        for distance, (right, down) in itertools.product(LABEL_DISTANCES, LABEL_SIDES):
            left = x + right * distance - width * (1 - right) / 2
            top = y + down * distance - height * (1 - down) / 2
            box = (left, top, left + width, top + height)
            trail = [_surround(x + right * step, y + down * step, 1) for step in range(distance - 1)]
            is_inside = box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]
            is_free = not any(_overlap(box, other) for other in taken)
            if is_inside and is_free and not any(_overlap(*both) for both in itertools.product(trail, labels)):
                taken += [box, *trail]
                labels.append(box)
                placed.append((text, box, (x, y, x + right * (distance - 2), y + down * (distance - 2))))
                break
    return placed


def draw_bars(groups: Sequence[tuple[str, Sequence[Bar]]], summary: str, end: float | None = None) -> str:
    """Draws horizontal bars from 0, in groups: one name stands at the left of each group.

    Args:
        groups: name and bars of each.
        summary: says in words what the chart shows.
        end: the value of a bar of full length; without it, the greatest value.
    """
    left = 8 + LETTER * max(len(name) for name, _ in groups)
    room = 10 + LETTER * max(len(bar.text) for _, bars in groups for bar in bars)
    longest = max(end or max(bar.value for _, bars in groups for bar in bars), 1e-12)
    parts, top = [], 2.0
    for name, bars in groups:
        middle = top + len(bars) * BAR / 2 + 4
        parts.append(f'<text class="tick" text-anchor="end" x="{left - 8:.1f}" y="{middle:.1f}">{escape(name)}</text>')
        for bar in bars:
            length = (WIDTH - left - room) * bar.value / longest
            title = f"<title>{escape(bar.name)}: {escape(bar.text)}</title>"
            parts.append(
                f'<rect class="mark bar s{bar.style % NUM_STYLES}" x="{left:.1f}" y="{top:.1f}" '
                f'width="{max(length, 1):.1f}" height="{BAR - 1}">{title}</rect>'
                f'<text class="value" x="{left + max(length, 1) + 5:.1f}" y="{top + 9.5:.1f}">{escape(bar.text)}</text>'
            )
            top += BAR
        top += ROW - BAR
    return _wrap(parts, top, summary)


def draw_legend(entries: Sequence[tuple[str, int, str]]) -> str:
    """Draws what the colors, shapes and lines of a chart mean, as a list.

    Args:
        entries: name, style and look of each: "mark", "hollow", "solid", "dashed", "steps" or "bar".
    """
    items = []
    for name, style, look in entries:
        color = f"s{style % NUM_STYLES}"
        if look in ("mark", "hollow"):
            picture = _draw_shape(style, 11, 8, look == "hollow", "")
        elif look == "bar":
            picture = f'<rect class="bar {color}" x="4" y="2" width="14" height="12"/>'
        else:
            picture = f'<path class="line {look} {color}" d="M1 8H21"/>'
        items.append(
            f'<li><svg viewBox="0 0 22 16" width="22" height="16" aria-hidden="true">{picture}</svg>{escape(name)}</li>'
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _wrap(parts: Sequence[str], height: float, summary: str) -> str:
    opening = f'<svg class="chart" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(summary)}">'
    return "\n".join([opening, *parts, "</svg>"])


def _draw_axes(x: Axis, y: Axis, left: float, to_x: Callable[[float], float], to_y: Callable[[float], float]) -> str:
    floor, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value, text in y.ticks:
        at = to_y(value)
        parts.append(f'<path class="grid-line" d="M{left:.1f} {at:.1f}H{right}"/>')
        parts.append(f'<text class="tick" text-anchor="end" x="{left - 6:.1f}" y="{at + 4:.1f}">{escape(text)}</text>')
    end = -math.inf
    for value, text in x.ticks:
        at, half = to_x(value), LETTER * len(text) / 2
        if at - half > end:  # a tick whose text has no room stays without
            parts.append(f'<text class="tick" text-anchor="middle" x="{at:.1f}" y="{floor + 17}">{escape(text)}</text>')
            end = at + half + 4
        parts.append(f'<path class="axis" d="M{at:.1f} {floor}v4"/>')
    parts.append(f'<path class="axis" d="M{left:.1f} {floor}H{right}"/>')
    middle = (left + right) / 2
    parts.append(f'<text class="name" text-anchor="middle" x="{middle:.1f}" y="{HEIGHT - 6}">{escape(x.label)}</text>')
    height = (TOP + floor) / 2
    parts.append(
        f'<text class="name" text-anchor="middle" transform="translate(11 {height:.1f}) rotate(-90)">'
        f"{escape(y.label)}</text>"
    )
    return "\n".join(parts)


def _draw_line(series: Series, to_x: Callable[[float], float], to_y: Callable[[float], float]) -> str:
    places = [(to_x(point.x), to_y(point.y)) for point in series.points]
    path = f"M{places[0][0]:.1f} {places[0][1]:.1f}"
    for (_, _), (at_x, at_y) in itertools.pairwise(places):
        path += f"H{at_x:.1f}V{at_y:.1f}" if series.line == "steps" else f"L{at_x:.1f} {at_y:.1f}"
    return f'<path class="line {series.line} s{series.style % NUM_STYLES}" d="{path}"/>'


def _draw_mark(series: Series, point: Point, to_x: Callable[[float], float], to_y: Callable[[float], float]) -> str:
    return _draw_shape(series.style, to_x(point.x), to_y(point.y), point.is_hollow, point.tip)


def _draw_shape(style: int, x: float, y: float, is_hollow: bool, tip: str) -> str:
    """Draws a mark around (x, y): circle, square, triangle, diamond, and these again, by style."""
    kind = f'class="mark s{style % NUM_STYLES}{" hollow" if is_hollow else ""}"'
    title = f"<title>{escape(tip)}</title>" if tip else ""
    paths = {
        1: f"M{x - 3.8:.1f} {y - 3.8:.1f}h7.6v7.6h-7.6z",
        2: f"M{x:.1f} {y - 5:.1f}l4.8 8.6h-9.6z",
        3: f"M{x:.1f} {y - 5.4:.1f}l5.4 5.4l-5.4 5.4l-5.4 -5.4z",
    }
    if style % 4:
        return f'<path {kind} d="{paths[style % 4]}">{title}</path>'
    return f'<circle {kind} cx="{x:.1f}" cy="{y:.1f}" r="4.2">{title}</circle>'


def _find_anchor(box: Box, mark_x: float) -> tuple[float, str]:
    """Finds the end of a label that is at its mark: letters may be narrower than thought."""
    if box[0] >= mark_x:
        return box[0], "start"
    return (box[2], "end") if box[2] <= mark_x else ((box[0] + box[2]) / 2, "middle")


def _surround(x: float, y: float, reach: float = 5) -> Box:
    return (x - reach, y - reach, x + reach, y + reach)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
