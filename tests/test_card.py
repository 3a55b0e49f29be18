import re
from typing import Any

import pytest

from stages.lib.report.card import format_card

MODEL: dict[str, Any] = {
    "name": "lamp-0.9",
    "source": "prune",
    "precision": "int8",
    "reason": "lamp-0.9 in int8 is the smallest.",
    "sha256": "ab" * 32,
    "size_bytes": 12_345,
    "gzip_size_bytes": 2_345,
    "macs": 37_156_608,
    "parameters": 935_498,
    "sparsity": 0.8985,
    "dataset": "Fashion-MNIST",
    "image_size_px": 28,
    "class_names": ["Shirt", "Bag"],
    "val_accuracy": 0.9412,
    "test_accuracy": 0.9375,
    "mean_confidence": 0.8512,
    "calibration_error": 0.0123,
    "classes": [
        {"class": "Shirt", "recall": 0.8, "precision": 0.75, "images": 600},
        {"class": "Bag", "recall": 0.9901, "precision": 0.985, "images": 500},
    ],
    "most_confused": [{"actual": "Shirt", "predicted": "Bag", "images": 120}],
}
RECIPE = {
    "dense": "third-flip",
    "epochs": 7,
    "optimizer": "muon",
    "learning_rate": 0.003,
    "batch_size": 256,
    "schedule": "one_cycle",
    "label_smoothing": 0.1,
    "scratch_epochs": 0,
    "prune_epochs": 4,
    "prune_batch_size": 96,
    "prune_learning_rates": (0.0005, 0.02),
    "shrink_epochs": 5,
    "calibration_images": 500,
    "weight_bits": 7,
}
LATENCY = {  # as a CSV file holds it
    "sha256": "ab" * 32,
    "cpu": "a CPU",
    "runtime": "ai-edge-litert 2.3.0",
    "num_threads": "1",
    "median_ms": "0.2",
    "p25_ms": "0.19",
    "p75_ms": "0.25",
    "runs": "1000",
    "batch_32_median_ms": "6.4",
    "batch_32_p25_ms": "6.0",
    "batch_32_p75_ms": "7.0",
    "batch_32_runs": "100",
    "peak_memory_mib": "61.6",
    "runtime_memory_mib": "8.5",
}
VERSIONS = {"python": "3.11.9", "numpy": "2.4.6"}


def write_card(recipe: dict[str, Any] = RECIPE, latency: dict[str, str] | None = LATENCY, **changes: Any) -> str:
    return format_card(MODEL | changes, recipe, latency, VERSIONS)


def test_the_card_has_its_sections_in_order() -> None:
    assert re.findall(r"^#+ .*", write_card(), re.MULTILINE) == [
        "# lamp-0.9, int8",
        "## Data",
        "## How it was made",
        "## Accuracy",
        "## Size, time and memory",
        "## Use and limits",
        "## Identity",
    ]


def test_sections_are_set_apart_by_one_empty_line() -> None:
    card = write_card()

    assert "\n\n\n" not in card
    assert re.findall(r"[^\n]\n#", card) == []
    assert card.endswith("\n")


def test_the_card_says_what_the_model_is_why_it_was_chosen_and_how_to_run_it() -> None:
    card = write_card()

    assert "which of 2 classes a grey picture of 28 x 28 pixels shows: Shirt, Bag." in card
    assert "Why this file: lamp-0.9 in int8 is the smallest." in card
    assert "```bash\npython -m stages.tools.predict PHOTO\n```" in card


def test_the_card_names_the_data_their_licence_and_how_many_images_measured() -> None:
    card = write_card()

    assert "copyright Zalando SE, MIT licence" in card
    assert "1,100 test images" in card


def test_each_class_is_a_row_with_recall_and_precision_in_percent() -> None:
    table = re.findall(r"^\|.*\|$", write_card(), re.MULTILINE)

    assert table == [
        "| class | recall | precision |",
        "| --- | ---: | ---: |",
        "| Shirt | 80.00 % | 75.00 % |",
        "| Bag | 99.01 % | 98.50 % |",
    ]


def test_accuracies_and_calibration_are_in_percent() -> None:
    card = write_card()

    assert "93.75 % on test images, 94.12 % on validation images." in card
    assert "a mean confidence of 85.12 %. Expected calibration error: 1.23 %," in card


def test_the_most_frequent_mistakes_are_named() -> None:
    assert "Most often: Shirt taken for Bag (120 images)." in write_card()


def test_a_model_without_mistakes_has_no_most_frequent_one() -> None:
    assert "Most often" not in write_card(most_confused=[])


def test_training_is_told_of_the_model_that_the_file_was_made_of() -> None:
    assert (
        "- Network `third` with augmentation `flip`, as in `params.yaml`, trained for 7 epochs with muon, a learning "
        "rate of 0.003 at most (one_cycle), label smoothing of 0.1 and batches of 256 images.\n"
    ) in write_card()


def test_a_pruned_model_tells_its_zeros_and_that_they_save_no_time() -> None:
    card = write_card()

    assert "Pruned step by step to a sparsity of 0.9, zeros placed as `lamp` says, with 4 epochs" in card
    assert "a learning rate of 0.0005 to 0.02 at most and batches of 96 images" in card
    assert (
        "89.85 % of the weights in all kernels are zero. That makes the gzipped file smaller, not the network" in card
    )


def test_a_pruned_model_whose_steps_had_the_same_learning_rate_tells_it_once() -> None:
    card = write_card(recipe=RECIPE | {"prune_learning_rates": (0.02, 0.02)})

    assert "in all steps together, a learning rate of 0.02 at most" in card


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "magnitude-0.25",
            "at most 0.25 of the MACs: the filters with the smallest weights were removed, with 5 epochs",
        ),
        ("random-0.5", "at most 0.5 of the MACs: filters were removed by chance, with 5 epochs"),
    ],
)
def test_a_shrunk_model_tells_how(name: str, sentence: str) -> None:
    card = write_card(name=name, source="shrink")

    assert f"Made narrower step by step, to {sentence}" in card
    assert "Pruned" not in card


def test_a_network_that_was_trained_anew_was_not_made_of_another() -> None:
    card = write_card(name="scratch-0.5", source="shrink", recipe=RECIPE | {"scratch_epochs": 11})

    assert "`third`, made narrower to at most 0.5 of its MACs, with random initial weights, with augmentation" in card
    assert "trained for 11 epochs" in card
    assert "fine-tuning" not in card


def test_a_dense_model_was_only_trained() -> None:
    card = write_card(name="first-flip", source="train", precision="float32", recipe=RECIPE | {"dense": "first-flip"})

    assert "Network `first` with augmentation `flip`" in card
    assert re.search("Pruned|narrower|Quantized", card) is None


def test_int8_tells_what_its_ranges_were_measured_on() -> None:
    assert (
        "Quantized to int8 throughout after training; the ranges were measured on 500 training images, or on all where "
        "there are fewer. Weights, but those of the first and the last kernel, are rounded to 7 bits.\n"
    ) in write_card()


def test_weights_of_eight_bits_are_not_rounded() -> None:
    card = write_card(recipe=RECIPE | {"weight_bits": 8})

    assert "the ranges were measured on 500 training images, or on all where there are fewer.\n" in card
    assert "rounded" not in card


def test_size_and_cost_are_counts() -> None:
    assert "12,345 bytes, 2,345 gzipped; 935,498 parameters; 37,156,608 MACs an image." in write_card()


def test_times_are_those_of_one_image_and_memory_that_of_the_process() -> None:
    assert (
        "On a CPU, 1 thread, ai-edge-litert 2.3.0: 0.200 ms for one image (median of 1000 runs; quartiles 0.190 and "
        "0.250), 0.200 ms an image in batches of 32 (quartiles 0.188 and 0.219). The process that ran both held at "
        "most 62 MiB, of which this file and its runs took 8.5."
    ) in write_card()


def test_without_times_the_card_says_so() -> None:
    card = write_card(latency=None)

    assert "Time and memory of this very file were not measured." in card
    assert " ms" not in card


@pytest.mark.parametrize("limit", ["arXiv 1906.08255", "some of its labels are wrong", "gets one of its classes"])
def test_limits_are_told(limit: str) -> None:
    assert limit in write_card()


def test_nothing_is_said_of_fashion_mnist_where_the_data_are_others() -> None:
    card = write_card(dataset="another data set")

    assert "Zalando" not in card
    assert "arXiv 1906.08255" not in card
    assert "whose files `dataset.files` in `params.yaml` names" in card
    assert "gets one of its classes" in card


def test_checksum_and_versions_are_told() -> None:
    card = write_card()

    assert f"SHA-256 of `model.tflite`: `{'ab' * 32}`" in card
    assert "Versions where this card was written: python 3.11.9, numpy 2.4.6." in card
