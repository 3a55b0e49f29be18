"""Fills the templates of the page and of the model card: writes numbers and sentences. No TensorFlow."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from stages.lib.report.answers import percent
from stages.lib.report.tables import NOT_MEASURED
from stages.lib.results import published
from stages.lib.results.tables import escape_markdown, format_accuracy, format_share

TEMPLATES = Path(__file__).parent / "templates"

UNITS = {  # how a table writes a number
    "": "{:,.0f}",
    "kB": "{:,.0f} kB",
    "ms": "{:.3f} ms",
    "px": "{:.0f} px",
    "s": "{:,.1f} s",
    "MiB": "{:,.0f} MiB",
    "p": "{:.2g}",
}


def format_number(value: float | str | None, unit: str = "") -> str:
    """Writes a number with its unit: a key of `UNITS`, or "%", "percent" or "points" of a fraction.

    What is unknown is empty, but a time says that it was not measured; "" stands for what cannot be.

    >>> format_number(0.9405, "percent"), format_number(1234567), format_number(None, "ms")
    ('94.05 %', '1,234,567', 'not measured here')
    """
    if value is None:
        return NOT_MEASURED if unit in ("ms", "s") else ""
    if isinstance(value, str):
        return value
    if unit == "percent":
        return percent(value)
    if unit == "%":
        return f"{100 * value:.1f} %"
    if unit == "points":
        return f"{100 * value:+.2f}"
    return UNITS[unit].format(value / 1000 if unit == "kB" else value)


def format_text(sentences: str) -> Markup:
    """Escapes sentences, and keeps a number and its % on one line."""
    return Markup(str(escape(sentences)).replace(" %", "&nbsp;%"))  # noqa: S704  (escaped)


def make_environment() -> Environment:
    """Makes what fills templates: HTML is escaped, Markdown where it says so; what is missing is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["published"] = published
    environment.filters |= {
        "number": format_number,
        "accuracy": format_accuracy,
        "share": format_share,
        "text": format_text,
        "markdown": escape_markdown,
    }
    return environment


def render(template: str, **values: Any) -> str:
    """Fills a template of `templates/`."""
    return make_environment().get_template(template).render(values)
