import re
from xml.etree import ElementTree

import pytest

from stages.lib.report.charts import (
    Axis,
    Bar,
    Point,
    Series,
    compute_step,
    draw_bars,
    draw_legend,
    draw_plot,
    make_axis,
    make_log_axis,
    make_name_axis,
    make_scale,
    place_labels,
)

PLAIN = make_axis("x", [0, 10])


def texts(axis: Axis) -> list[str]:
    return [text for _, text in axis.ticks]


@pytest.mark.parametrize(
    ("low", "high", "step"), [(0, 1, 0.2), (0, 10, 2), (90.3, 94.3, 1), (0, 3476, 1000), (0.9, 0.91, 0.002)]
)
def test_ticks_are_one_two_or_five_times_a_power_of_ten_apart(low: float, high: float, step: float) -> None:
    assert compute_step(low, high, 5) == pytest.approx(step)


def test_axis_holds_its_values_and_ends_at_ticks() -> None:
    axis = make_axis("accuracy (%)", [90.34, 94.27])
    assert (axis.low, axis.high) == (90, 95)
    assert texts(axis) == ["90", "91", "92", "93", "94", "95"]


def test_tight_axis_ends_at_its_values() -> None:
    axis = make_axis("epoch", [1, 7], is_tight=True)
    assert (axis.low, axis.high) == (1, 7)
    assert texts(axis) == ["2", "4", "6"]


def test_axis_from_zero_shows_zero() -> None:
    assert texts(make_axis("kB", [2900, 3476], is_from_zero=True)) == ["0", "1,000", "2,000", "3,000", "4,000"]


def test_axis_of_one_value_has_the_value_inside() -> None:
    axis = make_axis("epoch", [1.0, 1.0])
    assert axis.low < 1 < axis.high


def test_ticks_show_as_many_digits_as_they_need() -> None:
    assert texts(make_axis("share", [0.0, 1.0])) == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]


def test_log_axis_has_more_ticks_where_it_is_short() -> None:
    assert texts(make_log_axis("MACs", [4, 37])) == ["5", "10", "20"]
    assert texts(make_log_axis("kB", [53, 104_000])) == ["100", "1,000", "10,000", "100,000"]


@pytest.mark.parametrize("value", [5.0, 37.156608, 72.480512, 0.301])
def test_log_axis_of_one_value_has_the_value_and_a_tick_inside(value: float) -> None:
    axis = make_log_axis("million MACs", [value, value])

    assert axis.low < value < axis.high
    assert axis.ticks


def test_scale_is_linear_or_logarithmic_as_its_axis() -> None:
    linear = make_scale(Axis("", 0, 10, ()), 100, 200)
    assert [linear(value) for value in (0, 5, 10)] == [100, 150, 200]
    logarithmic = make_scale(Axis("", 1, 100, (), is_log=True), 0, 1)
    assert [logarithmic(value) for value in (1, 10, 100)] == pytest.approx([0, 0.5, 1])


def test_names_stand_at_whole_numbers() -> None:
    assert make_name_axis("model", ["a", "b"]).ticks == ((0, "a"), (1, "b"))


def test_plot_is_xml_with_a_text_alternative_and_a_tooltip_a_mark() -> None:
    series = Series("one", 0, (Point(0, 0, "first"), Point(10, 10, "second")), "solid")
    root = ElementTree.fromstring(draw_plot([series], PLAIN, PLAIN, "it rises"))  # noqa: S314  (our own)
    assert (root.attrib["role"], root.attrib["aria-label"]) == ("img", "it rises")
    assert [title.text for title in root.iter("title")] == ["first", "second"]


def test_texts_of_charts_are_escaped() -> None:
    name = '<b>&"'
    series = Series(name, 0, (Point(0, 0, name, label=name),))
    axis = make_name_axis(name, [name, "x"])
    drawn = draw_plot([series], axis, make_axis(name, [0, 1]), name) + draw_bars([(name, [Bar(name, 1, name)])], name)
    drawn += draw_legend([(name, 0, "mark")])
    assert "<b>" not in drawn
    assert drawn.count("&lt;b&gt;&amp;&quot;") >= 8


def test_steps_go_right_and_then_up() -> None:
    series = Series("front", 6, (Point(0, 0, ""), Point(10, 10, "")), "steps", has_marks=False)
    drawn = draw_plot([series], PLAIN, PLAIN, "")
    assert re.search(r'class="line steps s6" d="M[\d.]+ [\d.]+H[\d.]+V[\d.]+"', drawn)
    assert "mark" not in drawn


def test_every_style_repeats_a_color_and_shape_that_exists() -> None:
    drawn = [draw_plot([Series("", style, (Point(5, 5, ""),))], PLAIN, PLAIN, "") for style in range(9)]
    assert drawn[1] != drawn[0]
    assert 'class="mark s0"' in drawn[7]


def test_longest_bar_is_as_long_as_there_is_room_and_others_in_proportion() -> None:
    drawn = draw_bars([("a", [Bar("a", 50, "50")]), ("b", [Bar("b", 100, "100")])], "")
    half, whole = map(float, re.findall(r'width="([\d.]+)"', drawn))
    assert half == pytest.approx(whole / 2, abs=0.1)


def test_bars_may_end_at_a_given_value() -> None:
    width = [
        float(re.findall(r'width="([\d.]+)"', draw_bars([("a", [Bar("a", 0.5, "50 %")])], "", end))[0])
        for end in (1.0, None)
    ]
    assert width[0] == pytest.approx(width[1] / 2, abs=0.1)


def test_bars_of_nothing_but_zeros_are_drawn() -> None:
    assert 'width="1.0"' in draw_bars([("a", [Bar("a", 0, "0")])], "")


def test_labels_hide_no_mark_and_no_other_label() -> None:
    places = [(100.0, 100.0), (108.0, 102.0), (100.0, 110.0), (104.0, 95.0)]
    marks = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    placed = place_labels([(f"label {x}", x, y) for x, y in places], marks, (0, 0, 300, 300))
    boxes = marks + [box for _, box, _ in placed]
    assert len(placed) == 4
    for label in [box for _, box, _ in placed]:
        overlapping = [o for o in boxes if o[0] < label[2] and label[0] < o[2] and o[1] < label[3] and label[1] < o[3]]
        assert overlapping == [label]


def test_no_line_leads_through_another_label() -> None:
    labelled = [("at once", 100.0, 100.0), ("only beyond it", 120.0, 80.0)]
    walls = [(0.0, 0.0, 300.0, 92.0), (0.0, 92.0, 106.0, 300.0)]
    assert [text for text, _, _ in place_labels(labelled, walls, (0, 0, 300, 300))] == ["at once"]
    assert [text for text, _, _ in place_labels(labelled[1:], walls, (0, 0, 300, 300))] == ["only beyond it"]


def test_label_begins_or_ends_at_its_mark_however_wide_its_letters_are() -> None:
    many = tuple(Point(x, 5, "", label) for x, label in ((0, "to its right"), (10, "to its left")))
    drawn = draw_plot([Series("a", 0, many)], PLAIN, PLAIN, "")
    found = re.findall(r'text-anchor="(start|end)" x="([\d.]+)" y="[\d.]+">(to its \w+)<', drawn)
    assert sorted(found) == [("end", "338.0", "to its left"), ("start", "46.6", "to its right")]


def test_label_without_room_is_left_out() -> None:
    assert place_labels([("a label that is wider than its frame", 10, 10)], [], (0, 0, 40, 20)) == []


def test_same_values_give_the_same_bytes() -> None:
    series = [Series("one", 1, (Point(1 / 3, 2 / 3, "a"), Point(7, 9, "b")), "dashed")]
    assert draw_plot(series, PLAIN, PLAIN, "s") == draw_plot(series, PLAIN, PLAIN, "s")
