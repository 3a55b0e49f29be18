import re
from pathlib import Path
from typing import Any

import pytest
from run_files import (
    ACCURACY,
    FINISHED,
    NUM_VAL,
    OTHER_SEED,
    SEED,
    SHIPPED,
    make_params,
    trained,
    write_run,
    write_stage_time,
    write_trained,
    write_training_time,
)

from stages import compare as stage
from stages.compare import describe_candidate, read_curves, summarize
from stages.lib.errors import UserError
from stages.lib.results.chance import compute_interval
from stages.lib.results.rows import Candidate, list_variants, read_candidate, read_dense, read_version
from stages.lib.results.times import Times, read_times
from stages.lib.storage.files import read_csv, read_json, write_bytes, write_json
from stages.lib.storage.variant import Variant, name_finished

OUTPUT = Path("data/compare")
PICTURES: tuple[str, ...] = ("comparison", "distortions", "layers", "pruning", "shrinking", "shrunk_layers", "sparsity")
PICTURES += ("device", "frontier", "macs", "latency")
TABLES: tuple[str, ...] = ("candidates", "confusion", "curves", "files", "pruning", "seeds", "shrinking", "sparsity")
TABLES += ("timing",)
FILES = {*[f"{name}.png" for name in PICTURES], *[f"{name}.csv" for name in TABLES], "grid.md", "headline.md"}
FILES |= {"environment.json", "metrics.json", "test_accuracy.json"}
NO_TIMES = Times({}, {}, {}, [])
TRAINED = [*map(trained, ACCURACY), name_finished(SEED)]


@pytest.fixture(autouse=True)
def run(tmp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is a folder with all that the stages before this one leave of two models, and no times; pictures are empty."""
    monkeypatch.setattr(stage, "load_params", lambda **_: make_params())
    monkeypatch.setattr(stage, "write_png", lambda path, *_, **__: write_bytes(path, b""))
    write_run()
    return tmp_dir


def write_all_times() -> None:
    for variant in TRAINED:
        write_training_time(variant)
    for name in ("prepare", "train@small-none-42"):
        write_stage_time(name)


def read_chosen() -> Candidate:
    return read_candidate("small", "flip", [SEED])


def test_a_candidate_is_one_flat_row() -> None:
    assert describe_candidate(read_chosen(), NO_TIMES) == {
        "model": "small",
        "augmentation": "flip",
        "seeds": "42",
        "val_accuracy": 0.94,
        "val_accuracy_sd": None,
        "val_balanced_accuracy": 0.93,
        "val_macro_f1": 0.92,
        "val_loss": 0.25,
        "test_accuracy": 0.94 - 0.01,
        "test_accuracy_sd": None,
        "test_balanced_accuracy": 0.92,
        "test_macro_f1": 0.91,
        "test_loss": 0.3,
        "calibration_error": 0.02,
        "test_accuracy_under_flip": 0.94 - 0.1,
        "macs": 1_000_000,
        "parameters": 100_000,
        "receptive_field_px": 16,
        "training_seconds": None,
    }


def test_a_candidate_has_the_time_of_its_training_where_that_is_known() -> None:
    write_training_time(trained("small-flip"))
    assert describe_candidate(read_chosen(), read_times([]))["training_seconds"] == 61.5


def test_the_curves_are_one_table_with_the_candidates_named_and_intervals_where_images_are_new() -> None:
    named = {"model": "small", "augmentation": "flip", "epoch": "1", "accuracy": "0.94"}
    low, high = compute_interval(0.94, NUM_VAL)

    assert read_curves([read_chosen()], NUM_VAL) == [
        {**named, "split": "train", "accuracy_low": "", "accuracy_high": ""},
        {**named, "split": "val", "accuracy_low": low, "accuracy_high": high},
    ]


def interval(name: str, low: float, high: float) -> list[tuple[str, Any]]:
    return [(f"{name}_{end}", pytest.approx(bound, abs=1e-4)) for end, bound in (("low", low), ("high", high))]


def test_the_summary_is_flat_and_in_the_order_of_the_ladder() -> None:
    candidate = read_chosen()
    dense = read_dense(name_finished(SEED), candidate)
    pruned = [read_version(variant, dense) for variant in list_variants("prune", ["lamp"], [0.5, 0.9], SEED)]
    shrunk = [read_version(variant, dense) for variant in list_variants("shrink", ["scratch"], [0.5], SEED)]
    finished = {"val_accuracy": FINISHED, "test_accuracy": FINISHED - 0.01, "test_loss": 0.25}
    summary = summarize(describe_candidate(candidate, NO_TIMES), finished, pruned, shrunk, SHIPPED)
    assert list(summary.items()) == [
        ("chosen", "small-flip"),
        ("val_accuracy", 0.94),
        *interval("val_accuracy", 0.8981, 0.9653),  # 188 of 200
        ("test_accuracy", 0.94 - 0.01),
        *interval("test_accuracy", 0.8625, 0.9657),  # 93 of 100
        ("test_balanced_accuracy", 0.92),
        ("test_macro_f1", 0.91),
        ("test_loss", 0.3),
        ("calibration_error", 0.02),
        ("macs", 1_000_000),
        ("parameters", 100_000),
        ("receptive_field_px", 16),
        ("finished_val_accuracy", FINISHED),
        *interval("finished_val_accuracy", 0.9104, 0.9726),  # 190 of 200
        ("finished_test_accuracy", FINISHED - 0.01),
        *interval("finished_test_accuracy", 0.8752, 0.9722),  # 94 of 100
        ("finished_test_loss", 0.25),
        ("shipped", "lamp-0.9, int8"),
        ("shipped_val_accuracy", 0.935),
        *interval("shipped_val_accuracy", 0.8920, 0.9616),  # 187 of 200
        ("shipped_test_accuracy", 0.92),
        *interval("shipped_test_accuracy", 0.8500, 0.9589),  # 92 of 100
        ("shipped_size_bytes", 1000),
        ("shipped_gzip_size_bytes", 400),
        ("shipped_val_balanced_accuracy", 0.931),
        ("shipped_val_macro_f1", 0.932),
        ("shipped_test_balanced_accuracy", 0.911),
        ("shipped_test_macro_f1", 0.912),
        ("shipped_executed_macs", 300_000),
        ("shipped_flash_bytes", 700),
        ("shipped_ram_bytes", 250),
        ("shipped_instructions", 900_000),
        ("shipped_arena_bytes", 800),
        ("pruned_lamp_0.5_test_accuracy", 0.92),
        *interval("pruned_lamp_0.5_test_accuracy", 0.8500, 0.9589),
        ("pruned_lamp_0.5_gzip_size_bytes", 2000),
        ("pruned_lamp_0.9_test_accuracy", 0.92),
        *interval("pruned_lamp_0.9_test_accuracy", 0.8500, 0.9589),
        ("pruned_lamp_0.9_gzip_size_bytes", 3600),
        ("shrunk_scratch_0.5_test_accuracy", 0.92),
        *interval("shrunk_scratch_0.5_test_accuracy", 0.8500, 0.9589),
    ]


def test_the_stage_writes_its_files_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    stage.main()
    assert {path.name for path in OUTPUT.iterdir()} == FILES
    assert "the finished model has a test accuracy of 0.9400" in capsys.readouterr().out


def test_the_outputs_hold_every_candidate_and_what_became_of_the_choice() -> None:
    stage.main()
    tested = read_json(OUTPUT / "test_accuracy.json")
    assert {key: tested[key] for key in ACCURACY} == {key: accuracy - 0.01 for key, accuracy in ACCURACY.items()}
    assert all(tested[f"{key}_low"] < tested[key] < tested[f"{key}_high"] for key in ACCURACY)
    assert len(tested) == 3 * len(ACCURACY)
    counts = [(row["actual"], row["predicted"], row["images"]) for row in read_csv(OUTPUT / "confusion.csv")]
    first, second = SHIPPED["class_names"][:2]
    some = [row for row in counts if {row[0], row[1]} <= {first, second}]
    assert some == [(first, first, "47"), (first, second, "3"), (second, first, "3"), (second, second, "47")]
    assert len(read_csv(OUTPUT / "curves.csv")) == 8
    names = ["finished", "uniform-0.5", "uniform-0.9", "lamp-0.5", "lamp-0.9"]
    assert [row["name"] for row in read_csv(OUTPUT / "pruning.csv")] == names
    names = ["finished", "magnitude-0.5", "magnitude-0.25", "scratch-0.5", "scratch-0.25"]
    assert [row["name"] for row in read_csv(OUTPUT / "shrinking.csv")] == names


def test_the_table_of_seeds_has_candidates_the_finished_model_and_compressed_ones() -> None:
    stage.main()
    rows = read_csv(OUTPUT / "seeds.csv")
    compressed = ["uniform-0.5", "uniform-0.9", "lamp-0.5", "lamp-0.9"]
    compressed += ["magnitude-0.5", "magnitude-0.25", "scratch-0.5", "scratch-0.25"]
    assert [row["name"] for row in rows] == [*ACCURACY, "finished", *compressed]
    lamp = next(row for row in rows if row["name"] == "lamp-0.9")
    assert list(lamp.items()) == [
        ("name", "lamp-0.9"),
        ("seeds", "42"),
        ("val_accuracy", "0.921"),
        ("val_accuracy_sd", ""),
        ("test_accuracy", "0.92"),
        ("test_accuracy_sd", ""),
    ]


def test_of_several_seeds_tables_have_mean_and_deviation_and_what_ships_is_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds = (SEED, OTHER_SEED)
    write_run(seeds)
    monkeypatch.setattr(stage, "load_params", lambda **_: make_params(seeds))
    stage.main()
    rows = {row["name"]: row for row in read_csv(OUTPUT / "seeds.csv")}
    expected = {"small-flip": ("42 7", "0.945", "0.007071"), "finished": ("42 7", "0.955", "0.007071")}
    expected |= {"lamp-0.9": ("42 7", "0.926", "0.007071"), "scratch-0.5": ("42", "0.905", "")}
    shown = {name: tuple(rows[name][key] for key in ("seeds", "val_accuracy", "val_accuracy_sd")) for name in expected}
    assert shown == expected
    assert (rows["finished"]["test_accuracy"], rows["finished"]["test_accuracy_sd"]) == ("0.945", "0.007071")
    assert "| small-flip | 94.50 ± 0.71 % (90.4 to 96.9) | 93.50 ± 0.71 % (" in (OUTPUT / "grid.md").read_text()
    assert "validation, mean of seeds 42 7" in (OUTPUT / "grid.md").read_text()
    metrics = read_json(OUTPUT / "metrics.json")
    assert (metrics["val_accuracy"], metrics["finished_val_accuracy"]) == (0.945, FINISHED)
    assert metrics["pruned_lamp_0.9_test_accuracy"] == 0.92
    assert len(read_csv(OUTPUT / "curves.csv")) == 8


def test_the_pictures_of_all_files_mark_the_shipped_one(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, list[dict[str, str]]] = {}
    monkeypatch.setattr(stage, "write_png", lambda path, _, rows, *__, **___: drawn.update({path.stem: rows}))
    stage.main()
    for name in ("device", "frontier", "macs", "latency"):
        marked = [(row["name"], row["precision"], row["format"]) for row in drawn[name] if row["is_shipped"]]
        assert marked == [(SHIPPED["name"], SHIPPED["precision"], "tflite")]


def test_the_tables_of_the_readme_hold_every_candidate_and_the_shipped_file() -> None:
    stage.main()
    grid, headline = ((OUTPUT / f"{name}.md").read_text() for name in ("grid", "headline"))
    assert [line.split(" | ")[0] for line in grid.splitlines()[2:]] == [f"| {key}" for key in ACCURACY]
    assert (
        "| small-flip, chosen on validation, finished | 94.00 % (87.5 to 97.2) | 1,000,000 | 3 kB | 0 kB |  |  |"
        in headline
    )
    assert "| lamp-0.9, int8, shipped | 92.00 % (85.0 to 95.9) | 300,000 | 1 kB | 0 kB | 0.7 kB | 0.2 kB |" in headline


@pytest.mark.parametrize("change", [{"dataset": "letters"}, {"class_names": ["A", "B"]}])
def test_beside_other_data_stands_nothing_that_was_published(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: list[str] = []
    monkeypatch.setattr(stage, "write_png", lambda *_, x_label="", **__: labels.append(x_label))

    stage.main()

    assert "the study" in (OUTPUT / "grid.md").read_text()
    assert "| third-strong, the study's choice as published | 89.58 % (" in (OUTPUT / "headline.md").read_text()
    assert "kB, gzipped (published: kB at 4 bytes a parameter)" in labels

    write_json(Path("data/ship/model.json"), SHIPPED | change)
    labels.clear()
    stage.main()

    written = [(OUTPUT / f"{name}.md").read_text() for name in ("grid", "headline")]
    assert re.search("study|published", "".join([*written, *labels])) is None
    assert "| small-flip | 94.00 % (" in written[0]


def test_times_and_environment_are_written_where_that_of_every_training_is_known() -> None:
    write_all_times()
    write_training_time(name_finished(SEED), cpu="another CPU")
    stage.main()
    assert read_json(OUTPUT / "environment.json")["cpu"] == "another CPU"
    assert "Seed 42, trained on 2020-01-01; python 3.11.9." in (OUTPUT / "headline.md").read_text()
    assert [row["stage"] for row in read_csv(OUTPUT / "timing.csv")] == ["prepare", "train@small-none-42"]


@pytest.mark.parametrize("variant", TRAINED, ids=[*ACCURACY, "finished"])
def test_no_environment_is_given_where_the_training_of_one_model_is_not_known(variant: Variant) -> None:
    write_all_times()
    write_training_time(variant, model_sha256="of an earlier model")
    stage.main()
    assert read_json(OUTPUT / "environment.json") == {}
    assert read_csv(OUTPUT / "timing.csv") == []
    assert (OUTPUT / "headline.md").read_text().endswith("\nSeed 42.\n")


def test_what_is_not_in_params_is_not_read() -> None:
    write_trained(trained("gone-none"), 1.0)
    write_trained(trained("small-flip", OTHER_SEED), 1.0)
    for name in ("train/gone-flip/42", "evaluate/small-gone/42", "complexity/gone", "prune/lamp/42/0.1", "finish/7"):
        write_bytes(Path(f"data/{name}/metrics.json"), b"no JSON")
    stage.main()
    assert [key for key in read_json(OUTPUT / "test_accuracy.json") if key.endswith(("none", "flip"))] == list(ACCURACY)


@pytest.mark.parametrize(
    "missing",
    [
        "data/select_model/choice.json",
        "data/train/third-none/42/metrics.json",
        "data/train/third-none/42/history.csv",
        "data/evaluate/third-none/42/metrics.json",
        "data/evaluate/finished/42/predictions.npz",
        "data/finish/42/metrics.json",
        "data/complexity/third/metrics.json",
        "data/prune/lamp/42/0.9/metrics.json",
        "data/prune/uniform/42/0.5/layers.csv",
        "data/ship/model.json",
        "data/shrink/scratch/42/0.25/metrics.json",
        "data/shrink/magnitude/42/0.5/layers.csv",
    ],
)
def test_a_missing_file_is_named_with_the_remedy(missing: str) -> None:
    Path(missing).unlink()
    with pytest.raises(UserError, match=f"^{missing}: not found; run `dvc repro`"):
        stage.main()
