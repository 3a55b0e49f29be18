"""Reads the names that a matrix stage gets on its command line."""

import argparse
from collections.abc import Iterable
from typing import Any

from stages.lib.params.checking import find_name
from stages.lib.params.load import load_params


def parse_names(description: str | None, **known: str | Iterable[str]) -> list[str]:
    """Reads one positional argument for each keyword, in order, and checks it against the known names.

    Args:
        description: shown by `--help`.
        known: by argument, the names; a dotted key stands for those that params.yaml has there.

    Raises:
        UserError: if a name is unknown; the message gives the known names and the nearest of them.
    """
    names = {argument: list_names(of) if isinstance(of, str) else list(of) for argument, of in known.items()}
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for argument in names:
        parser.add_argument(argument, help=f"one of {', '.join(names[argument])}")
    given = vars(parser.parse_args())
    return [find_name(given[argument], names[argument], argument) for argument in names]


def list_names(key: str) -> list[str]:
    """Lists the names that params.yaml has under a dotted key: those of a section or of a list."""
    value: Any = load_params()
    for name in key.split("."):
        value = getattr(value, name)
    return list(map(str, value))
