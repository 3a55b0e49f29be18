import gzip
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline import compute_checksums
from sections import replace
from tiny import NONE, make_images, make_recipe
from tiny import TRAIN as SHORT

from stages import shrink as stage
from stages.lib.cost.filters import choose_filters, count_channels, remove_filters, score_filters
from stages.lib.cost.macs import count_macs, count_parameters
from stages.lib.errors import UserError
from stages.lib.network.architecture import list_layers
from stages.lib.network.keras2 import keras
from stages.lib.network.model import build_model, measure_accuracy, read_model, write_model
from stages.lib.network.seeds import derive_seed
from stages.lib.params.load import load_params
from stages.lib.params.sections import FinishParams, ShrinkParams
from stages.lib.storage.files import read_csv, read_json, write_arrays, write_bytes, write_json
from stages.lib.training.checkpoint import Checkpoint
from stages.shrink import Rung, cut_weights, list_layer_costs, list_rungs, list_weights

ARCHITECTURE: dict[str, Any] = {
    "blocks": [[4], [6]],
    "separable": False,
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
SEPARABLE = RESIDUAL | {"separable": True}
SHRINK = ShrinkParams(
    filters=("magnitude", "random", "scratch"),
    seeds=(7, 8),
    macs_shares=(0.5, 0.25),
    multiple=1,
    epochs=2,
    clean_epochs=1,
    easy_share=0.25,
    learning_rate=0.01,
)
WIDTHS = [([[2], [4]], [5]), ([[1], [2]], [3])]
"""Blocks and hidden dense units of ARCHITECTURE at both shares of SHRINK."""
DENSE_MACS = 36 * 9 * 4 + 9 * 9 * 4 * 6 + 6 * 8 + 8 * 3
MACS = [36 * 9 * 2 + 9 * 9 * 2 * 4 + 4 * 5 + 5 * 3, 36 * 9 * 1 + 9 * 9 * 1 * 2 + 2 * 3 + 3 * 3]
"""Of 6 x 6 pixels, 3 x 3 and one: 1,331 and 501 of 3,312; the next wider networks would need 1,979 and 987."""
EPOCHS = 3
"""Of the training of the finished model."""
FINISHED = Path("data/finish/7")


LOSSES = np.linspace(0, 1, 64, dtype=np.float32)
TRAIN_SET, VAL_SET, TEST_SET = make_images(64, seed=0), make_images(12, seed=1), make_images(9, seed=2)
LAYERS = list_layers(6, 3, **ARCHITECTURE)
PARAMS = load_params()
TRAIN = replace(SHORT, epochs=EPOCHS, clean_epochs=2, batch_size=16, learning_rate=0.02)


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Is the file of an untrained model of ARCHITECTURE."""
    path = tmp_path_factory.mktemp("chosen") / "model.h5"
    write_model(path, build_model(LAYERS, seed=1))
    return path


def make_folder(folder: Path, chosen: Path) -> Path:
    """Writes what the stage reads."""
    for seed in SHRINK.seeds:
        write_bytes(folder / f"data/finish/{seed}/model.h5", chosen.read_bytes())
        write_arrays(folder / f"data/finish/{seed}/losses.npz", train=LOSSES)
    choice = {"augmentation_limits": NONE.model_dump(), "architecture": ARCHITECTURE}
    write_json(folder / "data/select_model/choice.json", choice)
    for name, (images, labels) in (("train", TRAIN_SET), ("val", VAL_SET), ("test", TEST_SET)):
        write_arrays(folder / f"data/prepare/{name}.npz", images=images, labels=labels)
    return folder


@pytest.fixture
def folder(chosen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is the working directory, in which the stage can run."""
    monkeypatch.chdir(make_folder(tmp_path, chosen))
    return tmp_path


def list_tiny_rungs(
    filters: str = "magnitude", architecture: dict[str, Any] = ARCHITECTURE, seed: int = 7, **changes: Any
) -> list[Rung]:
    shrink = replace(SHRINK, **changes)
    return list_rungs(filters, architecture, 6, 3, shrink, make_recipe(seed, train=TRAIN), FINISHED, channels=1)


# The networks


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("filters", SHRINK.filters)
def test_all_ways_have_the_same_networks_in_folders_of_their_own(filters: str) -> None:
    rungs = list_tiny_rungs(filters)

    assert [str(rung.variant.folder) for rung in rungs] == [f"data/shrink/{filters}/7/{share}" for share in (0.5, 0.25)]
    assert [(rung.architecture["blocks"], rung.architecture["dense"]) for rung in rungs] == WIDTHS
    assert [sum(map(count_macs, rung.layers)) for rung in rungs] == MACS
    assert sum(map(count_macs, LAYERS)) == DENSE_MACS


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("filters", "changes"),
    [
        ("magnitude", [{"epochs": 2, "clean_epochs": 1, "learning_rate": 0.01}] * 2),
        ("random", [{"epochs": 2, "clean_epochs": 1, "learning_rate": 0.01}] * 2),
        ("scratch", [{}, {}]),
    ],
)
def test_each_rung_follows_the_training_but_for_what_shrink_says_and_sees_other_batches_than_the_next(
    filters: str, changes: list[dict[str, Any]]
) -> None:
    assert [rung.recipe for rung in list_tiny_rungs(filters)] == [
        make_recipe(seed=derive_seed(7, f"shrink {share}"), train=TRAIN, **change)
        for share, change in zip((0.5, 0.25), changes, strict=True)
    ]


@pytest.mark.usefixtures("folder")
def test_a_rung_sees_the_same_batches_whatever_rungs_come_before_it() -> None:
    assert list_tiny_rungs(macs_shares=(0.25,))[0].recipe == list_tiny_rungs()[1].recipe


@pytest.mark.usefixtures("folder")
def test_a_share_that_no_network_has_is_refused() -> None:
    with pytest.raises(UserError, match=r"macs_shares: .* got 0\.01"):
        list_tiny_rungs(macs_shares=(0.5, 0.01))


# The weights


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("architecture", [ARCHITECTURE, RESIDUAL, SEPARABLE], ids=["stack", "residual", "separable"])
@pytest.mark.parametrize("filters", ["magnitude", "random"])
def test_cut_weights_are_in_the_order_in_which_keras_takes_them(architecture: dict[str, Any], filters: str) -> None:
    layers = list_layers(6, 3, **architecture)
    (rung, *_) = list_tiny_rungs(filters, architecture)
    model = build_model(layers, seed=1)

    weights = cut_weights(filters, layers, list_weights(model), rung.layers, np.random.default_rng(0))

    smaller = build_model(rung.layers, seed=2)
    assert weights is not None
    assert [array.shape for array in weights] == [array.shape for array in smaller.get_weights()]
    smaller.set_weights(weights)
    np.testing.assert_array_equal(smaller.get_layer("conv1").kernel, weights[0])
    np.testing.assert_array_equal(smaller.get_layer("logits").bias, weights[-1])
    np.testing.assert_array_equal(weights[-1], model.get_layer("logits").bias)


@pytest.mark.usefixtures("folder")
def test_magnitude_keeps_the_filters_with_the_highest_scores() -> None:
    weights = list_weights(build_model(LAYERS, seed=1))
    (rung, *_) = list_tiny_rungs("magnitude")
    kept = choose_filters(score_filters(LAYERS, weights), count_channels(rung.layers))
    expected = [array for arrays in remove_filters(LAYERS, weights, kept).values() for array in arrays]

    cut = cut_weights("magnitude", LAYERS, weights, rung.layers, np.random.default_rng(0))

    assert cut is not None
    assert all(map(np.array_equal, cut, expected))


@pytest.mark.usefixtures("folder")
def test_random_filters_depend_on_the_generator() -> None:
    weights = list_weights(build_model(LAYERS, seed=1))
    (rung, *_) = list_tiny_rungs("random")
    cuts = [cut_weights("random", LAYERS, weights, rung.layers, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    first, again, other = (np.concatenate([array.ravel() for array in cut or []]) for cut in cuts)

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_an_unknown_way_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown way to shrink 'largest'"):
        cut_weights("largest", LAYERS, list_weights(build_model(LAYERS, seed=1)), LAYERS, np.random.default_rng(0))


# The training


@pytest.mark.parametrize("filters", ["magnitude", "scratch"])
def test_a_rung_starts_from_the_network_before_it_and_skips_easy_images_and_scratch_does_neither(
    folder: Path, chosen: Path, monkeypatch: pytest.MonkeyPatch, filters: str
) -> None:
    trained, initial, easy = [], [], []

    def train_model(layers: Any, recipe: Any, initial_weights: Any, is_easy: Any, **_: Any) -> keras.Model:
        initial.append(initial_weights)
        easy.append(is_easy)
        trained.append(build_model(layers, recipe.seed))
        return trained[-1]

    monkeypatch.setattr(stage, "train_model", train_model)
    monkeypatch.setattr(stage, "write_outputs", lambda *_: None)

    run_stage_in(folder, filters)

    layers, model = LAYERS, read_model(chosen)
    for rung, found, network in zip(list_tiny_rungs(filters), initial, trained, strict=True):
        expected = cut_weights(filters, layers, list_weights(model), rung.layers, np.random.default_rng(0))
        assert (found is None) == (expected is None) == (filters == "scratch")
        assert all(map(np.array_equal, found or [], expected or []))
        layers, model = rung.layers, network
    indices = [None if is_easy is None else np.flatnonzero(is_easy).tolist() for is_easy in easy]
    assert indices == ([None] * 2 if filters == "scratch" else [list(range(16))] * 2)


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


def run_stage_in(folder: Path, filters: str, seed: int = 7, **changes: Any) -> None:
    """Runs the stage in `folder` with SHRINK, changed by `changes`."""
    finish = FinishParams(epochs=EPOCHS, clean_epochs=2)
    params = replace(PARAMS, train=replace(TRAIN, epochs=1, clean_epochs=0), finish=finish)
    params = replace(params, shrink=replace(SHRINK, **changes))
    params = replace(params, dataset=replace(PARAMS.dataset, image_size_px=6, class_names=("a", "b", "c")))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(stage, "load_params", lambda **_: params)
        monkeypatch.setattr("stages.lib.running.arguments.load_params", lambda: params)
        monkeypatch.setattr(sys, "argv", ["shrink", filters, str(seed)])
        monkeypatch.chdir(folder)
        keras.backend.clear_session()  # as in a process of its own
        stage.main()


@pytest.fixture(scope="module")
def undisturbed(chosen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Is a folder in which the stage ran once for each way."""
    folder = make_folder(tmp_path_factory.mktemp("undisturbed"), chosen)
    for filters in SHRINK.filters:
        run_stage_in(folder, filters)
    return folder


def test_the_stage_writes_four_files_for_each_rung_and_leaves_nothing_else(undisturbed: Path, chosen: Path) -> None:
    files = {"model.h5", "metrics.json", "layers.csv", "history.csv"}

    assert set(compute_checksums(undisturbed / "data/shrink")) == {
        f"{filters}/7/{share}/{name}" for filters in SHRINK.filters for share in (0.5, 0.25) for name in files
    }
    models = {(undisturbed / "data/shrink" / filters / "7/0.5/model.h5").read_bytes() for filters in SHRINK.filters}
    assert len(models) == 3
    assert list((undisturbed / "data/checkpoints").iterdir()) == []
    assert (undisturbed / FINISHED / "model.h5").read_bytes() == chosen.read_bytes()


@pytest.mark.parametrize(("share", "widths", "macs"), [(0.5, WIDTHS[0], MACS[0]), (0.25, WIDTHS[1], MACS[1])])
@pytest.mark.parametrize("filters", SHRINK.filters)
def test_the_metrics_are_those_of_the_smaller_model_and_of_the_chosen_one(
    undisturbed: Path, chosen: Path, filters: str, share: float, widths: tuple[Any, Any], macs: int
) -> None:
    output = undisturbed / "data/shrink" / filters / "7" / str(share)

    metrics = read_json(output / "metrics.json")

    content = (output / "model.h5").read_bytes()
    assert metrics == {
        "macs_share": round(macs / DENSE_MACS, 6),
        "macs": macs,
        "parameters": read_model(output / "model.h5").count_params(),
        "blocks": widths[0],
        "dense": widths[1],
        "val_accuracy": measure_accuracy(read_model(output / "model.h5"), *VAL_SET),
        "test_accuracy": measure_accuracy(read_model(output / "model.h5"), *TEST_SET),
        "size_bytes": len(content),
        "gzip_size_bytes": len(gzip.compress(content, 9, mtime=0)),
        "dense_macs": DENSE_MACS,
        "dense_val_accuracy": measure_accuracy(read_model(chosen), *VAL_SET),
        "dense_test_accuracy": measure_accuracy(read_model(chosen), *TEST_SET),
    }


@pytest.mark.parametrize(
    ("filters", "share", "epochs"),
    [("magnitude", 0.25, 2), ("random", 0.5, 2), ("scratch", 0.5, EPOCHS), ("scratch", 0.25, EPOCHS)],
)
def test_the_history_has_a_row_for_each_epoch_and_split(
    undisturbed: Path, filters: str, share: float, epochs: int
) -> None:
    rows = read_csv(undisturbed / "data/shrink" / filters / "7" / str(share) / "history.csv")

    expected = [(str(epoch), split) for epoch in range(1, epochs + 1) for split in ("train", "val")]
    assert [(row["epoch"], row["split"]) for row in rows] == expected


def test_shrinking_learns_from_the_images(folder: Path, chosen: Path) -> None:
    filters = "magnitude"
    run_stage_in(folder, filters, macs_shares=(0.9,), epochs=30, learning_rate=0.05)

    metrics = read_json(folder / "data/shrink" / filters / "7/0.9/metrics.json")
    assert measure_accuracy(read_model(chosen), *VAL_SET) < 0.6
    assert metrics["val_accuracy"] > 0.9


def test_another_seed_gives_other_bytes(folder: Path, undisturbed: Path) -> None:
    run_stage_in(folder, "random", seed=8, macs_shares=(0.5,))

    ours, theirs = (where / "data/shrink/random" for where in (folder, undisturbed))
    assert (ours / "8/0.5/model.h5").read_bytes() != (theirs / "7/0.5/model.h5").read_bytes()


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize(("filters", "epoch"), [("magnitude", 2), ("random", 1), ("scratch", 3)])
def test_a_run_that_is_killed_in_its_second_rung_goes_on_and_ends_with_the_same_bytes(
    folder: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, filters: str, epoch: int
) -> None:
    """After the last epoch of the second rung there is nothing left to train in either."""
    write, trained = Checkpoint.on_epoch_end, []

    def write_and_die(checkpoint: Checkpoint, index: int, logs: Any = None) -> None:
        write(checkpoint, index, logs)
        trained.append((checkpoint.path.stem, index + 1))
        if trained[-1] == (f"shrink@{filters}-0.25-7", epoch):
            raise KilledError

    monkeypatch.setattr(Checkpoint, "on_epoch_end", write_and_die)
    with pytest.raises(KilledError):
        run_stage_in(folder, filters)
    shutil.rmtree(folder / "data/shrink")  # as dvc does before it runs a stage again

    run_stage_in(folder, filters)

    num_epochs = EPOCHS if filters == "scratch" else 2
    assert trained == [
        (f"shrink@{filters}-{share}-7", number + 1) for share in (0.5, 0.25) for number in range(num_epochs)
    ]
    expected = compute_checksums(undisturbed / "data/shrink" / filters)
    assert compute_checksums(folder / "data/shrink" / filters) == expected
    assert list((folder / "data/checkpoints").iterdir()) == []


def list_fingerprints(filters: str = "magnitude", **changes: Any) -> list[str]:
    return [rung.checkpoint.fingerprint for rung in list_tiny_rungs(filters, **changes)]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "changes",
    [
        {"macs_shares": (0.6, 0.25)},
        {"learning_rate": 0.02},
        {"easy_share": 0.5},
        {"seed": 8},
        {"filters": "random"},
    ],
    ids=str,
)
def test_no_rung_is_resumed_from_a_checkpoint_of_other_params(changes: dict[str, Any]) -> None:
    """Not the second one either where only the first one changed: it starts from that."""
    assert len({*list_fingerprints(), *list_fingerprints(**changes)}) == 4


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["data/finish/7/model.h5", "data/finish/7/losses.npz", "data/prepare/train.npz"])
def test_no_rung_is_resumed_from_a_checkpoint_of_other_inputs(name: str) -> None:
    before = list_fingerprints()

    Path(name).write_bytes(b"other")

    assert len({*before, *list_fingerprints()}) == 4


@pytest.mark.usefixtures("folder")
def test_a_rung_goes_on_where_only_later_ones_changed() -> None:
    (first, second), (same_first, other_second) = list_fingerprints(), list_fingerprints(macs_shares=(0.5, 0.3))

    assert first == same_first
    assert second != other_second


def test_an_unknown_way_on_the_command_line_is_refused_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(UserError, match=r"filters: unknown name 'magnitud'; did you mean 'magnitude'\?"):
        run_stage_in(folder, "magnitud")


def test_a_seed_that_is_not_shrunk_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="seed: unknown name '9'; known: 7, 8"):
        run_stage_in(folder, "random", seed=9)
