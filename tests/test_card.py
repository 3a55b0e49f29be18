"""The model card says what model.json, params and times say, and no more than is known."""

import re
from typing import Any

import pytest
from sections import replace

from stages.lib.params.load import load_params
from stages.lib.report.answers import tell_class_scores
from stages.lib.report.render import render
from stages.lib.report.wording import describe_data
from stages.lib.results.published import CLASS_NAMES, DATASET_PAPER, STUDY
from stages.lib.storage.variant import Variant, name_finished

PARAMS = load_params()
MODEL: dict[str, Any] = {
    "name": "lamp-0.9",
    "precision": "int8",
    "reason": "lamp-0.9 in int8 is the smallest.",
    "sha256": "ab" * 32,
    "size_bytes": 12_345,
    "gzip_size_bytes": 2_345,
    "macs": 37_156_608,
    "parameters": 935_498,
    "sparsity": 0.8985,
    "device": {
        "macs": 4_123_456,
        "flash_bytes": 96_123,
        "weights_bytes": 84_321,
        "ram_bytes": 22_345,
        "stack_bytes": 321,
        "instructions_cortex_m4": 12_345_678,
        "instructions_cortex_m0plus": 18_765_432,
        "tflite_micro_arena_bytes": 81_376,
    },
    "dataset": "Fashion-MNIST",
    "image_size_px": 28,
    "channels": 1,
    "fit": "garment",
    "background": 255,
    "class_names": list(CLASS_NAMES),
    "use": "import numpy",
    "num_images": {"val": 1_000, "test": 1_100},
    "val_accuracy": 0.9412,
    "test_accuracy": 0.9375,
    "test_balanced_accuracy": 0.895,
    "test_macro_f1": 0.8812,
    "mean_confidence": 0.8512,
    "calibration_error": 0.0123,
    "unscaled_calibration_error": 0.0871,
    "temperature": 0.625,
    "min_confidence": 0.71,
    "answered": {"images": 900, "coverage": 0.8182, "test_accuracy": 0.99},
    "classes": [
        {"class": "Shirt", "recall": 0.8, "precision": 0.75, "images": 600, "predicted": 640},
        {"class": "Bag", "recall": 0.99, "precision": 0.985, "images": 500, "predicted": 0},
    ],
    "most_confused": [{"actual": "Shirt", "predicted": "Bag", "images": 120}],
}
OOD = {
    "num_others": 1_797,
    "others_answered": 0.0123,
    "others_answered_low": 0.008,
    "others_answered_high": 0.019,
    "confidence_auroc": 0.9512,
    "confidence_auroc_low": 0.948,
    "confidence_auroc_high": 0.955,
}
LATENCY = {
    "cpu": "a CPU",
    "runtime": "ai-edge-litert 2.3.0",
    "num_threads": 1,
    "median_ms": 0.2,
    "p25_ms": 0.19,
    "p75_ms": 0.25,
    "runs": 1000,
    "batch_32_median_ms": 6.4,
    "batch_32_p25_ms": 6.0,
    "batch_32_p75_ms": 7.0,
    "peak_memory_mib": 61.6,
    "runtime_memory_mib": 8.5,
}
C_LATENCY = {
    "cpu": "a CPU",
    "compiler": "ziglang 0.17.1",
    "num_threads": 1,
    "c": {"median_ms": 0.05, "p25_ms": 0.04, "p75_ms": 0.06, "runs": 900},
    "int8": {"median_ms": 0.2},
}
FINISHED = name_finished(42)
LAMP = Variant("prune", "lamp", 0.9, 42)


def write_card(variant: Variant = LAMP, changes: dict[str, Any] | None = None, **values: Any) -> str:
    known = {
        "model": MODEL | {"name": variant.name} | (changes or {}),
        "words": describe_data(MODEL | (changes or {})),
        "class_scores": tell_class_scores(MODEL),
        "ood": OOD,
        "variant": variant,
        "network": "third",
        "augmentation": "flip",
        "epochs": 7,
        "pruning": {"epochs": 4, "learning_rates": [0.0005, 0.02]} if variant.source == "prune" else None,
        "params": PARAMS,
        "latency": LATENCY,
        "c_latency": C_LATENCY,
        "trained": "finished",
        "comparison": "worse than it",
        "training_date": "2026-11-23",
        "versions": {"python": "3.11.9", "numpy": "2.4.6"},
    }
    return render("card.md", **known | values)


@pytest.mark.parametrize(
    "variant",
    [
        LAMP,
        Variant("prune", "magnitude-0.5-cost", 0.9, 42),
        Variant("shrink", "random", 0.5, 42),
        Variant("train", "first", "flip", 42),
        FINISHED,
    ],
)
def test_titles_and_paragraphs_are_set_apart_by_one_empty_line(variant: Variant) -> None:
    card = write_card(variant)

    assert re.findall(r"^#+ (.*)", card, re.MULTILINE) == [
        f"{variant.name}, int8",
        "How to use it",
        "On a microcontroller",
        "Data",
        "How it was made",
        "Accuracy",
        "Size, time and memory",
        "Use and limits",
        "Identity",
    ]
    assert "\n\n\n" not in card
    assert re.findall(r"[^\n]\n#+ |^#+ .*\n[^\n]", card) == []
    assert re.findall(r"[.:]\n[A-Z|`]", card) == []
    assert card.startswith("# ")
    assert card.endswith(".\n")


@pytest.mark.parametrize(
    "sentence",
    [
        "which of 10 classes a grey picture of 28 x 28 pixels shows: T-shirt/top, Trouser, ",
        "such as its data hold, light on black, after",
        "one thing, upright, light on black, centred, 28 x 28 pixels of grey.",
        "It knows no colours and no scenes.",
        "Why this file: lamp-0.9 in int8 is the smallest.",
        "a probability, and its likeliest is right for 93.75 % (92.1 to 95.0) of 1,100 test images.",
        "```python\nimport numpy\n```",
        "```bash\npython -m stages.tools.predict PHOTO\n```",
        f"Fashion-MNIST: {DATASET_PAPER}. Weights come from its training images",
        "on its 1,100 test images",
        f"a published study: {STUDY}.",
        "93.75 % (92.1 to 95.0) on test images, 94.12 % (92.5 to 95.4) on validation images. Where all "
        "classes count alike, however many images they have: a balanced accuracy, the mean recall of all classes, of "
        "89.50 %, and a macro-F1, their mean F1, of 88.12 % on test images.",
        "On the same 1,100 test images: worse than it. The test is paired",
        "| class | recall | precision |\n| --- | ---: | ---: |\n| Shirt | 80.00 % (76.6 to 83.0) | "
        "75.00 % (71.5 to 78.2) |\n| Bag | 99.00 % (97.7 to 99.6) | 98.50 % (0.0 to 100.0)",
        "Most often: Shirt taken for Bag (120 images).",
        "a mean confidence of 85.12 %. Expected calibration error: 1.23 %,",
        "`model.tflite`: 12,345 bytes, 2,345 gzipped; 935,498 parameters; 37,156,608 MACs an image.",
        "`model.c` on a Cortex-M4: 96,123 bytes of flash, of which 84,321 are tables of weights; 22,345 bytes of RAM, "
        "image and stack included; 4,123,456 MACs and 12,345,678 instructions an image (18,765,432 on a Cortex-M0+). "
        "Instructions are counted in an emulator; they are neither cycles nor milliseconds,",
        "TensorFlow Lite Micro takes 81,376 bytes of RAM to run `model.tflite`, as a 64-bit machine measures it,",
        "On a CPU, 1 thread, built by ziglang 0.17.1: 0.050 ms for one image in C (median of 900 runs; quartiles 0.040 "
        "and 0.060); in turns with it, 0.200 ms in LiteRT.",
        "```bash\ncc example.c model.c -o classify\n./classify picture.pgm\n```",
        "    Serial.println(model_class_names[model_classify(pixels, buffer)]);",
        "On a CPU, 1 thread, ai-edge-litert 2.3.0: 0.200 ms for one image (median of 1000 runs; quartiles 0.190 and "
        "0.250), 0.200 ms an image in batches of 32 (quartiles 0.188 and 0.219). The process that ran both held at "
        "most 62 MiB, of which this file and its runs took 8.5.",
        "Of 1,797 handwritten digits it is sure of 1.23 % (0.8 to 1.9), and takes none for a digit; a test image has a "
        "higher confidence than a digit in 95.12 % (94.8 to 95.5) of all pairs (AUROC).",
        "some of its labels are wrong",
        f"SHA-256 of `model.tflite`: `{'ab' * 32}`",
        "It was made of `finished`, which was trained on 2026-11-23 with python 3.11.9, numpy 2.4.6.",
    ],
)
def test_the_card_says_what_the_model_is_how_good_and_what_it_costs(sentence: str) -> None:
    assert sentence in write_card()


def test_a_model_without_mistakes_has_no_most_frequent_one() -> None:
    assert "Most often" not in write_card(changes={"most_confused": []})


def test_training_is_told_as_params_say_it() -> None:
    train = replace(PARAMS.train, optimizer="muon", learning_rate=0.003, schedule="one_cycle", batch_size=256)

    assert (
        "- Network `third` with augmentation `flip`, as in `params.yaml`, trained for 7 epochs with muon, a learning "
        "rate of 0.003 at most (one_cycle), label smoothing of 0.1 and batches of 256 images.\n"
    ) in write_card(params=replace(PARAMS, train=replace(train, label_smoothing=0.1)))


@pytest.mark.parametrize(("rates", "said"), [([0.0005, 0.02], "0.0005 to 0.02"), ([0.02], "0.02")])
def test_a_pruned_model_tells_its_zeros_and_what_skips_them(rates: list[float], said: str) -> None:
    params = replace(PARAMS, prune=replace(PARAMS.prune, batch_size=96))

    assert (
        "- Pruned step by step to a sparsity of 0.9, zeros placed as `lamp` says, with 4 epochs of fine-tuning in all "
        "steps together, where the easiest 80 % of the images are seen in every other epoch, a learning rate of "
        f"{said} at most and batches of 96 images: 89.85 % of the weights in all kernels are zero. "
        "LiteRT stores and multiplies them all the same; the C leaves them out of each kernel where that pays.\n"
    ) in write_card(params=params, pruning={"epochs": 4, "learning_rates": rates})


def test_what_was_pruned_by_cost_tells_what_its_step_is_a_share_of() -> None:
    card = write_card(Variant("prune", "cost", 0.9, 42))

    assert (
        "- Pruned step by step until 0.9 of what the weights cost in MACs and in memory was saved, zeros placed as "
        "`cost` says, with 4 epochs"
    ) in card
    assert "narrower" not in card


def test_a_pruned_model_that_was_shrunk_before_tells_both_in_their_order() -> None:
    params = replace(PARAMS, shrink=replace(PARAMS.shrink, epochs=5))
    card = write_card(Variant("prune", "magnitude-0.25-lamp", 0.9, 42), params=params)

    shrunk = card.index(
        "- Made narrower step by step, to at most 0.25 of the MACs: the filters with the smallest weights were "
        "removed, with 5 epochs"
    )
    assert shrunk < card.index("- Pruned step by step to a sparsity of 0.9, zeros placed as `lamp` says, with 4 epochs")


@pytest.mark.parametrize(
    ("way", "target", "sentence"),
    [
        ("magnitude", 0.25, "at most 0.25 of the MACs: the filters with the smallest weights were removed, with 5"),
        ("random", 0.5, "at most 0.5 of the MACs: filters were removed by chance, with 5 epochs"),
    ],
)
def test_a_shrunk_model_tells_how(way: str, target: float, sentence: str) -> None:
    params = replace(PARAMS, shrink=replace(PARAMS.shrink, epochs=5))
    card = write_card(Variant("shrink", way, target, 42), params=params)

    assert f"Made narrower step by step, to {sentence}" in card
    assert "Pruned" not in card


def test_a_network_that_was_trained_anew_was_not_made_of_another() -> None:
    card = write_card(Variant("shrink", "scratch", 0.5, 42), epochs=11)

    assert "`third`, made narrower to at most 0.5 of its MACs, with random initial weights, with augmentation" in card
    assert "trained for 11 epochs" in card
    assert "fine-tuning" not in card


def test_a_dense_model_was_only_trained_and_its_c_skips_nothing() -> None:
    assert re.search("Pruned|narrower|zero", write_card(FINISHED).partition("## Accuracy")[0]) is None
    assert "leaves out the zeros of pruned kernels" in write_card()


@pytest.mark.parametrize(
    ("bits", "rounded"), [(7, "the first, the last and any depthwise kernel, are rounded to 7 bits."), (8, "")]
)
def test_int8_tells_what_its_ranges_were_measured_on_and_what_was_rounded(bits: int, rounded: str) -> None:
    export = replace(PARAMS.export, calibration_images=500, weight_bits=bits)
    card = write_card(params=replace(PARAMS, export=export))

    assert "the ranges were measured on 500 training images, or on all where there are fewer." in card
    assert ("rounded" in card) == bool(rounded)
    assert rounded in card


def test_times_and_versions_that_are_not_known_are_not_made_up() -> None:
    card = write_card(latency=None, c_latency=None, training_date=None, versions={})

    assert "Time and memory of `model.tflite` were not measured." in card
    assert "The time of the C was not measured." in card
    assert "Date and versions of the training are not known here." in card
    assert " ms" not in card


def test_nothing_is_said_of_fashion_mnist_where_the_data_are_others() -> None:
    card = write_card(changes={"dataset": "letters"})

    assert "The data are letters, whose place `dataset.source` in `params.yaml` names" in card
    assert re.search("Fashion|Zalando|arXiv|Elgamiel", card) is None
    assert "gets one of its classes" in card


@pytest.mark.parametrize(
    ("channels", "picture", "limits"),
    [
        (1, "grey picture of 32 x 32 pixels", "- It knows no colours. In training as in `stages.tools.predict`, a "),
        (3, "colour picture of 32 x 32 pixels", "- In training as in `stages.tools.predict`, a "),
    ],
)
def test_what_a_card_says_of_its_inputs_is_true_of_them(channels: int, picture: str, limits: str) -> None:
    others = {"dataset": "pets", "class_names": ["cat", "dog"], "channels": channels, "fit": "pad", "background": 7}
    card = write_card(changes=others | {"image_size_px": 32})

    assert f"which of 2 classes a {picture} shows: cat, dog." in card
    assert f"{limits}picture is laid on a background of 7 of 255 where it is transparent, " in card
    assert ("turned grey, and made square by adding that background" in card) == (channels == 1)
    assert ("32 x 32 pixels of grey." in card, "32 x 32 pixels in colour." in card) == (channels == 1, channels == 3)
    assert re.search("light on black|garment|cloth|Fashion|study|28 x 28", card) is None
    if channels == 3:
        assert "grey" not in card
