"""Which models are compared, on what, and what is said of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from run_files import (
    CHOSEN,
    FINISHED,
    LABELS,
    NUM_TEST,
    OTHER_SEED,
    SEED,
    make_params,
    make_study,
    predict,
    trained,
    write_run,
    write_trained,
)
from sections import augmentation

from stages.frontier import list_files
from stages.lib.errors import UserError
from stages.lib.params.sections import AugmentationParams, StudyParams
from stages.lib.results.comparisons import (
    AUGMENTATION,
    BETTER,
    CANDIDATES,
    DISTORTED,
    FILES,
    UNKNOWN,
    WAYS,
    WORSE,
    Answers,
    Comparison,
    are_rivals,
    compare_candidates,
    compare_family,
    compare_files,
    compare_trainings,
    find_baseline,
    find_comparison,
    list_family,
)
from stages.lib.results.rows import ModelFile, read_candidates, read_rows, write_rows
from stages.lib.storage.files import read_arrays, read_json, write_arrays
from stages.lib.storage.variant import Variant, name_finished

NONE, FLIP = augmentation(), augmentation(horizontal_flip=True)
AUGMENTATIONS = {"none": NONE, "flip": FLIP}


@pytest.fixture(autouse=True)
def run(tmp_dir: Path) -> Path:
    """Is a folder with all that the stages before frontier leave of two models."""
    write_run()
    return tmp_dir


def answers(name: str, num_right: int, n: int = 200) -> Answers:
    """Answers of which the first are right."""
    return Answers(name, np.arange(n) < num_right)


def read_files() -> list[ModelFile]:
    return list_files(make_params(), read_json(Path("data/select_model/choice.json")))


def compare_grid(
    study: StudyParams, augmentations: Mapping[str, AugmentationParams] = AUGMENTATIONS
) -> list[Comparison]:
    """Compares the candidates of a study, the last one of which is the chosen one."""
    candidates = read_candidates(study)
    return compare_candidates(candidates, candidates[-1], augmentations)


def list_pairs(rows: Sequence[Comparison], family: str) -> list[tuple[str, str]]:
    return [(row.name, row.reference) for row in list_family(rows, family)]


def test_verdicts_follow_the_corrected_test() -> None:
    base = answers("base", 150)
    better, worse, near = compare_family(
        "f", [(answers("better", 180), base), (answers("worse", 100), base), (answers("near", 157), base)]
    )
    assert (better.verdict, worse.verdict) == (BETTER, WORSE)
    assert (better.difference, worse.difference, better.n) == (0.15, -0.25, 200)
    assert near.p == near.p_holm == pytest.approx(2 / 2**7, rel=1e-3)  # the largest of its family is not corrected
    assert near.verdict == BETTER
    (first, *_) = compare_family("f", [(answers("near", 157), base), *[(base, base)] * 9])
    assert first.p_holm == pytest.approx(20 / 2**7, rel=1e-3)
    assert first.verdict == UNKNOWN


def test_every_candidate_is_compared_with_the_chosen_one_and_every_augmentation_with_none() -> None:
    rows = compare_grid(make_study(models=("third", "small")))
    others = ["third-none", "third-flip", "small-none"]
    assert list_pairs(rows, CANDIDATES) == [(name, "small-flip") for name in others]
    both = [("third-flip", "third-none"), ("small-flip", "small-none")]
    assert list_pairs(rows, AUGMENTATION) == list_pairs(rows, DISTORTED) == both


def test_an_augmentation_is_judged_on_images_that_it_distorts_itself() -> None:
    write_arrays(
        Path("data/evaluate/third-flip/42/predictions.npz"), labels=LABELS, as_they_are=LABELS, under_flip=1 - LABELS
    )
    assert [row.difference for row in compare_grid(make_study(models=["third"]))] == [-0.1, 0.1, -0.81]


def test_of_several_seeds_the_models_of_the_first_one_are_compared() -> None:
    study = make_study(models=["third"], seeds=(SEED, OTHER_SEED))
    for key in ("third-none", "third-flip"):
        write_trained(trained(key, OTHER_SEED), 0.5)
    assert [row.difference for row in compare_grid(study)] == [-0.03, 0.03, 0.03]


def test_an_augmentation_that_changes_nothing_distorts_nothing() -> None:
    rows = compare_grid(make_study(models=["small"]), {"none": NONE, "flip": NONE})
    assert list_pairs(rows, AUGMENTATION) == [("small-flip", "small-none")]
    assert list_pairs(rows, DISTORTED) == []


def test_without_a_baseline_only_candidates_are_compared() -> None:
    assert list_pairs(compare_grid(make_study(augmentations=["flip"])), AUGMENTATION) == []


def test_the_finished_model_is_compared_with_the_chosen_candidate() -> None:
    (row,) = compare_trainings(name_finished(SEED), trained(CHOSEN))
    assert (row.family, row.name, row.reference, row.difference) == ("finished", "finished", CHOSEN, 0.01)


def test_baseline_is_the_augmentation_that_changes_nothing_whatever_its_name() -> None:
    assert find_baseline({"a": FLIP, "b": NONE}, ["a", "b"]) == "b"
    assert find_baseline({"a": FLIP, "b": NONE}, ["a"]) is None


def test_every_file_is_compared_with_the_finished_model_in_float32_and_ways_with_each_other() -> None:
    rows = compare_files(read_files())
    names = ["small-flip", "small-flip int8", "third-flip", "third-flip int8", "finished int8"]
    assert list_pairs(rows, FILES["dense"]) == [(name, "finished") for name in names]
    names = [f"{name}{end}" for name in ("uniform-0.5", "uniform-0.9", "lamp-0.5", "lamp-0.9") for end in ("", " int8")]
    assert list_pairs(rows, FILES["pruned"]) == [(name, "finished") for name in names]
    assert len(list_family(rows, FILES["shrunk"])) == 8
    assert list_pairs(rows, WAYS["pruned"]) == [("uniform-0.5", "lamp-0.5"), ("uniform-0.9", "lamp-0.9")]
    assert list_pairs(rows, WAYS["shrunk"]) == [("magnitude-0.5", "scratch-0.5"), ("magnitude-0.25", "scratch-0.25")]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (("prune", "lamp", 0.9), ("prune", "uniform", 0.9), True),
        (("prune", "lamp", 0.9), ("prune", "uniform", 0.5), False),
        (("prune", "lamp", 0.9), ("prune", "cost", 0.9), False),  # other shares of zeros
        (("prune", "magnitude-0.5-lamp", 0.9), ("prune", "magnitude-0.5-uniform", 0.9), True),
        (("prune", "magnitude-0.5-lamp", 0.9), ("prune", "magnitude-0.25-lamp", 0.9), False),
        (("prune", "magnitude-0.5-lamp", 0.9), ("prune", "lamp", 0.9), False),
        (("prune", "magnitude-0.5-lamp", 0.9), ("prune", "magnitude-0.5-cost", 0.9), False),
        (("shrink", "magnitude", 0.5), ("shrink", "scratch", 0.5), True),
        (("shrink", "magnitude", 0.5), ("shrink", "scratch", 0.25), False),
    ],
)
def test_rivals_have_as_many_zeros_of_one_model_or_one_share_of_its_macs(
    one: tuple[str, str, float], other: tuple[str, str, float], expected: bool
) -> None:
    assert are_rivals(Variant(*one, SEED), Variant(*other, SEED)) == expected
    assert are_rivals(Variant(*other, SEED), Variant(*one, SEED)) == expected


def test_where_export_left_out_the_file_that_others_are_compared_with_it_is_named() -> None:
    files = [file for file in read_files() if file.label != "finished"]

    with pytest.raises(
        UserError, match=r"^data/export/finish/finished: expected float32\.tflite, .*export\.max_loss_float32"
    ):
        compare_files(files)


def test_a_file_is_judged_by_its_own_predictions() -> None:
    predicted = {"float32": predict(FINISHED - 0.01), "int8": predict(0.5)}
    write_arrays(Path("data/export/prune/lamp-0.5/predictions.npz"), labels=LABELS, **predicted)
    rows = compare_files(read_files())
    float32, int8 = (find_comparison(rows, FILES["pruned"], name, "finished") for name in ("lamp-0.5", "lamp-0.5 int8"))
    assert float32 is not None
    assert int8 is not None
    assert (float32.difference, float32.verdict, float32.n) == (0, UNKNOWN, NUM_TEST)
    assert (int8.difference, int8.verdict) == (-0.44, WORSE)


def test_a_comparison_is_found_from_both_sides() -> None:
    rows = compare_family("f", [(answers("a", 180), answers("b", 150))])
    found, turned = find_comparison(rows, "f", "a", "b"), find_comparison(rows, "f", "b", "a")
    assert found == rows[0]
    assert turned is not None
    assert (turned.difference, turned.low, turned.high, turned.verdict) == (-0.15, -found.high, -found.low, WORSE)
    assert (find_comparison(rows, "f", "a", "c"), find_comparison(rows, "g", "a", "b")) == (None, None)


def test_comparisons_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = compare_files(read_files())
    write_rows(tmp_path / "x.csv", Comparison, rows)
    assert read_rows(tmp_path / "x.csv", Comparison) == rows


def test_predictions_of_an_earlier_version_are_named_with_the_remedy() -> None:
    path = Path("data/export/train/small-flip/predictions.npz")
    (labels,) = read_arrays(path, "labels")
    write_arrays(path, labels=labels)
    with pytest.raises(UserError, match=r"small-flip/predictions\.npz: expected an \.npz with labels, float32"):
        compare_files(read_files())
