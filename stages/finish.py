"""How good does the chosen candidate get? Trains it anew, for longer; run as `python -m stages.finish SEED`.

The grid orders its candidates after few epochs, which is cheap. What is compressed and shipped deserves more.

Reads:
    data/select_model/choice.json: which candidate.
    data/prepare/train.npz, val.npz: `images` uint8, `labels` (N,) uint8.

Writes, in data/finish/<seed>/:
    model.h5, history.csv, metrics.json, probabilities.npz: as stages/train.py does of a candidate.
    losses.npz: `train`, (N,) float32, the cross-entropy of each training image in nats: which ones model.h5 finds easy.
and, no DVC outputs:
    data/timing/training/finish@finished-<seed>.json: what the training took, which differs in every run.
    data/checkpoints/finish@finished-<seed>.npz: its state after every epoch, until it succeeds.

Never opens the test images.
"""

from pathlib import Path

import numpy as np

from stages.lib.network.architecture import list_layers
from stages.lib.network.keras2 import keras
from stages.lib.network.metrics import compute_probabilities
from stages.lib.network.model import predict_logits
from stages.lib.params.load import load_params
from stages.lib.params.sections import AugmentationParams
from stages.lib.running.arguments import parse_names
from stages.lib.running.machine import read_cpu_name
from stages.lib.running.runner import TIMING, run_stage
from stages.lib.storage.files import compute_sha256, read_json, read_split, write_arrays, write_json
from stages.lib.storage.variant import name_finished
from stages.lib.training.checkpoint import Checkpoint, compute_fingerprint, locate_checkpoint
from stages.lib.training.loop import train_model
from stages.lib.training.outcome import describe_run, write_trained
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
)
CHOICE = Path("data/select_model/choice.json")
SOURCES = (Path("data/prepare/train.npz"), Path("data/prepare/val.npz"))


def compute_losses(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Computes the cross-entropy of each of N uint8 images with its label, (N,) float32, in nats."""
    probabilities = compute_probabilities(predict_logits(model, images))
    of_label = np.take_along_axis(probabilities, labels[:, np.newaxis].astype(np.int64), axis=1)[:, 0]
    return -np.log(np.maximum(of_label, np.finfo(np.float32).tiny)).astype(np.float32)


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    (seed,) = parse_names(__doc__, seed="study.seeds")
    variant, choice = name_finished(int(seed)), read_json(CHOICE)
    layers = list_layers(
        params.dataset.image_size_px,
        len(params.dataset.class_names),
        **choice["architecture"],
        channels=params.dataset.channels,
    )
    recipe = Recipe(
        train=params.train.model_copy(update=params.finish.model_dump()),
        augmentation=AugmentationParams(**choice["augmentation_limits"]),
        seed=variant.seed,
        policy=choose_policy(params.train.precision),
    )
    checkpoint = Checkpoint(locate_checkpoint(variant), compute_fingerprint([layers, recipe], SOURCES))
    train_set, val_set = map(read_split, SOURCES)
    model = train_model(
        layers=layers,
        recipe=recipe,
        train_set=train_set,
        val_set=val_set,
        history_path=variant.folder / "history.csv",
        checkpoint=checkpoint,
    )
    metrics = write_trained(variant.folder, model, checkpoint.rows, val_set)
    write_arrays(variant.folder / "losses.npz", train=compute_losses(model, *train_set))
    took = describe_run(checkpoint.seconds, recipe.train.epochs * len(train_set[0]), recipe.policy, read_cpu_name())
    digest = compute_sha256(variant.folder / "model.h5")
    write_json(TIMING / f"training/{variant.run}.json", {**took, "model_sha256": digest})
    checkpoint.remove()
    print(f"{variant.folder}: validation accuracy {metrics['val_accuracy']:.4f} after {checkpoint.seconds:.0f} s")


if __name__ == "__main__":
    run_stage(main)
