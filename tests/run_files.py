"""The files of a finished run of two models, small and third, with few bytes: for tests of stages that sum up."""

from collections.abc import Sequence
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from sections import replace

from stages.lib.params.load import load_params
from stages.lib.params.sections import Params, StudyParams
from stages.lib.results.published import CLASS_NAMES
from stages.lib.results.rows import find_evaluated
from stages.lib.storage.files import write_arrays, write_bytes, write_csv, write_json
from stages.lib.storage.variant import Variant, name_finished

ACCURACY = {"small-none": 0.90, "small-flip": 0.94, "third-none": 0.91, "third-flip": 0.941}
FINISHED = 0.95
"""Accuracies on validation images, of candidates and of the finished model, with the first seed."""

CHOSEN = "small-flip"
SEED, OTHER_SEED = 42, 7
GAIN = 0.01
"""What a model with the other seed has more, in every accuracy, where the run has that seed."""

RANKINGS, SPARSITIES = ("uniform", "lamp"), (0.5, 0.9)
WAYS, SHARES = ("magnitude", "scratch"), (0.5, 0.25)
NUM_VAL, NUM_TEST = 200, 100
LABELS = (np.arange(NUM_TEST) % 2).astype(np.uint8)
_COMMITTED = load_params()  # now, while the working directory is that of the project
SHIPPED: dict[str, Any] = {
    "name": "lamp-0.9",
    "precision": "int8",
    "val_accuracy": 0.935,
    "test_accuracy": 0.92,
    "size_bytes": 1000,
    "gzip_size_bytes": 400,
    "macs": 1_000_000,
    "parameters": 100_000,
    "device": {
        "macs": 300_000,
        "flash_bytes": 700,
        "ram_bytes": 250,
        "instructions_cortex_m4": 900_000,
        "tflite_micro_arena_bytes": 800,
    },
    "val_balanced_accuracy": 0.931,
    "val_macro_f1": 0.932,
    "test_balanced_accuracy": 0.911,
    "test_macro_f1": 0.912,
    "dataset": "Fashion-MNIST",
    "class_names": list(CLASS_NAMES),
    "num_images": {"val": NUM_VAL, "test": NUM_TEST},
}


def make_study(
    models: Sequence[str] = ("small", "third"),
    augmentations: Sequence[str] = ("none", "flip"),
    seeds: Sequence[int] = (SEED,),
) -> StudyParams:
    """Makes the study of the run, or a part of it."""
    return replace(_COMMITTED.study, models=tuple(models), augmentations=tuple(augmentations), seeds=tuple(seeds))


def make_params(seeds: Sequence[int] = (SEED,)) -> Params:
    """Makes the params of the run."""
    return replace(
        _COMMITTED,
        study=make_study(seeds=seeds),
        prune=replace(_COMMITTED.prune, rankings=RANKINGS, shrunk_shares=(), sparsities=SPARSITIES, seeds=tuple(seeds)),
        shrink=replace(_COMMITTED.shrink, filters=WAYS, macs_shares=SHARES, seeds=(SEED,)),
    )


def trained(key: str, seed: int = SEED) -> Variant:
    """Names the model of a candidate."""
    model, augmentation = key.split("-")
    return Variant("train", model, augmentation, seed)


def predict(accuracy: float) -> np.ndarray:
    """Makes predictions of which the first are wrong, so that a better model is right wherever a worse one is."""
    is_right = np.arange(NUM_TEST) >= round((1 - accuracy) * NUM_TEST)
    return np.where(is_right, LABELS, 1 - LABELS).astype(np.uint8)


def write_trained(variant: Variant, accuracy: float) -> None:
    """Writes what train or finish, and then evaluate, write of one model."""
    write_bytes(variant.folder / "model.h5", f"the model of {variant.run}".encode() * 100)
    balanced = {"val_balanced_accuracy": round(accuracy - 0.01, 4), "val_macro_f1": round(accuracy - 0.02, 4)}
    write_json(variant.folder / "metrics.json", {"val_accuracy": accuracy, "val_loss": 0.25} | balanced)
    curve = [{"epoch": 1, "split": split, "accuracy": accuracy} for split in ("train", "val")]
    write_csv(variant.folder / "history.csv", curve)
    measured = {"test_balanced_accuracy": round(accuracy - 0.02, 4), "test_macro_f1": round(accuracy - 0.03, 4)}
    measured |= {"test_accuracy": accuracy - 0.01, "test_loss": 0.3, "calibration_error": 0.02}
    measured["test_accuracy_under_flip"] = accuracy - 0.1
    write_json(find_evaluated(variant) / "metrics.json", measured)
    predicted = {"as_they_are": predict(accuracy - 0.01), "under_flip": predict(accuracy - 0.1)}
    write_arrays(find_evaluated(variant) / "predictions.npz", labels=LABELS, **predicted)


def write_exported(source: str, name: str, accuracy: float, gzip_size: int) -> None:
    """Writes what export and deploy write of one model; int8 takes a quarter of float32 and loses 0.1 points."""
    metrics: dict[str, float] = {"keras_val_accuracy": accuracy}
    predicted = {precision: predict(accuracy - loss) for precision, loss in (("float32", 0.01), ("int8", 0.011))}
    write_arrays(Path(f"data/export/{source}/{name}/predictions.npz"), labels=LABELS, **predicted)
    for precision, loss, size in (("float32", 0, gzip_size), ("int8", 0.001, gzip_size // 4)):
        write_bytes(Path(f"data/export/{source}/{name}/{precision}.tflite"), f"{name} in {precision}".encode())
        metrics[f"{precision}_val_accuracy"] = round(accuracy - loss, 4)
        metrics[f"{precision}_test_accuracy"] = round(accuracy - loss - 0.01, 4)
        for score, less in (("balanced_accuracy", 0.02), ("macro_f1", 0.03)):
            metrics[f"{precision}_val_{score}"] = round(accuracy - loss - less, 4)
            metrics[f"{precision}_test_{score}"] = round(accuracy - loss - less - 0.01, 4)
        metrics[f"{precision}_size_bytes"] = 2 * size
        metrics[f"{precision}_gzip_size_bytes"] = size
    write_json(Path(f"data/export/{source}/{name}/metrics.json"), metrics)
    write_bytes(Path(f"data/deploy/{source}/{name}/model.c"), f"{name} in C".encode())
    cost = {
        "flash_bytes": gzip_size // 2,
        "ram_bytes": 2000 + gzip_size // 100,
        "instructions_cortex_m4": 3 * gzip_size,
    }
    write_json(
        Path(f"data/deploy/{source}/{name}/metrics.json"), cost | {"tflite_micro_arena_bytes": 9000, "macs": gzip_size}
    )


def write_version(variant: Variant, accuracy: float, gain: float = 0, **cost: float) -> None:
    """Writes what prune or shrink, and then export, write of one version of the finished model."""
    target = float(variant.target)
    folder, size = variant.folder, round(4000 * target)
    accuracies = {"val_accuracy": round(accuracy + gain, 4), "test_accuracy": 0.92 + gain}
    write_json(folder / "metrics.json", {**cost, **accuracies, "size_bytes": 2 * size, "gzip_size_bytes": size})
    macs = {"dense_macs": 900_000, "macs": round(900_000 * target)}
    conv = {"layer": "conv1", "weights": 10, "zeros": 1, "sparsity": "0.250000", **macs}
    write_csv(folder / "layers.csv", [conv, conv | {"layer": "conv1_bn", "dense_macs": 0, "macs": 0}])
    if variant.seed == SEED:
        write_exported(variant.source, variant.name, accuracy, size)


def write_pruned(seed: int, gain: float) -> None:
    """Writes what prune writes of one finished model."""
    for ranking, sparsity in product(RANKINGS, SPARSITIES):
        costs = {"macs": 1_000_000, "nonzero_macs": round(1_000_000 * (1 - sparsity)), "parameters": 100_000}
        version = Variant("prune", ranking, sparsity, seed)
        write_version(version, round(0.93 - sparsity / 100, 4), gain, sparsity=sparsity - 0.001, **costs)


def write_run(seeds: Sequence[int] = (SEED,)) -> None:
    """Writes all files of the run, no times among them; with the first seed alone models are shrunk."""
    write_arrays(Path("data/prepare/val.npz"), labels=np.zeros(NUM_VAL, np.uint8))
    for number, seed in enumerate(seeds):
        gain = GAIN * number
        for key, accuracy in ACCURACY.items():
            write_trained(trained(key, seed), accuracy + gain)
        write_trained(name_finished(seed), FINISHED + gain)
        write_pruned(seed, gain)
    layer = {"layer": "conv1", "kind": "conv", "output_shape": "3x3", "receptive_field_px": 3, "parameters": 9}
    for model, macs in (("small", 1_000_000), ("third", 3_000_000)):
        cost = {"macs": macs, "flops": 2 * macs, "parameters": macs // 10, "receptive_field_px": 16}
        write_json(Path(f"data/complexity/{model}/metrics.json"), cost)
        write_csv(
            Path(f"data/complexity/{model}/layers.csv"), [layer | {"macs": 9, "macs_share": 1, "parameters_share": 1}]
        )
        write_exported("train", f"{model}-flip", 0.94, macs // 250)
    write_exported("finish", "finished", FINISHED, 4000)
    for way, share in product(WAYS, SHARES):
        costs = {"macs": round(960_000 * share), "parameters": round(90_000 * share)}
        write_version(Variant("shrink", way, share, SEED), round(0.9 + share / 100, 4), **costs)
    model, augmentation = CHOSEN.split("-")
    write_json(Path("data/select_model/choice.json"), {"model": model, "augmentation": augmentation})
    write_json(Path("data/ship/model.json"), SHIPPED)
    for name in ("frontier", "latency"):
        rows = [{"name": "lamp-0.9", "format": "tflite", "precision": p, "cpu": "a CPU"} for p in ("float32", "int8")]
        write_csv(Path(f"data/frontier/{name}.csv"), rows)


def write_training_time(variant: Variant, **changes: object) -> None:
    """Writes what training leaves in data/timing."""
    timing = {"seconds": 61.5, "images_per_second": 100, "policy": "float32", "cpu": "a CPU", "num_cpus": 2}
    timing |= {"date": "2020-01-01", "python": "3.11.9"}
    digest = sha256((variant.folder / "model.h5").read_bytes()).hexdigest()
    write_json(Path(f"data/timing/training/{variant.run}.json"), timing | {"model_sha256": digest} | changes)


def write_stage_time(name: str, seconds: float = 1.5) -> None:
    """Writes what a stage leaves in data/timing."""
    write_json(Path(f"data/timing/{name}.json"), {"stage": name, "seconds": seconds, "peak_memory_mib": 700})


def write_latency(source: str, name: str, precision: str, median_ms: float, **changes: Any) -> None:
    """Writes what export leaves of one file in data/timing."""
    content = Path(f"data/export/{source}/{name}/{precision}.tflite").read_bytes()
    timing = {
        "sha256": sha256(content).hexdigest(),
        "cpu": "a CPU",
        "runtime": "ai-edge-litert 2.3.0",
        "num_threads": 1,
        "batch_1": {"median_ms": median_ms, "p25_ms": 0.9 * median_ms, "p75_ms": 1.1 * median_ms, "runs": 100},
        "batch_32": {"median_ms": 30 * median_ms, "p25_ms": 29.0, "p75_ms": 31.0, "runs": 30},
        "peak_memory_mib": 60.0,
        "runtime_memory_mib": 8.5,
    }
    write_json(Path(f"data/timing/latency/{source}/{name}-{precision}.json"), timing | changes)


def write_c_latency(source: str, name: str, median_ms: float) -> None:
    """Writes what deploy leaves of one model in data/timing; LiteRT takes twice as long in int8 as the C."""
    content = Path(f"data/deploy/{source}/{name}/model.c").read_bytes()
    known = {"cpu": "a CPU", "compiler": "ziglang 1", "runtime": "ai-edge-litert 2.3.0", "num_threads": 1}
    times = {
        file: {"median_ms": factor * median_ms, "p25_ms": 0.9 * median_ms, "p75_ms": 1.1 * median_ms, "runs": 100}
        for file, factor in (("c", 1), ("int8", 2), ("float32", 8))
    }
    write_json(Path(f"data/timing/c/{source}/{name}.json"), {"sha256": sha256(content).hexdigest(), **known, **times})
