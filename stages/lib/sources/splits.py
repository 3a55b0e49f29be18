"""Makes the splits that a source does not give: seeded, stratified, with groups and exact copies on one side."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from tqdm import tqdm

from stages.lib.sources.parts import list_images
from stages.lib.storage.selected import Rows

MIN_UNITS = 3  # of a class, of which a split gets one at least: one stays for each other split


def hash_images(images: Rows) -> list[bytes]:
    """Computes a digest of each image, with a progress bar on a terminal: equal images have the same."""
    shown = tqdm(list_images(images), "compare", len(images), leave=False, unit=" images", disable=None)
    return [sha256(np.ascontiguousarray(image).data).digest() for image in shown]


def join_units(digests: Sequence[bytes], groups: Sequence[str]) -> np.ndarray:
    """Joins images that may not be on two sides of a split: those that are equal, and those of one group.

    >>> join_units([b"a", b"b", b"c", b"b", b"d"], ["", "x", "y", "", "x"]).tolist()
    [0, 1, 2, 1, 1]

    Args:
        digests: of the images; equal images have the same.
        groups: of the images; "" is none.

    Returns:
        (N,) int64: of each image the first one of its unit.
    """
    above = list(range(len(digests)))

    def find(place: int) -> int:
        while above[place] != place:
            above[place] = above[above[place]]
            place = above[place]
        return place

    firsts: dict[tuple[str, bytes | str], int] = {}
    for place, (digest, group) in enumerate(zip(digests, groups, strict=True)):
        keys: list[tuple[str, bytes | str]] = [("equal", digest), *([("group", group)] if group else [])]
        for key in keys:
            one, other = find(firsts.setdefault(key, place)), find(place)
            above[max(one, other)] = min(one, other)
    return np.array([find(place) for place in range(len(above))], np.int64)


def split_units(
    labels: np.ndarray, units: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Splits images so that every class gives about the same share to the second part, and units stay whole.

    A unit counts for the class that most of its images have. Where each image is a unit of its own, the result is that
    of `stages.lib.storage.split.split_stratified`, but for classes whose share rounds to none: of `MIN_UNITS` or more
    units, one goes to the second part.

    Args:
        labels: (N,) integers.
        units: (N,) int64, of each image the first one of its unit.
        fraction: share of the second part, in [0, 1], which no class exceeds by more than rounding; see above.
        rng: source of the random choice.

    Returns:
        Two sorted int64 arrays, disjoint and together 0 to N - 1.
    """
    firsts, unit_of, sizes = np.unique(units, return_inverse=True, return_counts=True)
    counts = np.zeros((len(firsts), int(labels.max(initial=0)) + 1), np.int64)
    np.add.at(counts, (unit_of, labels), 1)
    class_of = counts.argmax(axis=1)
    is_second = np.zeros(len(firsts), dtype=bool)
    for label in np.unique(class_of):
        members = rng.permutation(np.flatnonzero(class_of == label))
        room = round(int(sizes[members].sum()) * fraction)
        for member in members:
            if sizes[member] <= room:
                is_second[member] = True
                room -= sizes[member]
        if fraction > 0 and len(members) >= MIN_UNITS and not is_second[members].any():
            is_second[members[sizes[members].argmin()]] = True
    return np.flatnonzero(~is_second[unit_of]), np.flatnonzero(is_second[unit_of])


def make_splits(
    labels: np.ndarray,
    given: np.ndarray,
    units: np.ndarray,
    fractions: dict[str, float],
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Completes the splits that are given. Those of test and val that nothing is given for are drawn from the rest.

    Args:
        labels: (N,) integers.
        given: (N,) str: test or val for images that are to be there, else train or "".
        units: (N,) int64, as `join_units` returns them.
        fractions: of `test` and of `val`, the share that is drawn; val has its share of what test leaves.
        rng: source of the random choice.

    Returns:
        By split, train, val and test: sorted int64 indices.
    """
    splits = {split: np.flatnonzero(given == split) for split in ("val", "test")}
    rest = np.flatnonzero((given == "train") | (given == ""))
    for split in ("test", "val"):
        if not len(splits[split]):
            kept, drawn = split_units(labels[rest], units[rest], fractions[split], rng)
            rest, splits[split] = rest[kept], rest[drawn]
    return {"train": rest, **splits}


def count_across(keys: Sequence[bytes | str], splits: dict[str, np.ndarray]) -> dict[str, int]:
    """Counts images of val and of test that share a key with one of train, as they may where a source gives its splits.

    Args:
        keys: of the images, their digest or their group; "" is none.
        splits: by split, the indices of its images.

    Returns:
        By split, val and test: how many.
    """
    trained = {keys[place] for place in splits["train"]} - {""}
    return {split: sum(keys[place] in trained for place in splits[split]) for split in ("val", "test")}
