"""Reads the names that a matrix stage gets on its command line."""

import argparse
from collections.abc import Iterable

from stages.lib.params import find_name


def parse_names(description: str | None, **known: Iterable[str]) -> list[str]:
    """Reads one positional argument for each keyword, in order, and checks it against the known names.

    Raises:
        UserError: if a name is unknown; the message gives the known names and the nearest of them.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for argument, names in known.items():
        parser.add_argument(argument, help=f"one of {', '.join(names)}")
    arguments = vars(parser.parse_args())
    return [find_name(arguments[argument], names, argument) for argument, names in known.items()]
