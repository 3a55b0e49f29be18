"""Which images train, which choose, which only test? Reads the data set, and splits it, seeded and stratified.

Reads:
    The folder `dataset.source`, in whichever form `stages.lib.sources` knows: data/download/ with four IDX files, or
        pictures of a user. No file of it is changed.
    data/leave_out.csv, or what else `prepare.leave_out` names: images that no split gets; see `read_left_out`.

Writes:
    data/prepare/train.npz, val.npz, test.npz: `images` (N, size, size), or (N, size, size, 3) in
        colour, uint8 in [0, 255]; `labels` (N,) uint8.
    data/prepare/splits.npz: of IDX files `train` (60000,) and `t10k` (10000,), of each image of the files with that
        beginning the split that has it, or ""; of any other source `pictures` (N,), the same of each row of
        pictures.csv that has no reason.
    data/prepare/pictures.csv: of any source but IDX files its images, `file`, `index`, `class` and `split`, in the
        order of the arrays; and those that cannot be read, with the `reason`.

Images are kept in the order of the source; shuffling belongs to training. Splits that the source gives are kept, but
val is drawn from train where it is not given, and test, too.

A data set may be larger than the memory: pictures are read one by one, wait in a file of data/ that has no name and
ends with the stage, as large as all three splits together, and are written a part at a time.
"""

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stages.lib.errors import UserError
from stages.lib.params.load import load_params
from stages.lib.running.runner import run_stage
from stages.lib.sources.find import find_source
from stages.lib.sources.listing import NUM_SHOWN, SPLITS, Bad, Entry, count_by_class, join_some, show
from stages.lib.sources.looks import list_warnings
from stages.lib.sources.packed import IDX_OF
from stages.lib.sources.read import read_inputs
from stages.lib.sources.splits import count_across, hash_images, join_units, make_splits
from stages.lib.storage.files import write_arrays, write_bytes
from stages.lib.storage.selected import Selected
from stages.lib.storage.split import split_stratified

READS = (
    "seed",
    "dataset.source",
    "dataset.image_size_px",
    "dataset.channels",
    "dataset.fit",
    "dataset.background",
    "dataset.class_names",
    "prepare",
)
OUTPUT = Path("data/prepare")
PICTURES = OUTPUT / "pictures.csv"
COLUMNS = ("file", "index", "class", "split", "reason")


def check_split(split: str, labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Checks that a split has an image of every class.

    Raises:
        UserError: if a class has none: no later stage could measure anything for it.
    """
    missing = np.setdiff1d(np.arange(len(class_names)), labels)
    if len(missing):
        raise UserError(
            f"params.yaml: prepare leaves {len(labels)} images in {split}, none of class "
            f"{join_some([class_names[label] for label in missing])}; raise prepare.keep_fraction, move "
            "prepare.val_fraction and test_fraction from 0 and 1, mend dataset.class_names, leave out fewer images, or "
            "give that class more"
        )


def read_left_out(path: Path, num_images: Mapping[str, int]) -> dict[str, list[int]]:
    """Reads which images no split gets: a CSV file with the columns `file` and `index`, from 0 in it.

    An image is named by its file, in IDX train or t10k, and not by its split, which changes with the seed. Other
    columns, and cells that stand below none, are not read, so that rows of data/audit/ can be copied whole.

    Args:
        path: of the CSV file.
        num_images: by file.

    Returns:
        By file, indices; a file that is not named is not there.

    Raises:
        UserError: if there is no such file, it lacks a column, or a row names no image.
    """
    if not path.is_file():
        raise UserError(f"params.yaml: prepare.leave_out: expected a CSV file with the columns file,index; got {path}")
    try:
        reader = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
        rows = [(reader.line_num, row.get("file") or "", row.get("index") or "") for row in reader]
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: expected a CSV file in UTF-8; {error}") from error
    if not {"file", "index"} <= set(reader.fieldnames or ()):
        raise UserError(f"{path}: expected the columns file,index in its first line; got {reader.fieldnames}")
    left_out: dict[str, list[int]] = {}
    for line, name, index in rows:
        if name not in num_images or not index.isdecimal() or int(index) >= num_images[name]:
            known = [f"{file} and an index from 0 to {count - 1}" for file, count in list(num_images.items())[:2]]
            more = f", or another of {len(num_images):,} files" if len(num_images) > len(known) else ""
            raise UserError(f"{path}, line {line}: expected {' or '.join(known)}{more}; got {name!r} and {index!r}")
        left_out.setdefault(name, []).append(int(index))
    return left_out


def number_labels(entries: Sequence[Entry], class_names: Sequence[str]) -> np.ndarray:
    """Numbers the classes of images: (N,) uint8, the place of each in `class_names`."""
    numbers = {name: number for number, name in enumerate(class_names)}
    return np.array([numbers[entry.label] for entry in entries], np.uint8)


def count_images(entries: Sequence[Entry], bad: Sequence[Bad]) -> dict[str, int]:
    """Counts the images of each file, those that cannot be read among them."""
    return {each.file: 1 for each in bad} | {entry.file: entry.index + 1 for entry in entries}


def check_bad(bad: Sequence[Bad], num_read: int) -> None:
    """Checks that there are no pictures that cannot be read.

    Raises:
        UserError: if there are; the message lists them, with the reason of each.
    """
    if bad:
        more = f"\n  and {len(bad) - NUM_SHOWN:,} more: all are in {PICTURES}" if len(bad) > NUM_SHOWN else ""
        raise UserError(
            f"{len(bad):,} of {len(bad) + num_read:,} files are no pictures that can be used "
            f"({count_by_class([each.label for each in bad])}):\n"
            + "\n".join(f"  {show(each.file)}: {show(each.reason)}" for each in bad[:NUM_SHOWN])
            + f"{more}\nmend or move them, name them in prepare.leave_out, or set prepare.bad_pictures to leave_out in "
            "params.yaml; no file was changed"
        )


def split_dataset(
    labels: np.ndarray,
    given: np.ndarray,
    units: np.ndarray,
    left_out: np.ndarray,
    fractions: dict[str, float],
    keep_fraction: float,
    seed: int,
) -> dict[str, np.ndarray]:
    """Splits images into train, val and test, and keeps `keep_fraction` of each, stratified.

    Images are left out at the end, so that the others stay where they would be without that.

    Args:
        labels: (N,) of the images.
        given: (N,) the split that the source gives an image, or "".
        units: (N,) of each image the first one of those that have to be on its side.
        left_out: indices of images that no split gets.
        fractions: of `val` and `test`, the share that is drawn where the source gives none.
        keep_fraction: share of each split.
        seed: of the random choice.

    Returns:
        By split, sorted int64 indices.
    """
    rng = np.random.default_rng(seed)
    splits = make_splits(labels, given, units, fractions, rng)
    for split, indices in splits.items():
        _, kept = split_stratified(labels[indices], keep_fraction, rng)
        splits[split] = np.setdiff1d(indices[kept], left_out)
    return splits


def list_splits(entries: Sequence[Entry], splits: Mapping[str, np.ndarray], is_idx: bool) -> dict[str, np.ndarray]:
    """Lists the split of each image, "" where it is in none: of IDX files by file, else under `pictures`."""
    names = np.full(len(entries), "", "U5")
    for split, indices in splits.items():
        names[indices] = split
    if not is_idx:
        return {"pictures": names}
    files = np.array([entry.file for entry in entries])
    return {file: names[files == file] for file in IDX_OF.values()}


def write_pictures(entries: Sequence[Entry], names: Sequence[str], bad: Sequence[Bad]) -> None:
    """Writes pictures.csv; `names` are the splits of the entries."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for entry, name in zip(entries, names, strict=True):
        writer.writerow([entry.file, entry.index, entry.label, name, ""])
    for each in bad:
        writer.writerow([show(each.file), "", each.label, "", each.reason])
    write_bytes(PICTURES, text.getvalue().encode())


def describe_left_out(labels: Sequence[str], what: str = "") -> str:
    """Says how many images of which class are left out; "" if none.

    >>> describe_left_out(["Bag", "Shirt", "Bag"], "that cannot be read")
    '; left out 3 that cannot be read: 2 of Bag, 1 of Shirt'
    """
    return f"; left out {len(labels)}{' ' if what else ''}{what}: {count_by_class(labels)}" if labels else ""


def warn(line: str) -> None:
    """Prints a line about the data to stderr."""
    print(f"prepare: {line}", file=sys.stderr, flush=True)


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    dataset, prepare = params.dataset, params.prepare
    source = find_source(Path(dataset.source), dataset.class_names, dataset.image_size_px)
    is_idx = source.kind == "idx"
    if source.skipped:
        warn(f"skipped {len(source.skipped):,} that are junk, empty or of no class: {join_some(source.skipped)}")
    OUTPUT.parent.mkdir(exist_ok=True)
    inputs = read_inputs(
        source, dataset.image_size_px, dataset.channels, dataset.fit, dataset.background, scratch=OUTPUT.parent
    )
    entries, labels = inputs.entries, number_labels(inputs.entries, dataset.class_names)
    places = {(entry.file, entry.index): place for place, entry in enumerate(entries)}
    named = read_left_out(Path(prepare.leave_out), count_images(entries, inputs.bad))
    bad = [each for each in inputs.bad if each.file not in named]
    if bad and (prepare.bad_pictures == "stop" or not entries):
        write_pictures([], [], bad)
        check_bad(bad, len(entries))
    left_out = sorted({places[file, index] for file in named for index in named[file] if (file, index) in places})
    digests, groups = hash_images(inputs.images), [entry.group for entry in entries]
    splits = split_dataset(
        labels,
        np.array([entry.split for entry in entries]),
        join_units(digests, groups),
        np.array(left_out, np.int64),
        {"val": prepare.val_fraction, "test": prepare.test_fraction},
        prepare.keep_fraction,
        params.seed,
    )
    for split, indices in splits.items():
        check_split(split, labels[indices], dataset.class_names)
    images = {split: Selected([inputs.images], indices) for split, indices in splits.items()}
    for split, indices in splits.items():
        write_arrays(OUTPUT / f"{split}.npz", images=images[split], labels=labels[indices])
    names = list_splits(entries, splits, is_idx)
    write_arrays(OUTPUT / "splits.npz", **names)
    write_pictures([] if is_idx else entries, [] if is_idx else names["pictures"].tolist(), bad)
    for keys, what in ((digests, "equal one of train"), (groups, "have the group of one of train")):
        for split, count in count_across(keys, splits).items():
            if count:
                warn(f"images of {split} that {what}, as the source splits them: {count:,}; they flatter results")
    for line in list_warnings(images["train"], dataset.fit):
        warn(line)
    counts = ", ".join(f"{len(splits[split])} {split}" for split in SPLITS)
    by_name = describe_left_out([entries[place].label for place in left_out])
    unread = describe_left_out([each.label for each in bad], "that cannot be read")
    print(f"{OUTPUT}: {counts} images{by_name}{unread}")


if __name__ == "__main__":
    run_stage(main)
