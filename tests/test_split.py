import numpy as np
import pytest

from stages.lib.storage.split import split_stratified

LABELS = np.array([0] * 10 + [1] * 5 + [2] * 4)[np.random.default_rng(0).permutation(19)]  # three classes, mixed


def split(fraction: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    return split_stratified(LABELS, fraction, np.random.default_rng(seed))


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 0.93, 1.0])
def test_the_parts_are_disjoint_and_together_complete(fraction: float) -> None:
    first, second = split(fraction)

    assert sorted([*first, *second]) == list(range(19))


@pytest.mark.parametrize(
    ("fraction", "of_each_class"),
    [
        (0.0, [0, 0, 0]),
        (0.2, [2, 1, 1]),  # of 10, 5 and 4: 2, 1 and 0.8
        (0.5, [5, 2, 2]),  # 2.5 is rounded to the even neighbour
        (0.7, [7, 4, 3]),  # 3.5 too
        (1.0, [10, 5, 4]),
    ],
)
def test_every_class_gives_its_share_rounded_to_whole_images(fraction: float, of_each_class: list[int]) -> None:
    _, second = split(fraction)

    assert np.bincount(LABELS[second], minlength=3).tolist() == of_each_class


def test_the_parts_keep_the_order_of_the_files() -> None:
    for part in split(0.5):
        assert part.dtype == np.int64
        assert part.tolist() == sorted(part)


def test_the_generator_decides_which_images_are_in_which_part() -> None:
    (_, one), (_, same), (_, other) = split(0.5), split(0.5), split(0.5, seed=2)

    assert one.tolist() == same.tolist() != other.tolist()
