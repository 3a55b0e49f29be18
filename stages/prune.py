"""How many weights can a model lose? Prunes it step by step; run as `python -m stages.prune LADDER SEED`.

Magnitude pruning with tensorflow-model-optimization, a ladder of sparsities: for each, the model of the one before it
is fine-tuned while the share of zeros in its kernels rises along a cubic schedule (Zhu and Gupta 2017, To prune, or not
to prune, arXiv 1710.01878), the smallest weights going first; then the mask stays and the remaining weights recover.
LADDER is what it starts from, `finished` or a network that was shrunk, such as `magnitude-0.5`, and after a dash the
ranking, which says where the zeros are:

    uniform: the same share in each kernel.
    lamp: each kernel has as many as it has among the weights that matter least of all kernels that are pruned.
    cost: the same, by how much a weight matters for what it costs: its share of the MACs and its place in memory. Here
        a step of the ladder is the share of that cost which is saved.

Reads:
    data/select_model/choice.json: what the finished model is.   data/finish/<seed>/: model.h5, losses.npz.
    data/shrink/<filters>/<seed>/<share>/: model.h5, metrics.json; for a START that was shrunk.
    data/prepare/train.npz, val.npz, test.npz.

Writes, in data/prune/<way>/<seed>/<step>/, where the way is the LADDER, without `finished-`:
    model.h5: the pruned model, an ordinary Keras model with zeros in its kernels.
    metrics.json: accuracy before and after, against the finished model; share of zeros, MACs in all and without zeros,
        parameters, size raw and gzipped.
    layers.csv: zeros of each layer.
and, no DVC outputs, data/checkpoints/prune@<way>-<step>-<seed>.npz: the state after every epoch, until the stage
succeeds.

The test accuracy is only reported: nothing here is chosen by it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.cost.macs import count_macs, count_parameters
from stages.lib.cost.sparsity import (
    allocate_by_lamp,
    allocate_uniformly,
    compute_sparsity,
    compute_weight_costs,
    count_zeros,
    has_sparsity,
)
from stages.lib.network.architecture import Layer, list_layers
from stages.lib.network.keras2 import keras, tf
from stages.lib.network.model import StatelessDropout, measure_stored_model, read_model, write_model
from stages.lib.network.seeds import derive_seed
from stages.lib.params.load import load_params
from stages.lib.params.sections import AugmentationParams, PruneParams
from stages.lib.running.arguments import parse_names
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import read_arrays, read_json, read_split, write_csv, write_json
from stages.lib.storage.variant import Variant, name_finished
from stages.lib.training.batches import count_seen, count_steps, find_easy
from stages.lib.training.checkpoint import Checkpoint, compute_fingerprint, locate_checkpoint
from stages.lib.training.loop import fit_model
from stages.lib.training.precision import choose_policy
from stages.lib.training.recipe import Recipe

# isort: split
import tensorflow_model_optimization as tfmot  # after stages.lib.network.keras2, which settles which Keras it gets

READS = (
    "dataset.image_size_px",
    "dataset.channels",
    "dataset.class_names",
    "prune.sparsities",
    "prune.epochs",
    "prune.clean_epochs",
    "prune.macs_weight",
    "prune.easy_share",
    "prune.ramp_fraction",
    "prune.frequency",
    "prune.batch_size",
    "prune.learning_rate",
    "train.optimizer",
    "train.schedule",
    "train.warmup_fraction",
    "train.weight_decay",
    "train.label_smoothing",
    "train.class_weights",
    "train.precision",
)
DATA = Path("data/prepare")
CHOICE = Path("data/select_model/choice.json")
LAYERS_TO_PRUNE = (keras.layers.Conv2D, keras.layers.Dense)


def build_schedule(start: float, sparsity: float, total_steps: int, ramp_fraction: float, frequency: int) -> Any:
    """Builds the cubic rise from `start` to `sparsity` within the first `ramp_fraction` of the steps.

    The mask is updated at multiples of `frequency` only, so the end of the rise is rounded down to one of them; else
    the last update would come too early and miss the target. With fewer steps than that, it is updated at the last one.
    """
    frequency = min(frequency, total_steps)
    end_step = max(1, int(total_steps * ramp_fraction) // frequency) * frequency
    return tfmot.sparsity.keras.PolynomialDecay(start, sparsity, begin_step=0, end_step=end_step, frequency=frequency)


def list_pruned_layers(model: keras.Model) -> list[str]:
    """Lists the names of the layers whose kernels are pruned: all but the first and the last one.

    Those two hold few weights, and every image has to pass them. Gale, Elsen and Hooker 2019, The State of Sparsity,
    arXiv 1902.09574, leave the first convolution dense and prune the last layer to 80 % at most; here both stay dense,
    so that each sparsity means the same kernels. A model without others is pruned everywhere.
    """
    names = [layer.name for layer in model.layers if isinstance(layer, LAYERS_TO_PRUNE)]
    return names[1:-1] or names


def read_pruned_kernels(model: keras.Model) -> dict[str, np.ndarray]:
    """Reads the kernels that are pruned, by the names of their layers."""
    return {name: model.get_layer(name).kernel.numpy() for name in list_pruned_layers(model)}


def allocate_zeros(
    ranking: str, layers: Sequence[Layer], kernels: Mapping[str, np.ndarray], share: float, macs_weight: float
) -> dict[str, float]:
    """Gives each kernel that is pruned, by name, its share of zeros: a ranking's for one step of the ladder.

    Args:
        ranking: uniform, lamp or cost.
        layers: of the network.
        kernels: by the names of their layers.
        share: of zeros, of all kernels together; with `cost`, of what all their weights cost.
        macs_weight: how much MACs count in that cost, in [0, 1].
    """
    positions = {layer.name: count_macs(layer) // kernels[layer.name].size for layer in layers if layer.name in kernels}
    match ranking:
        case "uniform":
            return allocate_uniformly(kernels, share)
        case "lamp":
            return allocate_by_lamp(kernels, compute_weight_costs(kernels, positions, macs_weight=0), share)
        case "cost":
            return allocate_by_lamp(kernels, compute_weight_costs(kernels, positions, macs_weight), share)
        case _:
            raise ValueError(f"unknown ranking {ranking!r}")


def wrap_for_pruning(
    model: keras.Model, schedules: Mapping[str, Any], recipe: Recipe, step: Callable[[], tf.Tensor]
) -> keras.Model:
    """Builds a copy of a float32 model that computes as `recipe` says, and whose kernels are pruned as it trains.

    A layer is pruned by its schedule; one without a schedule is not. What dropout drops depends on the recipe's seed,
    the layer and the number of the step, which `step` returns.

    tensorflow-model-optimization masks the stored weights inside the forward pass. There Keras hands out bfloat16
    copies of them, which it would write back: every step would round what is stored. So it is given the float32
    variables themselves.
    """
    last = model.layers[-1].name

    def copy_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.layers.Dropout):
            seed = derive_seed(recipe.seed, layer.name)
            return StatelessDropout(layer.rate, seed, step, name=layer.name, dtype=recipe.policy)
        policy_of_layer = "float32" if layer.name == last else recipe.policy
        copy = type(layer).from_config(layer.get_config() | {"dtype": policy_of_layer})
        if layer.name not in schedules:
            return copy
        schedule = schedules[layer.name]
        return tfmot.sparsity.keras.prune_low_magnitude(copy, pruning_schedule=schedule, dtype=policy_of_layer)

    wrapped = keras.models.clone_model(model, clone_function=copy_layer)
    for layer, original in zip(wrapped.layers, model.layers, strict=True):
        layer.set_weights(original.get_weights())
        if original.name in schedules:
            layer.pruning_obj._pruning_vars = [
                tuple(getattr(variable, "_variable", variable) for variable in variables)
                for variables in layer.pruning_vars
            ]
            for kernel, mask, _ in layer.pruning_obj._pruning_vars:
                mask.assign(tf.cast(kernel != 0, mask.dtype))  # else all zeros would learn until the first update
    return wrapped


def prune_model(
    model: keras.Model,
    sparsities: Mapping[str, float],
    prune: PruneParams,
    recipe: Recipe,
    train_set: tuple[np.ndarray, np.ndarray],
    checkpoint: Checkpoint,
    is_easy: np.ndarray | None = None,
) -> None:
    """Prunes and fine-tunes a float32 model in place on (images, labels), from where `checkpoint` left it.

    `sparsities` holds the share of zeros of each layer whose kernel is pruned; it rises from the one that it has, as
    `prune` says. `recipe` says how the model is fine-tuned, `is_easy` which images it sees in every other epoch only.
    """
    steps = count_steps(count_seen(len(train_set[0]), is_easy), recipe.train.batch_size)
    total_steps = recipe.train.epochs * steps
    schedules = {
        name: build_schedule(
            compute_sparsity(kernel), sparsities[name], total_steps, prune.ramp_fraction, prune.frequency
        )
        for name, kernel in read_pruned_kernels(model).items()
    }
    wrapped = fit_model(
        build=lambda step: wrap_for_pruning(model, schedules, recipe, step),
        recipe=recipe,
        train_set=train_set,
        checkpoint=checkpoint,
        callbacks=[tfmot.sparsity.keras.UpdatePruningStep()],  # comes before all others: they see masked weights
        is_easy=is_easy,
    )
    for layer, trained in zip(model.layers, wrapped.layers, strict=True):
        layer.set_weights(trained.get_weights())  # a wrapper's are those of the layer in it


def list_layer_zeros(model: keras.Model, sparsities: Mapping[str, float]) -> list[dict[str, Any]]:
    """Lists layer, weights, zeros and share of zeros of each kernel.

    Raises:
        RuntimeError: if a kernel's share of zeros is not that of `sparsities`; then the pruning did not do its work.
    """
    rows = []
    for layer in model.layers:
        if isinstance(layer, (*LAYERS_TO_PRUNE, keras.layers.DepthwiseConv2D)):
            kernel = layer.get_weights()[0]
            if layer.name in sparsities and not has_sparsity(kernel, sparsities[layer.name]):
                raise RuntimeError(
                    f"{layer.name}: expected a share of zeros of {sparsities[layer.name]}, got "
                    f"{compute_sparsity(kernel)}"
                )
            row = {"layer": layer.name, "weights": kernel.size, "zeros": count_zeros(kernel)}
            rows.append(row | {"sparsity": f"{compute_sparsity(kernel):.6f}"})
    return rows


def count_nonzero_macs(layers: Sequence[Layer], rows: Sequence[Mapping[str, Any]]) -> int:
    """Counts the MACs with weights that are not zero, from the rows of `list_layer_zeros`; for one image."""
    nonzero = {row["layer"]: row["weights"] - row["zeros"] for row in rows}
    weights = {row["layer"]: row["weights"] for row in rows}
    # A weight takes part in as many MACs as any other of its kernel.
    return sum(
        count_macs(layer) // weights[layer.name] * nonzero[layer.name] for layer in layers if layer.name in weights
    )


def measure_total_sparsity(rows: Sequence[Mapping[str, Any]]) -> float:
    """Measures the share of zeros in all kernels together, from the rows of `list_layer_zeros`."""
    return round(sum(row["zeros"] for row in rows) / sum(row["weights"] for row in rows), 6)


@dataclass(frozen=True)
class Step:
    """One step of the ladder: how the model gets there from the one before it, and where it is written."""

    variant: Variant
    share: float  # of the zeros, or of what is saved: see `allocate_zeros`
    recipe: Recipe
    checkpoint: Checkpoint


def list_steps(
    way: str, choice: Mapping[str, Any], prune: PruneParams, recipe: Recipe, inputs: Sequence[Path]
) -> list[Step]:
    """Lists the steps of the ladder; they follow `recipe`, that of the training, but for what `prune` says.

    `inputs` are the files that decide what the first one starts from, and what it sees. The checkpoint of a step
    belongs to that one and all before it, from which it starts.
    """
    decided: list[Any] = [way, choice, prune.macs_weight, prune.ramp_fraction, prune.frequency, prune.easy_share]
    steps = []
    ladder = zip(prune.sparsities, prune.epochs, prune.learning_rate, strict=True)
    for share, epochs, learning_rate in ladder:
        changes: dict[str, Any] = {"epochs": epochs, "learning_rate": learning_rate}
        changes |= {"clean_epochs": prune.clean_epochs, "batch_size": prune.batch_size}
        variant = Variant("prune", way, share, recipe.seed)
        # Not the training's batches again, but those of the same step of every other ladder: what differs between two
        # of them is then the place of their zeros.
        seed = derive_seed(recipe.seed, f"prune {share}")
        fine_tuning = replace(recipe, seed=seed, train=recipe.train.model_copy(update=changes))
        decided += [share, fine_tuning]
        checkpoint = Checkpoint(locate_checkpoint(variant), compute_fingerprint(decided, inputs))
        steps.append(Step(variant, share, fine_tuning, checkpoint))
    return steps


def read_layers(
    variant: Variant, choice: Mapping[str, Any], image_size_px: int, channels: int, num_classes: int
) -> list[Layer]:
    """Reads the layers of the model that a ladder starts from; `choice` says what they were before it was shrunk."""
    architecture = choice["architecture"]
    if variant.source == "shrink":
        shrunk = read_json(variant.folder / "metrics.json")
        architecture = {**architecture, "blocks": shrunk["blocks"], "dense": shrunk["dense"]}
    return list_layers(image_size_px, num_classes, **architecture, channels=channels)


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    ladder, seed = parse_names(__doc__, ladder="prune.ladders", seed="prune.seeds")
    way, (_, _, ranking) = ladder.removeprefix("finished-"), ladder.rpartition("-")
    choice, finished = read_json(CHOICE), name_finished(int(seed))
    source = Variant("prune", way, "", finished.seed).start
    recipe = Recipe(
        train=params.train,
        augmentation=AugmentationParams(**choice["augmentation_limits"]),
        seed=finished.seed,
        policy=choose_policy(params.train.precision),
    )
    steps = list_steps(
        way,
        choice,
        params.prune,
        recipe,
        inputs=[source.folder / "model.h5", finished.folder / "losses.npz", DATA / "train.npz"],
    )
    train_set, val_set, test_set = (read_split(DATA / f"{split}.npz") for split in ("train", "val", "test"))
    dataset = params.dataset
    layers = read_layers(source, choice, dataset.image_size_px, dataset.channels, len(dataset.class_names))
    (losses,) = read_arrays(finished.folder / "losses.npz", "train")
    is_easy = find_easy(losses, params.prune.easy_share)
    dense_path = finished.folder / "model.h5"
    dense = measure_stored_model(dense_path, read_model(dense_path), val_set, test_set)
    model = read_model(source.folder / "model.h5")
    for step in steps:
        kernels = read_pruned_kernels(model)
        sparsities = allocate_zeros(ranking, layers, kernels, step.share, params.prune.macs_weight)
        prune_model(model, sparsities, params.prune, step.recipe, train_set, step.checkpoint, is_easy)
        zeros, folder = list_layer_zeros(model, sparsities), step.variant.folder
        write_model(folder / "model.h5", model)
        metrics = {
            "sparsity": measure_total_sparsity(zeros),
            "macs": sum(map(count_macs, layers)),
            "nonzero_macs": count_nonzero_macs(layers, zeros),
            "parameters": sum(map(count_parameters, layers)),
            **measure_stored_model(folder / "model.h5", model, val_set, test_set),
            **{f"dense_{key}": value for key, value in dense.items()},
        }
        write_json(folder / "metrics.json", metrics)
        write_csv(folder / "layers.csv", zeros)
        print(f"{folder}: validation accuracy {metrics['val_accuracy']:.4f}, dense {dense['val_accuracy']:.4f}")
    for step in steps:  # only now: DVC removes the outputs of a stage before it starts it again
        step.checkpoint.remove()


if __name__ == "__main__":
    run_stage(main)
