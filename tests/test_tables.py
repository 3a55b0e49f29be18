from typing import Any

from stages.lib.report.answers import Layer
from stages.lib.report.tables import list_columns, list_grids
from stages.lib.results.rows import ModelFile
from stages.lib.results.tables import format_environment, format_grid, format_headline
from stages.lib.results.times import StageTime

ENVIRONMENT = {
    "seconds": 61.5,
    "images_per_second": 100,
    "policy": "mixed_bfloat16",
    "cpu": "a CPU",
    "num_cpus": 2,
    "date": "2020-01-01",
    "python": "3.11.9",
    "numpy": "2.4.6",
}


def test_the_environment_names_the_stages_that_took_most_matrix_items_added_up() -> None:
    timing = [("prepare", 59, 700), ("prune@finished-lamp-42", 90, 700), ("train@a-b-42", 100, 700)]
    timing.append(("train@a-c-42", 80, 1300))

    assert format_environment(ENVIRONMENT, [StageTime(*row) for row in timing], 42) == (
        "Seed 42, trained on 2020-01-01; python 3.11.9, numpy 2.4.6.\n"
        "On 2 cores (a CPU), trained in mixed_bfloat16, the stages took 5.5 minutes, each in its last run "
        "(`train` 3.0, `prune` 1.5); the largest held 1,300 MiB of memory.\n"
    )


def test_settings_that_decide_bytes_are_named_beside_the_hardware() -> None:
    settings = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "OMP_NUM_THREADS": "1"}

    sentences = format_environment({**ENVIRONMENT, "settings": settings}, [StageTime("train", 30, 700)], 1)

    named = r"trained in mixed_bfloat16 with ONEDNN\_MAX\_CPU\_ISA=AVX512\_CORE OMP\_NUM\_THREADS=1, the stages took"
    assert named in sentences


def test_short_stages_are_not_named() -> None:
    sentences = format_environment(ENVIRONMENT, [StageTime("train", 30, 700)], 1)

    assert "the stages took 0.5 minutes, each in its last run; the largest" in sentences


def test_the_headline_has_the_study_the_finished_and_the_shipped_model() -> None:
    shipped: dict[str, Any] = {
        "name": "lamp-0.9",
        "precision": "int8",
        "test_accuracy": 0.94,
        "macs": 1000,
        "device": {"macs": 400, "flash_bytes": 650, "ram_bytes": 1250},
        "num_images": {"test": 10_000},
    }
    finished = ModelFile(
        name="finished",
        kind="dense",
        way="finished",
        target="",
        seed=42,
        format="keras",
        precision="float32",
        val_accuracy=0.9,
        test_accuracy=0.9434,
        size_bytes=4000,
        gzip_size_bytes=2000,
        macs=1000,
        nonzero_macs=1000,
        parameters=50,
        sparsity=0,
    )

    shipped |= {"size_bytes": 2000, "gzip_size_bytes": 1000}
    headline, alone = (format_headline("third-flip", finished, shipped, is_beside_study=one) for one in (True, False))

    assert alone.splitlines()[2:] == headline.splitlines()[3:]
    assert headline.splitlines()[2:] == [
        "| third-strong, the study's choice as published | 89.58 % (89.0 to 90.2) |  |  |  |  |  |",
        "| third-flip, chosen on validation, finished | 94.34 % (93.9 to 94.8) | 1,000 | 4 kB | 2 kB |  |  |",
        "| lamp-0.9, int8, shipped | 94.00 % (93.5 to 94.4) | 400 | 2 kB | 1 kB | 0.7 kB | 1.2 kB |",
    ]


GRID_ROW = {
    "model": "third",
    "augmentation": "flip",
    "seeds": "42",
    "val_accuracy": 0.95,
    "val_accuracy_sd": None,
    "test_accuracy": 0.9434,
    "test_accuracy_sd": None,
    "test_accuracy_under_flip": 0.94,
    "training_seconds": 61.5,
}


def test_the_grid_of_one_seed_names_no_seed_and_no_deviation() -> None:
    header, _, row = format_grid([GRID_ROW], {"val": 1000, "test": 10_000}, is_beside_study=True).splitlines()

    assert header == "| candidate | validation | test | test, the study | test under flip | training |"
    assert row == (
        "| third-flip | 95.00 % (93.5 to 96.2) | 94.34 % (93.9 to 94.8) |  | 94.00 % (93.5 to 94.4) | 62 s |"
    )


def test_the_grid_of_other_data_than_the_studys_has_no_column_for_it() -> None:
    header, _, row = format_grid([GRID_ROW], {"val": 1000, "test": 10_000}, is_beside_study=False).splitlines()

    assert header == "| candidate | validation | test | test under flip | training |"
    assert row == "| third-flip | 95.00 % (93.5 to 96.2) | 94.34 % (93.9 to 94.8) | 94.00 % (93.5 to 94.4) | 62 s |"


def test_the_grid_of_several_seeds_has_means_with_their_deviation() -> None:
    several = GRID_ROW | {"seeds": "42 43", "val_accuracy_sd": 0.0025, "test_accuracy_sd": 0.00118}

    header, _, row = format_grid([several], {"val": 1000, "test": 10_000}, is_beside_study=True).splitlines()

    assert header.startswith("| candidate | validation, mean of seeds 42 43 | test | ")
    assert row.startswith("| third-flip | 95.00 ± 0.25 % (93.5 to 96.2) | 94.34 ± 0.12 % (93.9 to 94.8) |  | 94.00 % (")


def test_ends_of_intervals_are_no_columns_and_a_name_that_looks_like_one_is() -> None:
    measured = {"key": "a", "test": 0.9, "test_low": 0.8, "test_high": 0.95}
    assert list_columns([measured], "candidate", "percent") == [("candidate", "key"), ("test", "test", "percent")]
    named = {"actual": "boot", "boot": 3, "boot_high": 2}
    assert list_columns([named], "actual", "") == [
        ("actual", "actual"),
        ("boot", "boot", ""),
        ("boot_high", "boot_high", ""),
    ]


def test_a_grid_has_the_layers_that_see_more_than_those_before_and_no_pointwise_convolution() -> None:
    sizes = {"conv1": 3, "conv1_relu": 3, "conv2_depthwise": 5, "conv2": 5, "pool1": 6, "global_pool": 28, "logits": 28}
    layers = [
        Layer(name, "", "4x4x2", size, None if size == 28 else 1, 0, 0, 0, 0, 0, 0, 0) for name, size in sizes.items()
    ]

    rows = list_grids({"small": layers, "flat": layers[-1:]})

    assert [(row["name"], row["depth"]) for row in rows] == [
        ("small, conv1", 1),
        ("small, conv2_depthwise", 2),
        ("small, pool1", 3),
    ]
