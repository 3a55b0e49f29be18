import itertools
from typing import Any

import numpy as np
import pytest
from sections import augmentation
from tiny import NONE, make_recipe

from stages.lib.network.keras2 import tf
from stages.lib.params.sections import AugmentationParams
from stages.lib.training.batches import (
    compute_class_weights,
    count_seen,
    count_steps,
    find_easy,
    training_batches,
    validation_batches,
)
from stages.lib.training.cluster import ALONE, Cluster

NUM_IMAGES = 10
SOMETHING = augmentation(
    rotation_degrees=8.0,
    shift_fraction=0.2,
    zoom_fraction=0.2,
    shift_px=1,
    erase_px=2,
    brightness_fraction=0.2,
    contrast_fraction=0.2,
    horizontal_flip=True,
)
FLIP = augmentation(horizontal_flip=True)
LABELS = np.arange(NUM_IMAGES, dtype=np.uint8) % 3
IMAGES = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 4, 4), np.uint8)
IMAGES[:, 0, 0] = np.arange(NUM_IMAGES)  # the first pixel tells which image it is

EASY = np.arange(NUM_IMAGES) < 6

Batches = list[tuple[np.ndarray, ...]]


def run(
    limits: AugmentationParams = NONE,
    num_images: int = NUM_IMAGES,
    first_epoch: int = 0,
    cluster: Cluster = ALONE,
    is_easy: np.ndarray | None = None,
    **changes: Any,
) -> Batches:
    """Returns the batches of a run, by default two epochs of batches of 4 without augmentation."""
    recipe = make_recipe(limits=limits, **{"batch_size": 4, "seed": 1} | changes)
    batches = training_batches(IMAGES[:num_images], LABELS[:num_images], 3, recipe, first_epoch, cluster, is_easy)
    return [tuple(map(np.asarray, batch)) for batch in batches]


def read_order(batches: Batches) -> list[int]:
    return [round(255 * float(image[0, 0, 0])) for x, *_ in batches for image in x]


def as_bytes(batches: Batches) -> list[bytes]:
    return [b"".join(part.tobytes() for part in batch) for batch in batches]


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(4, [4, 4, 2, 4, 4, 2]), (5, [5, 5, 5, 5]), (10, [10, 10]), (11, [10, 10]), (1, [1] * 20)]
)
def test_every_epoch_ends_in_a_smaller_batch_where_the_size_does_not_divide(batch_size: int, sizes: list[int]) -> None:
    batches = run(batch_size=batch_size)

    assert [len(x) for x, _ in batches] == sizes
    assert [len(y) for _, y in batches] == sizes
    assert len(batches) == 2 * count_steps(NUM_IMAGES, batch_size)


def test_images_are_scaled_to_0_to_1_and_labels_one_hot() -> None:
    x, y = run(batch_size=10)[0]

    assert (x.shape, x.dtype.name, y.shape, y.dtype.name) == ((10, 4, 4, 1), "float32", (10, 3), "float32")
    order = [round(255 * float(image[0, 0, 0])) for image in x]
    np.testing.assert_array_equal(x[..., 0], IMAGES[order].astype(np.float32) / 255)
    np.testing.assert_array_equal(y, np.eye(3)[LABELS[order]])


def test_coloured_images_keep_their_three_channels() -> None:
    images = np.random.default_rng(1).integers(0, 256, (4, 6, 6, 3), np.uint8)
    for batches in (
        training_batches(images, LABELS[:4], 3, make_recipe(batch_size=4, epochs=1)),
        validation_batches(images, LABELS[:4], 3, 4),
    ):
        ((x, _),) = batches
        assert (x.shape, x.dtype.name) == ((4, 6, 6, 3), "float32")
        pixels = np.rint(255 * x.numpy()).astype(np.uint8)
        assert sorted(image.tobytes() for image in pixels) == sorted(image.tobytes() for image in images)


def test_a_batch_larger_than_the_set_is_the_whole_set_in_every_epoch() -> None:
    batches = run(batch_size=256, epochs=3)

    assert [sorted(read_order([batch])) for batch in batches] == [list(range(NUM_IMAGES))] * 3
    assert count_steps(NUM_IMAGES, 256) == 1


def test_balanced_classes_weigh_as_much_as_each_other() -> None:
    assert compute_class_weights(np.array([0, 0, 0, 1]), 2).tolist() == [np.float32(2 / 3), 2]
    labels = np.random.default_rng(3).integers(0, 4, 100).astype(np.uint8) ** 2 % 7  # some of 7 classes, unevenly
    weights = compute_class_weights(labels, 7)
    totals = np.bincount(labels, weights[labels], minlength=7)
    np.testing.assert_allclose(totals[totals > 0], 100 / np.count_nonzero(np.bincount(labels)), rtol=1e-6)
    assert weights[np.bincount(labels, minlength=7) == 0].tolist() == [0] * np.sum(totals == 0)


def test_images_are_weighted_by_their_class_where_the_recipe_says_so() -> None:
    batches = run(class_weights="balanced")  # classes of 4, 3 and 3 images

    expected = {0: 10 / 12, 1: 10 / 9, 2: 10 / 9}
    for _, y, weights in batches:
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights, [expected[label] for label in y.argmax(axis=1)], rtol=1e-6)
    assert as_bytes([batch[:2] for batch in batches]) == as_bytes(run())
    assert {len(batch) for batch in run()} == {2}  # none: no weights at all


def test_an_easy_image_of_a_balanced_class_has_both_weights() -> None:
    def list_weights(**changes: Any) -> np.ndarray:
        return np.concatenate([weights for _, _, weights in run(is_easy=EASY, **changes)])

    labels = np.concatenate([y.argmax(axis=1) for _, y, _ in run(is_easy=EASY)])
    of_class = compute_class_weights(LABELS, 3)[labels]

    np.testing.assert_allclose(list_weights(class_weights="balanced"), list_weights() * of_class, rtol=1e-6)


def test_every_epoch_visits_every_image_once_in_an_order_of_its_own() -> None:
    order = read_order(run(epochs=3))
    epochs = [order[start : start + NUM_IMAGES] for start in (0, NUM_IMAGES, 2 * NUM_IMAGES)]

    assert [sorted(epoch) for epoch in epochs] == [list(range(NUM_IMAGES))] * 3
    assert len({tuple(range(NUM_IMAGES)), *map(tuple, epochs)}) == 4


def test_batches_are_the_same_when_built_or_read_again_whatever_the_global_seed(
    request: pytest.FixtureRequest,
) -> None:
    request.addfinalizer(lambda: tf.random.set_seed(None))
    batches = training_batches(IMAGES, LABELS, 3, make_recipe(1, limits=SOMETHING, batch_size=4))
    seen = []
    for global_seed in (1, 2):
        tf.random.set_seed(global_seed)
        seen += [as_bytes(run(SOMETHING)), as_bytes([(x.numpy(), y.numpy()) for x, y in batches])]

    assert seen == [seen[0]] * 4


def test_another_seed_gives_another_order() -> None:
    assert read_order(run(seed=1)) != read_order(run(seed=2))


def test_an_image_is_augmented_anew_for_every_seed_and_epoch() -> None:
    one, other = (as_bytes(run(SOMETHING, num_images=1, batch_size=1, epochs=4, seed=seed)) for seed in (1, 2))

    assert len({*one, *other}) == 8


def test_the_order_does_not_depend_on_the_augmentation() -> None:
    plain = [y.tolist() for _, y in run()]

    assert [y.tolist() for _, y in run(SOMETHING)] == plain


def test_a_longer_run_begins_as_a_shorter_one() -> None:
    assert as_bytes(run(SOMETHING, epochs=3))[:6] == as_bytes(run(SOMETHING, epochs=2))


@pytest.mark.parametrize(("clean_epochs", "num_augmented"), [(0, 9), (1, 6), (2, 3), (3, 0)])
def test_the_last_epochs_see_the_images_as_they_are_but_mirrored(clean_epochs: int, num_augmented: int) -> None:
    mirrored = as_bytes(run(FLIP, epochs=3))

    batches = as_bytes(run(SOMETHING, epochs=3, clean_epochs=clean_epochs))

    assert [batch != same for batch, same in zip(batches, mirrored, strict=True)] == (
        [True] * num_augmented + [False] * (9 - num_augmented)
    )


def list_mirrored(batches: Batches) -> dict[int, bool]:
    """Tells which images, none of them symmetric, are mirrored."""
    mirrored = {}
    for x, *_ in batches:
        for image in x[..., 0]:
            (index,) = (i for i in range(NUM_IMAGES) if any(np.allclose(image, v) for v in both_ways(i)))
            mirrored[index] = not np.allclose(image, both_ways(index)[0])
    return mirrored


def both_ways(index: int) -> tuple[np.ndarray, np.ndarray]:
    image = IMAGES[index].astype(np.float32) / 255
    return image, image[:, ::-1]


def test_every_image_is_mirrored_in_every_other_epoch() -> None:
    batches = run(FLIP, epochs=3)

    first, second, third = (list_mirrored(batches[start : start + 3]) for start in (0, 3, 6))

    assert sorted(first) == list(range(NUM_IMAGES))
    assert 0 < sum(first.values()) < NUM_IMAGES
    assert second == {index: not is_mirrored for index, is_mirrored in first.items()}
    assert third == first


# Easy images


@pytest.mark.parametrize(
    ("share", "easy"),
    [(0, None), (0.3, None), (0.4, [1, 3]), (0.7, [1, 3]), (0.8, [0, 1, 2, 3]), (1, [0, 1, 2, 3])],
)
def test_the_easiest_images_are_those_of_the_least_loss_an_even_number_of_them(
    share: float, easy: list[int] | None
) -> None:
    is_easy = find_easy(np.array([0.3, 0.1, 0.2, 0.0, 0.5]), share)

    assert (None if is_easy is None else np.flatnonzero(is_easy).tolist()) == easy
    assert count_seen(5, is_easy) == 5 - len(easy or []) // 2


def test_an_easy_image_is_seen_in_every_other_epoch_and_counts_double_there_and_an_image_1_on_average() -> None:
    batches = run(epochs=4, is_easy=EASY)
    epochs = [batches[start : start + 2] for start in (0, 2, 4, 6)]
    orders = [read_order(epoch) for epoch in epochs]

    assert [len(x) for x, *_ in batches] == [4, 3] * 4
    for order, epoch in zip(orders, epochs, strict=True):
        weights = np.concatenate([batch[2] for batch in epoch])
        assert weights.dtype == np.float32
        share_seen = np.float32(0.7)  # 4 hard images and 3 easy ones of 10
        assert weights.tolist() == [(2 if EASY[index] else 1) * share_seen for index in order]
        assert weights.mean() == pytest.approx(1)
    for one, following in itertools.pairwise(orders):
        assert sorted([*one, *following]) == sorted([*range(NUM_IMAGES), *range(6, NUM_IMAGES)])
    assert len(set(map(tuple, orders))) == 4


def test_an_easy_image_is_mirrored_every_other_time_that_it_is_seen() -> None:
    batches = run(FLIP, epochs=4, is_easy=EASY)
    first, second, third, fourth = (list_mirrored(batches[start : start + 2]) for start in (0, 2, 4, 6))

    for one, following in ((first, third), (second, fourth)):
        assert {index: not following[index] for index in one if EASY[index]} == {
            index: is_mirrored for index, is_mirrored in one.items() if EASY[index]
        }
    hard = range(6, NUM_IMAGES)
    assert [first[index] for index in hard] == [not second[index] for index in hard] == [third[index] for index in hard]


def test_another_seed_sees_other_easy_images_first() -> None:
    assert {tuple(sorted(read_order(run(seed=seed, epochs=1, is_easy=EASY)))) for seed in (1, 2, 3)} != {
        tuple(sorted(read_order(run(seed=1, epochs=1, is_easy=EASY))))
    }


# Parts of a run


@pytest.mark.parametrize(("is_easy", "num_steps"), [(None, 3), (EASY, 2)])
@pytest.mark.parametrize("first_epoch", [0, 1, 2])
def test_a_run_that_begins_later_goes_on_as_the_whole_run(
    first_epoch: int, is_easy: np.ndarray | None, num_steps: int
) -> None:
    whole = as_bytes(run(SOMETHING, epochs=3, clean_epochs=1, is_easy=is_easy))

    rest = run(SOMETHING, epochs=3, clean_epochs=1, first_epoch=first_epoch, is_easy=is_easy)
    assert as_bytes(rest) == whole[num_steps * first_epoch :]


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_the_parts_of_the_workers_are_the_batches_of_one(num_workers: int) -> None:
    whole = run(SOMETHING, is_easy=EASY)

    parts = [run(SOMETHING, is_easy=EASY, cluster=Cluster(num_workers, worker)) for worker in range(num_workers)]

    for batch, *of_workers in zip(whole, *parts, strict=True):
        for index, whole_part in enumerate(batch):
            assert np.concatenate([part[index] for part in of_workers]).tobytes() == whole_part.tobytes()
        sizes = [len(part[0]) for part in of_workers]
        assert max(sizes) - min(sizes) <= 1


def test_validation_batches_of_the_workers_are_those_of_one() -> None:
    whole = [x.numpy() for x, _ in validation_batches(IMAGES, LABELS, 3, 4)]

    parts = [[x.numpy() for x, _ in validation_batches(IMAGES, LABELS, 3, 4, Cluster(2, worker))] for worker in (0, 1)]

    assert [np.concatenate(pair).tobytes() for pair in zip(*parts, strict=True)] == [x.tobytes() for x in whole]


@pytest.mark.parametrize("limit", [key for key in AugmentationParams.model_fields if key != "saturation_fraction"])
def test_each_limit_reaches_the_augmentation_and_images_stay_in_0_to_1(limit: str) -> None:
    batches = run(augmentation(**{limit: getattr(SOMETHING, limit)}))

    assert as_bytes(batches) != as_bytes(run())
    for x, _ in batches:
        assert -1e-6 <= x.min() < x.max() <= 1 + 1e-6


def test_the_largest_seed_works() -> None:
    assert len(run(SOMETHING, seed=2**31 - 1)) == 6


def test_validation_batches_keep_the_order() -> None:
    batches = [(x.numpy(), y.numpy()) for x, y in validation_batches(IMAGES, LABELS, num_classes=3, batch_size=4)]

    assert [len(x) for x, _ in batches] == [4, 4, 2]
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert (x.dtype.name, y.dtype.name) == ("float32", "float32")
    np.testing.assert_array_equal(x, IMAGES[..., np.newaxis].astype(np.float32) / 255)
    np.testing.assert_array_equal(y, np.eye(3)[LABELS])


def test_no_tuner_delays_the_end_of_an_epoch() -> None:
    for batches in (training_batches(IMAGES, LABELS, 3, make_recipe()), validation_batches(IMAGES, LABELS, 3, 4)):
        assert batches.options().autotune.enabled is False
        assert batches.options().deterministic is True
