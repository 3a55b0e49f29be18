import gzip
import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sections import replace

from stages import shrink as stage
from stages.lib.cost.filters import choose_filters, count_channels, remove_filters, score_filters
from stages.lib.cost.macs import count_macs, count_parameters
from stages.lib.errors import UserError
from stages.lib.network.architecture import list_layers
from stages.lib.network.keras2 import keras
from stages.lib.network.model import build_model, predict_logits, read_model, to_network_input, write_model
from stages.lib.params.load import load_params
from stages.lib.params.sections import AugmentationParams, ShrinkParams
from stages.lib.storage.files import read_csv, read_json, write_arrays, write_json
from stages.lib.training.checkpoint import Checkpoint
from stages.lib.training.cluster import Cluster
from stages.shrink import build_checkpoints, cut_weights, list_layer_costs, list_rungs, list_weights, train_rungs

LIMITS: dict[str, Any] = {"rotation_degrees": 0.0, "shift_fraction": 0.0, "zoom_fraction": 0.0}
LIMITS |= {"shift_px": 0, "erase_px": 0, "horizontal_flip": False}
ARCHITECTURE: dict[str, Any] = {
    "blocks": [[4], [6]],
    "residual": False,
    "global_pool": False,
    "dense": [8],
    "batch_norm": ["conv", "flatten", "dense"],
    "dropout": 0.2,
}
RESIDUAL = ARCHITECTURE | {
    "blocks": [[4, 6, 4], [6]],
    "residual": True,
    "global_pool": True,
    "dense": [],
    "batch_norm": ["conv"],
}
SHRINK = ShrinkParams(
    filters=("magnitude", "random", "scratch"),
    macs_shares=(0.5, 0.25),
    multiple=1,
    epochs=2,
    clean_epochs=1,
    learning_rate=0.01,
)
WIDTHS = [([[2], [4]], [5]), ([[1], [2]], [3])]
"""Blocks and hidden dense units of ARCHITECTURE at both shares of SHRINK."""
DENSE_MACS = 36 * 9 * 4 + 9 * 9 * 4 * 6 + 6 * 8 + 8 * 3
MACS = [36 * 9 * 2 + 9 * 9 * 2 * 4 + 4 * 5 + 5 * 3, 36 * 9 * 1 + 9 * 9 * 1 * 2 + 2 * 3 + 3 * 3]
"""Of 6 x 6 pixels, 3 x 3 and one: 1,331 and 501 of 3,312; the next wider networks would need 1,979 and 987."""
EPOCHS = 3
"""Of the training of the chosen model."""


def make_images(num_images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes noisy 6 x 6 images of three classes: two rows of each image are bright, by its label."""
    labels = (np.arange(num_images) % 3).astype(np.uint8)
    images = np.random.default_rng(seed).integers(0, 100, (num_images, 6, 6), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 120
    return images, labels


TRAIN_SET, VAL_SET, TEST_SET = make_images(64, seed=0), make_images(12, seed=1), make_images(9, seed=2)
LAYERS = list_layers(6, 3, **ARCHITECTURE)


PARAMS = load_params()
TRAIN = replace(PARAMS.train, epochs=EPOCHS, clean_epochs=2, batch_size=16, learning_rate=0.02, precision="float32")
PARAMS = replace(
    PARAMS,
    seed=7,
    train=TRAIN,
    dataset=replace(PARAMS.dataset, image_size_px=6, class_names=("a", "b", "c")),
)
COMPRESSION = load_params()


# The networks


@pytest.mark.parametrize("filters", SHRINK.filters)
def test_all_ways_have_the_same_networks(filters: str) -> None:
    rungs = list_rungs(filters, ARCHITECTURE, 6, 3, TRAIN, SHRINK)

    assert [rung.share for rung in rungs] == [0.5, 0.25]
    assert [(rung.architecture["blocks"], rung.architecture["dense"]) for rung in rungs] == WIDTHS
    assert [sum(map(count_macs, rung.layers)) for rung in rungs] == MACS
    assert sum(map(count_macs, LAYERS)) == DENSE_MACS


@pytest.mark.parametrize("filters", ["magnitude", "random"])
def test_each_rung_is_fine_tuned_by_the_recipe_of_the_training(filters: str) -> None:
    for rung in list_rungs(filters, ARCHITECTURE, 6, 3, TRAIN, SHRINK):
        assert rung.train == replace(TRAIN, epochs=2, clean_epochs=1, learning_rate=0.01)


def test_a_network_from_scratch_passes_the_images_as_often_as_the_others_have_in_all() -> None:
    rungs = list_rungs("scratch", ARCHITECTURE, 6, 3, TRAIN, SHRINK)

    assert [rung.train for rung in rungs] == [replace(TRAIN, epochs=epochs) for epochs in (3 + 2, 3 + 4)]


def test_a_share_that_no_network_has_is_refused() -> None:
    shrink = replace(SHRINK, macs_shares=(0.5, 0.01))

    with pytest.raises(UserError, match=r"macs_shares: .* got 0\.01"):
        list_rungs("magnitude", ARCHITECTURE, 6, 3, TRAIN, shrink)


# The weights


@pytest.mark.parametrize("architecture", [ARCHITECTURE, RESIDUAL])
@pytest.mark.parametrize("filters", ["magnitude", "random"])
def test_cut_weights_are_in_the_order_in_which_keras_takes_them(architecture: dict[str, Any], filters: str) -> None:
    layers = list_layers(6, 3, **architecture)
    (rung, *_) = list_rungs(filters, architecture, 6, 3, TRAIN, SHRINK)
    model = build_model(layers, seed=1)

    weights = cut_weights(filters, layers, list_weights(model), rung.layers, np.random.default_rng(0))

    smaller = build_model(rung.layers, seed=2)
    assert weights is not None
    assert [array.shape for array in weights] == [array.shape for array in smaller.get_weights()]
    smaller.set_weights(weights)
    np.testing.assert_array_equal(smaller.get_layer("conv1").kernel, weights[0])
    np.testing.assert_array_equal(smaller.get_layer("logits").bias, weights[-1])
    np.testing.assert_array_equal(weights[-1], model.get_layer("logits").bias)


def test_magnitude_keeps_the_filters_with_the_highest_scores() -> None:
    weights = list_weights(build_model(LAYERS, seed=1))
    (rung, *_) = list_rungs("magnitude", ARCHITECTURE, 6, 3, TRAIN, SHRINK)
    kept = choose_filters(score_filters(LAYERS, weights), count_channels(rung.layers))
    expected = [array for arrays in remove_filters(LAYERS, weights, kept).values() for array in arrays]

    cut = cut_weights("magnitude", LAYERS, weights, rung.layers, np.random.default_rng(0))

    assert cut is not None
    assert all(map(np.array_equal, cut, expected))


def test_random_filters_depend_on_the_generator() -> None:
    weights = list_weights(build_model(LAYERS, seed=1))
    (rung, *_) = list_rungs("random", ARCHITECTURE, 6, 3, TRAIN, SHRINK)
    cuts = [cut_weights("random", LAYERS, weights, rung.layers, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    first, again, other = (np.concatenate([array.ravel() for array in cut or []]) for cut in cuts)

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_network_from_scratch_gets_no_weights() -> None:
    weights = list_weights(build_model(LAYERS, seed=1))

    assert cut_weights("scratch", LAYERS, weights, LAYERS, np.random.default_rng(0)) is None


def test_an_unknown_way_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown way to shrink 'largest'"):
        cut_weights("largest", LAYERS, list_weights(build_model(LAYERS, seed=1)), LAYERS, np.random.default_rng(0))


# The training


class Call:
    """What `train_model` was called with, and the model that it returned."""

    def __init__(self, layers: Any, augmentation: Any, train: Any, seed: int, history_path: Path, weights: Any) -> None:
        self.layers = layers
        self.augmentation = augmentation
        self.train = train
        self.seed = seed
        self.history_path = history_path
        self.weights = weights
        self.model = build_model(layers, seed)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Replaces the training by a model of new random weights; lists what it was asked for."""
    calls: list[Call] = []

    def train_model(
        train_set: Any,
        val_set: Any,
        layers: Any,
        augmentation: Any,
        train: Any,
        seed: int,
        policy: str,
        history_path: Path,
        checkpoint: Checkpoint,
        cluster: Cluster,
        initial_weights: Any = None,
    ) -> keras.Model:
        assert (train_set, val_set, policy, cluster) == (TRAIN_SET, VAL_SET, "float32", Cluster())
        assert checkpoint.path.name.removesuffix(".npz").endswith(history_path.parent.name)
        calls.append(Call(layers, augmentation, train, seed, history_path, initial_weights))
        return calls[-1].model

    monkeypatch.setattr(stage, "train_model", train_model)
    return calls


def train_all(filters: str, model: keras.Model) -> list[keras.Model]:
    rungs = list_rungs(filters, ARCHITECTURE, 6, 3, TRAIN, SHRINK)
    checkpoints = [Checkpoint(Path(f"shrink@{filters}-{rung.share}.npz"), "of this test") for rung in rungs]
    what = (TRAIN_SET, VAL_SET, AugmentationParams(**LIMITS), 7, "float32")
    return list(train_rungs(filters, model, LAYERS, rungs, checkpoints, *what))


def test_each_rung_starts_from_the_fine_tuned_network_of_the_one_before(calls: list[Call]) -> None:
    model = build_model(LAYERS, seed=1)

    models = train_all("magnitude", model)

    first, second = calls
    rng = np.random.default_rng(0)
    assert models == [first.model, second.model]
    from_chosen = cut_weights("magnitude", LAYERS, list_weights(model), first.layers, rng)
    from_first = cut_weights("magnitude", first.layers, list_weights(first.model), second.layers, rng)
    assert from_chosen is not None
    assert from_first is not None
    assert all(map(np.array_equal, first.weights, from_chosen))
    assert all(map(np.array_equal, second.weights, from_first))


def test_each_rung_sees_other_batches_than_the_training_and_the_other_rungs(calls: list[Call]) -> None:
    train_all("magnitude", build_model(LAYERS, seed=1))

    assert [call.seed for call in calls] == [7 + 1, 7 + 2]


@pytest.mark.parametrize("filters", SHRINK.filters)
def test_each_rung_is_trained_under_the_augmentation_of_the_choice_and_in_its_own_folder(
    calls: list[Call], filters: str
) -> None:
    train_all(filters, build_model(LAYERS, seed=1))

    assert [call.augmentation for call in calls] == [AugmentationParams(**LIMITS)] * 2
    assert [call.history_path for call in calls] == [
        Path(f"data/shrink/{filters}/{share}/history.csv") for share in (0.5, 0.25)
    ]


def test_networks_from_scratch_start_from_random_weights(calls: list[Call]) -> None:
    train_all("scratch", build_model(LAYERS, seed=1))

    assert [call.weights for call in calls] == [None, None]
    assert [call.train.epochs for call in calls] == [5, 7]


# What is written


def test_costs_are_listed_by_layer_that_has_weights() -> None:
    smaller = list_layers(6, 3, **ARCHITECTURE | {"blocks": [[3], [3]], "dense": [4]})

    rows = list_layer_costs(LAYERS, smaller)

    assert rows[0] == {
        "layer": "conv1",
        "kind": "conv",
        "dense_filters": 4,
        "filters": 3,
        "dense_macs": 6 * 6 * 9 * 4,
        "macs": 6 * 6 * 9 * 3,
        "dense_parameters": 40,
        "parameters": 30,
    }
    assert [(row["layer"], row["dense_filters"], row["filters"]) for row in rows] == [
        ("conv1", 4, 3),
        ("conv1_bn", 4, 3),
        ("conv2", 6, 3),
        ("conv2_bn", 6, 3),
        ("flatten_bn", 6, 3),
        ("dense1", 8, 4),
        ("dense1_bn", 8, 4),
        ("logits", 3, 3),
    ]
    for name, network in (("dense_", LAYERS), ("", smaller)):
        assert sum(row[f"{name}macs"] for row in rows) == sum(map(count_macs, network))
        assert sum(row[f"{name}parameters"] for row in rows) == sum(map(count_parameters, network))


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Is the file of an untrained model of ARCHITECTURE."""
    path = tmp_path_factory.mktemp("chosen") / "model.h5"
    write_model(path, build_model(LAYERS, seed=1))
    return path


def make_folder(folder: Path, chosen: Path) -> Path:
    """Writes what the stage reads."""
    (folder / "data/select_model").mkdir(parents=True)
    (folder / "data/select_model/model.h5").write_bytes(chosen.read_bytes())
    choice = {"augmentation_limits": LIMITS, "architecture": ARCHITECTURE}
    write_json(folder / "data/select_model/choice.json", choice)
    for name, (images, labels) in (("train", TRAIN_SET), ("val", VAL_SET), ("test", TEST_SET)):
        write_arrays(folder / f"data/prepare/{name}.npz", images=images, labels=labels)
    return folder


def run_stage_in(folder: Path, filters: str, seed: int = 7, **changes: Any) -> None:
    """Runs the stage in `folder` with SHRINK, changed by `changes`."""
    params = replace(PARAMS, seed=seed)
    compression = replace(COMPRESSION, shrink=replace(SHRINK, **changes))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(stage, "load_params", lambda **_: params)
        monkeypatch.setattr(stage, "load_params", lambda **_: compression)
        monkeypatch.setattr(sys, "argv", ["shrink", filters])
        monkeypatch.chdir(folder)
        keras.backend.clear_session()  # as in a process of its own
        stage.main()


def compute_checksums(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module")
def undisturbed(chosen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Is a folder in which the stage ran once for each way."""
    folder = make_folder(tmp_path_factory.mktemp("undisturbed"), chosen)
    for filters in SHRINK.filters:
        run_stage_in(folder, filters)
    return folder


@pytest.fixture
def folder(chosen: Path, tmp_path: Path) -> Path:
    """Is a folder in which the stage can run."""
    return make_folder(tmp_path, chosen)


def measure_accuracy(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    predicted = predict_logits(read_model(path), to_network_input(images)).argmax(axis=1)
    return sum(predicted == labels) / len(labels)


@pytest.mark.parametrize("filters", SHRINK.filters)
def test_the_stage_writes_four_files_for_each_rung(undisturbed: Path, filters: str) -> None:
    files = {"model.h5", "metrics.json", "layers.csv", "history.csv"}

    assert set(compute_checksums(undisturbed / "data/shrink" / filters)) == {
        f"{share}/{name}" for share in (0.5, 0.25) for name in files
    }


@pytest.mark.parametrize(("share", "widths", "macs"), [(0.5, WIDTHS[0], MACS[0]), (0.25, WIDTHS[1], MACS[1])])
@pytest.mark.parametrize("filters", SHRINK.filters)
def test_the_metrics_are_those_of_the_smaller_model_and_of_the_chosen_one(
    undisturbed: Path, chosen: Path, filters: str, share: float, widths: tuple[Any, Any], macs: int
) -> None:
    output = undisturbed / "data/shrink" / filters / str(share)

    metrics = read_json(output / "metrics.json")

    content = (output / "model.h5").read_bytes()
    assert metrics == {
        "macs_share": round(macs / DENSE_MACS, 6),
        "macs": macs,
        "parameters": read_model(output / "model.h5").count_params(),
        "blocks": widths[0],
        "dense": widths[1],
        "val_accuracy": measure_accuracy(output / "model.h5", *VAL_SET),
        "test_accuracy": measure_accuracy(output / "model.h5", *TEST_SET),
        "size_bytes": len(content),
        "gzip_size_bytes": len(gzip.compress(content, 9, mtime=0)),
        "dense_macs": DENSE_MACS,
        "dense_val_accuracy": measure_accuracy(chosen, *VAL_SET),
        "dense_test_accuracy": measure_accuracy(chosen, *TEST_SET),
    }


@pytest.mark.parametrize("filters", SHRINK.filters)
def test_the_layers_are_those_of_the_rung(undisturbed: Path, filters: str) -> None:
    rows = read_csv(undisturbed / "data/shrink" / filters / "0.25/layers.csv")

    of_kernels = {row["layer"]: (row["dense_filters"], row["filters"]) for row in rows if row["kind"] != "batch_norm"}
    assert of_kernels == {"conv1": ("4", "1"), "conv2": ("6", "2"), "dense1": ("8", "3"), "logits": ("3", "3")}


@pytest.mark.parametrize(
    ("filters", "share", "epochs"),
    [("magnitude", 0.25, 2), ("random", 0.5, 2), ("scratch", 0.5, EPOCHS + 2), ("scratch", 0.25, EPOCHS + 4)],
)
def test_the_history_has_a_row_for_each_epoch_and_split(
    undisturbed: Path, filters: str, share: float, epochs: int
) -> None:
    rows = read_csv(undisturbed / "data/shrink" / filters / str(share) / "history.csv")

    expected = [(str(epoch), split) for epoch in range(1, epochs + 1) for split in ("train", "val")]
    assert [(row["epoch"], row["split"]) for row in rows] == expected


def test_the_ways_give_different_models(undisturbed: Path) -> None:
    models = {(undisturbed / "data/shrink" / filters / "0.5/model.h5").read_bytes() for filters in SHRINK.filters}

    assert len(models) == 3


def test_no_checkpoint_is_left(undisturbed: Path) -> None:
    assert list((undisturbed / "data/checkpoints").iterdir()) == []


def test_the_chosen_model_is_not_changed(undisturbed: Path, chosen: Path) -> None:
    assert (undisturbed / "data/select_model/model.h5").read_bytes() == chosen.read_bytes()


@pytest.mark.parametrize("filters", SHRINK.filters)
def test_shrinking_learns_from_the_images(folder: Path, chosen: Path, filters: str) -> None:
    run_stage_in(folder, filters, macs_shares=(0.9,), epochs=30, learning_rate=0.05)

    metrics = read_json(folder / "data/shrink" / filters / "0.9/metrics.json")
    assert measure_accuracy(chosen, *VAL_SET) < 0.6
    assert metrics["val_accuracy"] > 0.9


def test_another_seed_gives_other_bytes(folder: Path, undisturbed: Path) -> None:
    run_stage_in(folder, "random", seed=8, macs_shares=(0.5,))

    path = Path("data/shrink/random/0.5/model.h5")
    assert (folder / path).read_bytes() != (undisturbed / path).read_bytes()


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize(("filters", "epoch"), [("magnitude", 2), ("random", 1), ("scratch", 7)])
def test_a_run_that_is_killed_in_its_second_rung_goes_on_and_ends_with_the_same_bytes(
    folder: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, filters: str, epoch: int
) -> None:
    """After the last epoch of the second rung there is nothing left to train in either."""
    write, trained = Checkpoint.on_epoch_end, []

    def write_and_die(checkpoint: Checkpoint, index: int, logs: Any = None) -> None:
        write(checkpoint, index, logs)
        trained.append((checkpoint.path.stem, index + 1))
        if trained[-1] == (f"shrink@{filters}-0.25", epoch):
            raise KilledError

    monkeypatch.setattr(Checkpoint, "on_epoch_end", write_and_die)
    with pytest.raises(KilledError):
        run_stage_in(folder, filters)
    shutil.rmtree(folder / "data/shrink")  # as dvc does before it runs a stage again

    run_stage_in(folder, filters)

    epochs = (EPOCHS + 2, EPOCHS + 4) if filters == "scratch" else (2, 2)
    assert trained == [
        (f"shrink@{filters}-{share}", number + 1)
        for share, num_epochs in zip((0.5, 0.25), epochs, strict=True)
        for number in range(num_epochs)
    ]
    expected = compute_checksums(undisturbed / "data/shrink" / filters)
    assert compute_checksums(folder / "data/shrink" / filters) == expected
    assert list((folder / "data/checkpoints").iterdir()) == []


def list_fingerprints(filters: str = "magnitude", seed: int = 7, **changes: Any) -> list[str]:
    """Computes what the checkpoints of a run in the working directory belong to."""
    rungs = list_rungs(filters, ARCHITECTURE, 6, 3, TRAIN, replace(SHRINK, **changes))
    what = (AugmentationParams(**LIMITS), seed, "float32")
    return [checkpoint.fingerprint for checkpoint in build_checkpoints(filters, rungs, *what)]


@pytest.mark.parametrize(
    "changes",
    [
        {"macs_shares": (0.6, 0.25)},
        {"learning_rate": 0.02},
        {"epochs": 3},
        {"seed": 8},
        {"filters": "random"},
    ],
    ids=str,
)
def test_no_rung_is_resumed_from_a_checkpoint_of_other_params(
    folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Not the second one either where only the first one changed: it starts from that."""
    monkeypatch.chdir(folder)

    assert len({*list_fingerprints(), *list_fingerprints(**changes)}) == 4


@pytest.mark.parametrize("name", ["data/select_model/model.h5", "data/prepare/train.npz"])
def test_no_rung_is_resumed_from_a_checkpoint_of_other_inputs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(folder)
    before = list_fingerprints()

    Path(name).write_bytes(b"other")

    assert len({*before, *list_fingerprints()}) == 4


def test_a_rung_goes_on_where_only_later_ones_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (first, second), (same_first, other_second) = list_fingerprints(), list_fingerprints(macs_shares=(0.5, 0.3))

    assert first == same_first
    assert second != other_second


def test_an_unknown_way_on_the_command_line_is_refused_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(UserError, match=r"filters: unknown name 'magnitud'; did you mean 'magnitude'\?"):
        run_stage_in(folder, "magnitud")
