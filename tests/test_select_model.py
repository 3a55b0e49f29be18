import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from sections import augmentation, replace

from stages import select_model as stage
from stages.lib.errors import UserError
from stages.lib.params.load import load_params
from stages.lib.params.sections import ModelParams, SelectModelParams
from stages.lib.results.rows import Candidate
from stages.lib.storage.files import read_csv, read_json, write_arrays, write_bytes, write_json
from stages.select_model import explain, select_candidate

PARAMS = load_params()
UNCHANGING = ["none"]
BALANCED = {"val_balanced_accuracy": 0.5, "val_macro_f1": 0.4}
SMALL = ModelParams(
    blocks=((4,),),
    separable=True,
    residual=False,
    global_pool=True,
    dense=(),
    batch_norm=("conv",),
    dropout=0.1,
)


def candidate(
    val_accuracy: float,
    receptive_field_px: int = 16,
    macs: int = 1000,
    name: str = "a",
    augmentation: str = "none",
    val_balanced_accuracy: float = 0.1,
    val_macro_f1: float = 0.1,
) -> Candidate:
    balanced = (val_balanced_accuracy, val_macro_f1)
    return Candidate(name, augmentation, "42", val_accuracy, None, 0.2, *balanced, macs, 77_000, receptive_field_px)


def test_a_single_candidate_is_chosen() -> None:
    only = candidate(0.5)

    assert select_candidate([only], 0.0, UNCHANGING, "accuracy") is only


def test_a_candidate_outside_the_tolerance_is_not_chosen_however_large_its_receptive_field() -> None:
    best, wide = candidate(0.940, receptive_field_px=10), candidate(0.937, receptive_field_px=28, macs=1)

    assert select_candidate([best, wide], 0.002, UNCHANGING, "accuracy") is best


def test_within_the_tolerance_the_larger_receptive_field_wins_over_fewer_macs_and_accuracy() -> None:
    best, wide = candidate(0.940, receptive_field_px=10, macs=1), candidate(0.939, receptive_field_px=16, macs=9)

    assert select_candidate([best, wide], 0.002, UNCHANGING, "accuracy") is wide


def test_with_equal_receptive_fields_fewer_macs_win_over_accuracy() -> None:
    best, light = candidate(0.940, macs=1001), candidate(0.939, macs=1000)

    assert select_candidate([best, light], 0.002, UNCHANGING, "accuracy") is light


def test_with_equal_receptive_fields_and_macs_augmentation_wins_over_accuracy() -> None:
    best, augmented = candidate(0.940), candidate(0.939, augmentation="flip")

    assert select_candidate([best, augmented], 0.002, UNCHANGING, "accuracy") is augmented
    assert select_candidate([best, augmented], 0.002, [], "accuracy") is best


@pytest.mark.parametrize("augmentation", ["none", "flip"])
def test_with_all_else_equal_the_accuracy_decides(augmentation: str) -> None:
    best, near = (candidate(accuracy, augmentation=augmentation) for accuracy in (0.940, 0.939))

    assert select_candidate([near, best], 0.002, UNCHANGING, "accuracy") is best


def test_with_no_tolerance_only_the_best_accuracy_counts() -> None:
    best, wide = candidate(0.940, receptive_field_px=10), candidate(0.9399, receptive_field_px=28)

    assert select_candidate([wide, best], 0.0, UNCHANGING, "accuracy") is best


def test_with_no_tolerance_equal_accuracies_count_as_equal() -> None:
    one, wide = candidate(0.940, receptive_field_px=10), candidate(0.940, receptive_field_px=28)

    assert select_candidate([one, wide], 0.0, UNCHANGING, "accuracy") is wide


@pytest.mark.parametrize(
    ("best", "near", "tolerance"),
    [
        (0.9375, 0.875, 0.0625),  # exact in binary
        (0.94, 0.938, 0.002),
        (11_300 / 12_000, 11_276 / 12_000, 0.002),
        (0.902, 0.8995, 0.0025),  # in floating point, 0.902 - 0.0025 is above 0.8995
        (10_833 / 12_000, 10_803 / 12_000, 0.0025),
    ],
)
def test_a_candidate_exactly_at_the_tolerance_counts_as_equal(best: float, near: float, tolerance: float) -> None:
    accurate, wide = candidate(best, receptive_field_px=10), candidate(near, receptive_field_px=16)

    assert select_candidate([accurate, wide], tolerance, UNCHANGING, "accuracy") is wide
    assert "of the 2 candidates that close" in explain(wide, [accurate, wide], tolerance, UNCHANGING, "accuracy")


def test_one_validation_image_beyond_the_tolerance_does_not_count_as_equal() -> None:
    best, near = candidate(11_300 / 12_000, receptive_field_px=10), candidate(11_275 / 12_000, receptive_field_px=16)

    assert select_candidate([best, near], 24 / 12_000, UNCHANGING, "accuracy") is best


def test_the_order_of_the_candidates_does_not_matter() -> None:
    candidates = [candidate(0.940, 10), candidate(0.939, 16, 5), candidate(0.9385, 16, 4), candidate(0.91, 28)]

    orders = itertools.permutations(candidates)
    assert {select_candidate(order, 0.002, UNCHANGING, "accuracy") for order in orders} == {candidates[2]}


@pytest.mark.parametrize(
    ("candidates", "sentence"),
    [
        (
            [candidate(0.94), candidate(0.93, name="b")],
            "a-none has a validation accuracy of 94.00 %, the best of 2 candidates by more than 0.2 points.",
        ),
        (
            [candidate(0.94), candidate(0.9396, 14, name="b"), candidate(0.93, 28, name="c")],
            "a-none has a validation accuracy of 94.00 %, the best; of the 2 candidates that close, its receptive "
            "field of 16 px is the largest.",
        ),
        (
            [candidate(0.9396), candidate(0.94, 14, name="b", augmentation="flip")],
            "a-none has a validation accuracy of 93.96 %, within 0.2 points of the best (b-flip, 94.00 %); of the 2 "
            "candidates that close, its receptive field of 16 px is the largest.",
        ),
        (
            [candidate(0.9396), candidate(0.94, macs=2000, name="b"), candidate(0.9395, 14, name="c")],
            "a-none has a validation accuracy of 93.96 %, within 0.2 points of the best (b-none, 94.00 %); of the 3 "
            "candidates that close, its receptive field of 16 px is the largest, shared by 2, of which it needs the "
            "fewest MACs (1,000).",
        ),
        (
            [
                candidate(0.9396, augmentation="flip"),
                candidate(0.9395),
                candidate(0.94, macs=2000, name="b"),
                candidate(0.9399, 14, name="c"),
            ],
            "a-flip has a validation accuracy of 93.96 %, within 0.2 points of the best (b-none, 94.00 %); of the 4 "
            "candidates that close, its receptive field of 16 px is the largest, shared by 3, of which it needs the "
            "fewest MACs (1,000), shared by 2, of which it is the only one augmented.",
        ),
        (
            [
                candidate(0.9396, augmentation="flip"),
                candidate(0.9395, augmentation="mild"),
                candidate(0.94),
            ],
            "a-flip has a validation accuracy of 93.96 %, within 0.2 points of the best (a-none, 94.00 %); of the 3 "
            "candidates that close, its receptive field of 16 px is the largest, shared by 3, of which it needs the "
            "fewest MACs (1,000), shared by 3, of which 2 are augmented, of which it is the best.",
        ),
        (
            [candidate(0.94), candidate(0.9395)],
            "a-none has a validation accuracy of 94.00 %, the best; of the 2 candidates that close, its receptive "
            "field of 16 px is the largest, shared by 2, of which it needs the fewest MACs (1,000), shared by 2, of "
            "which it is the best.",
        ),
    ],
)
def test_the_reason_tells_which_rule_decided(candidates: list[Candidate], sentence: str) -> None:
    chosen = select_candidate(candidates, 0.002, UNCHANGING, "accuracy")

    assert chosen is candidates[0]
    assert explain(chosen, candidates, 0.002, UNCHANGING, "accuracy") == sentence


@pytest.mark.parametrize(
    ("metric", "expected", "words"),
    [
        ("accuracy", "a-none", "a-none has a validation accuracy of 90.00 %, the best of 3"),
        ("balanced_accuracy", "b-none", "b-none has a balanced validation accuracy of 80.00 %, the best of 3"),
        ("macro_f1", "c-none", "c-none has a macro-F1 on validation images of 70.00 %, the best of 3"),
    ],
)
def test_the_metric_of_params_decides(metric: str, expected: str, words: str) -> None:
    candidates = [
        candidate(0.9),
        candidate(0.6, name="b", val_balanced_accuracy=0.8),
        candidate(0.5, name="c", val_macro_f1=0.7),
    ]

    chosen = select_candidate(candidates, 0.002, UNCHANGING, metric)

    assert chosen.key == expected
    assert explain(chosen, candidates, 0.002, UNCHANGING, metric).startswith(words)


def test_values_within_the_tolerance_of_the_metric_of_params_count_as_equal() -> None:
    best = candidate(0.5, 10, val_macro_f1=0.7)
    wide = candidate(0.2, 16, val_macro_f1=0.699, name="b")

    assert select_candidate([best, wide], 0.002, UNCHANGING, "macro_f1") is wide
    assert "within 0.2 points of the best (a-none, 70.00 %)" in explain(
        wide, [best, wide], 0.002, UNCHANGING, "macro_f1"
    )


def test_the_reason_for_an_only_candidate_compares_it_with_none() -> None:
    reason = explain(candidate(0.94), [candidate(0.94)], 0.002, UNCHANGING, "accuracy")

    assert reason == "a-none has a validation accuracy of 94.00 %; it is the only candidate."


def test_the_reason_writes_the_tolerance_in_percent_points() -> None:
    assert "by more than 0.7 points" in explain(
        candidate(0.94), [candidate(0.94), candidate(0.9)], 0.007, UNCHANGING, "accuracy"
    )


def set_params(monkeypatch: pytest.MonkeyPatch, *seeds: int) -> None:
    augmentations = {
        "none": augmentation(),
        "flip": augmentation(horizontal_flip=True),
    }
    params = replace(
        PARAMS,
        models={"small": SMALL, "large": SMALL},
        study=replace(PARAMS.study, models=("small", "large"), augmentations=("none", "flip"), seeds=seeds),
        augmentations=augmentations,
        select_model=SelectModelParams(metric="accuracy", tolerance=0.002),
    )
    monkeypatch.setattr(stage, "load_params", lambda **_: params)


def write_accuracies(seed: int, **accuracies: float) -> None:
    """Writes what trainings with one seed gave: of each candidate, with _ in place of -, the validation accuracy."""
    for key, accuracy in accuracies.items():
        folder = Path(f"data/train/{key.replace('_', '-')}/{seed}")
        write_json(folder / "metrics.json", {"val_accuracy": accuracy, "val_loss": 0.25, **BALANCED})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is a folder with four trained candidates, in which the stage chooses small-flip; there is no data/evaluate."""
    set_params(monkeypatch, 42)
    monkeypatch.chdir(tmp_path)
    write_arrays(Path("data/prepare/val.npz"), labels=np.zeros(200, np.uint8))
    write_accuracies(42, small_none=0.90, small_flip=0.94, large_none=0.91, large_flip=0.941)
    for model, macs in (("small", 1000), ("large", 3000)):
        cost = {"macs": macs, "flops": 2 * macs, "parameters": 50, "receptive_field_px": 16}
        write_json(Path(f"data/complexity/{model}/metrics.json"), cost)
    return tmp_path


def test_the_stage_writes_the_choice_its_numbers_and_what_later_stages_go_on_with(folder: Path) -> None:
    stage.main()

    choice = read_json(folder / "data/select_model/choice.json")
    assert (choice["model"], choice["augmentation"]) == ("small", "flip")
    assert choice["architecture"] == {
        "blocks": [[4]],
        "separable": True,
        "residual": False,
        "global_pool": True,
        "dense": [],
        "batch_norm": ["conv"],
        "dropout": 0.1,
    }
    assert choice["augmentation_limits"] == {
        "rotation_degrees": 0,
        "shift_fraction": 0,
        "zoom_fraction": 0,
        "shift_px": 0,
        "erase_px": 0,
        "brightness_fraction": 0,
        "contrast_fraction": 0,
        "saturation_fraction": 0,
        "horizontal_flip": True,
    }
    reason = (folder / "data/select_model/reason.txt").read_text()
    assert reason.startswith("small-flip has a validation accuracy of 94.00 %, within 0.2 points of the best")
    assert reason.endswith(".\n")
    assert read_json(folder / "data/select_model/metrics.json") == {
        "chosen": "small-flip",
        "seeds": "42",
        "val_accuracy": 0.94,
        "val_accuracy_low": pytest.approx(0.8981, abs=1e-4),  # 188 of 200
        "val_accuracy_high": pytest.approx(0.9653, abs=1e-4),
        "val_accuracy_sd": None,
        "val_loss": 0.25,
        **BALANCED,
        "macs": 1000,
        "parameters": 50,
        "receptive_field_px": 16,
    }


def test_the_stage_writes_its_four_files_and_no_others(folder: Path) -> None:
    stage.main()

    assert {path.name for path in (folder / "data/select_model").iterdir()} == {
        "choice.json",
        "metrics.json",
        "reason.txt",
        "comparison.csv",
    }


def test_with_several_seeds_the_mean_decides_and_neither_the_first_nor_the_best_of_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_accuracies(7, small_none=0.90, small_flip=0.90, large_none=0.95, large_flip=0.939)
    set_params(monkeypatch, 42, 7)

    stage.main()

    found = read_json(folder / "data/select_model/metrics.json")
    assert (found["chosen"], found["seeds"]) == ("large-flip", "42 7")
    assert (found["val_accuracy"], found["val_accuracy_sd"]) == (0.94, 0.001414)
    reason = (folder / "data/select_model/reason.txt").read_text()
    assert reason.startswith("large-flip has a validation accuracy of 94.00 % on average over 2 seeds, the best of 4")
    (row, *_) = read_csv(folder / "data/select_model/comparison.csv")
    assert (row["seeds"], row["val_accuracy"], row["val_accuracy_sd"]) == ("42 7", "0.94", "0.001414")


def test_other_words_for_the_same_choice_change_nothing_that_later_stages_start_from(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.main()
    before = (folder / "data/select_model/choice.json").read_bytes()
    monkeypatch.setattr(stage, "explain", lambda *_: "In other words.")
    stage.main()

    assert (folder / "data/select_model/choice.json").read_bytes() == before
    assert (folder / "data/select_model/reason.txt").read_text() == "In other words.\n"


def test_the_table_lists_every_candidate_the_best_first(folder: Path) -> None:
    stage.main()

    rows = read_csv(folder / "data/select_model/comparison.csv")
    assert [(row["model"], row["augmentation"], row["val_accuracy"]) for row in rows] == [
        ("large", "flip", "0.941"),
        ("small", "flip", "0.94"),
        ("large", "none", "0.91"),
        ("small", "none", "0.9"),
    ]


@pytest.mark.parametrize("key", ["small-gone", "gone-none"])
def test_candidates_and_seeds_outside_the_study_are_not_read(folder: Path, key: str) -> None:
    write_accuracies(42, **{key.replace("-", "_"): 1.0})
    write_accuracies(7, large_none=1.0)
    cost = {"macs": 1, "flops": 2, "parameters": 1, "receptive_field_px": 28}
    write_json(folder / "data/complexity/gone/metrics.json", cost)

    stage.main()

    assert read_json(folder / "data/select_model/metrics.json")["chosen"] == "small-flip"
    assert len(read_csv(folder / "data/select_model/comparison.csv")) == 4


def test_the_choice_does_not_read_what_was_measured_on_test_images(folder: Path) -> None:
    """The fixture has no data/evaluate; and if there is one, it may hold what it will."""
    write_bytes(folder / "data/evaluate/small-flip/42/metrics.json", b"no JSON")
    write_json(folder / "data/evaluate/large-flip/42/metrics.json", {"test_accuracy": 1.0})

    stage.main()

    assert read_json(folder / "data/select_model/metrics.json")["chosen"] == "small-flip"


@pytest.mark.parametrize("missing", ["data/train/large-none/42/metrics.json", "data/complexity/large/metrics.json"])
def test_missing_metrics_are_named_with_the_remedy(folder: Path, missing: str) -> None:
    (folder / missing).unlink()

    with pytest.raises(UserError, match=f"^{missing}: not found; run `dvc repro`"):
        stage.main()


def test_two_runs_write_the_same_bytes(folder: Path) -> None:
    def run() -> dict[str, bytes]:
        stage.main()
        return {path.name: path.read_bytes() for path in (folder / "data/select_model").iterdir()}

    assert run() == run()


def test_the_choice_is_readable_json(folder: Path) -> None:
    stage.main()

    text = (folder / "data/select_model/choice.json").read_text()
    assert list(json.loads(text)) == ["model", "augmentation", "architecture", "augmentation_limits"]
    assert text.endswith("}\n")
