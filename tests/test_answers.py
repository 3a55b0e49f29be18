"""The sentences say what the numbers say, whichever way they go."""

from typing import Any

import pytest

from stages.lib.report.answers import (
    CurvePoint,
    Layer,
    MeasuredCandidate,
    answer_arithmetic,
    answer_augmentation,
    answer_choice,
    answer_classes,
    answer_confidence,
    answer_confusion,
    answer_curves,
    answer_frontier,
    answer_pruning,
    answer_receptive_field,
    answer_shipped,
    answer_shrinking,
    compare_cost,
    tell_pruned_times,
    tell_shipped_time,
    tell_shrunk_times,
)
from stages.lib.results.rows import ModelFile, PublishedModel, RankedFile
from stages.lib.results.times import TimedFile


def candidate(model: str, augmentation: str, test: float, px: int = 10, **under: float) -> MeasuredCandidate:
    return MeasuredCandidate(model, augmentation, test, 0.0, 100, 10, px, test, 0.0, 0.0, under, None)


def file(way: str, target: float, test: float, row_type: type[Any] = ModelFile, **values: Any) -> Any:
    """A pruned file, or what `values` say."""
    known: dict[str, Any] = {
        "name": f"{way}-{target}",
        "kind": "pruned",
        "way": way,
        "target": str(target),
        "format": "keras",
        "precision": "float32",
        "val_accuracy": test,
        "test_accuracy": test,
        "size_bytes": 1000,
        "gzip_size_bytes": 100,
        "macs": 10,
        "nonzero_macs": 10,
        "parameters": 5,
        "sparsity": 0.0,
    }
    return row_type(**known | values)


def step(ranking: str, target: float, val: float, test: float, size: int = 100) -> ModelFile:
    return file(ranking, target, test, val_accuracy=val, gzip_size_bytes=size)


def shrunk(filters: str, share: float, test: float) -> ModelFile:
    return file(filters, share, test, kind="shrunk", macs=int(100 * share))


def timed(kind: str, name: str, precision: str, milliseconds: float, macs: int = 40) -> TimedFile:
    names = ("median_ms", "p25_ms", "p75_ms", "batch_32_median_ms", "batch_32_p25_ms", "batch_32_p75_ms")
    numbers = ("runs", "batch_32_runs", "peak_memory_mib", "runtime_memory_mib", "num_threads")
    values: dict[str, Any] = dict.fromkeys(names, milliseconds) | dict.fromkeys(numbers, 1)
    values |= dict.fromkeys(("cpu", "runtime", "sha256"), "")
    return file("", 0, 0.9, TimedFile, name=name, kind=kind, precision=precision, macs=macs, **values)


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [(1, 3.5, "3.5 times less"), (4, 2, "2.0 times more"), (100, 104, "alike"), (104, 100, "alike")],
)
def test_costs_are_compared_as_ratios(one: float, other: float, words: str) -> None:
    assert compare_cost(one, other, "less", "more", "alike") == words


@pytest.mark.parametrize(
    ("accuracy", "size", "gap", "ratio"),
    [
        (0.94, 100, "0.50 points less than", "4.0 times smaller"),
        (0.95, 800, "0.50 points more than", "2.0 times larger"),
    ],
)
def test_shipped_file_is_compared_with_what_it_replaces(accuracy: float, size: int, gap: str, ratio: str) -> None:
    shipped = {"name": "lamp-0.9", "source": "prune", "precision": "int8", "test_accuracy": accuracy}
    dense = file("x", 0, 0.945, name="x-y", gzip_size_bytes=400)
    answer = answer_shipped(shipped | {"gzip_size_bytes": size}, dense, published=0.8958, num_images=10_000)
    assert f"{gap} the dense float32 file of x-y, the chosen model, and gzipped it is {ratio} than that file" in answer
    assert f"{100 * (accuracy - 0.8958):.2f} points more than the 89.58 % that the study published" in answer
    assert "study" not in answer_shipped(shipped | {"gzip_size_bytes": size}, dense, None, 10_000)


def test_choice_tells_how_many_others_do_better_on_test_images() -> None:
    rows = [candidate("a", "x", 0.9), candidate("b", "x", 0.8), candidate("c", "x", 0.95)]
    assert answer_choice(rows[0], rows, "Because.").endswith("it has 90.00 %, and 1 of the other 2 do better.")
    assert answer_choice(rows[2], rows, "Because.").endswith("and no other does better.")
    assert answer_choice(rows[0], rows[:1], "Because.") == "Because. It is the only candidate."


@pytest.mark.parametrize(
    ("test", "under", "helped", "change"),
    [
        (0.95, 0.9, "blur helped: against plain, averaged over 1 model, blur gained 5.00 points (better for", "gained"),
        (0.902, 0.5, "blur helped a little, perhaps by chance: against plain", "changed nothing"),
        (0.88, 0.4, "augmentation did not help: against plain, averaged over 1 model, blur lost 2.00 points", "lost"),
    ],
)
def test_augmentation_is_judged_on_images_as_they_are_and_distorted(
    test: float, under: float, helped: str, change: str
) -> None:
    rows = [
        candidate("a", "plain", 0.9, blur=0.5),
        candidate("a", "blur", test, blur=under),
    ]
    answer = answer_augmentation(rows, "plain", 10_000)
    assert helped in answer
    assert f"trained for, blur {change}" in answer


def test_augmentation_that_changes_nothing_distorts_nothing() -> None:
    rows = [candidate("a", "plain", 0.9), candidate("a", "idle", 0.91)]

    answer = answer_augmentation(rows, "plain", 10_000)

    assert "idle" in answer
    assert "distorted" not in answer


def test_augmentation_without_a_comparison_says_so() -> None:
    rows = [candidate("a", "blur", 0.9)]
    assert "so nothing says whether it helped" in answer_augmentation(rows, None, 100)
    assert "without augmentation" in answer_augmentation([candidate("a", "plain", 0.9)], "plain", 100)


@pytest.mark.parametrize(("large", "verb"), [(0.95, "rises with"), (0.85, "does not always rise with")])
def test_receptive_field_is_set_beside_accuracy(large: float, verb: str) -> None:
    rows = [candidate("small", "x", 0.9), candidate("large", "x", large, px=16)]
    answer = answer_receptive_field(rows[1], rows, 28)
    assert "In large, the last layer on a grid sees 16 x 16 of the 28 x 28 pixels" in answer
    assert f"{verb} the receptive field (90.00 % at 10 px and {100 * large:.2f} % at 16 px)" in answer


def test_arithmetic_names_as_few_layers_as_take_three_quarters() -> None:
    shares = [("conv1", 60, 1), ("conv2", 30, 1), ("dense1", 10, 8)]
    layers = [
        Layer(name, "", "", 1.0, 1.0, macs, 0, 0, 0, parameters, macs / 100, parameters / 10)
        for name, macs, parameters in shares
    ]
    assert answer_arithmetic("tiny", layers) == (
        "tiny takes 100 MACs for an image: conv1 and conv2 take 90 % of them. dense1 holds 80 % of the parameters and "
        "takes 10 % of the MACs."
    )


def test_pruning_names_the_sparsest_model_within_the_limit() -> None:
    rows = [
        step("dense", 0, 0.94, 0.94, 400),
        step("lamp", 0.3, 0.940, 0.942, 300),
        step("lamp", 0.5, 0.939, 0.941, 200),
        step("lamp", 0.9, 0.92, 0.90, 50),
        step("uniform", 0.5, 0.93, 0.92, 200),
        step("uniform", 0.9, 0.80, 0.80, 50),
    ]
    answer = answer_pruning(rows, max_loss=0.005, num_images=10_000)
    assert "lamp reaches 50 % zeros: 94.10 % of the test images right, 0.10 points more than before" in answer
    assert "its gzipped model file is 2.0 times smaller" in answer
    assert "uniform loses more than that at each of its sparsities" in answer
    assert answer.endswith("At 90 % zeros, lamp has 10.00 points more than uniform on the test images.")


def test_small_gap_between_rankings_may_be_chance() -> None:
    rows = [step("dense", 0, 0.94, 0.94), step("lamp", 0.5, 0.94, 0.94), step("uniform", 0.5, 0.94, 0.939)]
    assert "(which may be chance: it is below 0.67 points)" in answer_pruning(rows, 0.005, 10_000)


def test_equal_accuracies_are_called_equal_and_not_chance() -> None:
    pruned = [step("dense", 0, 0.94, 0.94), step("lamp", 0.5, 0.94, 0.93), step("uniform", 0.5, 0.94, 0.93)]
    assert answer_pruning(pruned, 0.005, 10_000).endswith("lamp has as much as uniform on the test images.")
    ways = [shrunk("all", 1.0, 0.94), shrunk("magnitude", 0.5, 0.93), shrunk("scratch", 0.5, 0.93)]
    assert answer_shrinking(ways, 10_000).endswith("and as much as scratch, the last of 2 ways.")


def test_shrinking_names_the_best_way_at_each_share_whichever_it_is() -> None:
    rows = [shrunk("all", 1.0, 0.94), shrunk("magnitude", 0.5, 0.90), shrunk("scratch", 0.5, 0.95)]
    assert answer_shrinking(rows, 10_000) == (
        "At 50.0 % of the MACs, scratch has 95.00 % of the test images right, 1.00 points more than the whole model, "
        "and 5.00 points more than magnitude, the last of 2 ways."
    )
    assert "ways" not in answer_shrinking(rows[:2], 10_000)


def ranked(name: str, test: float, is_on_size_front: bool = True) -> RankedFile:
    values = {"name": name, "precision": "int8", "gzip_size_bytes": 2000, "parameters": 5000, "is_on_macs_front": False}
    values["format"] = "tflite" if is_on_size_front else "keras"
    found: RankedFile = file("", 0, test, RankedFile, is_on_size_front=is_on_size_front, **values)
    return found


def test_frontier_counts_published_results_that_are_better() -> None:
    def published(name: str, test: float, parameters: int) -> PublishedModel:
        return PublishedModel(name, test, 4 * parameters, None, parameters, "")

    ours, big, bad = [ranked("a", 0.94)], published("big", 0.96, 9000), published("bad", 0.9, 9000)
    best = "than the best file here on the test images (94.00 %)"
    assert answer_frontier(ours, [big, bad]).endswith(f"1 is more accurate {best}: big (96.00 %).")
    assert answer_frontier(ours, [bad]).endswith(f"0 are more accurate {best}.")
    assert "published" not in answer_frontier(ours, [])
    assert answer_frontier(ours, [published("big", 0.96, 5000)]).endswith("big (96.00 %); big with no more parameters.")


def test_front_is_that_of_the_validation_images() -> None:
    assert answer_frontier([ranked("a", 0.94), ranked("b", 0.95, is_on_size_front=False)], []) == (
        "1 of 2 model files (1 in LiteRT, 1 in Keras) are beaten by no other on the validation images at their gzipped "
        "size; the smallest of these is a in int8 with 2 kB and 94.00 % of the test images right."
    )


def test_curves_compare_the_last_epoch_and_count_those_that_were_still_rising() -> None:
    accuracies = {"a": [(0.8, 0.85), (0.95, 0.9)], "b": [(0.8, 0.85), (0.95, 0.8)]}
    curves = [
        CurvePoint(model, "x", split, epoch, accuracy)
        for model, epochs in accuracies.items()
        for epoch, both in enumerate(epochs, start=1)
        for split, accuracy in zip(("train", "val"), both, strict=True)
    ]
    answer = answer_curves(candidate("a", "x", 0.9), curves)
    assert "After 2 epochs a-x gets 95.00 % of the training images (as augmented) and 90.00 % of the val" in answer
    assert "5.00 points less than on those" in answer
    assert answer.endswith("1 of 2 candidates were at their best on validation images in the last epoch.")


def test_classes_name_the_worst_and_the_best() -> None:
    shipped = {
        "classes": [{"class": "Bag", "recall": 0.98}, {"class": "Shirt", "recall": 0.79}],
        "most_confused": [{"actual": "Shirt", "predicted": "Bag", "images": 81}],
    }
    assert answer_classes(shipped) == (
        "The shipped file is worst at Shirt (79.00 % found) and best at Bag (98.00 %). Most often, in images: Shirt "
        "taken for Bag (81)."
    )


@pytest.mark.parametrize(
    ("confidence", "words"),
    [(0.85, "too little, by 9.00 points"), (0.99, "too much, by 5.00 points"), (0.94, "just as much as it deserves")],
)
def test_confidence_is_too_small_too_large_or_right(confidence: float, words: str) -> None:
    shipped = {"mean_confidence": confidence, "test_accuracy": 0.94, "calibration_error": 0.08}
    assert f"trusts itself {words}" in answer_confidence(shipped, "a-x", 0.09)


def test_confusion_counts_both_directions_of_a_pair() -> None:
    confusion = {("a", "a"): 90, ("a", "b"): 3, ("b", "a"): 3, ("a", "c"): 4}
    assert answer_confusion(confusion, ["a", "b", "c"], "m") == (
        "m gets 10 of 100 test images wrong. The classes it mixes up most are a and b: 60 % of its mistakes are one "
        "taken for the other."
    )
    assert answer_confusion({("a", "a"): 9}, ["a"], "m") == "m gets every test image right."


def test_times_are_told_where_they_are_known() -> None:
    files = [
        timed("dense", "d", "int8", 0.1),
        timed("pruned", "lamp-0.5", "int8", 0.2),
        timed("dense", "d", "float32", 0.4),
        timed("shrunk", "random-0.5", "float32", 0.1, macs=10),
    ]
    times = {(one.kind, one.name, one.precision): one for one in files}
    assert tell_shipped_time(0.1, 0.4) == (
        "One image takes it 0.100 ms on one thread, 4.0 times faster than the dense float32 file."
    )
    assert (
        "in int8 the pruned files are 2.0 times slower than the dense one (0.200 ms at the median)"
        in tell_pruned_times(times, "d")
    )
    assert tell_shrunk_times([shrunk("random", 0.5, 0.9)], times, "d") == (
        "With 4.0 times fewer MACs, random-0.5 in float32 is 4.0 times faster than the whole model (0.100 ms an image)."
    )


def test_times_that_were_not_measured_are_not_made_up() -> None:
    assert tell_shipped_time(None, 0.4) == "Its time was not measured here."
    assert tell_pruned_times({}, "d") == "Times were not measured here."
    assert tell_shrunk_times([shrunk("random", 0.5, 0.9)], {}, "d") == "Times were not measured here."
