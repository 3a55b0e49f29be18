"""Lists pictures that a CSV file names, with their classes."""

import csv
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from stages.lib.errors import UserError
from stages.lib.sources.listing import SPLIT_OF, Bad, Entry, Source, check_classes, find_split

COLUMNS = ("path", "label", "split", "group")
NUM_NEEDED = 2  # the first ones


def read_manifest(path: Path, class_names: Sequence[str] | None) -> Source:
    """Reads a manifest: a CSV file with the columns `path` and `label`, and where wanted `split` and `group`.

    Paths are those in its folder. Rows keep their order; other columns are not read.

    Args:
        path: of the CSV file.
        class_names: those of params.yaml, or None: all that the file has.

    Raises:
        UserError: if it lacks a column or has no row, or a row has no label, an unknown one, or an unknown split.
    """
    try:
        reader = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
        rows = [(reader.line_num, [(row.get(name) or "").strip() for name in COLUMNS]) for row in reader]
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: expected a CSV file in UTF-8; {error}; save it as that") from error
    if not set(COLUMNS[:NUM_NEEDED]) <= set(reader.fieldnames or ()):
        raise UserError(
            f"{path}: expected the columns path,label, and where wanted split,group, in its first line; got "
            f"{reader.fieldnames}; name them so, or move the file out of there if it lists no pictures"
        )
    if not rows:
        raise UserError(f"{path}: expected a row for each picture; got none")
    entries, bad, seen = [], list[Bad](), dict[str, int]()
    for line, (file, label, split, group) in rows:
        given = find_split(split)
        if not label or given is None:
            expected = "a label" if not label else f"a split of {', '.join(SPLIT_OF)}, or none"
            raise UserError(f"{path}, line {line}: expected {expected}; got {(split if label else label)!r}; mend it")
        reason = find_reason(path.parent, file) or (f"named in line {seen[file]} already" if file in seen else "")
        seen.setdefault(file, line)
        if reason:
            bad.append(Bad(file or f"line {line}", label, reason))
        else:
            entries.append(Entry(file, 0, label, given, group))
    if class_names is not None:
        check_classes(sorted({label for _, (_, label, _, _) in rows}), class_names, path, "label")
    return Source(path.parent, "manifest", entries, bad, [])


def find_reason(folder: Path, file: str) -> str:
    """Finds why a path of a manifest cannot be a picture; "" if it can."""
    if not file:
        return "no path"
    if "\0" in file:
        return "a path with a null byte"
    if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
        return "a path that leaves the folder of the CSV file"
    return "" if (folder / file).is_file() else "no such file"
