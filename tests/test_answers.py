"""The sentences say what the numbers say, whichever way they go."""

from dataclasses import replace
from typing import Any

import pytest

from stages.lib.report.answers import (
    CurvePoint,
    Layer,
    MeasuredCandidate,
    answer_arithmetic,
    answer_audit,
    answer_augmentation,
    answer_choice,
    answer_classes,
    answer_confidence,
    answer_confusion,
    answer_curves,
    answer_device,
    answer_frontier,
    answer_ood,
    answer_pruning,
    answer_receptive_field,
    answer_shipped,
    answer_shrinking,
    compare_cost,
    find_comparison_with_dense,
    tell_comparison,
    tell_device_time,
    tell_lightest,
    tell_pruned_times,
    tell_purpose,
    tell_shipped_time,
    tell_shrunk_times,
)
from stages.lib.report.wording import describe_data
from stages.lib.results.comparisons import (
    AUGMENTATION,
    BETTER,
    CANDIDATES,
    DISTORTED,
    FILES,
    FINISHED,
    UNKNOWN,
    WAYS,
    WORSE,
    Comparison,
)
from stages.lib.results.published import CLASS_NAMES
from stages.lib.results.rows import CLASS_SCORES, ModelFile, PublishedModel, RankedFile
from stages.lib.results.times import TimedC, TimedFile

IMAGES = {"val": 1_000, "test": 10_000}


def candidate(model: str, augmentation: str, test: float, px: int = 10, **under: float) -> MeasuredCandidate:
    return MeasuredCandidate(
        model=model,
        augmentation=augmentation,
        seeds="42",
        val_accuracy=test,
        val_accuracy_sd=None,
        val_loss=0.0,
        val_balanced_accuracy=test,
        val_macro_f1=test,
        macs=100,
        parameters=10,
        receptive_field_px=px,
        test_accuracy=test,
        test_accuracy_sd=None,
        test_balanced_accuracy=test,
        test_macro_f1=test,
        test_loss=0.0,
        calibration_error=0.0,
        under=under,
        training_seconds=None,
        published=None,
    )


def file(way: str, target: float | str, test: float, row_type: type[Any] = ModelFile, **values: Any) -> Any:
    """A pruned file, or what `values` say."""
    known: dict[str, Any] = {
        "name": f"{way}-{target}",
        "kind": "pruned",
        "way": way,
        "target": str(target),
        "seed": 42,
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


def step(ranking: str, target: float, val: float, test: float, size: int = 100, macs: int = 10) -> ModelFile:
    zeros: dict[str, Any] = {"sparsity": target, "macs": macs, "nonzero_macs": round(macs * (1 - target))}
    return file(ranking, target, test, val_accuracy=val, gzip_size_bytes=size, **zeros)


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


def compared(family: str, name: str, reference: str, difference: float, verdict: str | None = None) -> Comparison:
    """A comparison of 10,000 images whose interval is 0.3 points wide to either side; if not told, a clear one."""
    verdict = verdict or (BETTER if difference > 0 else WORSE)
    ends = (round(difference - 0.003, 6), round(difference + 0.003, 6))
    return Comparison(family, name, reference, 10_000, difference, *ends, 0.01, 0.02, verdict)


@pytest.mark.parametrize(
    ("difference", "verdict", "words"),
    [
        (0.005, BETTER, "better than b by 0.50 points (0.20 to 0.80)"),
        (-0.005, WORSE, "worse than b by 0.50 points (0.20 to 0.80)"),
        (-0.002, UNKNOWN, "no difference to b can be told from 10,000 images (-0.20 points, -0.50 to +0.10)"),
        (-0.002, WORSE, "worse than b by 0.20 points (-0.10 to +0.50)"),
    ],
)
def test_verdict_of_a_test_is_told_with_the_interval(difference: float, verdict: str, words: str) -> None:
    assert tell_comparison(compared("f", "a", "b", difference, verdict), "b") == words


DATA = {"dataset": "Fashion-MNIST", "class_names": CLASS_NAMES, "image_size_px": 28, "channels": 1, "fit": "garment"}


@pytest.mark.parametrize(
    ("change", "given"),
    [
        ({}, "In goes a grey picture of 28 x 28 pixels that shows one thing, light on black. Out comes a probability"),
        ({"fit": "pad"}, "In goes a grey picture of 28 x 28 pixels. Out comes"),
        ({"fit": "crop", "channels": 3, "image_size_px": 64}, "In goes a colour picture of 64 x 64 pixels. Out comes"),
    ],
)
def test_what_goes_in_is_told_as_the_data_are(change: dict[str, Any], given: str) -> None:
    told = tell_purpose(["cat", "dog"], describe_data(DATA | change))
    assert told.startswith(given)
    assert told.endswith(" for each of 2 classes: cat and dog.")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"fit": "pad"}, True),
        ({"class_names": list(CLASS_NAMES)}, True),
        ({"dataset": "flowers"}, False),
        ({"class_names": ["cat", "dog"]}, False),
        ({"class_names": CLASS_NAMES[::-1]}, False),
    ],
)
def test_data_are_those_of_the_study_where_name_and_classes_are(change: dict[str, Any], expected: bool) -> None:
    assert describe_data(DATA | change).is_of_study == expected


def test_what_was_left_out_is_not_compared() -> None:
    assert tell_comparison(None, "b") == "not compared with b, because export left out its file in float32"


def test_shipped_file_is_compared_with_what_it_replaces() -> None:
    shipped = {"name": "lamp-0.9", "source": "prune", "precision": "int8", "test_accuracy": 0.94}
    shipped |= {"num_images": IMAGES}
    rows = [
        compared(FILES["pruned"], name, "finished", gap) for name, gap in (("lamp-0.9", 0.1), ("lamp-0.9 int8", -0.005))
    ]
    rows.insert(0, compared(FILES["shrunk"], "lamp-0.9 int8", "finished", 0.2))
    found = find_comparison_with_dense(rows, "lamp-0.9", "prune")
    answer = answer_shipped(shipped, 0.8958, found, "accuracy")
    assert "gets 94.00 % (93.5 to 94.4) of 10,000 test images right: worse than the dense float32 file of the" in answer
    assert "finished model by 0.50 points (0.20 to 0.80). It has" in answer
    assert "It has 4.42 points more than the 89.58 % (89.0 to 90.2) that the study published" in answer
    assert "study" not in answer_shipped(shipped, None, found, "accuracy")
    assert "chosen by" not in answer

    shipped |= {"val_macro_f1": 0.871, "test_macro_f1": 0.86}
    by_f1 = answer_shipped(shipped, None, found, "macro_f1")
    assert by_f1.endswith("It was chosen by its macro-F1 on validation images, 87.10 %; on test images it is 86.00 %.")


DEVICE = {
    "macs": 4_000_000,
    "flash_bytes": 96_123,
    "weights_bytes": 84_000,
    "ram_bytes": 22_345,
    "instructions_cortex_m4": 12_000_000,
    "tflite_micro_arena_bytes": 81_376,
}
CONTROL = {"flash_bytes": 1, "control_flash_bytes": 962_000, "control_instructions_cortex_m4": 114_000_000}
VERIFIED: dict[str, Any] = {"images": 10_000, "different_from_reference": 0, "xnnpack_different_logits": 1_234}
VERIFIED |= {"xnnpack_different_classes": 5, "test_accuracy": 0.9379}


def in_c(name: str, flash: int | None, is_on_front: bool, way: str = "", **changes: Any) -> RankedFile:
    costs = {"executed_macs": 1, "flash_bytes": flash, "ram_bytes": 1, "instructions": 1, "arena_bytes": 1}
    fronts = {f"is_on_{cost}_front": False for cost in ("size", "macs", "ram", "instructions")}
    values = {"name": name, "kind": "dense", "precision": "int8", "format": "tflite", "is_on_flash_front": is_on_front}
    scores = dict.fromkeys(CLASS_SCORES, 0.9)
    found: RankedFile = file(way, 0, 0.94, RankedFile, **values | costs | scores | fronts | changes)
    return found


def pruned_in_c(name: str, val_accuracy: float, instructions: int) -> RankedFile:
    costs = {"val_accuracy": val_accuracy, "instructions": instructions}
    return in_c(name, 99_000, False, kind="pruned", way=name.partition("-")[0], **costs)


IN_KERAS = in_c("finished", None, False, format="keras", precision="float32", val_accuracy=0.945, instructions=None)


def test_what_the_shipped_file_costs_on_a_device_stands_beside_the_same_generator_without_zeros_skipped() -> None:
    files = [
        in_c("big", 962_000, True),
        in_c("small", 50_000, True),
        in_c("bad", 60_000, False),
        IN_KERAS,
    ]
    assert answer_device({"device": DEVICE, "size_bytes": 950_384}, CONTROL, files, VERIFIED, IMAGES) == (
        "In C on a Cortex-M4, the shipped file takes 96.1 kB of flash, of which 84.0 kB are tables of weights, 22.3 "
        "kB of RAM, image and stack included, and 12.0 million instructions for an image, 9.5 times fewer than C that "
        "stores and multiplies every weight of the finished model, which takes 114.0 million, and 962.0 kB of flash, "
        "against which it is 10.0 times less. "
        "Instructions are counted in an emulator; they are neither cycles nor milliseconds. The .tflite file alone is "
        "950.4 kB, and TensorFlow Lite Micro takes 81.4 kB of RAM to run it, as a 64-bit machine measures it, which "
        "over-reports what describes the tensors. On 10,000 of 10,000 test images, its int8 output is, bit for bit, "
        "that of LiteRT's reference kernels; LiteRT's usual ones (XNNPACK) round otherwise, and differ on 1,234, in "
        "the class on 5. So the C has 93.79 % (93.3 to 94.2) of them right; all other accuracies of files here are "
        "those of LiteRT's usual kernels. 2 of 3 files in C are beaten by no other on the validation images at their "
        "flash: small with 50.0 kB and 94.00 % (93.5 to 94.4) of the test images right to big with 962.0 kB and 94.00 "
        "% (93.5 to 94.4) of the test images right."
    )


def test_of_each_ladder_the_file_with_the_fewest_instructions_is_told_that_loses_next_to_nothing() -> None:
    files = [
        IN_KERAS,  # 94.5 % of the validation images right
        in_c("third-x", 950_000, False, val_accuracy=0.95, instructions=1),
        pruned_in_c("lamp-0.5", 0.945, 40_000_000),
        pruned_in_c("lamp-0.9", 0.94, 12_000_000),
        pruned_in_c("lamp-0.95", 0.9399, 7_000_000),
        pruned_in_c("cost-0.9", 0.941, 6_500_000),
        pruned_in_c("uniform-0.9", 0.93, 6_000_000),
    ]

    assert tell_lightest(files) == (
        "With at most 0.5 points of validation accuracy lost to the finished model, the fewest instructions are 12.0 "
        "million by lamp (lamp-0.9) and 6.5 million by cost (cost-0.9). "
    )
    assert tell_lightest(files[:2]) == tell_lightest([IN_KERAS, files[-1]]) == ""


def test_without_c_of_the_finished_model_nothing_is_compared_with_it() -> None:
    answer = answer_device({"device": DEVICE, "size_bytes": 1}, None, [IN_KERAS, in_c("a", 9, True)], VERIFIED, IMAGES)

    assert "12.0 million instructions for an image. Instructions are counted" in answer


def test_a_front_of_one_file_in_c_is_told_once() -> None:
    files = [IN_KERAS, in_c("a", 9, True)]
    answer = answer_device({"device": DEVICE, "size_bytes": 1}, CONTROL, files, VERIFIED, IMAGES)
    assert answer.endswith("at their flash: a with 0.0 kB and 94.00 % (93.5 to 94.4) of the test images right.")


@pytest.mark.parametrize(
    ("int8", "float32", "told"),
    [
        (
            0.2,
            0.75,
            "4.0 times faster than the int8 file (0.200 ms) and 15.0 times faster than the float32 file (0.750",
        ),
        (0.05, None, "about as fast as the int8 file (0.050 ms) of the same model in LiteRT."),
    ],
)
def test_the_time_of_the_c_stands_beside_those_of_litert(int8: float, float32: float | None, told: str) -> None:
    timed = TimedC("a", "pruned", 0.05, 0.04, 0.06, 100, int8, float32, 1, "a CPU", "ziglang 1", "ai-edge-litert 2", "")
    text = tell_device_time(timed)
    assert text.startswith(f"On one thread of a CPU, an image takes the C 0.050 ms: {told}")
    assert tell_device_time(None) == "The time of its C was not measured here."


FINISHED_FILE = file("finished", "", 0.95, name="finished")
BECAME = (
    "Trained for longer, it is the finished model, from which all that follows is made: 95.00 % (94.6 to 95.4) of the "
    "test images right, better than before by 5.00 points (4.70 to 5.30)."
)


def test_choice_tells_how_many_others_do_better_on_test_images_and_what_longer_training_gave() -> None:
    gain = compared(FINISHED, "finished", "a-x", 0.05)
    rows = [compared(CANDIDATES, "b", "a", -0.01), compared(CANDIDATES, "c", "a", 0.01)]
    rows += [compared(CANDIDATES, name, "a", 0.001, UNKNOWN) for name in ("d", "e")]
    rows += [compared("another", "f", "a", 0.1), gain]
    assert answer_choice(candidate("a", "x", 0.9), "Because.", FINISHED_FILE, rows, IMAGES, "accuracy") == (
        "Because. On the test images, which chose nothing, it has 90.00 % (89.4 to 90.6): of the other 4, 1 does "
        "better and 1 worse; for 2, no difference can be told from 10,000 images. Paired tests on the same images, "
        f"corrected (Holm) within a family of 4. {BECAME}"
    )
    alone = answer_choice(candidate("a", "x", 0.9), "It is alone.", FINISHED_FILE, [gain], IMAGES, "accuracy")
    assert alone == f"It is alone. {BECAME}"
    balanced = replace(candidate("a", "x", 0.9), test_balanced_accuracy=0.85)
    by_it = answer_choice(balanced, "It is alone.", FINISHED_FILE, [gain], IMAGES, "balanced_accuracy")
    assert by_it == f"It is alone. On the test images, its balanced accuracy is 85.00 %. {BECAME}"


AUGMENTED = [candidate(model, name, 0.9) for model in ("a", "b") for name in ("plain", "blur", "turn")]


def test_augmentation_is_judged_on_images_as_they_are_and_distorted() -> None:
    rows = [
        compared(AUGMENTATION, "a-blur", "a-plain", 0.03),
        compared(AUGMENTATION, "a-turn", "a-plain", -0.01),
        compared(AUGMENTATION, "b-blur", "b-plain", 0.001, UNKNOWN),
        compared(AUGMENTATION, "b-turn", "b-plain", -0.02),
        compared(DISTORTED, "a-blur", "a-plain", 0.2),
        compared(DISTORTED, "b-blur", "b-plain", 0.4),
    ]
    assert answer_augmentation(AUGMENTED, "plain", rows, 5, 0.5) == (
        "On test images as they are, blur made 1 of 2 models better: against plain and averaged over 2 models, blur "
        "gained 1.55 points (better for 1 and no difference can be told for 1) and turn lost 1.50 points (worse for "
        "2). On test images distorted in the way that the model was trained for, blur gained 30.00 points (better for "
        "2). Paired tests on the same images, corrected (Holm) within families of 4 and 2. They tell these models "
        "apart, each after 5 epochs of 50 % of the training images; another seed, or another length of training, would "
        "give others."
    )


def test_augmentation_that_changes_nothing_distorts_nothing_and_makes_nothing_better() -> None:
    rows = [candidate("a", "plain", 0.9), candidate("a", "idle", 0.9)]
    answer = answer_augmentation(rows, "plain", [compared(AUGMENTATION, "a-idle", "a-plain", 0.0, UNKNOWN)], 1, 1.0)
    told = (
        "of no augmentation can it be told that it made a model better: against plain and averaged over 1 model, idle"
    )
    assert f"{told} changed nothing" in answer
    assert "distorted" not in answer


def test_means_over_seeds_are_told_apart_from_tests_of_one_seed() -> None:
    rows = [replace(one, seeds="42 43") for one in AUGMENTED]
    tests = [compared(AUGMENTATION, "a-blur", "a-plain", 0.0, UNKNOWN)]
    told = "Accuracies are means over seeds; the tests compare the models of seed 42."
    assert told in answer_augmentation(rows, "plain", tests, 1, 1.0)
    assert told not in answer_augmentation(AUGMENTED, "plain", tests, 1, 1.0)


def test_augmentation_without_a_comparison_says_so() -> None:
    rows = [candidate("a", "blur", 0.9)]
    assert "so nothing says whether it helped" in answer_augmentation(rows, None, [], 1, 1.0)
    assert "without augmentation" in answer_augmentation([candidate("a", "plain", 0.9)], "plain", [], 1, 1.0)


@pytest.mark.parametrize(("large", "verb"), [(0.95, "rises with"), (0.85, "does not always rise with")])
def test_receptive_field_is_set_beside_accuracy(large: float, verb: str) -> None:
    rows = [candidate("small", "x", 0.9), candidate("large", "x", large, px=16)]
    answer = answer_receptive_field(rows[1], rows, 28, IMAGES)
    assert "In large, the last layer on a grid sees 16 x 16 of the 28 x 28 pixels" in answer
    assert f"{verb} the receptive field: 90.00 % (88.0 to 91.7) at 10 px and {100 * large:.2f} % (" in answer


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
    tests = [
        compared(FILES["pruned"], "lamp-0.5", "dense-0", 0.001, UNKNOWN),
        compared(WAYS["pruned"], "uniform-0.9", "lamp-0.9", -0.1),
    ]
    assert answer_pruning(rows, tests, IMAGES) == (
        "With at most 0.5 points of validation accuracy lost, lamp reaches 50.0 % zeros, and 50.0 % of the "
        "MACs have another weight: "
        "94.10 % (93.6 to 94.5) of the test images right, no difference to dense-0 can be told from 10,000 images "
        "(+0.10 points, -0.20 to +0.40), "
        "and its gzipped model file is 2.0 times smaller; uniform loses more than that at each of its steps. At "
        "90 % zeros, lamp: better than uniform by 10.00 points (9.70 to 10.30). What is compared are the LiteRT files "
        "in float32. Paired tests on the same images, corrected (Holm) within families of 1 and 1."
    )


def test_pruning_by_cost_or_of_a_shrunk_model_has_its_own_zeros_and_macs_and_no_rival() -> None:
    rows = [
        step("dense", 0, 0.94, 0.94, 400, macs=100),
        step("lamp", 0.9, 0.94, 0.94, 50, macs=100),
        step("cost", 0.9, 0.94, 0.94, 50, macs=100),
        step("magnitude-0.5-cost", 0.9, 0.94, 0.94, 40, macs=48),
    ]
    answer = answer_pruning(rows, [], IMAGES)
    assert (
        "magnitude-0.5-cost reaches 90.0 % zeros, and 5.0 % of the MACs have another weight: " in answer
    )  # of those of the dense model
    assert "cost reaches 90.0 % zeros, and 10.0 % of the MACs have another weight: " in answer
    assert "At 90 % zeros" not in answer


def test_shrinking_names_the_best_way_at_each_share_whichever_it_is() -> None:
    rows = [shrunk("all", 1.0, 0.94), shrunk("magnitude", 0.5, 0.90), shrunk("scratch", 0.5, 0.95)]
    tests = [
        compared(FILES["shrunk"], "scratch-0.5", "all-1.0", 0.01),
        compared(WAYS["shrunk"], "magnitude-0.5", "scratch-0.5", -0.05),
    ]
    assert answer_shrinking(rows, tests, IMAGES) == (
        "At 50.0 % of the MACs, scratch has 95.00 % (94.6 to 95.4) of the test images right: better than the whole "
        "model by 1.00 points (0.70 to 1.30); better than magnitude (the last of 2 ways) by 5.00 points (4.70 to "
        "5.30). What is compared are the LiteRT files in float32. Paired tests on the same images, corrected (Holm) "
        "within families of 1 and 1."
    )
    assert "ways" not in answer_shrinking(rows[:2], tests[:1], IMAGES)


def ranked(name: str, test: float, is_on_size_front: bool = True) -> RankedFile:
    kind = "tflite" if is_on_size_front else "keras"
    values: dict[str, Any] = {
        "test_accuracy": test,
        "val_accuracy": test,
        "gzip_size_bytes": 2000,
        "parameters": 5000,
        "format": kind,
    }
    return replace(in_c(name, 1, False), **values, is_on_size_front=is_on_size_front)


def test_frontier_counts_published_results_that_are_better() -> None:
    def published(name: str, test: float, parameters: int) -> PublishedModel:
        return PublishedModel(name, test, 4 * parameters, None, parameters, "")

    ours, big, bad = [ranked("a", 0.94)], published("big", 0.96, 9000), published("bad", 0.9, 9000)
    best = (
        "on the test images than the file here that is the best on validation images, which has 94.00 % (93.5 to 94.4)"
    )
    assert f"1 is more accurate {best}: big with 96.00 % (95.6 to 96.4). Without" in answer_frontier(
        ours, [big, bad], IMAGES
    )
    assert f"0 are more accurate {best}. Without their predictions" in answer_frontier(ours, [bad], IMAGES)
    assert "published" not in answer_frontier(ours, [], IMAGES)
    with_fewer = answer_frontier(ours, [published("big", 0.96, 5000)], IMAGES)
    assert "big with 96.00 % (95.6 to 96.4); big with no more parameters." in with_fewer


def test_front_is_that_of_the_validation_images() -> None:
    assert answer_frontier([ranked("a", 0.94), ranked("b", 0.95, is_on_size_front=False)], [], IMAGES) == (
        "1 of 2 model files (1 in LiteRT, 1 in Keras) are beaten by no other on the validation images at their gzipped "
        "size; the smallest of these is a in int8 with 2 kB and 94.00 % (93.5 to 94.4) of the test images right."
    )


def test_curves_compare_the_last_epoch_and_count_those_that_were_still_rising() -> None:
    accuracies = {"a": [(0.8, 0.85), (0.95, 0.9)], "b": [(0.8, 0.85), (0.95, 0.8)]}
    curves = [
        CurvePoint(model, "x", split, epoch, accuracy)
        for model, epochs in accuracies.items()
        for epoch, both in enumerate(epochs, start=1)
        for split, accuracy in zip(("train", "val"), both, strict=True)
    ]
    answer = answer_curves(candidate("a", "x", 0.9), curves, IMAGES)
    assert (
        "After 2 epochs a-x gets 95.00 % of the training images (as augmented) and 90.00 % (88.0 to 91.7) of" in answer
    )
    assert "5.00 points less than on those" in answer
    assert answer.endswith("1 of 2 candidates were at their best on validation images in the last epoch.")


def test_classes_name_the_worst_and_the_best() -> None:
    shipped = {
        "classes": [
            {"class": "Bag", "recall": 0.98, "images": 1000},
            {"class": "Shirt", "recall": 0.79, "images": 1000},
        ],
        "most_confused": [{"actual": "Shirt", "predicted": "Bag", "images": 81}],
        "test_balanced_accuracy": 0.885,
        "test_macro_f1": 0.884,
    }
    assert answer_classes(shipped) == (
        "The shipped file is worst at Shirt, of which it finds 79.00 % (76.4 to 81.4), and best at Bag with 98.00 % "
        "(96.9 to 98.7). Over all test images, it has a balanced accuracy, the mean recall of all classes, of 88.50 %, "
        "and a macro-F1, their mean F1, of 88.40 %. Most often, in images: Shirt taken for Bag (81)."
    )


SURE = {
    "mean_confidence": 0.93,
    "test_accuracy": 0.94,
    "calibration_error": 0.008,
    "unscaled_calibration_error": 0.087,
    "temperature": 0.6125,
    "min_confidence": 0.75,
    "answered": {"images": 8000, "coverage": 0.8, "test_accuracy": 0.99},
    "num_images": IMAGES,
}


def test_what_the_temperature_gave_and_what_is_answered_is_told() -> None:
    assert answer_confidence(SURE, 0.09).partition("are right. ")[2] == (
        "Its calibration error is 0.80 %; it would be 8.70 % without the temperature of 0.6125 that was fitted on "
        "validation images, and is 9.00 % in the finished model, which has none. At a confidence of 75.00 % or more, "
        "which validation images chose, it is sure: so it answers 80.00 % (79.2 to 80.8) of the test images, "
        "and 99.00 % (98.8 to 99.2) of these answers are right."
    )
    nothing = answer_confidence(SURE | {"answered": {"images": 0, "coverage": 0.0}}, 0.09)
    assert nothing.endswith("It is sure of no test image, by the confidence that validation images chose.")


@pytest.mark.parametrize(
    ("name", "other"), [("Fashion-MNIST", ""), ("scans", ", which are other things unless these data are digits")]
)
def test_what_digits_are_taken_for_sure_is_told_with_both_scores(name: str, other: str) -> None:
    shares = {"known_answered": 0.8, "others_answered": 0.01, "confidence_auroc": 0.95, "energy_score_auroc": 0.9}
    shares |= {"confidence_fpr_at_95_tpr": 0.3, "energy_score_fpr_at_95_tpr": 0.4}
    ends = {
        f"{name}_{end}": share + by for name, share in shares.items() for end, by in (("low", -0.01), ("high", 0.02))
    }
    ood = {"num_known": 10_000, "num_others": 1_797, **shares, **ends}
    assert answer_ood(ood, describe_data(DATA | {"dataset": name})) == (
        "The shipped file has learned its classes alone, and calls whatever it is shown one of them. It is sure enough "
        f"to answer for 1.00 % (0.0 to 3.0) of 1,797 handwritten digits{other}, and for 80.00 % (79.0 to 82.0) of "
        "the 10,000 test images. Of a test image and a digit, the test image has the higher confidence in 95.00 % "
        "(94.0 to 97.0) of all pairs (AUROC), and the higher energy score in 90.00 % (89.0 to 92.0). A limit that "
        "lets in 95 % of the test images lets in 30.00 % (29.0 to 32.0) of the digits by confidence, and 40.00 % "
        "(39.0 to 42.0) by energy score. Digits are thin lines: what fills the picture may fool it far more often."
    )


@pytest.mark.parametrize(
    ("confidence", "words"),
    [(0.85, "too little, by 9.00 points"), (0.99, "too much, by 5.00 points"), (0.94, "just as much as it deserves")],
)
def test_confidence_is_too_small_too_large_or_right(confidence: float, words: str) -> None:
    shipped = SURE | {"mean_confidence": confidence}
    answer = answer_confidence(shipped, 0.09)
    assert f"trusts itself {words}" in answer
    assert "94.00 % (93.5 to 94.4) of its answers are right" in answer


def test_confusion_counts_both_directions_of_a_pair() -> None:
    confusion = {("a", "a"): 90, ("a", "b"): 3, ("b", "a"): 3, ("a", "c"): 4}
    assert answer_confusion(confusion, ["a", "b", "c"]) == (
        "The finished model gets 10 of 100 test images wrong. The classes it mixes up most are a and b: 60 % of "
        "its mistakes are one taken for the other."
    )
    assert answer_confusion({("a", "a"): 9}, ["a"]) == "The finished model gets every test image right."


def test_times_are_told_where_they_are_known() -> None:
    files = [
        timed("dense", "finished", "int8", 0.1),
        timed("pruned", "lamp-0.5", "int8", 0.2),
        timed("dense", "finished", "float32", 0.4),
        timed("shrunk", "random-0.5", "float32", 0.1, macs=10),
    ]
    times = {(one.kind, one.name, one.precision): one for one in files}
    assert tell_shipped_time(0.1, 0.4) == (
        "In LiteRT, an image takes it 0.100 ms on one thread, 4.0 times faster than the dense float32 file."
    )
    assert (
        "in int8 the pruned files are 2.0 times slower than the dense one (0.200 ms at the median)"
        in tell_pruned_times(times)
    )
    assert tell_shrunk_times([shrunk("random", 0.5, 0.9)], times) == (
        "With 4.0 times fewer MACs, random-0.5 in float32 is 4.0 times faster than the whole model (0.100 ms an image)."
    )


def make_audit(exact: int, near: int, **parts: tuple[int, float]) -> dict[str, Any]:
    """Makes data/audit/metrics.json of these pairs, of the images and the accuracy of each part."""
    none = {"exact": 0, "near": 0, "two_labels": 0}
    measured = {name: {"images": images, "accuracy": accuracy} for name, (images, accuracy) in parts.items()}
    return {
        "min_similarity": 0.995,
        "duplicates": {"files": {"train": none | {"near": near}, "train_t10k": none | {"exact": exact}}},
        "suspects": {"val": {"images": 2_000, "suspects": 7}, "test": {"images": 1_000, "suspects": 0}},
        "test_accuracy": measured,
    }


def test_the_images_are_told_to_hold_what_the_audit_counted() -> None:
    parts = {"all": (1_000, 0.9), "without_duplicates": (998, 0.8998), "with_duplicates": (2, 1.0)}
    assert answer_audit(make_audit(1, 90, **parts)) == (
        "The original files hold 1 pair of equal images and 90 pairs of near duplicates, whose pixels correlate by "
        "0.995 or more. Of the 1,000 test images, 2 have such a duplicate among the training images: the finished "
        "model gets 100.00 % (34.2 to 100.0) of these right, 89.98 % (88.0 to 91.7) of the others and 90.00 % (88.0"
        " to 91.7) of all. By what the candidates say, the labels of 7 of 2,000 validation images and 0 of 1,000 "
        "test images are in doubt (confident learning)."
    )


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"without_duplicates": (10, 0.9)}, "images, none has such a duplicate among the training images. By"),
        ({"without_duplicates": (9, 8 / 9), "with_duplicates": (1, 1.0)}, "images, 1 has such a duplicate"),
        ({"with_duplicates": (10, 0.9)}, "of these right and 90.00 % (59.6 to 98.2) of all. By"),
    ],
)
def test_parts_of_the_test_images_that_are_empty_are_not_told_of(parts: dict[str, Any], told: str) -> None:
    text = answer_audit(make_audit(0, 0, all=(10, 0.9), **parts))

    assert text.startswith("The original files hold no pairs of equal images and no pairs of near duplicates, ")
    assert told in text


def test_times_that_were_not_measured_are_not_made_up() -> None:
    assert tell_shipped_time(None, 0.4) == "Its time in LiteRT was not measured here."
    assert tell_pruned_times({}) == "Times were not measured here."
    assert tell_shrunk_times([shrunk("random", 0.5, 0.9)], {}) == "Times were not measured here."
