"""What a source holds, before any picture is opened."""

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.lib.errors import UserError
from stages.lib.storage.selected import Rows

SPLITS = ("train", "val", "test")
SPLIT_OF = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
"""By the words that users have for it, a split."""

NUM_SHOWN = 20
"""Entries of a long list that a message shows."""


@dataclass(frozen=True, slots=True)  # slots: there may be a million
class Entry:
    """One image of a source. `file` is its path in the source, `index` its place in a file of several images."""

    file: str
    index: int
    label: str  # the name of its class
    split: str  # that the source gives it, or ""
    group: str  # whose images stay on one side of a split, or ""


@dataclass(frozen=True)
class Bad:
    """A file that cannot be used, and why; `label` is "" where that is not known."""

    file: str
    label: str
    reason: str


@dataclass(frozen=True)
class Source:
    """What a folder holds.

    Attributes:
        folder: it.
        kind: idx, manifest, packed or folders.
        entries: all images, in an order that no listing of a folder decides.
        bad: files that can be no entry.
        skipped: what is not looked at: junk, empty folders, files that belong to no class.
        stored: images of the entries where they are no picture files, which may lie on disk: of idx (N, size, size)
            uint8, inputs already; of packed (N, height, width) or (N, height, width, 3 or 4), of a type that
            `turn_uint8` knows. Else None: each entry is a picture file.
    """

    folder: Path
    kind: str
    entries: list[Entry]
    bad: list[Bad]
    skipped: list[str]
    stored: Rows | None = None


def show(name: str) -> str:
    r"""Writes a name that may hold anything, bytes that are no UTF-8 among it, as one line.

    >>> show("a\udcff\n")
    'a\\udcff\\n'
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in name)


def join_some(names: Sequence[str], num_shown: int = NUM_SHOWN) -> str:
    """Joins names; of many the first ones, and how many more there are.

    >>> join_some(["a", "b", "c"], num_shown=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - num_shown:,} more" if len(names) > num_shown else ""
    return ", ".join(map(show, names[:num_shown])) + more


def count_by_class(labels: Iterable[str]) -> str:
    """Says how many of which class there are, the classes in the order of their names.

    >>> count_by_class(["Bag", "Shirt", "Bag", ""])
    '2 of Bag, 1 of Shirt, 1 of no known class'
    """
    counts = Counter(labels)
    unknown = counts.pop("", 0)
    told = [f"{counts[name]} of {show(name)}" for name in sorted(counts)]
    return ", ".join(told + ([f"{unknown} of no known class"] if unknown else []))


def find_split(word: str) -> str | None:
    """Finds the split that a user's word means; "" is none."""
    return SPLIT_OF.get(word.strip().lower()) if word.strip() else ""


def check_classes(found: Sequence[str], class_names: Sequence[str], folder: Path, what: str) -> None:
    """Checks that a source has the classes of params.yaml and no others.

    Args:
        found: the classes of the source.
        class_names: those of params.yaml.
        folder: the source.
        what: of what a class is the name there, such as "folder".

    Raises:
        UserError: if not; the message names all that are unknown, each with the nearest class, and all that lack.
    """
    told = []
    for name in sorted(set(found) - set(class_names)):
        close = difflib.get_close_matches(name, class_names, n=1)
        told.append(f"{show(name)!r} is no class" + (f" (did you mean {close[0]!r}?)" if close else ""))
    told += [f"no {what} for {name!r}" for name in class_names if name not in found]
    if told:
        raise UserError(
            f"{folder}: expected a {what} for each of dataset.class_names in params.yaml, and no other; got "
            f"{'; '.join(told[:NUM_SHOWN])}{f'; and {len(told) - NUM_SHOWN} more' if len(told) > NUM_SHOWN else ''}; "
            f"rename the {what}, or mend dataset.class_names"
        )


def sort_naturally(names: Iterable[str]) -> list[str]:
    """Sorts names as people do: numbers in them by their value.

    >>> sort_naturally(["10", "9", "b2", "b10", "a"])
    ['9', '10', 'a', 'b2', 'b10']
    """

    def split_numbers(name: str) -> list[tuple[int, int, str]]:
        parts: list[tuple[int, int, str]] = []
        text = ""
        for each in [*name, ""]:
            is_digit = each.isascii() and each.isdigit()
            if text and (not each or is_digit != (text.isascii() and text.isdigit())):
                number = text.isascii() and text.isdigit()
                parts.append((0, int(text), text) if number else (1, 0, text))
                text = ""
            text += each
        return parts

    return sorted(names, key=lambda name: (split_numbers(name), name))
