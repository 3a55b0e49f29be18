"""How narrow can the chosen model be? Removes whole filters and units; run as `python -m stages.shrink FILTERS`.

A narrower network is a smaller dense one, which every processor runs faster, where scattered zeros save no time. Rung
by rung, each from the one before, it goes down to a smaller share of the MACs: filters are removed and the network is
fine-tuned by the recipe that trained it. FILTERS says which ones are kept:

    magnitude: the filters with the largest weights.
    random: as many by chance, drawn once: a control for the choice.
    scratch: none. The same network starts from random weights, and passes the images as often as the others have in
        training and all fine-tuning together: what this reaches needs no large network first (Liu et al. 2019,
        Rethinking the Value of Network Pruning, arXiv 1810.05270).

Reads:
    data/select_model/choice.json, model.h5: the chosen model, which is not changed.
    data/prepare/train.npz, val.npz, test.npz.

Writes, in data/shrink/<filters>/<share of the MACs>/:
    model.h5: the smaller model, an ordinary Keras model.
    metrics.json: its accuracy, size and cost, beside those of the chosen one.
    layers.csv: filters, MACs and parameters of each layer that has weights, before and after.
    history.csv: the learning curves of its fine-tuning, or of its training.
and, no DVC output, data/checkpoints/shrink@<filters>-<share>.npz: the state of each rung after every epoch, until the
whole stage succeeds: dvc deletes all outputs of a stage before it runs it again.

The test accuracy is only reported: nothing here is chosen by it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.cost.filters import (
    choose_filters,
    choose_random_filters,
    count_channels,
    remove_filters,
    scale_architecture,
    score_filters,
)
from stages.lib.cost.macs import count_macs, count_parameters
from stages.lib.network.accuracy import measure_accuracy
from stages.lib.network.architecture import Layer, list_layers
from stages.lib.network.keras2 import keras
from stages.lib.network.model import read_model, write_model
from stages.lib.params.load import load_params
from stages.lib.params.sections import AugmentationParams, ShrinkParams, TrainParams
from stages.lib.running.arguments import parse_names
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import compute_gzip_size_bytes, read_json, read_split, write_csv, write_json
from stages.lib.training.checkpoint import CHECKPOINTS, Checkpoint, compute_fingerprint
from stages.lib.training.cluster import Cluster
from stages.lib.training.loop import train_model
from stages.lib.training.precision import choose_policy

READS = (
    "seed",
    "dataset.image_size_px",
    "dataset.class_names",
    "train",
    "shrink.macs_shares",
    "shrink.multiple",
    "shrink.epochs",
    "shrink.clean_epochs",
    "shrink.learning_rate",
)
DATA = Path("data/prepare")
CHOSEN = Path("data/select_model")
OUTPUT = Path("data/shrink")


@dataclass(frozen=True)
class Rung:
    """One smaller network, and how it is trained; `share` of the MACs is what it may keep at most."""

    share: float
    architecture: dict[str, Any]
    layers: list[Layer]
    train: TrainParams


def list_rungs(
    filters: str,
    architecture: Mapping[str, Any],
    image_size_px: int,
    num_classes: int,
    train: TrainParams,
    shrink: ShrinkParams,
) -> list[Rung]:
    """Lists the rungs from the widest to the narrowest: the same networks, whatever `filters` are kept.

    Raises:
        UserError: if no network of the form of `architecture` needs as few MACs.
    """
    rungs = []
    fine_tuning = train.model_copy(
        update={"epochs": shrink.epochs, "clean_epochs": shrink.clean_epochs, "learning_rate": shrink.learning_rate}
    )
    for number, share in enumerate(shrink.macs_shares, start=1):
        smaller = scale_architecture(architecture, image_size_px, num_classes, share, shrink.multiple)
        anew = train.model_copy(update={"epochs": train.epochs + number * shrink.epochs})
        layers = list_layers(image_size_px, num_classes, **smaller)
        rungs.append(Rung(share, smaller, layers, anew if filters == "scratch" else fine_tuning))
    return rungs


def build_checkpoints(
    filters: str, rungs: Sequence[Rung], augmentation: AugmentationParams, seed: int, policy: str
) -> list[Checkpoint]:
    """Builds a checkpoint for each rung; it belongs to that rung and all before it, whose result it starts from."""
    inputs = [CHOSEN / "model.h5", DATA / "train.npz", DATA / "val.npz"]
    return [
        Checkpoint(
            CHECKPOINTS / f"shrink@{filters}-{rung.share}.npz",
            compute_fingerprint([filters, rungs[:number], augmentation, seed, policy], inputs),
        )
        for number, rung in enumerate(rungs, start=1)
    ]


def list_weights(model: keras.Model) -> dict[str, list[np.ndarray]]:
    """Lists the weights of each layer that has some, by name."""
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def cut_weights(
    filters: str,
    layers: Sequence[Layer],
    weights: Mapping[str, Sequence[np.ndarray]],
    smaller_layers: Sequence[Layer],
    rng: np.random.Generator,
) -> list[np.ndarray] | None:
    """Cuts the weights of `layers` down to those of `smaller_layers`.

    Returns:
        Weights in the order of Keras's `get_weights`; None for `scratch`, which starts from random ones.
    """
    counts = count_channels(smaller_layers)
    match filters:
        case "magnitude":
            kept = choose_filters(score_filters(layers, weights), counts)
        case "random":
            kept = choose_random_filters(count_channels(layers), counts, rng)
        case "scratch":
            return None
        case _:
            raise ValueError(f"unknown way to shrink {filters!r}")
    return [array for arrays in remove_filters(layers, weights, kept).values() for array in arrays]


def train_rungs(
    filters: str,
    model: keras.Model,
    layers: Sequence[Layer],
    rungs: Sequence[Rung],
    checkpoints: Sequence[Checkpoint],
    train_set: tuple[np.ndarray, np.ndarray],
    val_set: tuple[np.ndarray, np.ndarray],
    augmentation: AugmentationParams,
    seed: int,
    policy: str,
) -> Iterator[keras.Model]:
    """Yields the float32 model of each rung; the first is cut from `model` of `layers`, each later one from the last.

    The batches of a rung are neither those of the training, whose seed is `seed`, nor those of another rung.
    """
    rng = np.random.default_rng(seed)
    for number, (rung, checkpoint) in enumerate(zip(rungs, checkpoints, strict=True), start=1):
        weights = cut_weights(filters, layers, list_weights(model), rung.layers, rng)
        history_path = OUTPUT / filters / str(rung.share) / "history.csv"
        what = (train_set, val_set, rung.layers, augmentation, rung.train, seed + number, policy)
        model, layers = train_model(*what, history_path, checkpoint, Cluster(), weights), rung.layers
        yield model


def measure(
    model: keras.Model, val_set: tuple[np.ndarray, np.ndarray], test_set: tuple[np.ndarray, np.ndarray], prefix: str
) -> dict[str, float]:
    """Measures accuracy on (images, labels) pairs."""
    splits = {"val": val_set, "test": test_set}
    return {f"{prefix}{split}_accuracy": measure_accuracy(model, *pair) for split, pair in splits.items()}


def list_layer_costs(layers: Sequence[Layer], smaller_layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """Lists channels, MACs and parameters of each layer that has weights, in the chosen network and in the smaller."""
    return [
        {
            "layer": layer.name,
            "kind": layer.kind,
            "dense_filters": layer.output_shape[-1],
            "filters": smaller.output_shape[-1],
            "dense_macs": count_macs(layer),
            "macs": count_macs(smaller),
            "dense_parameters": count_parameters(layer),
            "parameters": count_parameters(smaller),
        }
        for layer, smaller in zip(layers, smaller_layers, strict=True)
        if count_parameters(layer)
    ]


def write_outputs(
    folder: Path,
    rung: Rung,
    model: keras.Model,
    rows: Sequence[Mapping[str, Any]],
    layers: Sequence[Layer],
    before: Mapping[str, float],
    val_set: tuple[np.ndarray, np.ndarray],
    test_set: tuple[np.ndarray, np.ndarray],
) -> None:
    """Writes the model of a rung, what it is worth beside the chosen one of `layers`, and its learning curves."""
    costs = list_layer_costs(layers, rung.layers)
    macs, dense_macs = (sum(row[name] for row in costs) for name in ("macs", "dense_macs"))
    write_model(folder / "model.h5", model)
    content = (folder / "model.h5").read_bytes()
    metrics = {
        "macs_share": round(macs / dense_macs, 6),
        "macs": macs,
        "parameters": sum(row["parameters"] for row in costs),
        "blocks": rung.architecture["blocks"],
        "dense": rung.architecture["dense"],
        **measure(model, val_set, test_set, ""),
        "size_bytes": len(content),
        "gzip_size_bytes": compute_gzip_size_bytes(content),
        "dense_macs": dense_macs,
        **before,
    }
    write_json(folder / "metrics.json", metrics)
    write_csv(folder / "layers.csv", costs)
    write_csv(folder / "history.csv", rows)  # anew: a rung that was finished before has no epoch to write it
    accuracy = f"validation accuracy {metrics['val_accuracy']:.4f}, dense {before['dense_val_accuracy']:.4f}"
    print(f"{folder}: {100 * macs / dense_macs:.1f} % of the MACs, {accuracy}")


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    (filters,) = parse_names(__doc__, filters="shrink.filters")
    choice, policy = read_json(CHOSEN / "choice.json"), choose_policy(params.train.precision)
    augmentation, architecture = AugmentationParams(**choice["augmentation_limits"]), choice["architecture"]
    sizes = (params.dataset.image_size_px, len(params.dataset.class_names))
    rungs = list_rungs(filters, architecture, *sizes, params.train, params.shrink)
    checkpoints = build_checkpoints(filters, rungs, augmentation, params.seed, policy)
    train_set, val_set, test_set = (read_split(DATA / f"{split}.npz") for split in ("train", "val", "test"))
    model, layers = read_model(CHOSEN / "model.h5"), list_layers(*sizes, **architecture)
    before = measure(model, val_set, test_set, "dense_")
    what = (train_set, val_set, augmentation, params.seed, policy)
    models = train_rungs(filters, model, layers, rungs, checkpoints, *what)
    for rung, checkpoint, smaller in zip(rungs, checkpoints, models, strict=True):
        output = OUTPUT / filters / str(rung.share)
        write_outputs(output, rung, smaller, checkpoint.rows, layers, before, val_set, test_set)
    for checkpoint in checkpoints:
        checkpoint.remove()


if __name__ == "__main__":
    run_stage(main)
