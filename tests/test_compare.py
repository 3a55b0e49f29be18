from pathlib import Path
from typing import Any

import pytest
from run_files import (
    ACCURACY,
    SHIPPED,
    make_params,
    write_candidate,
    write_run,
    write_stage_time,
    write_training_time,
)

from stages import compare as stage
from stages.compare import describe_candidate, read_curves, summarize
from stages.lib.errors import UserError
from stages.lib.figures.draw import write_png
from stages.lib.results.rows import list_variants, read_candidate, read_dense, read_version
from stages.lib.results.times import Times, read_times
from stages.lib.storage.files import read_csv, read_json, write_bytes

OUTPUT = Path("data/compare")
PICTURES: tuple[str, ...] = ("comparison", "distortions", "layers", "pruning", "shrinking", "shrunk_layers", "sparsity")
PICTURES += ("frontier", "macs", "latency")
TABLES: tuple[str, ...] = ("candidates", "confusion", "curves", "files", "pruning", "shrinking", "sparsity", "timing")
FILES = {*[f"{name}.png" for name in PICTURES], *[f"{name}.csv" for name in TABLES], "grid.md", "headline.md"}
FILES |= {"environment.json", "metrics.json", "test_accuracy.json"}
NO_TIMES = Times({}, {}, [])


@pytest.fixture(autouse=True)
def run(tmp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is a folder with all that the stages before this one leave of two models, and no times; pictures are empty."""
    monkeypatch.setattr(stage, "load_params", lambda **_: make_params())
    monkeypatch.setattr(stage, "write_png", lambda path, *_, **__: write_bytes(path, b""))
    write_run()
    return tmp_dir


def write_all_times() -> None:
    for key in ACCURACY:
        write_training_time(key)
    for name in ("prepare", "train@small-none"):
        write_stage_time(name)


def test_a_candidate_is_one_flat_row() -> None:
    assert describe_candidate(read_candidate("small", "flip"), NO_TIMES) == {
        "model": "small",
        "augmentation": "flip",
        "val_accuracy": 0.94,
        "val_loss": 0.25,
        "test_accuracy": 0.94 - 0.01,
        "test_loss": 0.3,
        "calibration_error": 0.02,
        "test_accuracy_under_flip": 0.94 - 0.1,
        "macs": 1_000_000,
        "parameters": 100_000,
        "receptive_field_px": 16,
        "training_seconds": None,
    }


def test_a_candidate_has_the_time_of_its_training_where_that_is_known() -> None:
    write_training_time("small-flip")
    assert describe_candidate(read_candidate("small", "flip"), read_times([]))["training_seconds"] == 61.5


def test_the_curves_are_one_table_with_the_candidates_named() -> None:
    assert read_curves([read_candidate("small", "flip")]) == [
        {"model": "small", "augmentation": "flip", "epoch": "1", "split": split, "accuracy": "0.94"}
        for split in ("train", "val")
    ]


def interval(name: str, low: float, high: float) -> list[tuple[str, Any]]:
    return [(f"{name}_{end}", pytest.approx(bound, abs=1e-4)) for end, bound in (("low", low), ("high", high))]


def test_the_summary_is_flat_and_in_the_order_of_the_ladder() -> None:
    candidate = read_candidate("small", "flip")
    dense = read_dense(candidate)
    pruned = [read_version(variant, dense) for variant in list_variants("prune", ["lamp"], [0.5, 0.9])]
    shrunk = [read_version(variant, dense) for variant in list_variants("shrink", ["scratch"], [0.5])]
    summary = summarize(describe_candidate(candidate, NO_TIMES), pruned, shrunk, SHIPPED)
    assert list(summary.items()) == [
        ("chosen", "small-flip"),
        ("val_accuracy", 0.94),
        *interval("val_accuracy", 0.8981, 0.9653),  # 188 of 200
        ("test_accuracy", 0.94 - 0.01),
        *interval("test_accuracy", 0.8625, 0.9657),  # 93 of 100
        ("test_loss", 0.3),
        ("calibration_error", 0.02),
        ("macs", 1_000_000),
        ("parameters", 100_000),
        ("receptive_field_px", 16),
        ("shipped", "lamp-0.9, int8"),
        ("shipped_val_accuracy", 0.935),
        *interval("shipped_val_accuracy", 0.8920, 0.9616),  # 187 of 200
        ("shipped_test_accuracy", 0.92),
        *interval("shipped_test_accuracy", 0.8500, 0.9589),  # 92 of 100
        ("shipped_size_bytes", 1000),
        ("shipped_gzip_size_bytes", 400),
        ("pruned_lamp_0.5_test_accuracy", 0.92),
        *interval("pruned_lamp_0.5_test_accuracy", 0.8500, 0.9589),
        ("pruned_lamp_0.5_gzip_size_bytes", 2000),
        ("pruned_lamp_0.9_test_accuracy", 0.92),
        *interval("pruned_lamp_0.9_test_accuracy", 0.8500, 0.9589),
        ("pruned_lamp_0.9_gzip_size_bytes", 3600),
        ("shrunk_scratch_0.5_test_accuracy", 0.92),
        *interval("shrunk_scratch_0.5_test_accuracy", 0.8500, 0.9589),
    ]


def test_the_stage_writes_its_files_and_the_same_bytes_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage, "write_png", write_png)

    def read_written() -> dict[str, bytes]:
        stage.main()
        return {path.name: path.read_bytes() for path in OUTPUT.iterdir()}

    first = read_written()
    assert set(first) == FILES
    assert read_written() == first
    assert "test accuracy of 0.9300" in capsys.readouterr().out


def test_the_outputs_hold_every_candidate_and_what_became_of_the_choice() -> None:
    stage.main()
    tested = read_json(OUTPUT / "test_accuracy.json")
    assert {key: tested[key] for key in ACCURACY} == {key: accuracy - 0.01 for key, accuracy in ACCURACY.items()}
    assert all(tested[f"{key}_low"] < tested[key] < tested[f"{key}_high"] for key in ACCURACY)
    assert len(tested) == 3 * len(ACCURACY)
    counts = [(row["actual"], row["predicted"], row["images"]) for row in read_csv(OUTPUT / "confusion.csv")]
    assert counts == [("Shirt", "Shirt", "46"), ("Shirt", "Bag", "4"), ("Bag", "Shirt", "3"), ("Bag", "Bag", "47")]
    assert len(read_csv(OUTPUT / "curves.csv")) == 8
    names = ["small-flip", "uniform-0.5", "uniform-0.9", "lamp-0.5", "lamp-0.9"]
    assert [row["name"] for row in read_csv(OUTPUT / "pruning.csv")] == names
    names = ["small-flip", "magnitude-0.5", "magnitude-0.25", "scratch-0.5", "scratch-0.25"]
    assert [row["name"] for row in read_csv(OUTPUT / "shrinking.csv")] == names


def test_the_pictures_of_all_files_mark_the_shipped_one(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, list[dict[str, str]]] = {}
    monkeypatch.setattr(stage, "write_png", lambda path, _, rows, *__, **___: drawn.update({path.stem: rows}))
    stage.main()
    for name in ("frontier", "macs", "latency"):
        marked = [(row["name"], row["precision"], row["format"]) for row in drawn[name] if row["is_shipped"]]
        assert marked == [(SHIPPED["name"], SHIPPED["precision"], "tflite")]


def test_the_tables_of_the_readme_hold_every_candidate_and_the_shipped_file() -> None:
    stage.main()
    grid, headline = ((OUTPUT / f"{name}.md").read_text() for name in ("grid", "headline"))
    assert [line.split(" | ")[0] for line in grid.splitlines()[2:]] == [f"| {key}" for key in ACCURACY]
    assert (
        "| small-flip, chosen on validation | 93.00 % (86.3 to 96.6) | 100,000 | 1,000,000 | 2 kB | 0 kB |" in headline
    )
    assert "| lamp-0.9, int8, shipped | 92.00 % (85.0 to 95.9) | 100,000 | 1,000,000 | 1 kB | 0 kB |" in headline


def test_times_and_environment_are_written_where_that_of_every_training_is_known() -> None:
    write_all_times()
    write_training_time("small-flip", cpu="another CPU")
    stage.main()
    assert read_json(OUTPUT / "environment.json")["cpu"] == "another CPU"
    assert "Seed 42, trained on 2020-01-01; python 3.11.9." in (OUTPUT / "headline.md").read_text()
    assert [row["stage"] for row in read_csv(OUTPUT / "timing.csv")] == ["prepare", "train@small-none"]


@pytest.mark.parametrize("key", ACCURACY)
def test_no_environment_is_given_where_the_training_of_one_model_is_not_known(key: str) -> None:
    write_all_times()
    write_training_time(key, model_sha256="of an earlier model")
    stage.main()
    assert read_json(OUTPUT / "environment.json") == {}
    assert read_csv(OUTPUT / "timing.csv") == []
    assert (OUTPUT / "headline.md").read_text().endswith("\nSeed 42.\n")


def test_what_is_not_in_params_is_not_read() -> None:
    write_candidate("gone-none", 1.0)
    for name in ("train/gone-flip", "evaluate/small-gone", "complexity/gone", "prune/lamp/0.1"):
        write_bytes(Path(f"data/{name}/metrics.json"), b"no JSON")
    stage.main()
    assert [key for key in read_json(OUTPUT / "test_accuracy.json") if key.endswith(("none", "flip"))] == list(ACCURACY)


@pytest.mark.parametrize(
    "missing",
    [
        "data/select_model/choice.json",
        "data/train/third-none/metrics.json",
        "data/train/third-none/history.csv",
        "data/evaluate/third-none/metrics.json",
        "data/evaluate/small-flip/predictions.npz",
        "data/complexity/third/metrics.json",
        "data/prune/lamp/0.9/metrics.json",
        "data/prune/uniform/0.5/layers.csv",
        "data/ship/model.json",
        "data/shrink/scratch/0.25/metrics.json",
        "data/shrink/magnitude/0.5/layers.csv",
    ],
)
def test_a_missing_file_is_named_with_the_remedy(missing: str) -> None:
    Path(missing).unlink()
    with pytest.raises(UserError, match=f"^{missing}: not found; run `dvc repro`"):
        stage.main()
