"""Names are data: Markdown and HTML show them as they are, whatever they hold."""

import ast
import re
from html import unescape
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from test_card import MODEL, write_card

from stages.lib.report.embed import embed_chart
from stages.lib.report.render import format_text, make_environment, render
from stages.lib.results.rows import LayerMacs
from stages.lib.results.tables import format_environment, format_table
from stages.lib.results.times import StageTime

ENVIRONMENT = {"policy": "float32", "num_cpus": 2, "date": "2020-01-01"}
NAMES = ["$5_$10", "a|b", "<b>", "<!-- end -->", "A&amp;B", "\"q\" 'r'", "back\\slash\\|", "two\nlines", "# one #"]
NAMES += ["50 %", "*x* _y_ ~~z~~", "`code`", "[a](b)", "שלום", "</script><img src=x>", "{{ 7 * 7 }}", "```"]


class Texts(HTMLParser):
    """Collects the texts, the attributes and the tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.values: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.values += [value or "" for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.values.append(data)


def show(markdown: str) -> str:
    """Returns the text that a reader of a Markdown file sees."""
    return unescape(re.sub("<[^>]*>", "", MarkdownIt().enable(["table", "strikethrough"]).render(markdown)))


@pytest.mark.parametrize("name", NAMES)
def test_markdown_shows_a_name_as_it_is(name: str) -> None:
    line = " ".join(name.split())
    classes = [{**row, "class": name} for row in MODEL["classes"]]
    confused = [{"actual": name, "predicted": name, "images": 3}]
    use = render("use.txt", class_names=(name, "b"), size=28, mode="L", temperature=1.0, min_confidence=0.5)
    changes = {"class_names": [name, "b"], "classes": classes, "most_confused": confused, "dataset": name, "use": use}
    card = write_card(changes=changes)
    sentences = format_environment({**ENVIRONMENT, "cpu": name}, [StageTime("train", 30, 700)], 1)

    shown = show(card)
    assert f"pixels shows: {line}, b. It gives" in shown
    assert f"{line} taken for {line} (3 images)." in shown
    assert f"The data are {line}, whose place" in shown
    assert f"\n{line}\n80.00 % (76.6 to 83.0)\n75.00 % (71.5 to 78.2)\n" in shown
    assert ast.literal_eval(re.findall("^names = (.*)", shown, re.MULTILINE)[0]) == [name, "b"]
    assert f"On 2 cores ({line}), trained" in show(sentences)
    assert show(format_table([name, "b"], [[name, "1"]])).split("\n")[3:5] == [line, "b"]
    assert show(format_table(["a", "b"], [[name, "1"]])).count(f"\n{line}\n1\n") == 1


@pytest.mark.parametrize("name", NAMES)
def test_html_shows_a_name_as_it_is(name: str) -> None:
    parts = make_environment().get_template("parts.html").module
    columns, rows = [("model", "name"), (name, "share", "percent")], [{"name": name, "share": 0.5}]
    layers = [LayerMacs(name, "all filters", 1), LayerMacs("conv1", name, 2)]

    page = str(parts.table(name, columns, rows, marked=name))  # type: ignore[attr-defined]
    read = Texts(f"{page}<p>{format_text(name)}</p>{embed_chart('shrunk_layers', layers, name)}")

    assert not {"img", "script", "b"} & read.tags
    assert sum(value == name for value in read.values) >= 5
    assert name.replace(" %", "\u00a0%") in read.values
