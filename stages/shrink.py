"""How narrow can the finished model be? Removes whole filters; run as `python -m stages.shrink FILTERS SEED`.

A narrower network is a smaller dense one, which every processor runs faster, where scattered zeros save no time. Rung
by rung, each from the one before, it goes down to a smaller share of the MACs: filters are removed and the network is
fine-tuned by the recipe that trained it. FILTERS says which ones are kept:

    magnitude: the filters with the largest weights.
    random: as many by chance, drawn once: a control for the choice.
    scratch: none. The same network starts from random weights, and passes the images as often as the finished model
        has: what this reaches needs no large network first (Liu et al. 2019, Rethinking the Value of Network Pruning,
        arXiv 1810.05270).

Reads:
    data/select_model/choice.json: what it is.   data/finish/<seed>/: model.h5, which is not changed; losses.npz.
    data/prepare/train.npz, val.npz, test.npz.

Writes, in data/shrink/<filters>/<seed>/<share of the MACs>/:
    model.h5: the smaller model, an ordinary Keras model.
    metrics.json: its accuracy, size and cost, beside those of the finished one.
    layers.csv: filters, MACs and parameters of each layer that has weights, before and after.
    history.csv: the learning curves of its fine-tuning, or of its training.
and, no DVC output, data/checkpoints/shrink@<filters>-<share>-<seed>.npz: the state of each rung after every epoch,
until the whole stage succeeds: dvc deletes all outputs of a stage before it runs it again.

The test accuracy is only reported: nothing here is chosen by it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from stages.lib.network.architecture import Layer, list_layers
from stages.lib.network.keras2 import keras
from stages.lib.network.model import measure_stored_model, read_model, write_model
from stages.lib.network.seeds import derive_seed
from stages.lib.params.load import load_params
from stages.lib.params.sections import AugmentationParams, ShrinkParams
from stages.lib.running.arguments import parse_names
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import read_arrays, read_json, read_split, write_csv, write_json
from stages.lib.storage.variant import Variant, name_finished
from stages.lib.training.batches import find_easy
from stages.lib.training.checkpoint import Checkpoint, compute_fingerprint, locate_checkpoint
from stages.lib.training.loop import train_model
from stages.lib.training.precision import choose_policy
from stages.lib.training.recipe import Recipe

READS = (
    "dataset.image_size_px",
    "dataset.channels",
    "dataset.class_names",
    "train.batch_size",
    "train.learning_rate",
    "train.optimizer",
    "train.schedule",
    "train.warmup_fraction",
    "train.weight_decay",
    "train.label_smoothing",
    "train.class_weights",
    "train.precision",
    "finish",
    "shrink.macs_shares",
    "shrink.multiple",
    "shrink.epochs",
    "shrink.easy_share",
    "shrink.clean_epochs",
    "shrink.learning_rate",
)
DATA = Path("data/prepare")
CHOICE = Path("data/select_model/choice.json")


@dataclass(frozen=True)
class Rung:
    """One smaller network: how it is trained, and where it is written."""

    variant: Variant
    architecture: dict[str, Any]
    layers: list[Layer]
    recipe: Recipe
    checkpoint: Checkpoint


def list_rungs(
    filters: str,
    architecture: Mapping[str, Any],
    image_size_px: int,
    num_classes: int,
    shrink: ShrinkParams,
    recipe: Recipe,
    source: Path,
    channels: int,
) -> list[Rung]:
    """Lists the rungs from the widest to the narrowest: the same networks, whatever `filters` are kept.

    `source` has the model that the first one is cut from, and its losses; `channels` are those of the images. The
    batches of a rung are neither those of the training, which `recipe` describes, nor those of another rung. The
    checkpoint of a rung belongs to that one and all before it, whose result it starts from.

    Raises:
        UserError: if no network of the form of `architecture` needs as few MACs.
    """
    inputs = [source / "model.h5", source / "losses.npz", DATA / "train.npz", DATA / "val.npz"]
    decided: list[Any] = [filters, shrink.easy_share]
    rungs = []
    for share in shrink.macs_shares:
        smaller = scale_architecture(architecture, image_size_px, num_classes, share, shrink.multiple, channels)
        layers = list_layers(image_size_px, num_classes, **smaller, channels=channels)
        changes: dict[str, Any] = {}
        if filters != "scratch":
            changes = shrink.model_dump(include={"epochs", "clean_epochs", "learning_rate"})
        variant = Variant("shrink", filters, share, recipe.seed)
        seed = derive_seed(recipe.seed, f"shrink {share}")
        of_rung = replace(recipe, seed=seed, train=recipe.train.model_copy(update=changes))
        decided += [layers, of_rung]
        checkpoint = Checkpoint(locate_checkpoint(variant), compute_fingerprint(decided, inputs))
        rungs.append(Rung(variant, smaller, layers, of_rung, checkpoint))
    return rungs


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


def list_layer_costs(layers: Sequence[Layer], smaller_layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """Lists channels, MACs and parameters of each layer that has weights, in the finished network and the smaller."""
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
    rung: Rung,
    model: keras.Model,
    layers: Sequence[Layer],
    dense: Mapping[str, float],
    val_set: tuple[np.ndarray, np.ndarray],
    test_set: tuple[np.ndarray, np.ndarray],
) -> None:
    """Writes the model of a rung, what it is worth beside the finished one of `layers`, and its learning curves."""
    folder = rung.variant.folder
    costs = list_layer_costs(layers, rung.layers)
    macs, dense_macs = (sum(row[name] for row in costs) for name in ("macs", "dense_macs"))
    write_model(folder / "model.h5", model)
    metrics = {
        "macs_share": round(macs / dense_macs, 6),
        "macs": macs,
        "parameters": sum(row["parameters"] for row in costs),
        "blocks": rung.architecture["blocks"],
        "dense": rung.architecture["dense"],
        **measure_stored_model(folder / "model.h5", model, val_set, test_set),
        "dense_macs": dense_macs,
        **{f"dense_{name}": dense[name] for name in ("val_accuracy", "test_accuracy")},
    }
    write_json(folder / "metrics.json", metrics)
    write_csv(folder / "layers.csv", costs)
    write_csv(folder / "history.csv", rung.checkpoint.rows)  # anew: a rung that was finished before has no epoch left
    accuracies = f"validation accuracy {metrics['val_accuracy']:.4f}, dense {dense['val_accuracy']:.4f}"
    print(f"{folder}: {100 * macs / dense_macs:.1f} % of the MACs, {accuracies}")


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    filters, seed = parse_names(__doc__, filters="shrink.filters", seed="shrink.seeds")
    choice, finished = read_json(CHOICE), name_finished(int(seed))
    source = finished.folder
    size_px, channels = params.dataset.image_size_px, params.dataset.channels
    num_classes = len(params.dataset.class_names)
    recipe = Recipe(
        train=params.train.model_copy(update=params.finish.model_dump()),
        augmentation=AugmentationParams(**choice["augmentation_limits"]),
        seed=finished.seed,
        policy=choose_policy(params.train.precision),
    )
    rungs = list_rungs(filters, choice["architecture"], size_px, num_classes, params.shrink, recipe, source, channels)
    train_set, val_set, test_set = (read_split(DATA / f"{split}.npz") for split in ("train", "val", "test"))
    (losses,) = read_arrays(source / "losses.npz", "train")
    is_easy = find_easy(losses, params.shrink.easy_share) if filters != "scratch" else None
    model = read_model(source / "model.h5")
    dense = measure_stored_model(source / "model.h5", model, val_set, test_set)
    dense_layers = layers = list_layers(size_px, num_classes, **choice["architecture"], channels=channels)
    rng = np.random.default_rng(finished.seed)
    for rung in rungs:  # each is cut from the one before it
        model = train_model(
            layers=rung.layers,
            recipe=rung.recipe,
            train_set=train_set,
            val_set=val_set,
            history_path=rung.variant.folder / "history.csv",
            checkpoint=rung.checkpoint,
            initial_weights=cut_weights(filters, layers, list_weights(model), rung.layers, rng),
            is_easy=is_easy,
        )
        layers = rung.layers
        write_outputs(rung, model, dense_layers, dense, val_set, test_set)
    for rung in rungs:
        rung.checkpoint.remove()


if __name__ == "__main__":
    run_stage(main)
