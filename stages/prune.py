"""How many weights can the chosen model lose? Prunes it, step by step; run as `python -m stages.prune RANKING`.

Magnitude pruning with tensorflow-model-optimization, a ladder of sparsities: for each, the model of the one before it
is fine-tuned while the share of zeros in its kernels rises along a cubic schedule (Zhu and Gupta 2017, To prune, or not
to prune, arXiv 1710.01878), the smallest weights going first; then the mask stays and the remaining weights recover.
The ranking says how many zeros each kernel gets: `uniform` the same share; `lamp` as many as it has among the weights
that matter least of all kernels that are pruned.

Reads:
    data/select_model/choice.json, model.h5: the chosen model, which is not changed.
    data/prepare/train.npz, val.npz, test.npz.

Writes, in data/prune/<ranking>/<sparsity>/:
    model.h5: the pruned model, an ordinary Keras model with zeros in its kernels.
    metrics.json: accuracy before and after, share of zeros, MACs without zeros, size raw and gzipped.
    layers.csv: zeros of each layer.
and, no DVC outputs, data/checkpoints/prune@<ranking>-<sparsity>.npz: the state after every epoch, until the stage
succeeds.

The test accuracy is only reported: nothing here is chosen by it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.cost.macs import count_macs
from stages.lib.cost.sparsity import allocate_by_lamp, allocate_uniformly, compute_sparsity, count_zeros, has_sparsity
from stages.lib.network.accuracy import measure_accuracy
from stages.lib.network.architecture import Layer, list_layers
from stages.lib.network.keras2 import keras, tf
from stages.lib.network.model import StatelessDropout, read_model, write_model
from stages.lib.params.load import load_params
from stages.lib.params.sections import PruneParams, TrainParams
from stages.lib.running.arguments import parse_names
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import compute_gzip_size_bytes, read_json, read_split, write_csv, write_json
from stages.lib.training.batches import count_steps, training_batches
from stages.lib.training.checkpoint import CHECKPOINTS, Checkpoint, compute_fingerprint
from stages.lib.training.loop import STEPS_PER_EXECUTION, build_optimizer
from stages.lib.training.precision import choose_policy
from stages.lib.training.progress import Progress

# isort: split
import tensorflow_model_optimization as tfmot  # after stages.lib.network.keras2, which settles which Keras it gets

READS = (
    "seed",
    "dataset.class_names",
    "prune.sparsities",
    "prune.epochs",
    "prune.clean_epochs",
    "prune.ramp_fraction",
    "prune.frequency",
    "prune.batch_size",
    "prune.learning_rate",
    "train",
)
DATA = Path("data/prepare")
CHOSEN = Path("data/select_model")
OUTPUT = Path("data/prune")
LAYERS_WITH_KERNEL = (keras.layers.Conv2D, keras.layers.Dense)
ALLOCATIONS = {"uniform": allocate_uniformly, "lamp": allocate_by_lamp}


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
    names = [layer.name for layer in model.layers if isinstance(layer, LAYERS_WITH_KERNEL)]
    return names[1:-1] or names


def read_pruned_kernels(model: keras.Model) -> dict[str, np.ndarray]:
    """Reads the kernels that are pruned, by the names of their layers."""
    return {name: model.get_layer(name).kernel.numpy() for name in list_pruned_layers(model)}


def wrap_for_pruning(
    model: keras.Model, schedules: Mapping[str, Any], policy: str, seed: int, step: Callable[[], tf.Tensor]
) -> keras.Model:
    """Builds a copy of a float32 model that computes under `policy`, and whose kernels are pruned as it trains.

    A layer is pruned by its schedule; one without a schedule is not. What dropout drops depends on `seed`, the layer
    and the number of the step, which `step` returns.

    tensorflow-model-optimization masks the stored weights inside the forward pass. There Keras hands out bfloat16
    copies of them, which it would write back: every step would round what is stored. So it is given the float32
    variables themselves.
    """
    last = model.layers[-1].name
    position = {layer.name: index for index, layer in enumerate(model.layers)}

    def copy_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.layers.Dropout):
            return StatelessDropout(layer.rate, seed + position[layer.name], step, name=layer.name, dtype=policy)
        policy_of_layer = "float32" if layer.name == last else policy
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
    train_set: tuple[np.ndarray, np.ndarray],
    augmentation_limits: dict[str, Any],
    sparsities: Mapping[str, float],
    prune: PruneParams,
    recipe: TrainParams,
    seed: int,
    policy: str,
    checkpoint: Checkpoint,
) -> keras.Model:
    """Prunes and fine-tunes a float32 model in place on (images, labels), from where `checkpoint` left it; returns it.

    `sparsities` holds the share of zeros of each layer whose kernel is pruned; it rises from the one that it has.
    `recipe` says how the model is fine-tuned.
    """
    num_classes, steps = model.output_shape[-1], count_steps(len(train_set[0]), recipe.batch_size)
    total_steps = recipe.epochs * steps
    schedules = {
        name: build_schedule(
            compute_sparsity(kernel), sparsities[name], total_steps, prune.ramp_fraction, prune.frequency
        )
        for name, kernel in read_pruned_kernels(model).items()
    }
    optimizer = build_optimizer(recipe, total_steps)
    wrapped = wrap_for_pruning(model, schedules, policy, seed, lambda: optimizer.iterations)
    wrapped.compile(
        optimizer,
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing),
        metrics=["accuracy"],
        steps_per_execution=STEPS_PER_EXECUTION,
    )
    first_epoch = checkpoint.restore(wrapped)
    batches = training_batches(
        *train_set,
        num_classes,
        recipe.batch_size,
        recipe.epochs,
        recipe.clean_epochs,
        seed,
        **augmentation_limits,
        first_epoch=first_epoch,
    )
    wrapped.fit(
        batches,
        initial_epoch=first_epoch,
        epochs=recipe.epochs,
        steps_per_epoch=steps,
        verbose=0,
        # The pruning callback comes first, so that whatever follows sees masked weights.
        callbacks=[
            tfmot.sparsity.keras.UpdatePruningStep(),
            Progress(checkpoint.path.stem, recipe.epochs, steps, first_epoch),
            checkpoint,
        ],
    )
    for layer, trained in zip(model.layers, wrapped.layers, strict=True):
        layer.set_weights(trained.get_weights())  # a wrapper's are those of the layer in it
    return model


def list_layer_zeros(model: keras.Model, sparsities: Mapping[str, float]) -> list[dict[str, Any]]:
    """Lists layer, weights, zeros and share of zeros of each kernel.

    Raises:
        RuntimeError: if a kernel's share of zeros is not that of `sparsities`; then the pruning did not do its work.
    """
    rows = []
    for layer in model.layers:
        if isinstance(layer, LAYERS_WITH_KERNEL):
            kernel = layer.kernel.numpy()
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


def build_recipe(train: TrainParams, prune: PruneParams) -> TrainParams:
    """Builds the recipe of the fine-tuning: that of the training, but for what `prune` says of all sparsities.

    Its epochs and its learning rate are still those of the training; each sparsity has its own.
    """
    return train.model_copy(update={"batch_size": prune.batch_size, "clean_epochs": prune.clean_epochs})


def build_checkpoints(
    names: Sequence[str], choice: Mapping[str, Any], prune: PruneParams, recipe: TrainParams, seed: int, policy: str
) -> list[Checkpoint]:
    """Builds a checkpoint for each sparsity; it belongs to that one and all before it, from which it starts."""
    inputs = [CHOSEN / "model.h5", DATA / "train.npz"]
    how = prune.model_dump() | {"rankings": (), "sparsities": (), "epochs": (), "learning_rate": ()}
    steps = list(zip(names, prune.epochs, prune.learning_rate, strict=True))
    return [
        Checkpoint(
            CHECKPOINTS / f"prune@{name}.npz",
            compute_fingerprint([steps[:number], choice, how, recipe, seed, policy], inputs),
        )
        for number, name in enumerate(names, start=1)
    ]


def prune_step_by_step(
    model: keras.Model,
    train_set: tuple[np.ndarray, np.ndarray],
    augmentation_limits: dict[str, Any],
    ranking: str,
    prune: PruneParams,
    recipe: TrainParams,
    seed: int,
    policy: str,
    checkpoints: Sequence[Checkpoint],
) -> Iterator[list[dict[str, Any]]]:
    """Prunes a float32 model in place to one sparsity after the other; yields the zeros of its layers at each."""
    steps = zip(prune.sparsities, prune.epochs, prune.learning_rate, checkpoints, strict=True)
    for step, (sparsity, epochs, learning_rate, checkpoint) in enumerate(steps, start=1):
        sparsities = ALLOCATIONS[ranking](read_pruned_kernels(model), sparsity)
        how = recipe.model_copy(update={"epochs": epochs, "learning_rate": learning_rate})
        # Another seed for each: the batches of the training, whose seed is `seed`, would come again.
        prune_model(model, train_set, augmentation_limits, sparsities, prune, how, seed + step, policy, checkpoint)
        yield list_layer_zeros(model, sparsities)


def measure_total_sparsity(rows: Sequence[Mapping[str, Any]]) -> float:
    """Measures the share of zeros in all kernels together, from the rows of `list_layer_zeros`."""
    return round(sum(row["zeros"] for row in rows) / sum(row["weights"] for row in rows), 6)


def measure(
    model: keras.Model,
    val: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    path: Path,
    prefix: str,
) -> dict[str, float]:
    """Measures accuracy on (images, labels) pairs, and the size of the model's file in bytes, as it is and gzipped."""
    content = path.read_bytes()
    return {
        f"{prefix}val_accuracy": measure_accuracy(model, *val),
        f"{prefix}test_accuracy": measure_accuracy(model, *test),
        f"{prefix}size_bytes": len(content),
        f"{prefix}gzip_size_bytes": compute_gzip_size_bytes(content),
    }


def write_outputs(
    folder: Path,
    model: keras.Model,
    zeros: Sequence[Mapping[str, Any]],
    layers: Sequence[Layer],
    before: Mapping[str, float],
    val: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
) -> None:
    """Writes the pruned model and what it is worth, beside what the dense one was."""
    write_model(folder / "model.h5", model)
    after = measure(model, val, test, folder / "model.h5", "")
    cost = {"sparsity": measure_total_sparsity(zeros), "nonzero_macs": count_nonzero_macs(layers, zeros)}
    write_json(folder / "metrics.json", {**cost, **after, **before})
    write_csv(folder / "layers.csv", zeros)
    print(f"{folder}: validation accuracy {after['val_accuracy']:.4f}, dense {before['dense_val_accuracy']:.4f}")


def main() -> None:
    """Runs the stage."""
    params, choice = load_params(reads=READS), read_json(CHOSEN / "choice.json")
    prune, policy = params.prune, choose_policy(params.train.precision)
    (ranking,) = parse_names(__doc__, ranking="prune.rankings")
    recipe = build_recipe(params.train, prune)
    names = [f"{ranking}-{sparsity}" for sparsity in prune.sparsities]
    checkpoints = build_checkpoints(names, choice, prune, recipe, params.seed, policy)
    train_set, val, test = (read_split(DATA / f"{split}.npz") for split in ("train", "val", "test"))
    layers = list_layers(train_set[0].shape[1], len(params.dataset.class_names), **choice["architecture"])
    model = read_model(CHOSEN / "model.h5")
    before = measure(model, val, test, CHOSEN / "model.h5", "dense_")
    how = (choice["augmentation_limits"], ranking, prune, recipe, params.seed, policy, checkpoints)
    for sparsity, zeros in zip(prune.sparsities, prune_step_by_step(model, train_set, *how), strict=True):
        write_outputs(OUTPUT / ranking / str(sparsity), model, zeros, layers, before, val, test)
    for checkpoint in checkpoints:  # only now: DVC removes the outputs of a stage before it starts it again
        checkpoint.remove()


if __name__ == "__main__":
    run_stage(main)
