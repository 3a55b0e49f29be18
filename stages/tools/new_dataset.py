"""What is in a folder of pictures, and what has to be in params.yaml to train on it? Looks, says so, and writes it.

Run as `python -m stages.tools.new_dataset FOLDER`: a folder in any form that `stages.lib.sources` knows, such as one
with a subfolder of pictures for each class. A tool, not a stage.

Reads:
    FOLDER: all of its pictures. None is changed.
    params.yaml, which must have no changes that are not committed.

Prints what it found: the form, classes and numbers of pictures, sizes, formats, colours, what is light on what, exact
copies, and all that cannot be used; then what it wrote and why, and what to run next.

Writes, in params.yaml, whose comments it keeps: the section `dataset`, a small grid of candidates for a first look, and
how long is trained on so many pictures.
"""

import argparse
import io
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from stages.lib.errors import UserError
from stages.lib.params.load import check_content
from stages.lib.params.sections import Params
from stages.lib.params.yaml_1_2 import read_yaml
from stages.lib.running.git import git_environment
from stages.lib.sources.decode import PictureError
from stages.lib.sources.find import find_source
from stages.lib.sources.fit import lay_on, turn_grey
from stages.lib.sources.listing import NUM_SHOWN, SPLITS, Bad, Entry, Source, join_some, show, sort_naturally
from stages.lib.sources.looks import measure_borders, tell_polarity
from stages.lib.sources.read import open_pictures
from stages.lib.storage.files import write_bytes

PARAMS = Path("params.yaml")
MAX_SIZE_PX = 96
SIZES_PX = (28, 32, 48, 64, MAX_SIZE_PX)
"""Sizes of inputs that are offered. More take long to train, and pictures that are smaller gain nothing by them."""

THUMB_PX = 32  # on a side: of what the border is measured
ENOUGH_PX = 4 * MAX_SIZE_PX  # on a side, to tell sizes apart that matter

LEAST_COLOURED = 0.05
"""Share of the pictures: where fewer are in colour, inputs are grey."""

BATCH_SIZES = ((2_000, 32), (10_000, 64), (30_000, 128))
"""Up to so many training images, so many in a batch. Small batches are more updates for the same time."""

UPDATES = {"train": 400, "finish": 800, "prune": 160, "shrink": 160}
"""Updates of the weights that a training takes at least: a network learns by updates, whatever an epoch is."""

MAX_EPOCHS = 100


@dataclass
class Findings:
    """What is known of the pictures of a source, those that can be read."""

    entries: list[Entry] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # width, height
    num_colour: int = 0
    num_transparent: int = 0
    borders: list[float] = field(default_factory=list)  # levels of the background of the opaque ones
    levels: tuple[int, int] = (255, 0)
    bad: list[Bad] = field(default_factory=list)


def look_at(source: Source) -> Findings:
    """Opens all pictures of a source, and notes what they are."""
    found = Findings(bad=list(source.bad))
    for entry, picture in open_pictures(source, ENOUGH_PX):
        if isinstance(picture, PictureError):
            found.bad.append(Bad(entry.file, entry.label, picture.reason))
            continue
        found.entries.append(entry)
        found.digests.append(sha256(repr((picture.mode, picture.size)).encode() + picture.tobytes()).hexdigest())
        found.sizes.append(picture.size)
        is_transparent = picture.mode == "RGBA" and bool(np.asarray(picture)[..., 3].min() < 255)
        found.num_transparent += is_transparent
        opaque = lay_on(picture, 255)
        red, green, blue = (np.asarray(channel, np.int16) for channel in opaque.split())
        found.num_colour += bool(np.abs(red - green).max() > 8 or np.abs(green - blue).max() > 8)
        grey = turn_grey(opaque)
        levels = np.asarray(grey)
        found.levels = (min(found.levels[0], int(levels.min())), max(found.levels[1], int(levels.max())))
        if not is_transparent:
            thumb = np.asarray(grey.resize((THUMB_PX, THUMB_PX), Image.Resampling.BOX))
            found.borders += measure_borders(thumb[np.newaxis]).tolist()
    return found


def choose_size(sizes: Sequence[tuple[int, int]]) -> int:
    """Chooses the size of inputs: that of the pictures where it is one, square and small; else one of `SIZES_PX`.

    >>> choose_size([(8, 8), (8, 8)]), choose_size([(70, 50), (80, 60)]), choose_size([(20, 10)])
    (8, 64, 28)
    """
    if len(set(sizes)) == 1 and sizes[0][0] == sizes[0][1] and sizes[0][0] <= MAX_SIZE_PX:
        return sizes[0][0]
    typical = float(np.median([max(size) for size in sizes]))
    return max((size for size in SIZES_PX if size <= typical), default=SIZES_PX[0])


def tell_colour(found: Findings) -> bool:
    """Tells whether inputs are to be in colour: not where few pictures are, which that would tell from the others."""
    return found.num_colour > LEAST_COLOURED * len(found.entries)


def choose_background(found: Findings) -> int:
    """Chooses the grey level that is added around pictures: black or white, as their border is; white if unknown."""
    return 0 if found.borders and np.median(found.borders) < 128 else 255


def choose_grid(image_size_px: int, channels: int, params: Params) -> dict[str, Any]:
    """Chooses a small grid for a first look: a simple network and one that suits such images, under three regimes.

    Returns:
        By dotted key; no key of which params.yaml has none of the names any more.
    """
    suited = "third" if image_size_px <= SIZES_PX[0] and channels == 1 else "seventh"
    grid = {
        "study.models": [name for name in ("first", suited) if name in params.models],
        "study.augmentations": [name for name in ("none", "mild", "flip") if name in params.augmentations],
    }
    return {key: names for key, names in grid.items() if names}


def choose_training(num_images: int, params: Params) -> dict[str, Any]:
    """Chooses batches and epochs so that each training has enough updates; where there are many images, as it was.

    Args:
        num_images: of the training split, about.
        params: as they are.

    Returns:
        By dotted key.
    """
    batch_size = next((batch_size for most, batch_size in BATCH_SIZES if num_images <= most), None)
    if batch_size is None:
        return {}

    def count_epochs(section: str, batch: int, least: int) -> int:
        updates_an_epoch = max(1, math.ceil(num_images / batch))
        return min(MAX_EPOCHS, max(least, math.ceil(UPDATES[section] / updates_an_epoch)))

    late = count_epochs("prune", batch_size, 2)
    early = max(1, late // 4)
    steps = [early if epochs == min(params.prune.epochs) else late for epochs in params.prune.epochs]
    return {
        "study.keep_fraction": 1.0,
        "train.epochs": count_epochs("train", batch_size, params.train.clean_epochs + 2),
        "train.batch_size": batch_size,
        "finish.epochs": count_epochs("finish", batch_size, params.finish.clean_epochs + 2),
        "prune.epochs": steps,
        "prune.batch_size": batch_size,
        "shrink.epochs": count_epochs("shrink", batch_size, params.shrink.clean_epochs + 2),
    }


def estimate_training(found: Findings, params: Params) -> int:
    """Estimates how many images will train: those that are given, or what is left of them by the fractions."""
    splits = Counter(entry.split for entry in found.entries)
    rest = splits["train"] + splits[""]
    for split, fraction in (("test", params.prepare.test_fraction), ("val", params.prepare.val_fraction)):
        rest = rest if splits[split] else round(rest * (1 - fraction))
    return rest


def describe(source: Source, found: Findings, class_names: Sequence[str]) -> list[str]:
    """Says what was found, a line each."""
    kinds = {
        "idx": "IDX files, whose images are inputs already",
        "manifest": "a CSV file that names pictures",
        "packed": "an .npz with images",
        "folders": "pictures in a folder for each class",
    }
    lines = [f"{source.folder}: {kinds[source.kind]}; {len(found.entries):,} images of {len(class_names)} classes"]
    splits = [split for split in (*SPLITS, "") if any(entry.split == split for entry in found.entries)]
    if splits == [""]:
        lines.append("splits: none given; prepare makes them, stratified")
    else:
        counts = Counter(entry.split for entry in found.entries)
        lines.append("splits: " + ", ".join(f"{counts[split]:,} {split or 'without one'}" for split in splits))
    by_class = Counter((entry.label, entry.split) for entry in found.entries)
    width = max(len(show(name)) for name in class_names)
    for name in class_names:
        of_splits = [f"{by_class[name, split]:>6,}{f' {split}' if split else ''}" for split in splits]
        lines.append(f"  {show(name):{width}} {' '.join(of_splits)}")
    groups = {entry.group for entry in found.entries} - {""}
    if groups:
        lines.append(f"groups: {len(groups):,}, each of which stays on one side of a split")
    widths, heights = zip(*found.sizes, strict=True)
    different = len(set(found.sizes))
    alike = "all alike" if different == 1 else f"{different:,} different ones"
    reduced = " (larger JPEGs were reduced on reading)" if max(*widths, *heights) > ENOUGH_PX else ""
    lines.append(f"sizes: {min(widths)} x {min(heights)} to {max(widths)} x {max(heights)} pixels, {alike}{reduced}")
    if source.stored is None:
        formats = Counter(Path(entry.file).suffix.lower() or "no suffix" for entry in found.entries)
        lines.append("files: " + ", ".join(f"{count:,} {suffix}" for suffix, count in formats.most_common()))
    colours = f"{found.num_colour:,} in colour" if found.num_colour else "all grey"
    grey = ", which are turned grey" if found.num_colour and not tell_colour(found) else ""
    lines.append(f"colours: {colours}{grey}; {found.num_transparent:,} transparent")
    polarity = tell_polarity(float(np.median(found.borders))) if found.borders else "unknown: all transparent"
    lines.append(f"levels: {found.levels[0]} to {found.levels[1]} of 0 to 255; {polarity}")
    lines.append(describe_copies(found))
    if source.skipped:
        lines.append(
            f"skipped: {len(source.skipped):,} that are junk, empty or of no class: {join_some(source.skipped)}"
        )
    if found.bad:
        lines.append(f"cannot be used: {len(found.bad):,}")
        lines += [f"  {show(each.file)}: {show(each.reason)}" for each in found.bad[:NUM_SHOWN]]
        lines += [f"  and {len(found.bad) - NUM_SHOWN:,} more"] if len(found.bad) > NUM_SHOWN else []
    return lines


def describe_copies(found: Findings) -> str:
    """Says how many pictures are exact copies of another one, and how many of these are in two splits or classes."""
    same: dict[str, list[Entry]] = {}
    for entry, digest in zip(found.entries, found.digests, strict=True):
        same.setdefault(digest, []).append(entry)
    copies = [entries for entries in same.values() if len(entries) > 1]
    across = sum(len({entry.split for entry in entries}) > 1 for entries in copies)
    mixed = sum(len({entry.label for entry in entries}) > 1 for entries in copies)
    if not copies:
        return "exact copies: none"
    first = next((entries for entries in copies if len({entry.label for entry in entries}) > 1), copies[0])
    one, other = (show(f"{entry.file} {entry.index}".removesuffix(" 0")) for entry in first[:2])
    num_more = sum(map(len, copies)) - len(copies)
    return (
        f"exact copies: {num_more:,} of {len(copies):,} images; {across:,} of these have one in another split that is "
        f"given, and {mixed:,} in another class; {one} and {other} are equal"
    )


def list_changes(
    source: Source, found: Findings, class_names: Sequence[str], folder: str, params: Params
) -> dict[str, Any]:
    """Lists what params.yaml has to say, by dotted key."""
    channels = 3 if tell_colour(found) else 1
    image_size_px = found.sizes[0][0] if source.kind == "idx" else choose_size(found.sizes)
    return {
        "dataset.name": Path(folder).resolve().name,
        "dataset.source": folder,
        "dataset.channels": channels,
        "dataset.image_size_px": image_size_px,
        "dataset.fit": "pad",
        "dataset.background": choose_background(found),
        "dataset.class_names": list(class_names),
        "dataset.files": None,
        **choose_grid(image_size_px, channels, params),
        **choose_training(estimate_training(found, params), params),
    }


def edit_params(text: str, changes: Mapping[str, Any]) -> str:
    """Writes other values into the text of params.yaml, and keeps its comments.

    Args:
        text: of the file.
        changes: values by dotted key of a section that is there.
    """
    yaml = YAML()
    yaml.width = 10_000
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    content = yaml.load(text)
    for key, value in changes.items():
        section, _, name = key.partition(".")
        old = content[section][name]
        if isinstance(value, list) and isinstance(old, CommentedSeq):  # which holds the comment below it
            old[:] = value
            continue
        if value is None and old is not None:  # what stands below its last key belongs to the file, not to that key
            above = content[section].ca.items.get(name, [None, None])[1]
            below = next(reversed(old.ca.items.values()), [None, None, None])[2]
            content[section].ca.items[name] = [None, above, below, None]
        content[section][name] = value
    written = io.StringIO()
    yaml.dump(content, written)
    return written.getvalue()


def check_committed(path: Path) -> None:
    """Checks that a file has no changes that Git could not bring back.

    Raises:
        UserError: if it has, or Git does not say.
    """
    command = ["git", "status", "--porcelain", "--", str(path)]
    result = subprocess.run(command, env=git_environment(), capture_output=True, text=True)
    if result.returncode:
        raise UserError(f"git status: {result.stderr.strip()}; run this at the top of the repository")
    if result.stdout:
        raise UserError(
            f"{path}: changed since the last commit, and would be changed again; commit the change "
            f"(`git commit {path}`) or undo it (`git checkout {path}`)"
        )


def name_folder(given: str) -> str:
    """Names a folder as params.yaml does: from here where it lies in here, else as it is given."""
    path = os.path.normpath(given)
    inside = os.path.relpath(path)
    return inside if not inside.startswith("..") else path


def explain_training(changes: Mapping[str, Any], num_images: int) -> str:
    """Says why epochs and batches are what they are."""
    if "train.epochs" not in changes:
        return f"about {num_images:,} images will train: epochs and batches stay as they are"
    updates = changes["train.epochs"] * math.ceil(num_images / changes["train.batch_size"])
    return (
        f"about {num_images:,} images will train. A network learns by updates, one a batch: batches of "
        f"{changes['train.batch_size']} in {changes['train.epochs']} epochs are {updates:,}, "
        f"and of the default 256 in 5 epochs they would be {5 * math.ceil(num_images / 256):,}"
    )


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(
        "python -m stages.tools.new_dataset", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", help="such as one with a subfolder of pictures for each class")
    folder = name_folder(parser.parse_args().folder)

    params = check_content(read_yaml(PARAMS))
    check_committed(PARAMS)
    source = find_source(Path(folder))
    found = look_at(source)
    if not found.entries:
        raise UserError(f"{folder}: expected pictures; got none that can be used of {len(found.bad):,} files")
    class_names = sort_naturally({entry.label for entry in found.entries})
    print("\n".join(describe(source, found, class_names)), flush=True)

    changes = list_changes(source, found, class_names, folder, params)
    written = edit_params(PARAMS.read_text(encoding="utf-8"), changes)
    check_written(written)
    write_bytes(PARAMS, written.encode())
    num_images = estimate_training(found, params)
    print(
        f"\nwritten to {PARAMS}; look at it by `git diff {PARAMS}`:\n"
        + "\n".join(f"  {key}: {shorten(value)}" for key, value in changes.items())
        + f"\n{explain_training(changes, num_images)}"
        + ("\nfirst mend what cannot be used, or set prepare.bad_pictures to leave_out" if found.bad else "")
        + "\nnext: `dvc repro prepare` packs the pictures; `dvc repro` trains on them, and ends with the report"
    )


def shorten(value: Any) -> str:
    """Writes a value as a line; of a long list, its first entries."""
    if isinstance(value, list):
        return f"[{join_some([str(each) for each in value])}]"
    return "null" if value is None else show(str(value))


def check_written(text: str) -> None:
    """Checks params before they are written.

    Raises:
        UserError: if the stages would refuse them.
    """
    try:
        check_content(YAML(typ="safe").load(text))
    except UserError as error:
        raise UserError(f"params.yaml, as it would be: {error}") from error


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it, and nothing is half written
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
