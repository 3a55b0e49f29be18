from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.table import Table
from sections import replace

from stages import compare as stage
from stages.compare import (
    list_macs_of_layers,
    list_pruned,
    list_shrunk,
    list_sparsity_of_layers,
    list_timing,
    plot_candidates,
    plot_distortions,
    plot_pruning,
    plot_shrinking,
    plot_sparsity_of_layers,
    read_candidate,
    read_curves,
    read_training,
    summarize,
    write_times,
)
from stages.lib.errors import UserError
from stages.lib.params.load import load_params
from stages.lib.params.sections import StudyParams
from stages.lib.storage.files import read_csv, read_json, write_bytes, write_csv, write_json

KEYS = ("small-none", "small-flip", "large-none", "large-flip")
VAL_ACCURACY = dict(zip(KEYS, (0.90, 0.94, 0.91, 0.941), strict=True))
RANKINGS = ("uniform", "lamp")
SPARSITIES = (0.5, 0.9)
WAYS = ("magnitude", "scratch")
SHARES = (0.5, 0.25)
SHIPPED = {
    "name": "lamp-0.9",
    "precision": "int8",
    "val_accuracy": 0.935,
    "test_accuracy": 0.925,
    "size_bytes": 1000,
    "gzip_size_bytes": 400,
    "macs": 1000,
    "parameters": 50,
}
LAYERS = {"uniform": [("conv1", "0.0"), ("dense1", "0.5")], "lamp": [("conv1", "0.25"), ("dense1", "0.995")]}
OUTPUTS = (
    "metrics.json",
    "test_accuracy.json",
    "curves.csv",
    "confusion.csv",
    "pruning.csv",
    "pruning.png",
    "shrinking.csv",
    "shrinking.png",
    "sparsity.csv",
    "sparsity.png",
    "distortions.png",
)
TIMES = (
    "candidates.csv",
    "candidates.png",
    "timing.csv",
    "environment.json",
    "headline.md",
    "grid.md",
)


def write_candidate(key: str, val_accuracy: float) -> None:
    """Writes what train and evaluate write of one candidate."""
    write_bytes(Path(f"data/train/{key}/model.h5"), f"the model of {key}".encode())
    write_json(Path(f"data/train/{key}/metrics.json"), {"val_accuracy": val_accuracy, "val_loss": 0.25})
    curve = [{"epoch": 1, "split": split, "accuracy": val_accuracy} for split in ("train", "val")]
    write_csv(Path(f"data/train/{key}/history.csv"), curve)
    measured = {
        "test_accuracy": val_accuracy - 0.01,
        "test_loss": 0.3,
        "calibration_error": 0.02,
        "test_accuracy_under_flip": val_accuracy - 0.1,
    }
    write_json(Path(f"data/evaluate/{key}/metrics.json"), measured)
    write_bytes(Path(f"data/evaluate/{key}/confusion.csv"), f"actual,predicted\n{key},{key}\n".encode())


def write_training_time(key: str, seconds: float, model: bytes, **changes: object) -> None:
    timing = {
        "seconds": seconds,
        "images_per_second": 100,
        "policy": "float32",
        "cpu": "a CPU",
        "num_cpus": 2,
        "date": "2020-01-01",
        "python": "3.11.9",
        "model_sha256": sha256(model).hexdigest(),
    }
    write_json(Path(f"data/timing/training/{key}.json"), timing | changes)


def write_all_times() -> None:
    """Writes what all trainings and two stages leave in data/timing."""
    for key in KEYS:
        write_training_time(key, 61.5, f"the model of {key}".encode())
    for name in ("prepare", "train@small-none"):
        write_stage_time(name)


def write_stage_time(stage_name: str, seconds: float = 1.5) -> dict[str, Any]:
    timing = {"stage": stage_name, "seconds": seconds, "peak_memory_mib": 700}
    write_json(Path(f"data/timing/{stage_name}.json"), timing)
    return timing


def write_pruned(ranking: str, sparsity: float) -> None:
    names = ("val_accuracy", "test_accuracy", "size_bytes", "gzip_size_bytes")
    pruned = dict(zip(names, (0.93 - sparsity / 100, 0.92, 4000, round(3000 * (1 - sparsity))), strict=True))
    dense = {f"dense_{name}": value for name, value in zip(names, (0.94, 0.93, 4000, 3500), strict=True)}
    folder = Path(f"data/prune/{ranking}/{sparsity}")
    write_json(folder / "metrics.json", {"sparsity": sparsity + 0.000123, "nonzero_macs": 9} | pruned | dense)
    layers = [{"layer": layer, "weights": 10, "zeros": 1, "sparsity": share} for layer, share in LAYERS[ranking]]
    write_csv(folder / "layers.csv", layers)


def write_shrunk(way: str, share: float) -> None:
    folder = Path(f"data/shrink/{way}/{share}")
    metrics = {"macs_share": share - 0.01, "macs": round(1000 * share), "parameters": round(50 * share)}
    write_json(folder / "metrics.json", metrics | {"val_accuracy": 0.9 + share / 100, "test_accuracy": 0.9})
    conv = {"layer": "conv1", "dense_macs": 900, "macs": round(900 * share)}
    write_csv(folder / "layers.csv", [conv, {"layer": "conv1_bn", "dense_macs": 0, "macs": 0}])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Is a folder with everything that four candidates and two sparsities leave, and no timing."""
    params = load_params()
    params = replace(
        params,
        seed=42,
        study=StudyParams(models=("small", "large"), augmentations=("none", "flip")),
    )
    compression = load_params()
    prune = replace(compression.prune, rankings=RANKINGS, sparsities=SPARSITIES)
    shrink = replace(compression.shrink, filters=WAYS, macs_shares=SHARES)
    compression = replace(compression, prune=prune, shrink=shrink)
    monkeypatch.setattr(stage, "load_params", lambda **_: params)
    monkeypatch.setattr(stage, "load_params", lambda **_: compression)
    monkeypatch.chdir(tmp_path)
    for key in KEYS:
        write_candidate(key, VAL_ACCURACY[key])
    for model, macs in (("small", 1000), ("large", 3000)):
        cost = {"macs": macs, "flops": 2 * macs, "parameters": 50, "receptive_field_px": 16, "memory_bytes": 9}
        write_json(Path(f"data/complexity/{model}/metrics.json"), cost)
    for ranking in RANKINGS:
        for sparsity in SPARSITIES:
            write_pruned(ranking, sparsity)
    for way in WAYS:
        for share in SHARES:
            write_shrunk(way, share)
    write_json(Path("data/ship/model.json"), SHIPPED)
    write_json(Path("data/select_model/choice.json"), {"model": "small", "augmentation": "flip"})
    yield tmp_path
    plt.close("all")


def read_all() -> list[dict[str, Any]]:
    return [read_candidate(model, augmentation) for model, augmentation in (key.split("-") for key in KEYS)]


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_cells(figure: Figure) -> dict[tuple[int, int], str]:
    (table,) = (child for child in figure.axes[0].get_children() if isinstance(child, Table))
    return {place: cell.get_text().get_text() for place, cell in table.get_celld().items()}


def test_a_candidate_is_one_flat_row() -> None:
    assert read_candidate("small", "flip") == {
        "model": "small",
        "augmentation": "flip",
        "val_accuracy": 0.94,
        "val_loss": 0.25,
        "test_accuracy": 0.94 - 0.01,
        "test_loss": 0.3,
        "calibration_error": 0.02,
        "test_accuracy_under_flip": 0.94 - 0.1,
        "macs": 1000,
        "parameters": 50,
        "receptive_field_px": 16,
        "training_seconds": None,
    }


def test_what_a_training_took_is_read_for_the_model_that_lies_there() -> None:
    write_training_time("small-flip", 61.5, b"the model of small-flip")

    training = read_training("small-flip")

    assert (training["seconds"], training["cpu"], training["date"]) == (61.5, "a CPU", "2020-01-01")
    assert "model_sha256" not in training
    assert read_candidate("small", "flip")["training_seconds"] == 61.5


def test_what_the_training_of_another_model_took_is_not_shown() -> None:
    write_training_time("small-flip", 61.5, b"an earlier model")

    assert read_training("small-flip") == {}
    assert read_candidate("small", "flip")["training_seconds"] is None


def test_of_a_model_that_was_not_trained_here_nothing_is_known() -> None:
    assert read_training("small-flip") == {}


def test_the_curves_are_one_table_with_the_candidates_named() -> None:
    rows = read_curves(read_all()[:2])

    assert rows == [
        {"model": "small", "augmentation": augmentation, "epoch": "1", "split": split, "accuracy": accuracy}
        for augmentation, accuracy in (("none", "0.9"), ("flip", "0.94"))
        for split in ("train", "val")
    ]


def test_pruned_models_are_listed_by_ranking_after_the_dense_one() -> None:
    rows = list_pruned(RANKINGS, SPARSITIES)

    assert [(row["ranking"], row["target"], row["sparsity"]) for row in rows] == [
        ("dense", 0, 0.0),
        ("uniform", 0.5, 0.500123),
        ("uniform", 0.9, 0.900123),
        ("lamp", 0.5, 0.500123),
        ("lamp", 0.9, 0.900123),
    ]
    assert rows[0] == {
        "ranking": "dense",
        "target": 0,
        "sparsity": 0.0,
        "val_accuracy": 0.94,
        "test_accuracy": 0.93,
        "size_bytes": 4000,
        "gzip_size_bytes": 3500,
    }
    assert list(rows[0]) == list(rows[1])


def test_pruned_models_of_other_sparsities_are_not_read() -> None:
    write_bytes(Path("data/prune/lamp/0.7/metrics.json"), b"no JSON")

    assert len(list_pruned(RANKINGS, SPARSITIES)) == 5


def test_the_zeros_of_the_layers_are_one_table_with_ranking_and_sparsity() -> None:
    rows = list_sparsity_of_layers(["lamp"], [0.9])

    common = {"ranking": "lamp", "target": 0.9, "weights": "10", "zeros": "1"}
    assert rows == [
        common | {"layer": "conv1", "sparsity": "0.25"},
        common | {"layer": "dense1", "sparsity": "0.995"},
    ]


def test_shrunk_models_are_listed_by_way_after_the_chosen_one() -> None:
    rows = list_shrunk(WAYS, SHARES, read_candidate("small", "flip"))

    assert [(row["filters"], row["target"], row["macs"]) for row in rows] == [
        ("all", 1, 1000),
        ("magnitude", 0.5, 500),
        ("magnitude", 0.25, 250),
        ("scratch", 0.5, 500),
        ("scratch", 0.25, 250),
    ]
    assert (rows[0]["val_accuracy"], rows[0]["macs_share"], rows[1]["macs_share"]) == (0.94, 1.0, 0.49)
    assert list(rows[0]) == list(rows[1])


def test_the_macs_of_layers_that_have_some_are_listed_by_share() -> None:
    assert list_macs_of_layers("magnitude", SHARES) == {
        "all filters": {"conv1": 900},
        "at most 50 %": {"conv1": 450},
        "at most 25 %": {"conv1": 225},
    }


def test_the_summary_is_flat_and_in_the_order_of_the_ladder() -> None:
    shrunk = list_shrunk(["scratch"], SHARES, read_candidate("small", "flip"))

    summary = summarize(read_candidate("small", "flip"), list_pruned(["lamp"], SPARSITIES), shrunk, SHIPPED)

    assert list(summary.items()) == [
        ("chosen", "small-flip"),
        ("val_accuracy", 0.94),
        ("test_accuracy", 0.94 - 0.01),
        ("test_loss", 0.3),
        ("calibration_error", 0.02),
        ("macs", 1000),
        ("parameters", 50),
        ("receptive_field_px", 16),
        ("shipped", "lamp-0.9, int8"),
        ("shipped_val_accuracy", 0.935),
        ("shipped_test_accuracy", 0.925),
        ("shipped_size_bytes", 1000),
        ("shipped_gzip_size_bytes", 400),
        ("pruned_lamp_0.5_test_accuracy", 0.92),
        ("pruned_lamp_0.5_gzip_size_bytes", 1500),
        ("pruned_lamp_0.9_test_accuracy", 0.92),
        ("pruned_lamp_0.9_gzip_size_bytes", 300),
        ("shrunk_scratch_0.5_test_accuracy", 0.9),
        ("shrunk_scratch_0.25_test_accuracy", 0.9),
    ]


def test_the_heat_map_has_a_row_a_candidate_and_a_column_a_distortion() -> None:
    axis = plot_distortions(read_all()).axes[0]

    assert [label.get_text() for label in axis.get_yticklabels()] == list(KEYS)
    assert [label.get_text() for label in axis.get_xticklabels()] == ["as they are", "under flip"]
    assert np.asarray(axis.images[0].get_array()) == pytest.approx(
        np.array([[89, 80], [93, 84], [90, 81], [93.1, 84.1]])
    )
    assert [text.get_text() for text in axis.texts][:4] == ["89.0", "80.0", "93.0", "84.0"]


def test_the_heat_map_takes_a_study_without_distortions() -> None:
    candidates = [{"model": "small", "augmentation": "none", "test_accuracy": 0.9}]

    axis = plot_distortions(candidates).axes[0]

    assert [label.get_text() for label in axis.get_xticklabels()] == ["as they are"]


def test_the_pruning_picture_shows_percent_and_megabytes() -> None:
    figure = plot_pruning(list_pruned(RANKINGS, SPARSITIES), "small-flip")

    lines = {line.get_label(): np.asarray(line.get_xydata()).tolist() for axis in figure.axes for line in axis.lines}
    assert list(lines) == [
        *["uniform, test", "uniform, validation", "lamp, test", "lamp, validation"],
        *["uniform", "lamp"],
    ]
    assert lines["lamp, test"] == [pytest.approx([0, 93]), pytest.approx([50, 92]), pytest.approx([90, 92])]
    assert lines["uniform, validation"][1] == pytest.approx([50, 92.5])
    assert lines["lamp"] == [pytest.approx([0, 0.0035]), pytest.approx([50, 0.0015]), pytest.approx([90, 0.0003])]
    assert figure.axes[0].get_title() == "Magnitude pruning of small-flip, fine-tuned at each point"


def test_the_picture_of_the_zeros_has_a_map_a_ranking_a_row_a_layer_and_a_column_a_sparsity() -> None:
    figure = plot_sparsity_of_layers(list_sparsity_of_layers(RANKINGS, SPARSITIES))

    uniform, lamp, *_ = figure.axes
    assert [axis.get_title() for axis in (uniform, lamp)] == ["uniform", "lamp"]
    assert [label.get_text() for label in uniform.get_yticklabels()] == ["conv1", "dense1"]
    assert [label.get_text() for label in lamp.get_xticklabels()] == ["50", "90"]
    assert np.asarray(lamp.images[0].get_array()).tolist() == [[25, 25], [99.5, 99.5]]
    assert [text.get_text() for text in lamp.texts] == ["25", "25", "99.5", "99.5"]


def test_the_picture_of_shrinking_has_a_line_a_way_and_bars_for_each_layer_and_share() -> None:
    chosen = read_candidate("small", "flip")
    rows, macs = list_shrunk(WAYS, SHARES, chosen), list_macs_of_layers("magnitude", SHARES)

    left, right = plot_shrinking(rows, macs, "small-flip").axes

    lines = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in left.lines}
    assert list(lines) == ["magnitude, test", "magnitude, validation", "scratch, test", "scratch, validation"]
    assert lines["scratch, validation"] == [
        pytest.approx([0.001, 94]),
        pytest.approx([0.0005, 90.5]),
        pytest.approx([0.00025, 90.25]),
    ]
    to_data = right.transData.inverted()
    widths = [bar.get_extents().transformed(to_data).width for bar in right.patches]
    assert widths == pytest.approx([0.0009, 0.00045, 0.000225])
    assert [label.get_text() for label in right.get_yticklabels()] == ["conv1"]


def test_the_picture_of_shrinking_has_bars_for_more_shares_than_colors() -> None:
    chosen = read_candidate("small", "flip")
    macs = {f"at most {share} %": {"conv1": share} for share in range(90, 0, -10)}

    _, right = plot_shrinking(list_shrunk(WAYS, SHARES, chosen), macs, "small-flip").axes

    assert len(right.patches) == 9


def test_the_table_shows_candidates_the_best_validation_accuracy_first() -> None:
    candidates = [row | {"training_seconds": 61.4} for row in read_all()]

    cells = read_cells(plot_candidates(candidates, "small-flip"))

    assert [cells[row, 0] for row in range(1, 5)] == ["large-flip", "small-flip", "large-none", "small-none"]
    assert [cells[2, column] for column in range(7)] == [
        "small-flip",
        "94.00 %",
        "93.00 %",
        "0.0",
        "0",
        "16 px",
        "61 s",
    ]


def test_the_table_says_where_a_training_was_not_here() -> None:
    seconds = (None, 10.0, None, 0.0)
    candidates = [row | {"training_seconds": value} for row, value in zip(read_all(), seconds, strict=True)]

    cells = read_cells(plot_candidates(candidates, "small-flip"))

    assert {cells[row, 0]: cells[row, 6] for row in range(1, 5)} == {
        "small-none": "not here",
        "small-flip": "10 s",
        "large-none": "not here",
        "large-flip": "0 s",
    }


def test_only_the_row_of_the_choice_is_bold() -> None:
    figure = plot_candidates([row | {"training_seconds": None} for row in read_all()], "small-flip")

    (table,) = (child for child in figure.axes[0].get_children() if isinstance(child, Table))
    bold = {row for (row, _), cell in table.get_celld().items() if cell.get_text().get_fontweight() == "bold"}
    assert bold == {2}


def test_the_times_of_the_stages_of_this_run_are_listed_in_their_order() -> None:
    names = [
        "prepare",
        "select_model",
        "preview@flip",
        "complexity@small",
        "train@small-none",
        "train@small-flip",
        "evaluate@small-flip",
        "prune@lamp",
        "shrink@random",
        "export@prune",
    ]
    timing = [write_stage_time(name) for name in names]
    for name in ("train@gone-none", "train@small-gone", "prune@uniform", "compare"):
        write_stage_time(name)
    write_training_time("small-flip", 61.5, b"")

    assert list_timing(["small"], ["none", "flip"], ["lamp"], ["random"]) == timing


def test_a_run_of_which_no_stage_ran_here_has_no_times() -> None:
    assert list_timing(["small"], ["none", "flip"], ["lamp"], ["random"]) == []


def test_the_environment_is_that_of_the_training_of_the_choice() -> None:
    write_all_times()
    write_training_time("small-flip", 61.5, b"the model of small-flip", cpu="another CPU")

    stage.main()

    environment = read_json(Path("data/compare/environment.json"))
    assert environment["cpu"] == "another CPU"
    assert "Seed 42, trained on 2020-01-01; python 3.11.9." in Path("data/compare/headline.md").read_text()


@pytest.mark.parametrize("key", KEYS)
def test_no_environment_is_given_where_one_model_was_not_trained_here(key: str) -> None:
    write_all_times()
    write_training_time(key, 61.5, b"an earlier model")

    stage.main()

    assert read_json(Path("data/compare/environment.json")) == {}
    assert read_csv(Path("data/compare/timing.csv")) == [{"stage": "", "seconds": "", "peak_memory_mib": ""}]
    assert Path("data/compare/headline.md").read_text().endswith("\nSeed 42.\n")


def test_the_times_are_written_where_every_model_was_trained_here() -> None:
    write_all_times()

    stage.main()

    assert [row["stage"] for row in read_csv(Path("data/compare/timing.csv"))] == ["prepare", "train@small-none"]


def test_the_outputs_are_the_same_bytes_in_every_run() -> None:
    def run() -> dict[str, bytes]:
        stage.main()
        return {name: content for name, content in read_files(Path("data/compare")).items() if name in OUTPUTS}

    first = run()

    assert run() == first
    assert set(first) == set(OUTPUTS)


def test_times_change_no_output_that_is_promised_to_be_the_same() -> None:
    def run() -> dict[str, bytes]:
        stage.main()
        return {name: content for name, content in read_files(Path("data/compare")).items() if name not in TIMES}

    first = run()
    write_all_times()

    assert run() == first


def test_the_outputs_hold_every_candidate_and_the_confusion_of_the_choice() -> None:
    stage.main()

    assert read_json(Path("data/compare/test_accuracy.json")) == {
        key: pytest.approx(VAL_ACCURACY[key] - 0.01) for key in KEYS
    }
    assert Path("data/compare/confusion.csv").read_text() == "actual,predicted\nsmall-flip,small-flip\n"
    assert len(read_csv(Path("data/compare/curves.csv"))) == 8
    assert [row["sparsity"] for row in read_csv(Path("data/compare/pruning.csv"))][:3] == [
        "0.0",
        "0.500123",
        "0.900123",
    ]


def test_the_table_of_candidates_has_an_empty_cell_where_a_training_was_not_here() -> None:
    write_training_time("small-flip", 61.5, b"the model of small-flip")

    write_times(read_all(), read_candidate("small", "flip"), "the table\n", [], seed=42)

    seconds = [row["training_seconds"] for row in read_csv(Path("data/compare/candidates.csv"))]
    assert seconds == ["", "61.5", "", ""]


def test_the_stage_writes_its_files_and_says_the_key_number(capsys: pytest.CaptureFixture[str]) -> None:
    write_stage_time("prepare")

    stage.main()

    assert set(read_files(Path("data/compare"))) == {*OUTPUTS, *TIMES}
    assert "test accuracy of 0.9300" in capsys.readouterr().out


def test_the_tables_of_the_readme_hold_every_candidate_and_the_shipped_file() -> None:
    stage.main()

    grid, headline = (Path(f"data/compare/{name}.md").read_text() for name in ("grid", "headline"))
    assert [line.split(" | ")[0] for line in grid.splitlines()[2:]] == [f"| {key}" for key in KEYS]
    assert "| small-flip, chosen on validation | 93.00 % | 50 | 1,000 | 4 kB | 4 kB |" in headline
    assert "| lamp-0.9, int8, shipped | 92.50 % | 50 | 1,000 | 1 kB | 0 kB |" in headline


def test_what_is_not_in_params_is_not_read() -> None:
    write_candidate("gone-none", 1.0)
    for name in ("train/gone-flip", "evaluate/small-gone", "complexity/gone", "prune/lamp/0.1"):
        write_bytes(Path(f"data/{name}/metrics.json"), b"no JSON")

    stage.main()

    assert list(read_json(Path("data/compare/test_accuracy.json"))) == list(KEYS)
    assert len(read_csv(Path("data/compare/candidates.csv"))) == 4


@pytest.mark.parametrize(
    "missing",
    [
        "data/select_model/choice.json",
        "data/train/large-none/metrics.json",
        "data/train/large-none/history.csv",
        "data/evaluate/large-none/metrics.json",
        "data/complexity/large/metrics.json",
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
