"""How well does a model learn under an augmentation? Run as `python -m stages.train MODEL AUGMENTATION SEED`.

One candidate of the grid, which is there to be compared: so it sees a share of the training images only.

Reads:
    data/prepare/train.npz, val.npz: `images` uint8, `labels` (N,) uint8.

Writes, in data/train/<model>-<augmentation>/<seed>/:
    model.h5: the float32 Keras model after the last epoch, from images in [0, 1] to logits.
    history.csv: a row per epoch and split, written anew after every epoch.
    metrics.json: accuracy and loss of model.h5 on the validation images.
    probabilities.npz: `val`, (N, classes) float16, what model.h5 says of each validation image; `labels`, theirs.
and, no DVC outputs:
    data/timing/training/train@<model>-<augmentation>-<seed>.json: what the training took, which differs in every run.
    data/checkpoints/train@<model>-<augmentation>-<seed>.npz: its state after every epoch, until it succeeds. A run that
        was killed goes on from there, and ends with the same bytes.

Where TF_CONFIG names several workers, each runs this command and they train one model; the first one writes all files.
Never opens the test images.
"""

from pathlib import Path

import numpy as np

from stages.lib.errors import UserError
from stages.lib.network.architecture import list_layers
from stages.lib.params.load import load_params
from stages.lib.running.arguments import parse_names
from stages.lib.running.machine import read_cpu_name
from stages.lib.running.runner import TIMING, run_stage
from stages.lib.storage.files import compute_sha256, read_split, write_json
from stages.lib.storage.selected import Rows, Selected
from stages.lib.storage.split import split_stratified
from stages.lib.storage.variant import Variant
from stages.lib.training.checkpoint import Checkpoint, compute_fingerprint, locate_checkpoint
from stages.lib.training.cluster import check_divisible, read_cluster
from stages.lib.training.loop import train_model
from stages.lib.training.outcome import describe_run, write_trained
from stages.lib.training.precision import choose_policy
from stages.lib.training.recipe import Recipe

READS = (
    "seed",
    "dataset.image_size_px",
    "dataset.channels",
    "dataset.class_names",
    "study.split_by_seed",
    "study.keep_fraction",
    "models",
    "augmentations",
    "train",
)
SOURCES = (Path("data/prepare/train.npz"), Path("data/prepare/val.npz"))


def split_anew(
    train_set: tuple[Rows, np.ndarray], val_set: tuple[Rows, np.ndarray], seed: int
) -> list[tuple[Rows, np.ndarray]]:
    """Draws other training and validation images, as many of each class, from all (images, labels) of both sets."""
    images, labels = [train_set[0], val_set[0]], np.concatenate([train_set[1], val_set[1]])
    fraction = len(val_set[1]) / len(labels)
    parts = split_stratified(labels, fraction, np.random.default_rng(seed))
    return [(Selected(images, part), labels[part]) for part in parts]


def keep_share(train_set: tuple[Rows, np.ndarray], fraction: float, seed: int) -> tuple[Rows, np.ndarray]:
    """Keeps a share of (images, labels), of each class alike.

    Raises:
        UserError: if a class has no image left.
    """
    images, labels = train_set
    _, kept = split_stratified(labels, fraction, np.random.default_rng([seed, 1]))
    if missing := sorted(set(labels.tolist()) - set(labels[kept].tolist())):
        raise UserError(
            f"params.yaml: study.keep_fraction: {fraction:g} leaves {len(kept)} training images, none of class "
            f"{', '.join(map(str, missing))}; raise it, or prepare.keep_fraction"
        )
    return Selected([images], kept), labels[kept]


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    model_name, augmentation_name, seed_text = parse_names(
        __doc__, model="models", augmentation="augmentations", seed="study.seeds"
    )
    seed = int(seed_text)
    variant = Variant("train", model_name, augmentation_name, seed)
    layers = list_layers(
        params.dataset.image_size_px,
        len(params.dataset.class_names),
        **params.models[model_name].model_dump(),
        channels=params.dataset.channels,
    )
    recipe = Recipe(
        train=params.train,
        augmentation=params.augmentations[augmentation_name],
        seed=seed,
        policy=choose_policy(params.train.precision),
    )
    cluster = read_cluster()
    draws_split = params.study.split_by_seed and seed != params.seed
    fingerprint = compute_fingerprint(
        [layers, recipe, cluster.num_workers, draws_split, params.study.keep_fraction], SOURCES
    )
    checkpoint = Checkpoint(locate_checkpoint(variant), fingerprint, cluster.is_chief)
    train_set: tuple[Rows, np.ndarray]
    val_set: tuple[Rows, np.ndarray]
    train_set, val_set = map(read_split, SOURCES)
    if draws_split:
        train_set, val_set = split_anew(train_set, val_set, seed)
    train_set = keep_share(train_set, params.study.keep_fraction, seed)
    check_divisible(len(train_set[0]), params.train.batch_size, cluster.num_workers)
    model = train_model(
        layers=layers,
        recipe=recipe,
        train_set=train_set,
        val_set=val_set,
        history_path=variant.folder / "history.csv",
        checkpoint=checkpoint,
        cluster=cluster,
    )
    if not cluster.is_chief:
        return
    metrics = write_trained(variant.folder, model, checkpoint.rows, val_set)
    num_images = params.train.epochs * len(train_set[0])
    took = describe_run(checkpoint.seconds, num_images, recipe.policy, read_cpu_name())
    digest = compute_sha256(variant.folder / "model.h5")
    write_json(TIMING / f"training/{variant.run}.json", {**took, "model_sha256": digest})
    checkpoint.remove()
    print(f"{variant.folder}: validation accuracy {metrics['val_accuracy']:.4f} after {checkpoint.seconds:.0f} s")


if __name__ == "__main__":
    run_stage(main, writes=lambda: read_cluster().is_chief)
