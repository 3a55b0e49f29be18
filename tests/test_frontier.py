from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_files import OTHER_SEED, SEED, make_params, write_c_latency, write_latency, write_run

from stages import frontier as stage
from stages.frontier import (
    format_frontier,
    format_shrinking,
    list_files,
    list_published,
    list_timed,
    list_timed_c,
    rank,
)
from stages.lib.results.rows import (
    CLASS_SCORES,
    DEVICE_COSTS,
    LayerMacs,
    ModelFile,
    RankedFile,
    read_class_scores,
    read_device_costs,
)
from stages.lib.results.times import TimedC, TimedFile, read_times
from stages.lib.storage.files import read_csv, read_json, write_bytes, write_json

NUM_IMAGES = {"val": 200, "test": 100}
FILES = {"c_latency.csv", "comparisons.csv", "frontier.csv", "frontier.md", "latency.csv", "shrinking.md"}


@pytest.fixture(autouse=True)
def run(tmp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is a folder with all that the stages before this one leave of two models, and no times."""
    monkeypatch.setattr(stage, "load_params", lambda **_: make_params())
    write_run()
    return tmp_dir


def read_files() -> list[ModelFile]:
    return list_files(make_params(), read_json(stage.CHOICE))


def file_of(name: str, val_accuracy: float, gzip_size: int, macs: int = 100, **changes: Any) -> ModelFile:
    accuracies = {"val_accuracy": val_accuracy, "test_accuracy": val_accuracy}
    costs = {"size_bytes": 2 * gzip_size, "gzip_size_bytes": gzip_size, "macs": macs}
    return replace(read_files()[0], name=name, format="tflite", **accuracies | costs | changes)


NO_COST: dict[str, Any] = dict.fromkeys((*CLASS_SCORES, *DEVICE_COSTS))


def cost_of(flash: int, ram: int, instructions: int) -> dict[str, Any]:
    return {
        **dict.fromkeys(CLASS_SCORES, 0.5),
        "executed_macs": 400_000,
        "flash_bytes": flash,
        "ram_bytes": ram,
        "instructions": instructions,
        "arena_bytes": 9,
    }


def rank_all() -> list[RankedFile]:
    files = read_files()
    return rank(files, [read_class_scores(file) | read_device_costs(file) for file in files])


def test_every_file_of_the_run_is_listed_and_no_other() -> None:
    write_bytes(Path("data/export/prune/lamp-0.7/metrics.json"), b"no JSON")
    keras = ["small-none", "small-flip", "third-none", "third-flip", "finished"]
    exported = ["small-flip", "third-flip", "finished", "uniform-0.5", "uniform-0.9", "lamp-0.5", "lamp-0.9"]
    exported += ["magnitude-0.5", "magnitude-0.25", "scratch-0.5", "scratch-0.25"]
    listed = [(file.name, file.format) for file in read_files()]
    assert listed == [(name, "keras") for name in keras] + [(name, "tflite") for name in exported for _ in range(2)]


def test_of_several_seeds_the_files_of_the_first_one_are_listed() -> None:
    write_run(seeds=(SEED, OTHER_SEED))
    assert list_files(make_params(seeds=(SEED, OTHER_SEED)), read_json(stage.CHOICE)) == read_files()


def test_fronts_are_found_by_validation_accuracy_each_cost_for_itself() -> None:
    small = file_of("small", 0.90, gzip_size=10, macs=200, test_accuracy=0.5)
    light = file_of("light", 0.90, gzip_size=20, macs=100, test_accuracy=0.5)
    worse = file_of("worse", 0.89, gzip_size=30, macs=300, test_accuracy=0.99)
    best = file_of("best", 0.91, gzip_size=40, macs=400)
    ranked = rank([small, light, worse, best], [cost_of(3, 1, 2), cost_of(2, 2, 1), cost_of(1, 3, 3), NO_COST])
    assert [file.is_on_size_front for file in ranked] == [True, False, False, True]
    assert [file.is_on_macs_front for file in ranked] == [False, True, False, True]
    assert [file.is_on_flash_front for file in ranked] == [False, True, True, False]
    assert [file.is_on_ram_front for file in ranked] == [True, False, False, False]
    assert [file.is_on_instructions_front for file in ranked] == [False, True, False, False]
    assert [(file.flash_bytes, file.arena_bytes) for file in ranked] == [(3, 9), (2, 9), (1, 9), (None, None)]


def test_of_the_study_the_better_training_of_each_model_of_the_run_is_listed_before_the_leaderboard() -> None:
    study, *others = list_published(["small", "third"])
    assert (study.name, study.test_accuracy, study.macs) == ("the study's third", 0.8958, 3_000_000)
    assert (others[5].name, others[5].size_bytes, others[5].macs) == ("DenseNet-BC", 4 * 768_000, None)


def test_the_front_of_time_is_found_among_the_files_whose_time_is_known() -> None:
    write_latency("finish", "finished", "float32", 0.5)
    write_latency("prune", "lamp-0.9", "int8", 0.1)
    write_latency("prune", "uniform-0.9", "int8", 0.3)
    timed = list_timed(read_files(), read_times([]))
    assert [(file.label, file.median_ms, file.is_on_time_front) for file in timed] == [
        ("finished", 0.5, True),
        ("uniform-0.9 int8", 0.3, False),
        ("lamp-0.9 int8", 0.1, True),
    ]


def test_a_time_that_differs_after_two_digits_puts_nothing_on_the_front() -> None:
    write_latency("finish", "finished", "float32", 0.2049)
    write_latency("prune", "lamp-0.9", "float32", 0.2001)
    timed = list_timed(read_files(), read_times([]))
    assert [(file.name, file.is_on_time_front) for file in timed] == [("finished", True), ("lamp-0.9", False)]


# Tables of the README


def list_ranked() -> list[RankedFile]:
    dense = file_of("finished", 0.94, 4000, 2_000_000)
    pruned = file_of("lamp-0.9", 0.95, 500, 2_000_000, kind="pruned", precision="int8", test_accuracy=0.93)
    shrunk = file_of("magnitude-0.5", 0.92, 900, 1_000_000, kind="shrunk", precision="int8")
    return rank([dense, pruned, shrunk], [NO_COST, cost_of(700, 250, 6_000_000), cost_of(900, 200, 900_000)])


def time(files: Sequence[RankedFile], *times_ms: float) -> list[TimedFile]:
    write_latency("prune", "lamp-0.9", "int8", 1)
    (known,) = read_times([]).latencies.values()
    columns = ModelFile.__dataclass_fields__
    return [
        TimedFile(**{name: getattr(file, name) for name in columns}, **{**known, "median_ms": ms})
        for file, ms in zip(files, times_ms, strict=True)
    ]


def time_c(files: Sequence[RankedFile], *times_ms: float) -> list[TimedC]:
    write_c_latency("prune", "lamp-0.9", 1)
    (known,) = list_timed_c([file for file in rank_all() if file.name == "lamp-0.9"], read_times([]))
    return [
        replace(known, name=file.name, kind=file.kind, c_median_ms=ms) for file, ms in zip(files, times_ms, strict=True)
    ]


DENSE = "| finished, dense | 94.00 % (89.8 to 96.5) | 94.00 % (87.5 to 97.2) | 8 kB |  |  | 2.00 |  |  |"
LAMP = (
    "| lamp-0.9 int8, pruned | 95.00 % (91.0 to 97.3) | 93.00 % (86.3 to 96.6) | 1 kB | 0.7 kB | 0.2 kB | 0.40 | 6.0 |"
)
SMALL = "| magnitude-0.5 int8, shrunk | 92.00 % (87.4 to 95.0) | 92.00 % (85.0 to 95.9) | 2 kB | 0.9 kB | 0.2 kB "
SMALL += "| 0.40 | 0.9 |"


def test_the_table_has_the_dense_file_the_front_by_flash_and_the_fewest_instructions() -> None:
    files = list_ranked()
    (lamp, small), timed = time_c(files[1:], 0.05, 0.04), time(files, 0.8, 0.2, 0.1)
    timed_c = [replace(lamp, int8_median_ms=0.3), replace(small, int8_median_ms=0.4)]
    assert format_frontier(files, timed, timed_c, NUM_IMAGES).splitlines()[2:] == [
        f"{DENSE} 0.800 |",
        f"{LAMP} 0.050 | 0.300 |",  # of the run in which the C was timed, too
        f"{SMALL} 0.040 | 0.400 |",
    ]
    assert format_frontier(files, timed, [], NUM_IMAGES).splitlines()[3] == f"{LAMP}  | 0.200 |"


def test_without_times_the_table_leaves_them_blank() -> None:
    assert format_frontier(list_ranked(), [], [], NUM_IMAGES).splitlines()[2:] == [
        f"{DENSE}  |",
        f"{LAMP}  |  |",
        f"{SMALL}  |  |",
    ]


def test_the_front_by_flash_is_listed_from_large_to_small_and_no_file_twice() -> None:
    dense, lamp, _ = list_ranked()
    small = replace(lamp, name="small", flash_bytes=600)
    lines = format_frontier([dense, small, lamp], [], [], NUM_IMAGES).splitlines()[2:]
    assert [line.split(",")[0] for line in lines] == ["| finished", "| lamp-0.9 int8", "| small int8"]


def test_the_macs_of_each_layer_stand_beside_the_times() -> None:
    counts = (("conv1", 900_000, 400_000), ("logits", 100_000, 80_000))
    layers = [LayerMacs(layer, "all filters", macs) for layer, macs, _ in counts]
    layers += [LayerMacs(layer, "at most 50 %", macs) for layer, _, macs in counts]
    timed = time(list_ranked()[1:2], 0.2)
    assert format_shrinking(layers, ["finished", "lamp-0.9"], timed).splitlines()[2:] == [
        "| conv1 | 900,000 | 400,000 |",
        "| logits | 100,000 | 80,000 |",
        "| all | 1,000,000 | 480,000 |",
        "| share | 100.0 % | 48.0 % |",
        "| ms, float32 |  |  |",
        "| ms, int8 |  | 0.200 |",
    ]


# The stage


def test_the_stage_writes_its_files_and_the_same_bytes_again(run: Path) -> None:
    def read_written() -> dict[str, bytes]:
        stage.main()
        return {path.name: path.read_bytes() for path in (run / "data/frontier").iterdir()}

    first = read_written()
    assert set(first) == FILES
    assert read_written() == first
    kinds = [row["kind"] for row in read_csv(run / "data/frontier/frontier.csv")]
    assert kinds == ["dense"] * 11 + ["pruned"] * 8 + ["shrunk"] * 8 + ["published"] * 8
    assert read_csv(run / "data/frontier/latency.csv") == []


def test_every_accuracy_has_its_interval_also_in_a_table_without_rows(run: Path) -> None:
    stage.main()
    for name in ("frontier", "latency"):
        header = (run / f"data/frontier/{name}.csv").read_text().splitlines()[0]
        for accuracy in ("val_accuracy", "test_accuracy"):
            assert f",{accuracy},{accuracy}_low,{accuracy}_high," in header
    rows = read_csv(run / "data/frontier/frontier.csv")
    finished = next(row for row in rows if row["name"] == "finished")  # 94 of 100
    assert [float(finished[f"test_accuracy_{end}"]) for end in ("low", "high")] == pytest.approx(
        [0.8752, 0.9722], abs=1e-4
    )
    study = next(row for row in rows if row["name"] == "the study's third")  # 8,958 of 10,000
    assert [float(study[f"test_accuracy_{end}"]) for end in ("low", "high")] == pytest.approx(
        [0.8897, 0.9016], abs=1e-4
    )
    assert (study["val_accuracy"], study["val_accuracy_low"]) == ("", "")


def test_files_have_balanced_accuracy_and_macro_f1_where_these_were_measured(run: Path) -> None:
    stage.main()
    rows = read_csv(run / "data/frontier/frontier.csv")
    shown = {
        (row["name"], row["format"], row["precision"]): [row[name] for name in CLASS_SCORES]
        for row in rows
        if row["name"] in ("finished", "lamp-0.9", "DenseNet-BC")
    }
    assert shown == {
        ("finished", "keras", "float32"): ["0.94", "0.93", "0.93", "0.92"],
        ("finished", "tflite", "float32"): ["0.93", "0.92", "0.92", "0.91"],
        ("finished", "tflite", "int8"): ["0.929", "0.919", "0.919", "0.909"],
        ("lamp-0.9", "tflite", "float32"): ["0.901", "0.891", "0.891", "0.881"],
        ("lamp-0.9", "tflite", "int8"): ["0.9", "0.89", "0.89", "0.88"],
        ("DenseNet-BC", "", "float32"): [""] * 4,
    }


@pytest.mark.parametrize("change", [{"name": "letters"}, {"class_names": ("A", "B")}])
def test_beside_other_data_stands_nothing_that_was_published(
    run: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    params = make_params()
    other = params.model_copy(update={"dataset": params.dataset.model_copy(update=change)})
    monkeypatch.setattr(stage, "load_params", lambda **_: other)
    stage.main()
    assert {row["kind"] for row in read_csv(run / "data/frontier/frontier.csv")} == {"dense", "pruned", "shrunk"}


def test_every_family_is_compared(run: Path) -> None:
    stage.main()
    rows = read_csv(run / "data/frontier/comparisons.csv")
    assert Counter(row["family"] for row in rows) == {
        "candidates": 3,
        "augmentation": 2,
        "augmentation, distorted": 2,
        "finished": 1,
        "dense files": 5,
        "pruned files": 8,
        "shrunk files": 8,
        "rankings of pruning": 2,
        "ways of shrinking": 2,
    }


def test_times_stand_in_the_tables(run: Path) -> None:
    write_latency("finish", "finished", "float32", 0.5)
    write_latency("prune", "lamp-0.9", "int8", 0.1)
    write_c_latency("prune", "lamp-0.9", 0.04)
    stage.main()
    rows = read_csv(run / "data/frontier/latency.csv")
    assert [(row["name"], row["median_ms"]) for row in rows] == [("finished", "0.5"), ("lamp-0.9", "0.1")]
    (row,) = read_csv(run / "data/frontier/c_latency.csv")
    times = [row[f"{file}_median_ms"] for file in ("c", "int8", "float32")]
    assert (row["name"], row["kind"], times, row["compiler"]) == (
        "lamp-0.9",
        "pruned",
        ["0.04", "0.08", "0.32"],
        "ziglang 1",
    )
    assert "| finished, dense | " in (run / "data/frontier/frontier.md").read_text()


def test_the_c_of_a_model_whose_float32_file_was_left_out_is_timed_beside_the_other_alone() -> None:
    write_c_latency("prune", "lamp-0.9", 0.04)
    path = Path("data/timing/c/prune/lamp-0.9.json")
    write_json(path, {name: value for name, value in read_json(path).items() if name != "float32"})
    (timed,) = list_timed_c(rank_all(), read_times([]))
    assert (timed.int8_median_ms, timed.float32_median_ms) == (0.08, None)
