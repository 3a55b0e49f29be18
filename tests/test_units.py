"""Splits that are made: stratified, seeded, and never with equal images or one group on two sides."""

import numpy as np
import pytest

from stages.lib.sources.splits import count_across, hash_images, join_units, make_splits, split_units
from stages.lib.storage.split import split_stratified

FRACTIONS = {"test": 0.25, "val": 0.2}


def split(
    labels: np.ndarray, given: list[str] | None = None, groups: list[str] | None = None, seed: int = 1
) -> dict[str, list[int]]:
    digests = [bytes([place // 256, place % 256]) for place in range(len(labels))]
    units = join_units(digests, groups or [""] * len(labels))
    made = make_splits(labels, np.array(given or [""] * len(labels)), units, FRACTIONS, np.random.default_rng(seed))
    assert sorted(place for places in made.values() for place in places.tolist()) == list(range(len(labels)))
    return {name: places.tolist() for name, places in made.items()}


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_images_that_are_all_different_are_split_as_those_of_idx_files(fraction: float) -> None:
    labels = np.random.default_rng(0).integers(0, 4, 200)

    alone = split_units(labels, np.arange(200), fraction, np.random.default_rng(7))

    for one, other in zip(alone, split_stratified(labels, fraction, np.random.default_rng(7)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_splits_that_nobody_gives_are_drawn_from_each_class_alike() -> None:
    labels = np.repeat([0, 1], [80, 20])

    made = split(labels)

    counts = {name: np.bincount(labels[places]).tolist() for name, places in made.items()}
    assert counts == {"test": [20, 5], "val": [12, 3], "train": [48, 12]}
    assert made == split(labels)
    assert made != split(labels, seed=2)


@pytest.mark.parametrize(
    ("given", "kept", "sizes"),
    [
        (["train"] * 50 + ["test"] * 50, {"test": range(50, 100)}, (40, 10, 50)),
        (["train"] * 50 + ["val"] * 50, {"val": range(50, 100)}, (38, 50, 12)),
        (["train"] * 60 + ["val"] * 20 + ["test"] * 20, {"train": range(60)}, (60, 20, 20)),
        (["train"] * 50 + [""] * 30 + ["test"] * 20, {"test": range(80, 100)}, (64, 16, 20)),
    ],
)
def test_what_is_given_is_kept_and_the_rest_is_drawn_from_what_trains(
    given: list[str], kept: dict[str, range], sizes: tuple[int, int, int]
) -> None:
    made = split(np.arange(100) % 2, given)

    assert {name: made[name] for name in kept} == {name: list(places) for name, places in kept.items()}
    found = tuple(len(made[name]) for name in ("train", "val", "test"))
    assert found == pytest.approx(sizes, abs=2)


def test_a_group_is_on_one_side_and_the_shares_are_about_kept() -> None:
    rng = np.random.default_rng(3)
    groups = [f"day {day}" for day in rng.integers(0, 60, 600)]
    labels = rng.integers(0, 3, 600)

    made = split(labels, groups=groups)

    sides = [{groups[place] for place in made[name]} for name in ("train", "val", "test")]
    assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
    assert len(made["test"]) == pytest.approx(150, abs=25)
    assert len(made["val"]) == pytest.approx(90, abs=25)


def test_equal_images_are_on_one_side_through_groups_too() -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 3), np.uint8)
    images[30] = images[2]
    images[31] = images[3]
    groups = [""] * 40
    groups[30] = groups[31] = groups[9] = "a"

    units = join_units(hash_images(images), groups)

    assert units[[2, 3, 9, 30, 31]].tolist() == [2] * 5
    assert len(np.unique(units)) == 36
    for seed in range(8):
        first, second = split_units(np.zeros(40, int), units, 0.3, np.random.default_rng(seed))
        assert {2, 3, 9, 30, 31} <= set(first.tolist()) or {2, 3, 9, 30, 31} <= set(second.tolist())
        assert len(second) <= 12


def test_a_class_of_few_images_has_one_in_each_split_and_one_of_large_groups_the_smallest() -> None:
    labels = np.array([0] * 60 + [1] * 5)

    made = split(labels)
    assert {name: int(labels[places].sum()) for name, places in made.items()} == {"test": 1, "val": 1, "train": 3}

    units = np.repeat([0, 20, 30], [20, 10, 20])
    _, second = split_units(np.zeros(50, int), units, 0.1, np.random.default_rng(0))
    assert second.tolist() == list(range(20, 30))


def test_images_of_test_and_val_that_equal_one_of_train_are_counted() -> None:
    splits = {"train": np.array([0, 1]), "val": np.array([2]), "test": np.array([3, 4, 5])}

    assert count_across([b"a", b"b", b"c", b"a", b"b", b"c"], splits) == {"val": 0, "test": 2}
