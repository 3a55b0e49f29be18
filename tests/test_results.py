"""The rows that stages sum up from, and the times that go with them."""

import gzip
import sys
from pathlib import Path
from typing import Any

import pytest
from run_files import (
    ACCURACY,
    CHOSEN,
    FINISHED,
    OTHER_SEED,
    SEED,
    make_params,
    make_study,
    trained,
    write_c_latency,
    write_latency,
    write_run,
    write_stage_time,
    write_training_time,
    write_version,
)
from sections import replace

from stages.lib.errors import UserError
from stages.lib.results import published
from stages.lib.results.rows import (
    CLASS_SCORES,
    DEVICE_COSTS,
    Candidate,
    Evaluation,
    KernelZeros,
    LayerMacs,
    ModelFile,
    PublishedModel,
    RankedFile,
    average,
    count_images,
    deviate,
    read_candidate,
    read_dense,
    read_device_costs,
    read_evaluation,
    read_exported,
    read_frontier,
    read_kernel_zeros,
    read_rows,
    read_shrunk_layers,
    read_version,
    write_frontier,
    write_rows,
)
from stages.lib.results.times import RECORDED, StageTime, list_items, read_times
from stages.lib.storage.files import compute_sha256, read_json, write_bytes, write_json
from stages.lib.storage.variant import Variant, name_finished
from stages.tools import record_times


@pytest.fixture(autouse=True)
def run(tmp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is a folder with all files of a run, and no times; `record_times` runs in it without arguments."""
    monkeypatch.setattr(sys, "argv", ["record_times"])
    write_run()
    return tmp_dir


def read_chosen(*seeds: int) -> Candidate:
    return read_candidate("small", "flip", seeds or [SEED])


def read_finished() -> ModelFile:
    return read_dense(name_finished(SEED), read_chosen())


LAMP = Variant("prune", "lamp", 0.9, SEED)


def test_a_candidate_is_read_without_what_was_measured_on_test_images() -> None:
    write_bytes(Path("data/evaluate/small-flip/42/metrics.json"), b"no JSON")
    assert read_chosen() == Candidate("small", "flip", "42", 0.94, None, 0.25, 0.93, 0.92, 1_000_000, 100_000, 16)
    assert read_chosen().variants == [Variant("train", "small", "flip", SEED)]


def test_an_evaluation_holds_the_accuracy_under_each_distortion() -> None:
    found = read_evaluation(read_chosen().variants)
    assert found == Evaluation(0.94 - 0.01, None, 0.92, 0.91, 0.3, 0.02, {"flip": 0.94 - 0.1})


def test_of_several_seeds_a_candidate_has_the_mean_and_the_standard_deviation() -> None:
    write_run(seeds=(SEED, OTHER_SEED))
    candidate = read_chosen(SEED, OTHER_SEED)
    assert (candidate.seeds, candidate.variant) == ("42 7", Variant("train", "small", "flip", SEED))
    assert (candidate.val_accuracy, candidate.val_accuracy_sd) == (0.945, 0.007071)  # of 0.94 and 0.95: n - 1
    assert candidate.val_loss == 0.25
    evaluation = read_evaluation(candidate.variants)
    assert (evaluation.test_accuracy, evaluation.test_accuracy_sd) == (0.935, 0.007071)
    assert evaluation.under == {"flip": 0.845}


def test_the_mean_of_one_seed_is_its_number_digit_by_digit_and_has_no_deviation() -> None:
    third = 1 / 3
    assert (average([third]), deviate([third])) == (third, None)
    assert (average([third, third, 0]), deviate([third, third, 0])) == (0.222222, 0.19245)


def test_a_dense_model_is_the_file_that_its_training_wrote() -> None:
    for dense, content in (
        (read_dense(trained(CHOSEN), read_chosen()), b"the model of train@small-flip-42" * 100),
        (read_finished(), b"the model of finish@finished-42" * 100),
    ):
        assert (dense.kind, dense.format, dense.path.read_bytes()) == ("dense", "keras", content)
        assert (dense.size_bytes, dense.gzip_size_bytes) == (len(content), len(gzip.compress(content, mtime=0)))
        costs = (1_000_000, 1_000_000, 100_000, 0)
        assert (dense.macs, dense.nonzero_macs, dense.parameters, dense.sparsity) == costs


def test_the_finished_model_is_told_from_the_candidate_that_it_was() -> None:
    chosen, finished = read_dense(trained(CHOSEN), read_chosen()), read_finished()
    assert (chosen.label, chosen.variant) == ("small-flip (Keras)", trained(CHOSEN))
    assert (finished.label, finished.variant) == ("finished (Keras)", name_finished(SEED))
    assert (finished.val_accuracy, finished.test_accuracy) == (FINISHED, FINISHED - 0.01)


def test_a_pruned_model_costs_all_macs_of_the_dense_one_and_names_those_that_are_not_zero() -> None:
    pruned = read_version(LAMP, read_finished())
    assert (pruned.name, pruned.kind, pruned.macs, pruned.nonzero_macs) == ("lamp-0.9", "pruned", 1_000_000, 100_000)
    assert (pruned.parameters, pruned.sparsity, pruned.val_accuracy) == (100_000, 0.9 - 0.001, 0.921)


def test_a_shrunk_model_costs_what_is_left_of_it() -> None:
    shrunk = read_version(Variant("shrink", "scratch", 0.5, SEED), read_finished())
    assert (shrunk.kind, shrunk.macs, shrunk.nonzero_macs, shrunk.parameters) == ("shrunk", 480_000, 480_000, 45_000)


def test_a_model_that_was_shrunk_and_pruned_costs_what_shrinking_left_and_not_what_the_dense_one_costs() -> None:
    variant = Variant("prune", "magnitude-0.5-cost", 0.9, SEED)
    write_version(variant, 0.9, macs=480_000, nonzero_macs=70_000, parameters=45_000, sparsity=0.8)
    both = read_version(variant, read_finished())
    assert (both.name, both.kind, both.variant) == ("magnitude-0.5-cost-0.9", "pruned", variant)
    assert (both.macs, both.nonzero_macs, both.parameters, both.sparsity) == (480_000, 70_000, 45_000, 0.8)


def test_exported_files_have_what_they_measure_and_the_cost_of_their_model() -> None:
    pruned = read_version(LAMP, read_finished())
    float32, int8 = read_exported(pruned)
    assert (float32.label, int8.label, pruned.label) == ("lamp-0.9", "lamp-0.9 int8", "lamp-0.9 (Keras)")
    assert (int8.val_accuracy, int8.gzip_size_bytes, int8.nonzero_macs) == (0.92, 900, 100_000)
    assert int8.path.read_bytes() == b"lamp-0.9 in int8"
    assert int8.variant == LAMP
    path = int8.path.parent / "metrics.json"
    write_json(path, {key: value for key, value in read_json(path).items() if key != "int8_size_bytes"})  # left out
    assert list(read_exported(pruned)) == [float32]


def test_a_file_in_int8_has_the_costs_of_its_c_and_others_have_none() -> None:
    float32, int8 = read_exported(read_version(LAMP, read_finished()))
    none = dict.fromkeys(DEVICE_COSTS)
    assert [read_device_costs(file) for file in (read_finished(), float32)] == [none, none]
    assert read_device_costs(int8) == {
        "executed_macs": 3600,
        "flash_bytes": 1800,
        "ram_bytes": 2036,
        "instructions": 10_800,
        "arena_bytes": 9000,
    }
    (int8.variant.deployed / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"data/deploy/prune/lamp-0\.9/metrics\.json: not found; run `dvc repro`"):
        read_device_costs(int8)


def test_the_zeros_and_the_macs_of_layers_are_read_for_each_version() -> None:
    assert read_kernel_zeros(["lamp"], [0.9], SEED)[0] == KernelZeros("lamp", 0.9, "conv1", 10, 1, 0.25)
    layers = [("all filters", 900_000), ("at most 50 %", 450_000), ("at most 25 %", 225_000)]
    rows = [LayerMacs("conv1", share, macs) for share, macs in layers]
    assert read_shrunk_layers("magnitude", [0.5, 0.25], SEED) == rows


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [read_finished(), read_version(LAMP, read_finished())]
    write_rows(tmp_path / "x.csv", ModelFile, rows, {"val": 200, "test": 100})
    write_rows(tmp_path / "none.csv", StageTime, [])
    assert read_rows(tmp_path / "x.csv", ModelFile) == rows
    assert (tmp_path / "none.csv").read_text() == "stage,seconds,peak_memory_mib\n"
    assert read_rows(tmp_path / "none.csv", StageTime) == []


def test_images_are_counted_by_split() -> None:
    assert count_images(trained(CHOSEN)) == {"val": 200, "test": 100}


def test_the_frontier_is_read_as_it_was_written(tmp_path: Path) -> None:
    values: dict[str, Any] = vars(read_finished())
    values |= {f"is_on_{cost}_front": cost == "flash" for cost in ("size", "macs", "flash", "ram", "instructions")}
    names = (*CLASS_SCORES, *DEVICE_COSTS)
    known = ((0.1, 0.2, 0.3, 0.4, *range(5)), (None,) * 9)
    files = [RankedFile(**{**values, **dict(zip(names, numbers, strict=True))}) for numbers in known]
    others = [PublishedModel("DenseNet", 0.954, 4, None, 1, "others"), PublishedModel("theirs", 0.9, 4, 7, 1, "x")]
    write_frontier(tmp_path / "x.csv", files, others, {"val": 200, "test": 100})
    assert read_frontier(tmp_path / "x.csv") == (files, others)


def test_what_is_missing_is_named_with_the_remedy() -> None:
    Path("data/prune/lamp/42/0.9/metrics.json").unlink()
    with pytest.raises(UserError, match=r"data/prune/lamp/42/0\.9/metrics\.json: not found; run `dvc repro`"):
        read_version(LAMP, read_finished())


def test_the_leaderboard_is_as_its_readme_says() -> None:
    assert [row[1:] for row in published.LEADERBOARD] == [
        (100_000, 0.925),
        (113_000, 0.922),
        (1_800_000, 0.932),
        (26_000_000, 0.935),
        (8_000_000, 0.936),
        (768_000, 0.954),
        (8_900_000, 0.967),
    ]


# Times

ITEMS = list_items(make_study(), make_params().prune, make_params().shrink)
TRAINED = [*map(trained, ACCURACY), name_finished(SEED)]
MODEL, FILE = Path("data/train/small-flip/42/model.h5"), Path("data/export/prune/lamp-0.9/int8.tflite")
C_FILE = Path("data/deploy/prune/lamp-0.9/model.c")


def record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes times of this machine, and records them."""
    for variant in TRAINED:
        write_training_time(variant)
    write_latency("prune", "lamp-0.9", "int8", 0.2)
    write_c_latency("prune", "lamp-0.9", 0.05)
    write_stage_time("prepare", seconds=3)
    monkeypatch.setattr(record_times, "load_params", lambda **_: make_params())
    record_times.main()


def test_without_times_nothing_is_known() -> None:
    times = read_times(ITEMS)
    assert (times.find_training(MODEL), times.find_latency(FILE), times.stages) == (None, None, [])


def test_what_was_measured_here_is_known_of_the_very_file() -> None:
    write_training_time(trained(CHOSEN))
    write_latency("prune", "lamp-0.9", "int8", 0.2)
    times = read_times(ITEMS)
    training, latency = times.find_training(MODEL), times.find_latency(FILE)
    assert training is not None
    assert latency is not None
    assert (training["seconds"], training["cpu"]) == (61.5, "a CPU")
    assert (latency["median_ms"], latency["batch_32_median_ms"], latency["runs"]) == (0.2, 6.0, 100)
    MODEL.write_bytes(b"another model")
    FILE.write_bytes(b"another file")
    assert (times.find_training(MODEL), times.find_latency(FILE)) == (None, None)


def test_how_long_the_c_takes_is_known_of_the_very_c() -> None:
    write_c_latency("prune", "lamp-0.9", 0.05)
    latency = read_times(ITEMS).find_c_latency(C_FILE)
    assert latency is not None
    assert (latency["cpu"], latency["c"]["median_ms"]) == ("a CPU", 0.05)
    C_FILE.write_bytes(b"other C")
    assert read_times(ITEMS).find_c_latency(C_FILE) is None


def test_only_stages_of_this_run_are_listed() -> None:
    names = ["evaluate@finished-42", "evaluate@small-flip-42", "export@finish", "export@prune", "finish@42", "prepare"]
    names += ["prune@finished-lamp-42", "train@small-flip-42"]
    for name in [
        *names,
        "train@gone-none-42",
        "train@small-flip-7",
        "prune@finished-uniform-7",
        "prune@finished-cost-42",
        "finish@7",
    ]:
        write_stage_time(name)
    assert [stage.stage for stage in read_times(ITEMS).stages] == names


def test_ladders_of_shrunk_models_are_stages_of_this_run_where_it_has_them() -> None:
    params, name = make_params(), "prune@magnitude-0.5-cost-42"
    write_stage_time(name)
    assert read_times(ITEMS).stages == []
    prune = replace(params.prune, shrunk_shares=(0.5,), shrunk_rankings=("cost",))
    assert read_times(list_items(params.study, prune, params.shrink)).stages == [StageTime(name, 1.5, 700)]


def test_a_recorded_time_goes_before_one_that_was_measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    record(monkeypatch)
    write_training_time(trained(CHOSEN), seconds=999)
    write_latency("prune", "lamp-0.9", "int8", 999)
    write_c_latency("prune", "lamp-0.9", 999)
    write_stage_time("prepare", seconds=999)
    times = read_times(ITEMS)
    assert (times.find_c_latency(C_FILE) or {})["c"]["median_ms"] == 0.05
    training, latency = times.find_training(MODEL), times.find_latency(FILE)
    assert (training or {})["seconds"] == 61.5
    assert (latency or {})["median_ms"] == 0.2
    assert times.stages == [StageTime("prepare", 3, 700)]


def test_of_another_run_the_times_of_this_machine_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    record(monkeypatch)
    for path in (MODEL, name_finished(SEED).folder / "model.h5"):
        path.write_bytes(b"the model of other params")
    write_training_time(trained(CHOSEN), seconds=7)
    write_stage_time("prepare", seconds=7)
    times = read_times(ITEMS)
    assert (times.find_training(MODEL) or {})["seconds"] == 7
    assert times.stages == [StageTime("prepare", 7, 700)]


def test_of_a_run_with_more_seeds_the_stages_of_the_recorded_run_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    record(monkeypatch)
    write_stage_time("prepare", seconds=7)
    assert read_times([*ITEMS, "small-flip-7"]).stages == [StageTime("prepare", 7, 700)]


def test_times_are_recorded_of_files_at_hand_alone_and_kept_where_nothing_was_measured_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_training_time(trained("third-none"), model_sha256="of a model that is gone")
    record(monkeypatch)
    before = RECORDED.read_bytes()
    assert len(read_json(RECORDED)["trainings"]) == len(TRAINED)
    assert list(read_json(RECORDED)["c_latencies"]) == [compute_sha256(C_FILE)]
    for path in Path("data/timing").glob("**/*.json"):
        path.unlink()
    record_times.main()
    assert RECORDED.read_bytes() == before


def test_recording_without_a_run_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    (name_finished(SEED).folder / "model.h5").unlink()
    monkeypatch.setattr(record_times, "load_params", lambda **_: make_params())
    with pytest.raises(UserError, match=r"data/finish/42/model\.h5: not found; run `dvc repro`"):
        record_times.main()
