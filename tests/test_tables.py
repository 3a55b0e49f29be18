from stages.lib.report.tables import list_columns
from stages.lib.results.rows import ModelFile
from stages.lib.results.tables import format_environment, format_headline
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
    timing = [("prepare", 59, 700), ("prune@lamp", 90, 700), ("train@a-b", 100, 700), ("train@a-c", 80, 1300)]

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


def test_the_headline_has_the_study_the_chosen_and_the_shipped_model() -> None:
    chosen = {"model": "third", "augmentation": "flip", "test_accuracy": 0.9434, "parameters": 50, "macs": 1000}
    shipped = {
        "name": "lamp-0.9",
        "precision": "int8",
        "test_accuracy": 0.94,
        "parameters": 50,
        "macs": 1000,
        "num_images": {"test": 10_000},
    }
    dense = ModelFile("third-flip", "dense", "", "", "keras", "float32", 0.9, 0.9, 4000, 2000, 1000, 1000, 50, 0)

    assert format_headline(chosen, dense, shipped | {"size_bytes": 2000, "gzip_size_bytes": 1000}).splitlines()[2:] == [
        "| third-strong, the study's choice as published | 89.58 % (89.0 to 90.2) |  |  |  |  |",
        "| third-flip, chosen on validation | 94.34 % (93.9 to 94.8) | 50 | 1,000 | 4 kB | 2 kB |",
        "| lamp-0.9, int8, shipped | 94.00 % (93.5 to 94.4) | 50 | 1,000 | 2 kB | 1 kB |",
    ]


def test_ends_of_intervals_are_no_columns_and_a_name_that_looks_like_one_is() -> None:
    measured = {"key": "a", "test": 0.9, "test_low": 0.8, "test_high": 0.95}
    assert list_columns([measured], "candidate", "percent") == [("candidate", "key"), ("test", "test", "percent")]
    named = {"actual": "boot", "boot": 3, "boot_high": 2}
    assert list_columns([named], "actual", "") == [
        ("actual", "actual"),
        ("boot", "boot", ""),
        ("boot_high", "boot_high", ""),
    ]
