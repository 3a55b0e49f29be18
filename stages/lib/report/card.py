"""Writes the model card of the file that is shipped, in Markdown. No TensorFlow.

What a card should say: Mitchell et al. 2019, Model Cards for Model Reporting, arXiv 1810.03993.
"""

from collections.abc import Mapping
from typing import Any

from stages.lib.results.tables import format_table

FASHION_MNIST = "Fashion-MNIST"
SHRINKING = {
    "magnitude": "the filters with the smallest weights were removed",
    "random": "filters were removed by chance",
}


def format_card(
    model: Mapping[str, Any], recipe: Mapping[str, Any], latency: Mapping[str, str] | None, versions: Mapping[str, str]
) -> str:
    """Writes the card.

    Args:
        model: the content of model.json.
        recipe: `dense`, the model that the file was made of, as `<network>-<augmentation>`; `epochs`, `optimizer`,
            `learning_rate`, `batch_size`, `schedule` and `label_smoothing` of its training; of a pruned file
            `prune_epochs` of all steps up to its own, the lowest and the highest of their `prune_learning_rates`, and
            `prune_batch_size`; `shrink_epochs` of each step;
            `scratch_epochs` of a network that was trained anew; `calibration_images`; `weight_bits`.
        latency: what this file took where it was timed, a row of data/frontier/latency.csv; None if it was not.
        versions: by package.
    """
    sections = {
        f"# {model['name']}, {model['precision']}": _describe(model),
        "## Data": _describe_data(model),
        "## How it was made": _describe_making(model, recipe),
        "## Accuracy": _describe_accuracy(model),
        "## Size, time and memory": _describe_cost(model, latency),
        "## Use and limits": _describe_limits(model),
        "## Identity": _describe_identity(model, versions),
    }
    return "\n".join(f"{title}\n\n{text}" for title, text in sections.items())


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _describe(model: Mapping[str, Any]) -> str:
    size = model["image_size_px"]
    return (
        f"A small convolutional network that tells which of {len(model['class_names'])} classes a grey "
        f"picture of {size} x {size} pixels shows: {', '.join(model['class_names'])}. `model.tflite` runs in LiteRT; "
        "`model.json` says the same as this card to a program. Run it on a photo:\n\n"
        "```bash\npython -m stages.tools.predict PHOTO\n```\n\n"
        f"Why this file: {model['reason']}\n"
    )


def _describe_data(model: Mapping[str, Any]) -> str:
    num_images = sum(row["images"] for row in model["classes"])
    origin = (
        "Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747), copyright Zalando SE, MIT licence."
        if model["dataset"] == FASHION_MNIST
        else "The data set whose files `dataset.files` in `params.yaml` names; origin and licence are not known here."
    )
    return (
        f"{origin} Weights come from its training images, every choice from validation images that were held out of "
        "them. The "
        f"measurements below are on its {num_images:,} test images, which chose nothing, where nothing else is said.\n"
    )


def _describe_making(model: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    network, augmentation = recipe["dense"].split("-")
    way, _, target = model["name"].partition("-")
    is_scratch = model["source"] == "shrink" and way == "scratch"
    shape = f", made narrower to at most {target} of its MACs, with random initial weights," if is_scratch else ""
    lines = [
        f"Network `{network}`{shape} with augmentation `{augmentation}`, as in `params.yaml`, trained for "
        f"{recipe['scratch_epochs'] if is_scratch else recipe['epochs']} epochs with {recipe['optimizer']}, a learning "
        f"rate of {recipe['learning_rate']:g} at most ({recipe['schedule']}), label smoothing of "
        f"{recipe['label_smoothing']:g} and batches of {recipe['batch_size']} images."
    ]
    if model["source"] == "prune":
        rates = " to ".join(f"{rate:g}" for rate in dict.fromkeys(recipe["prune_learning_rates"]))
        lines.append(
            f"Pruned step by step to a sparsity of {target}, zeros placed as `{way}` says, with "
            f"{recipe['prune_epochs']} epochs of fine-tuning in all steps together, a learning rate of {rates} at most "
            f"and batches of {recipe['prune_batch_size']} images: {_percent(model['sparsity'])} of the weights in all "
            "kernels are zero. That makes the gzipped file smaller, not the network faster."
        )
    if model["source"] == "shrink" and not is_scratch:
        lines.append(
            f"Made narrower step by step, to at most {target} of the MACs: {SHRINKING[way]}, with "
            f"{recipe['shrink_epochs']} epochs of fine-tuning in each step."
        )
    if model["precision"] == "int8":
        bits = recipe["weight_bits"]
        lines.append(
            "Quantized to int8 throughout after training; the ranges were measured on "
            f"{recipe['calibration_images']} training images, or on all where there are fewer."
            + (f" Weights, but those of the first and the last kernel, are rounded to {bits} bits." if bits < 8 else "")
        )
    return "".join(f"- {line}\n" for line in lines)


def _describe_accuracy(model: Mapping[str, Any]) -> str:
    rows = [[row["class"], _percent(row["recall"]), _percent(row["precision"])] for row in model["classes"]]
    confused = [
        f"{row['actual']} taken for {row['predicted']} ({row['images']} images)" for row in model["most_confused"]
    ]
    return (
        f"{_percent(model['test_accuracy'])} on test images, {_percent(model['val_accuracy'])} on validation "
        "images.\n\n"
        f"{format_table(['class', 'recall', 'precision'], rows)}\n"
        + (f"Most often: {'; '.join(confused)}.\n\n" if confused else "")
        + f"Its answers are given with a mean confidence of {_percent(model['mean_confidence'])}. Expected calibration "
        f"error: {_percent(model['calibration_error'])}, the mean distance of the confidence in an answer from the "
        "share of such answers that are right.\n"
    )


def _describe_cost(model: Mapping[str, Any], latency: Mapping[str, str] | None) -> str:
    text = (
        f"{model['size_bytes']:,} bytes, {model['gzip_size_bytes']:,} gzipped; {model['parameters']:,} parameters; "
        f"{model['macs']:,} MACs an image.\n\n"
    )
    if latency is None:
        return f"{text}Time and memory of this very file were not measured.\n"
    median, p25, p75 = (float(latency[name]) for name in ("median_ms", "p25_ms", "p75_ms"))
    median_32, p25_32, p75_32 = (float(latency[f"batch_32_{name}"]) / 32 for name in ("median_ms", "p25_ms", "p75_ms"))
    return (
        f"{text}On {latency['cpu']}, {latency['num_threads']} thread, {latency['runtime']}: {median:.3f} ms for one "
        f"image (median of {latency['runs']} runs; quartiles {p25:.3f} and {p75:.3f}), {median_32:.3f} ms an image in "
        f"batches of 32 (quartiles {p25_32:.3f} and {p75_32:.3f}). The process that ran both held at most "
        f"{float(latency['peak_memory_mib']):.0f} MiB, of which this file and its runs took "
        f"{float(latency['runtime_memory_mib']):.1f}.\n"
    )


def _describe_limits(model: Mapping[str, Any]) -> str:
    size = model["image_size_px"]
    lines = [
        "Meant for teaching, for comparisons, and for sorting pictures like those of the data set: one thing, "
        f"upright, light on black, centred, {size} x {size} pixels of grey.",
        "Whatever it is shown gets one of its classes, people, other objects and noise included: it cannot say that it "
        "does not know, and its confidence is no test for that.",
        "It knows no colours and no scenes. Photos are brought to the form of the data set before it sees them; how "
        "accurate it is on photos was not measured.",
    ]
    if model["dataset"] == FASHION_MNIST:
        lines.append("Its products lie alone on a plain background: it knows none that somebody wears.")
        lines.append(
            "The data set holds near-duplicates across training and test images (arXiv 1906.08255), which flatters "
            "every accuracy, and some of its labels are wrong or could be either of two classes."
        )
    return "".join(f"- {line}\n" for line in lines)


def _describe_identity(model: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"SHA-256 of `model.tflite`: `{model['sha256']}`\n\nVersions where this card was written: {listed}.\n"
