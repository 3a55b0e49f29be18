"""Lists pictures that lie in a folder for each class, or in one for each split with a folder for each class in it."""

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path

from stages.lib.errors import UserError
from stages.lib.sources.listing import SPLIT_OF, Bad, Entry, Source, check_classes, show

JUNK = ("thumbs.db", "desktop.ini", "@eadir", "__macosx")
"""What other programs leave in folders, in lower case; as does all that begins with a dot."""

SUFFIXES = (
    *(".avif", ".bmp", ".dib", ".gif", ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".ppm", ".pgm", ".pbm"),
    *(".pnm", ".tif", ".tiff", ".webp"),
)
"""How names of pictures end, in lower case: a file of such a name is never skipped in silence."""


def is_junk(name: str) -> bool:
    """Tells whether a file or folder is one that programs leave, and no user wants to be read."""
    return name.startswith(".") or name.lower() in JUNK


def walk(folder: Path, inside: str = "", above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[tuple[str, str]]:
    """Walks through all files in a folder, sorted by name.

    Args:
        folder: the folder.
        inside: its path in the source, which ends in a slash, or "".
        above: device and inode of the folders around it: a link that leads to one of them would never end.

    Yields:
        The path in the source, and "" for a file that can be read, "skip" for what is not looked at, else why not.
    """
    try:
        status = folder.stat()
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        yield inside.rstrip("/"), str(error.strerror)
        return
    above |= {(status.st_dev, status.st_ino)}
    num_seen = 0
    for name in names:
        path, file = folder / name, inside + name
        if is_junk(name):
            yield file, "skip"
            continue
        num_seen += 1
        reason = find_reason(path, name, above)
        if reason == "folder":
            yield from walk(path, f"{file}/", above)
        else:
            yield file, reason
    if not num_seen and inside:
        yield inside, "skip"


def find_reason(path: Path, name: str, above: frozenset[tuple[int, int]]) -> str:
    """Finds why a path cannot be read: "" for a file that can, "folder" for a folder."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "a name that is no UTF-8"
    try:
        status = path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a link in a circle"
        return "a link that leads nowhere" if path.is_symlink() else str(error.strerror)
    if path.is_dir():
        return "a link in a circle" if (status.st_dev, status.st_ino) in above else "folder"
    return "" if path.is_file() else "no regular file"


def list_folders(folder: Path, class_names: Sequence[str] | None) -> Source:
    """Lists the pictures of a source that is a folder for each class; see `has_splits`.

    Args:
        folder: the source.
        class_names: those of params.yaml, or None: all that are there.

    Raises:
        UserError: if its classes are not those of params.yaml, or two folders have one split.
    """
    found = list(walk(folder))
    depth = 1 if has_splits([file for file, reason in found if reason != "skip"], class_names) else 0
    entries, bad, skipped, folders_of = [], [], [], dict[str, str]()
    for file, reason in found:
        *folders, name = file.split("/")
        label = folders[depth] if len(folders) > depth else ""
        if depth and folders and reason != "skip":
            split = SPLIT_OF[folders[0].lower()]
            if folders_of.setdefault(split, folders[0]) != folders[0]:
                raise UserError(
                    f"{folder}: expected one folder for {split}; got {folders_of[split]!r} and {folders[0]!r}; "
                    "put the pictures of both into one"
                )
        if reason == "skip":
            skipped.append(file)
        elif reason:
            bad.append(Bad(file, label, reason))
        elif label:
            entries.append(Entry(file, 0, label, SPLIT_OF[folders[0].lower()] if depth else "", ""))
        elif name.lower().endswith(SUFFIXES):
            bad.append(Bad(file, "", "lies in no folder of a class"))
        else:
            skipped.append(file)
    labels = sorted({entry.label for entry in entries} | {each.label for each in bad} - {""})
    if not labels:
        raise UserError(
            f"{folder}: expected a folder for each class, with pictures in it, or the four IDX files, or one .csv or "
            f".npz file; got {'nothing' if not found else show(found[0][0])}"
            f"{f' and {len(found) - 1:,} more' if len(found) > 1 else ''}; see dataset.source in params.yaml"
        )
    if class_names is not None:
        check_classes(labels, class_names, folder, "folder")
    return Source(folder, "folders", entries, bad, skipped)


def has_splits(files: Sequence[str], class_names: Sequence[str] | None) -> bool:
    """Tells whether the folders at the top of a source are splits, and those of classes lie in them.

    That is so where all of them have names of splits, hold folders, and are not themselves the classes.
    """
    tops = {file.split("/")[0] for file in files if "/" in file}
    are_classes = class_names is not None and tops <= set(class_names)
    has_folders = any(file.count("/") >= 2 for file in files)
    return bool(tops) and has_folders and not are_classes and all(top.lower() in SPLIT_OF for top in tops)
