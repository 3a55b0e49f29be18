"""How many weights can the chosen model lose? Prunes it to one sparsity; run as `python -m stages.prune SPARSITY`.

Magnitude pruning with tensorflow-model-optimization: while the model is fine-tuned, the share of zeros in each kernel
between the first and the last rises to the target along a cubic schedule (Zhu and Gupta 2017, To prune, or not to
prune, arXiv 1710.01878), the smallest weights going first; then the mask stays and the remaining weights recover.

Reads:
    data/select_model/choice.json, model.h5: the chosen model, which is not changed.
    data/prepare/train.npz, val.npz, test.npz.

Writes, in data/prune/<sparsity>/:
    model.h5: the pruned model, an ordinary Keras model with zeros in its kernels.
    metrics.json: accuracy before and after, share of zeros, size raw and gzipped.
    layers.csv: zeros of each layer.
and, no DVC output, data/checkpoints/prune@<sparsity>.npz: the state after every epoch, until the stage succeeds.

The test accuracy is only reported: nothing here is chosen by it.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.batches import count_steps, training_batches
from stages.lib.checkpoint import CHECKPOINTS, Checkpoint, compute_fingerprint
from stages.lib.errors import UserError
from stages.lib.files import read_json, read_split, write_csv, write_json
from stages.lib.hardware import choose_policy
from stages.lib.metrics import compute_accuracy
from stages.lib.model import StatelessDropout, predict_logits, read_model, to_network_input, write_model
from stages.lib.params import PruneParams, find_name, load_params
from stages.lib.progress import Progress
from stages.lib.runner import run_stage
from stages.lib.sparsity import compute_gzip_size_bytes, compute_sparsity, count_zeros, has_sparsity
from stages.lib.tf import keras, tf

# isort: split
import tensorflow_model_optimization as tfmot  # after stages.lib.tf, which settles which Keras it gets

DATA = Path("data/prepare")
CHOSEN = Path("data/select_model")
OUTPUT = Path("data/prune")
STEPS_PER_EXECUTION = 10
LAYERS_WITH_KERNEL = (keras.layers.Conv2D, keras.layers.Dense)


def build_schedule(sparsity: float, total_steps: int, ramp_fraction: float, frequency: int) -> Any:
    """Builds the cubic rise to `sparsity` within the first `ramp_fraction` of the steps.

    The mask is updated at multiples of `frequency` only, so the end of the rise is rounded down to one of them; else
    the last update would come too early and miss the target.
    """
    end_step = max(1, int(total_steps * ramp_fraction) // frequency) * frequency
    if end_step > total_steps:
        raise UserError(
            f"params.yaml: prune: expected the sparsity to reach its target within {total_steps} steps of fine-tuning, "
            f"got step {end_step}; lower prune.ramp_fraction or prune.frequency, or raise prune.epochs"
        )
    return tfmot.sparsity.keras.PolynomialDecay(0.0, sparsity, begin_step=0, end_step=end_step, frequency=frequency)


def list_pruned_layers(model: keras.Model) -> list[str]:
    """Lists the names of the layers whose kernels are pruned: all but the first and the last one.

    Those two hold few weights, and every image has to pass them: the first convolution stays dense in Gale, Elsen and
    Hooker 2019, The State of Sparsity, arXiv 1902.09574, section 4. A model without others is pruned everywhere.
    """
    names = [layer.name for layer in model.layers if isinstance(layer, LAYERS_WITH_KERNEL)]
    return names[1:-1] or names


def wrap_for_pruning(
    model: keras.Model, schedule: Any, policy: str, seed: int, step: Callable[[], tf.Tensor]
) -> keras.Model:
    """Builds a copy of a float32 model that computes under `policy`, and whose inner kernels are pruned as it trains.

    What dropout drops depends on `seed`, the layer and the number of the step, which `step` returns.

    tensorflow-model-optimization masks the stored weights inside the forward pass. There Keras hands out bfloat16
    copies of them, which it would write back: every step would round what is stored. So it is given the float32
    variables themselves.
    """
    pruned_layers, last = list_pruned_layers(model), model.layers[-1].name
    position = {layer.name: index for index, layer in enumerate(model.layers)}

    def copy_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.layers.Dropout):
            return StatelessDropout(layer.rate, seed + position[layer.name], step, name=layer.name, dtype=policy)
        policy_of_layer = "float32" if layer.name == last else policy
        copy = type(layer).from_config(layer.get_config() | {"dtype": policy_of_layer})
        if layer.name not in pruned_layers:
            return copy
        return tfmot.sparsity.keras.prune_low_magnitude(copy, pruning_schedule=schedule, dtype=policy_of_layer)

    wrapped = keras.models.clone_model(model, clone_function=copy_layer)
    for layer, original in zip(wrapped.layers, model.layers, strict=True):
        layer.set_weights(original.get_weights())
        if original.name in pruned_layers:
            layer.pruning_obj._pruning_vars = [
                tuple(getattr(variable, "_variable", variable) for variable in variables)
                for variables in layer.pruning_vars
            ]
    return wrapped


def prune_model(
    model: keras.Model,
    train: tuple[np.ndarray, np.ndarray],
    augmentation_limits: dict[str, Any],
    sparsity: float,
    prune: PruneParams,
    seed: int,
    policy: str,
    checkpoint: Checkpoint,
) -> keras.Model:
    """Prunes and fine-tunes a float32 model in place on (images, labels), from where `checkpoint` left it; returns it.

    The batches are not those of the training, whose seed is `seed`, too.
    """
    num_classes, steps = model.output_shape[-1], count_steps(len(train[0]), prune.batch_size)
    total_steps = prune.epochs * steps
    schedule = build_schedule(sparsity, total_steps, prune.ramp_fraction, prune.frequency)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(prune.learning_rate, total_steps))
    wrapped = wrap_for_pruning(model, schedule, policy, seed, lambda: optimizer.iterations)
    wrapped.compile(
        optimizer,
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=STEPS_PER_EXECUTION,
    )
    first_epoch = checkpoint.restore(wrapped)
    batches = training_batches(
        *train,
        num_classes,
        prune.batch_size,
        prune.epochs,
        prune.clean_epochs,
        seed + 1,
        **augmentation_limits,
        first_epoch=first_epoch,
    )
    wrapped.fit(
        batches,
        initial_epoch=first_epoch,
        epochs=prune.epochs,
        steps_per_epoch=steps,
        verbose=0,
        # The pruning callback comes first, so that whatever follows sees masked weights.
        callbacks=[
            tfmot.sparsity.keras.UpdatePruningStep(),
            Progress(f"prune {sparsity:g}", prune.epochs, steps, first_epoch),
            checkpoint,
        ],
    )
    for layer, trained in zip(model.layers, wrapped.layers, strict=True):
        layer.set_weights(trained.get_weights())  # a wrapper's are those of the layer in it
    return model


def list_layer_zeros(model: keras.Model, sparsity: float) -> list[dict[str, Any]]:
    """Lists layer, weights, zeros and share of zeros of each kernel.

    Raises:
        RuntimeError: if a pruned kernel's share of zeros is not `sparsity`; then the pruning did not do its work.
    """
    rows = []
    for layer in model.layers:
        if isinstance(layer, LAYERS_WITH_KERNEL):
            kernel = layer.kernel.numpy()
            if layer.name in list_pruned_layers(model) and not has_sparsity(kernel, sparsity):
                raise RuntimeError(
                    f"{layer.name}: expected a share of zeros of {sparsity}, got {compute_sparsity(kernel)}"
                )
            row = {"layer": layer.name, "weights": kernel.size, "zeros": count_zeros(kernel)}
            rows.append(row | {"sparsity": f"{compute_sparsity(kernel):.6f}"})
    return rows


def measure_total_sparsity(rows: Sequence[Mapping[str, Any]]) -> float:
    """Measures the share of zeros in all kernels together, from the rows of `list_layer_zeros`."""
    return round(sum(row["zeros"] for row in rows) / sum(row["weights"] for row in rows), 6)


def measure_accuracy(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    """Measures the accuracy of a model on (N, size, size) uint8 images."""
    return compute_accuracy(labels, predict_logits(model, to_network_input(images)).argmax(axis=1))


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


def parse_sparsity(sparsities: Sequence[float]) -> str:
    """Reads the target from the command line, as params.yaml writes it: it names the output folder, too.

    Raises:
        UserError: if it is none of `sparsities`.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sparsity", help=f"one of {', '.join(map(str, sparsities))}")
    name = str(parser.parse_args().sparsity)
    return find_name(name, [str(sparsity) for sparsity in sparsities], "sparsity")


def write_outputs(
    folder: Path,
    model: keras.Model,
    sparsity: float,
    before: Mapping[str, float],
    val: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
) -> None:
    """Writes the pruned model and what it is worth, beside what the dense one was."""
    zeros = list_layer_zeros(model, sparsity)
    write_model(folder / "model.h5", model)
    after = measure(model, val, test, folder / "model.h5", "")
    write_json(folder / "metrics.json", {"sparsity": measure_total_sparsity(zeros), **after, **before})
    write_csv(folder / "layers.csv", zeros)
    print(f"{folder}: validation accuracy {after['val_accuracy']:.4f}, dense {before['dense_val_accuracy']:.4f}")


def main() -> None:
    """Runs the stage."""
    params, limits = load_params(), read_json(CHOSEN / "choice.json")["augmentation_limits"]
    name, prune = parse_sparsity(params.prune.sparsities), params.prune
    policy, inputs = choose_policy(params.train.precision), [CHOSEN / "model.h5", DATA / "train.npz"]
    choices = [float(name), limits, replace(prune, sparsities=()), params.seed, policy]
    checkpoint = Checkpoint(CHECKPOINTS / f"prune@{name}.npz", compute_fingerprint(choices, inputs))
    train, val, test = (read_split(DATA / f"{split}.npz") for split in ("train", "val", "test"))
    model = read_model(CHOSEN / "model.h5")
    before = measure(model, val, test, CHOSEN / "model.h5", "dense_")
    pruned = prune_model(model, train, limits, float(name), prune, params.seed, policy, checkpoint)
    write_outputs(OUTPUT / name, pruned, float(name), before, val, test)
    checkpoint.remove()


if __name__ == "__main__":
    run_stage(main)
