import itertools

from stages.lib.network.seeds import derive_seed

SEEDS, NAMES = (0, 1, 42, 43, 2**31 - 1), ("conv1", "conv2", "lamp-0.5", "lamp-0.95", "")


def test_a_derived_seed_is_the_same_everywhere_and_for_ever() -> None:
    assert [derive_seed(42, name) for name in ("conv1", "lamp-0.5")] == [856_585_126, 60_624_327]


def test_each_seed_and_each_name_gives_a_seed_of_its_own_that_tensorflow_takes() -> None:
    derived = list(itertools.starmap(derive_seed, itertools.product(SEEDS, NAMES)))

    assert len(set(derived)) == len(SEEDS) * len(NAMES)
    assert all(0 <= seed < 2**31 for seed in derived)


def test_the_seed_and_the_name_do_not_run_into_each_other() -> None:
    assert derive_seed(4, "2 x") != derive_seed(42, "x")
    assert derive_seed(1, "1") != derive_seed(11, "")
