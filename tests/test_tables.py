from typing import Any

from stages.lib.results.tables import format_environment, format_headline

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


def row(stage: str, seconds: float, peak_memory_mib: int = 700) -> dict[str, Any]:
    return {"stage": stage, "seconds": seconds, "peak_memory_mib": peak_memory_mib}


def test_the_environment_names_the_stages_that_took_most_matrix_items_added_up() -> None:
    timing = [row("prepare", 59), row("prune@lamp", 90), row("train@a-b", 100), row("train@a-c", 80, 1300)]

    assert format_environment(ENVIRONMENT, timing, 42) == (
        "Seed 42, trained on 2020-01-01; python 3.11.9, numpy 2.4.6.\n"
        "On 2 cores (a CPU), trained in mixed_bfloat16, the stages took 5.5 minutes, each in its last run "
        "(`train` 3.0, `prune` 1.5); the largest held 1,300 MiB of memory.\n"
    )


def test_short_stages_are_not_named() -> None:
    sentences = format_environment(ENVIRONMENT, [row("train", 30)], 1)

    assert "the stages took 0.5 minutes, each in its last run; the largest" in sentences


def test_the_headline_has_the_study_the_chosen_and_the_shipped_model() -> None:
    chosen = {"model": "third", "augmentation": "flip", "test_accuracy": 0.9434, "parameters": 50, "macs": 1000}
    shipped = {"name": "lamp-0.9", "precision": "int8", "test_accuracy": 0.94, "parameters": 50, "macs": 1000}
    dense, small = ({"size_bytes": size, "gzip_size_bytes": size // 2} for size in (4000, 2000))

    assert format_headline(chosen, dense, shipped | small).splitlines()[2:] == [
        "| third-strong, the study's choice as published | 89.58 % |  |  |  |  |",
        "| third-flip, chosen on validation | 94.34 % | 50 | 1,000 | 4 kB | 2 kB |",
        "| lamp-0.9, int8, shipped | 94.00 % | 50 | 1,000 | 2 kB | 1 kB |",
    ]
