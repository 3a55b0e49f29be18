import gzip
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sections import augmentation, replace
from tiny import NONE, TRAIN, make_images, make_recipe, read_bytes_of

from stages import prune as stage
from stages.lib.cost.macs import count_macs, count_parameters
from stages.lib.errors import UserError
from stages.lib.network.architecture import list_layers
from stages.lib.network.keras2 import keras
from stages.lib.network.model import build_model, predict_logits, read_model, write_model
from stages.lib.network.pixels import to_network_input
from stages.lib.network.seeds import derive_seed
from stages.lib.params.load import load_params
from stages.lib.params.sections import PruneParams
from stages.lib.storage.files import read_csv, read_json, write_arrays, write_bytes, write_json
from stages.lib.training.checkpoint import Checkpoint
from stages.prune import (
    allocate_zeros,
    build_schedule,
    count_nonzero_macs,
    list_layer_zeros,
    list_pruned_layers,
    list_steps,
    measure_total_sparsity,
    prune_model,
    read_pruned_kernels,
    wrap_for_pruning,
)

PRUNE = PruneParams(
    rankings=("uniform", "lamp", "cost"),
    shrunk_shares=(0.5,),
    shrunk_rankings=("cost",),
    seeds=(7,),
    sparsities=(0.5, 0.75),
    epochs=(2, 2),
    clean_epochs=0,
    macs_weight=0.5,
    easy_share=0.0,
    ramp_fraction=0.5,
    frequency=2,
    batch_size=8,
    learning_rate=(0.01, 0.01),
)
TRAIN_SET = make_images(64, seed=0)  # 8 steps of 8 images in each epoch
LOSSES = np.linspace(0, 1, 64, dtype=np.float32)
ARCHITECTURE: dict[str, Any] = {
    "blocks": [[4, 4]],
    "separable": False,
    "residual": False,
    "global_pool": False,
    "dense": [8],
    "batch_norm": ["conv", "dense"],
    "dropout": 0.2,
}
CHOICE = {"architecture": ARCHITECTURE, "augmentation_limits": NONE.model_dump()}
PARAMS = load_params()
FINISHED = Path("data/finish/7")
INPUTS = [FINISHED / "model.h5", FINISHED / "losses.npz", Path("data/prepare/train.npz")]
SHRUNK = {"blocks": [[2, 4]], "dense": [6]}  # of a share of 0.5: kernels of 18, 72, 216 and 18 weights
ZEROS = {"conv1": 0, "conv2": 108, "dense1": 216, "logits": 0}  # 3/4 of 144 and 288


@pytest.fixture(scope="module")
def dense_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Is the file of an untrained conv, batch norm and dense model with kernels of 36, 144, 288 and 24 weights."""
    path = tmp_path_factory.mktemp("dense") / "model.h5"
    layers = list_layers(6, 3, **ARCHITECTURE)
    write_model(path, build_model(layers, seed=1))
    return path


def prune_file(
    path: Path, sparsity: float = 0.75, ramp_fraction: float = 0.5, frequency: int = 2, **changes: Any
) -> keras.Model:
    """Prunes a stored model from its first epoch on, by a recipe with `changes`."""
    checkpoint = Checkpoint(path.parent / "checkpoint.npz", "of this test")
    checkpoint.remove()
    keras.backend.clear_session()  # as in a process of its own: Keras numbers the layers that have no name
    model, prune = read_model(path), replace(PRUNE, ramp_fraction=ramp_fraction, frequency=frequency)
    sparsities = {"conv2": sparsity, "dense1": sparsity}
    prune_model(model, sparsities, prune, make_recipe(**changes), TRAIN_SET, checkpoint)
    return model


def kernels(model: keras.Model) -> dict[str, np.ndarray]:
    return {layer.name: layer.kernel.numpy() for layer in model.layers if hasattr(layer, "kernel")}


def count_zeros_by_layer(model: keras.Model) -> dict[str, int]:
    return {name: int((kernel == 0).sum()) for name, kernel in kernels(model).items()}


@pytest.fixture(scope="module")
def pruned(dense_path: Path) -> keras.Model:
    """Is the dense model pruned to 75 %: the sparsity rises until step 8 of 16."""
    return prune_file(dense_path)


@pytest.mark.parametrize(
    ("total_steps", "ramp_fraction", "frequency", "end_step"),
    [
        (940, 0.5, 10, 470),
        (939, 0.5, 10, 460),  # 469.5 is rounded down to an update
        (100, 0.5, 1, 50),
        (25, 0.1, 10, 10),  # at least one update
        (11, 1.0, 10, 10),
        (10, 0.5, 10, 10),  # the wrappers count steps from 1, so the last one is an update, too
        (20, 1.0, 5, 20),
        (8, 0.5, 100, 8),  # fewer steps than the frequency: one update, at the last of them
    ],
)
def test_the_rise_ends_at_an_update_of_the_mask(
    total_steps: int, ramp_fraction: float, frequency: int, end_step: int
) -> None:
    config = build_schedule(0.0, 0.8, total_steps, ramp_fraction, frequency).get_config()["config"]

    assert (config["begin_step"], config["end_step"]) == (0, end_step)
    assert config["frequency"] == min(frequency, total_steps)


@pytest.mark.parametrize("ramp_fraction", [0.01, 0.33, 0.5, 0.77, 0.98])
@pytest.mark.parametrize("frequency", [1, 3, 7, 10])
def test_the_last_update_of_the_mask_reaches_the_target(ramp_fraction: float, frequency: int) -> None:
    schedule = build_schedule(0.0, 0.8, 97, ramp_fraction, frequency)

    updates = [(should, sparsity) for should, sparsity in map(schedule, range(97)) if should]

    assert float(updates[-1][1]) == pytest.approx(0.8)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_set_smaller_than_a_batch_reaches_the_sparsity(dense_path: Path, epochs: int) -> None:
    assert count_zeros_by_layer(prune_file(dense_path, epochs=epochs, batch_size=256, frequency=10)) == ZEROS


@pytest.mark.parametrize("how", [{"frequency": 100}, {"ramp_fraction": 1.0, "frequency": 8}], ids=str)
def test_an_epoch_of_8_steps_reaches_the_sparsity(dense_path: Path, how: dict[str, Any]) -> None:
    assert count_zeros_by_layer(prune_file(dense_path, epochs=1, **how)) == ZEROS


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_the_sparsity_rises_as_zhu_and_gupta_say(start: float) -> None:
    """Their equation 1: s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3, here with t_0 = 0."""
    schedule = build_schedule(start, 0.8, 100, 0.4, 10)

    for step in (0, 10, 20, 30, 40):
        assert float(schedule(step)[1]) == pytest.approx(0.8 + (start - 0.8) * (1 - step / 40) ** 3, abs=1e-6)


@pytest.mark.parametrize(
    ("blocks", "dense", "pruned_layers"),
    [
        ([[4], [4]], [8, 8], ["conv2", "dense1", "dense2"]),
        ([[4]], [8], ["dense1"]),
        ([[4]], [], ["conv1", "logits"]),  # nothing lies between them
        ([], [], ["logits"]),
    ],
)
def test_the_first_and_the_last_kernel_are_spared_where_there_are_others(
    blocks: list[list[int]], dense: list[int], pruned_layers: list[str]
) -> None:
    layers = list_layers(6, 3, blocks, False, False, False, dense, batch_norm=["conv"], dropout=0.2)

    assert list_pruned_layers(build_model(layers, seed=1)) == pruned_layers


def test_the_pointwise_kernels_of_a_separable_network_are_pruned_and_the_depthwise_ones_spared() -> None:
    layers = list_layers(6, 3, [[4, 4, 4]], True, True, True, [], batch_norm=["conv"], dropout=0)

    assert list_pruned_layers(build_model(layers, seed=1)) == ["conv2", "conv3"]


def test_nothing_but_kernels_is_pruned_and_the_model_is_an_ordinary_float32_one_again(
    dense_path: Path, pruned: keras.Model, tmp_path: Path
) -> None:
    dense = read_model(dense_path)
    write_model(tmp_path / "model.h5", pruned)
    x = to_network_input(TRAIN_SET[0])

    assert count_zeros_by_layer(pruned) == ZEROS
    for layer in pruned.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert np.count_nonzero(layer.gamma.numpy()) == dense.get_layer(layer.name).gamma.shape[0]
    assert np.count_nonzero(pruned.get_layer("logits").bias.numpy()) == 3
    assert [(type(layer), layer.name) for layer in pruned.layers] == [(type(x), x.name) for x in dense.layers]
    assert {layer.compute_dtype for layer in pruned.layers} == {"float32"}
    assert np.array_equal(predict_logits(read_model(tmp_path / "model.h5"), x), predict_logits(pruned, x))


def test_the_smallest_weights_are_pruned_and_the_others_fine_tuned(dense_path: Path, pruned: keras.Model) -> None:
    dense, tuned = kernels(read_model(dense_path)), kernels(pruned)
    untuned = kernels(prune_file(dense_path, learning_rate=1e-12))

    for name in ("conv2", "dense1"):
        magnitudes, is_kept = np.abs(dense[name]), untuned[name] != 0
        assert magnitudes[~is_kept].max() < magnitudes[is_kept].min()
        assert (tuned[name] != dense[name]).all()


def test_pruned_weights_stay_exactly_zero_while_the_others_recover(
    dense_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sparsity reaches its target in step 6 of 24; what follows the pruning callback sees masked weights."""
    masks: list[dict[str, list[bool]]] = []

    def record(checkpoint: Checkpoint, *_: Any) -> None:
        wrapped = [layer.layer for layer in checkpoint.model.layers if hasattr(layer, "pruning_step")]
        masks.append({layer.name: (layer.kernel.numpy() == 0).ravel().tolist() for layer in wrapped})

    monkeypatch.setattr(Checkpoint, "on_epoch_end", record)

    prune_file(dense_path, epochs=3, ramp_fraction=0.3)

    assert {name: sum(mask) for name, mask in masks[0].items()} == {"conv2": 108, "dense1": 216}
    assert masks[2] == masks[1] == masks[0]


def test_pruning_learns_from_the_images_and_leaves_the_dense_file_as_it_is(dense_path: Path) -> None:
    def measure(model: keras.Model) -> float:
        predicted = predict_logits(model, to_network_input(TRAIN_SET[0])).argmax(axis=1)
        return float(np.mean(predicted == TRAIN_SET[1]))

    before = dense_path.read_bytes()
    assert measure(read_model(dense_path)) < 0.5
    assert measure(prune_file(dense_path, sparsity=0.5, epochs=8, learning_rate=0.02)) > 0.9
    assert dense_path.read_bytes() == before


def test_the_bytes_depend_on_the_recipe_alone(dense_path: Path, pruned: keras.Model, tmp_path: Path) -> None:
    """That each part of it counts is seen in test_train.py: the loop is the same."""

    def prune(**changes: Any) -> bytes:
        return read_bytes_of(prune_file(dense_path, **changes), tmp_path)

    plain = read_bytes_of(pruned, tmp_path)
    assert prune() == plain
    assert len({plain, prune(seed=8), prune(limits=augmentation(shift_px=1))}) == 3


def test_pruning_in_bfloat16_makes_as_many_zeros_and_does_not_round_the_stored_weights(dense_path: Path) -> None:
    before = kernels(read_model(dense_path))

    model = prune_file(dense_path, policy="mixed_bfloat16", learning_rate=1e-30)  # too small to move a weight

    assert count_zeros_by_layer(model) == ZEROS
    for name, kernel in kernels(model).items():
        np.testing.assert_array_equal(kernel[kernel != 0], before[name][kernel != 0])


def test_zeros_are_listed_by_layer_and_weighed_by_weights(pruned: keras.Model) -> None:
    rows = list_layer_zeros(pruned, {"conv2": 0.75, "dense1": 0.75})

    assert rows == [
        {"layer": "conv1", "weights": 36, "zeros": 0, "sparsity": "0.000000"},
        {"layer": "conv2", "weights": 144, "zeros": 108, "sparsity": "0.750000"},
        {"layer": "dense1", "weights": 288, "zeros": 216, "sparsity": "0.750000"},
        {"layer": "logits", "weights": 24, "zeros": 0, "sparsity": "0.000000"},
    ]
    assert measure_total_sparsity(rows) == round((108 + 216) / (36 + 144 + 288 + 24), 6)


def test_a_kernel_that_misses_the_sparsity_is_an_error(dense_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"conv2: expected a share of zeros of 0\.5, got 0\.0"):
        list_layer_zeros(read_model(dense_path), {"conv2": 0.5})


def test_only_the_macs_with_weights_that_are_not_zero_are_counted() -> None:
    layers = list_layers(4, 3, [[2]], False, False, False, dense=[], batch_norm=["conv"], dropout=0)
    rows = [{"layer": "conv1", "weights": 18, "zeros": 9}, {"layer": "logits", "weights": 24, "zeros": 23}]

    # The convolution has 4 x 4 outputs for each of its weights, the dense layer one.
    assert count_nonzero_macs(layers, rows) == 9 * 16 + 1


def test_a_depthwise_kernel_counts_among_the_weights_and_with_all_its_macs() -> None:
    layers = list_layers(4, 3, [[2, 5]], True, False, True, dense=[], batch_norm=["conv"], dropout=0)

    rows = list_layer_zeros(build_model(layers, seed=1), {})

    sizes = [("conv1", 18), ("conv2_depthwise", 18), ("conv2", 10), ("logits", 15)]
    assert [(row["layer"], row["weights"]) for row in rows] == sizes
    assert count_nonzero_macs(layers, rows) == sum(map(count_macs, layers))
    rows[2]["zeros"] = 4
    assert count_nonzero_macs(layers, rows) == 16 * (18 + 18 + 10 - 4) + 15
    assert measure_total_sparsity(rows) == round(4 / (18 + 18 + 10 + 15), 6)


# Where the zeros are


def allocate(ranking: str, share: float, macs_weight: float) -> dict[str, float]:
    """Allocates zeros in kernels of 144 weights, which take part in 36 MACs each, and of 288, in one each."""
    layers = list_layers(6, 3, **ARCHITECTURE)
    kernels = read_pruned_kernels(build_model(layers, seed=1))
    return allocate_zeros(ranking, layers, kernels, share, macs_weight)


def test_uniform_and_lamp_place_as_many_zeros_as_asked_for_whatever_macs_cost() -> None:
    assert allocate("uniform", 0.7, 0.0) == allocate("uniform", 0.7, 1.0) == {"conv2": 0.7, "dense1": 0.7}
    shares = allocate("lamp", 0.75, 0.0)
    assert shares == allocate("lamp", 0.75, 1.0)
    assert 144 * shares["conv2"] + 288 * shares["dense1"] == pytest.approx(324)


@pytest.mark.parametrize("share", [0.5, 0.75, 0.9])
def test_cost_saves_the_share_of_the_macs_where_they_alone_count(share: float) -> None:
    shares = allocate("cost", share, 1.0)

    saved = (36 * 144 * shares["conv2"] + 288 * shares["dense1"]) / (36 * 144 + 288)
    assert share - 36 / (36 * 144 + 288) < saved <= share


def test_cost_is_lamp_where_macs_do_not_count_and_spares_the_dense_layer_the_more_they_do() -> None:
    assert allocate("cost", 0.75, 0.0) == allocate("lamp", 0.75, 0.0)
    of_dense = [allocate("cost", 0.75, macs_weight)["dense1"] for macs_weight in (0.0, 0.5, 1.0)]
    assert of_dense == sorted(set(of_dense), reverse=True)


def test_an_unknown_ranking_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown ranking 'lamb'"):
        allocate("lamb", 0.5, 0.5)


def test_zeros_that_are_there_are_masked_from_the_start(dense_path: Path) -> None:
    model = prune_file(dense_path, sparsity=0.5)
    zeros = {name: kernel == 0 for name, kernel in read_pruned_kernels(model).items()}
    schedules = {name: build_schedule(0.5, 0.75, 100, 1.0, 50) for name in zeros}

    wrapped = wrap_for_pruning(model, schedules, make_recipe(), lambda: keras.backend.constant(0, "int64"))

    for layer in wrapped.layers:
        if hasattr(layer, "pruning_vars"):
            _, mask, _ = layer.pruning_vars[0]
            np.testing.assert_array_equal(mask.numpy() == 0, zeros[layer.layer.name])


# The stage


@pytest.fixture
def folder(dense_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is a folder in which the stage can prune the dense model, and a shrunk one, to 50 and 75 %."""
    monkeypatch.chdir(tmp_path)
    write_arrays(FINISHED / "losses.npz", train=LOSSES)
    write_bytes(FINISHED / "model.h5", dense_path.read_bytes())
    write_json(Path("data/select_model/choice.json"), CHOICE)
    shrunk = list_layers(6, 3, **ARCHITECTURE | SHRUNK)
    write_model(Path("data/shrink/magnitude/7/0.5/model.h5"), build_model(shrunk, seed=2))
    write_json(Path("data/shrink/magnitude/7/0.5/metrics.json"), SHRUNK)
    for name, (images, labels) in (("train", TRAIN_SET), ("val", make_images(12, 1)), ("test", make_images(9, 2))):
        write_arrays(Path(f"data/prepare/{name}.npz"), images=images, labels=labels)
    return tmp_path


def climb(ladder: str = "finished-uniform", seed: str = "7", **changes: Any) -> list[keras.Model]:
    """Runs the stage with `changes` of prune in the working directory; returns the model at each step."""
    keras.backend.clear_session()
    prune = replace(PRUNE, **changes)
    params = replace(PARAMS, train=replace(TRAIN, epochs=9, learning_rate=1e9), prune=prune)  # not used here
    params = replace(params, dataset=replace(params.dataset, image_size_px=6, class_names=("a", "b", "c")))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(stage, "load_params", lambda **_: params)
        monkeypatch.setattr("stages.lib.running.arguments.load_params", lambda: params)
        monkeypatch.setattr(sys, "argv", ["prune", ladder, seed])
        stage.main()
    folder = Path(f"data/prune/{ladder.removeprefix('finished-')}/{seed}")
    return [read_model(folder / str(sparsity) / "model.h5") for sparsity in prune.sparsities]


def test_the_stage_writes_pruned_models_and_their_numbers_and_nothing_else(folder: Path, dense_path: Path) -> None:
    climb()

    output = folder / "data/prune/uniform/7/0.75"
    metrics = read_json(output / "metrics.json")
    names = ["val_accuracy", "test_accuracy", "size_bytes", "gzip_size_bytes"]
    assert {path.name for path in output.iterdir()} == {"model.h5", "metrics.json", "layers.csv"}
    assert {path.name for path in output.parent.iterdir()} == {"0.5", "0.75"}
    costs = ["sparsity", "macs", "nonzero_macs", "parameters"]
    assert list(metrics) == [*costs, *names, *[f"dense_{name}" for name in names]]
    # 36 outputs for each weight of the first two kernels, 9 of them pooled: 36 x (36 + 36) + 72 + 24
    assert metrics["nonzero_macs"] == 36 * (36 + 36) + 72 + 24
    assert metrics["macs"] == 36 * (36 + 144) + 288 + 24
    assert metrics["parameters"] == read_model(output / "model.h5").count_params()
    assert metrics["sparsity"] == round((108 + 216) / (36 + 144 + 288 + 24), 6)
    assert [row["zeros"] for row in read_csv(output / "layers.csv")] == ["0", "108", "216", "0"]
    content, dense = (output / "model.h5").read_bytes(), dense_path.read_bytes()
    for prefix, file in (("", content), ("dense_", dense)):
        assert metrics[f"{prefix}size_bytes"] == len(file)
        assert metrics[f"{prefix}gzip_size_bytes"] == len(gzip.compress(file, 9, mtime=0))
    assert count_zeros_by_layer(read_model(output / "model.h5")) == ZEROS
    assert (folder / FINISHED / "model.h5").read_bytes() == dense
    assert list((folder / "data/checkpoints").iterdir()) == []


@pytest.mark.usefixtures("folder")
def test_each_sparsity_starts_from_the_model_of_the_one_before_and_has_a_learning_rate_of_its_own(
    dense_path: Path,
) -> None:
    dense = kernels(read_model(dense_path))

    half, three_quarters = map(kernels, climb(frequency=1, learning_rate=(1e-30, 0.01)))  # the first moves no weight

    for name in ("conv2", "dense1"):
        zeros, is_kept = half[name] == 0, three_quarters[name] != 0
        assert zeros.mean() == 0.5
        assert (three_quarters[name][zeros] == 0).all()
        assert (half[name][is_kept] == dense[name][is_kept]).all()
        assert (three_quarters[name][is_kept] != half[name][is_kept]).all()


@pytest.mark.usefixtures("folder")
def test_images_that_the_finished_model_finds_easy_are_seen_in_every_other_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    def prune_without_training(model: keras.Model, sparsities: dict[str, float], *rest: Any) -> None:
        seen.append(rest[-1])
        for name in sparsities:
            kernel = model.get_layer(name).kernel
            kernel.assign(kernel * (np.arange(kernel.shape[-1]) % 2))

    monkeypatch.setattr(stage, "prune_model", prune_without_training)

    for easy_share in (0.25, 0.0):
        climb(easy_share=easy_share, sparsities=(0.5,), epochs=(1,), learning_rate=(0.01,))

    assert np.array_equal(np.flatnonzero(seen[0]), range(16))
    assert seen[1] is None


@pytest.mark.usefixtures("folder")
def test_lamp_prunes_as_many_weights_as_uniform_and_spares_the_same_layers() -> None:
    zeros = [count_zeros_by_layer(model) for model in climb("finished-lamp")]

    assert [of["conv2"] + of["dense1"] for of in zeros] == [216, 324]  # of 144 and 288
    assert [of["conv1"] + of["logits"] for of in zeros] == [0, 0]
    assert zeros[1]["conv2"] != 108


@pytest.mark.usefixtures("folder")
def test_cost_saves_what_a_step_says_and_spares_the_same_layers() -> None:
    zeros = [count_zeros_by_layer(model) for model in climb("finished-cost")]

    assert [of["conv1"] + of["logits"] for of in zeros] == [0, 0]
    places, macs = 144 + 288, 36 * 144 + 288
    for step, of in zip((0.5, 0.75), zeros, strict=True):
        saved = (of["conv2"] + of["dense1"]) / places / 2 + (36 * of["conv2"] + of["dense1"]) / macs / 2
        assert step - 0.01 < saved <= step


def test_a_shrunk_model_is_pruned_from_its_own_weights_and_set_beside_the_finished_one(
    folder: Path, dense_path: Path
) -> None:
    layers = list_layers(6, 3, **ARCHITECTURE | SHRUNK)
    shrunk = kernels(read_model(folder / "data/shrink/magnitude/7/0.5/model.h5"))

    half, three_quarters = climb("magnitude-0.5-cost", frequency=1, learning_rate=(1e-30, 0.01))

    for name, kernel in kernels(half).items():
        assert (kernel[kernel != 0] == shrunk[name][kernel != 0]).all()
    assert all((kernel[kernels(half)[name] == 0] == 0).all() for name, kernel in kernels(three_quarters).items())
    assert {path.name for path in (folder / "data/prune").iterdir()} == {"magnitude-0.5-cost"}
    metrics = read_json(folder / "data/prune/magnitude-0.5-cost/7/0.75/metrics.json")
    assert (metrics["macs"], metrics["parameters"]) == (
        sum(map(count_macs, layers)),
        sum(map(count_parameters, layers)),
    )
    assert 0 < metrics["nonzero_macs"] < metrics["macs"]
    assert metrics["dense_size_bytes"] == dense_path.stat().st_size


@pytest.mark.usefixtures("folder")
def test_the_fine_tuning_follows_the_training_but_for_what_prune_says_and_the_seed() -> None:
    prune = replace(PRUNE, batch_size=4, clean_epochs=1, epochs=(2, 3), learning_rate=(0.1, 0.2))

    steps = list_steps("lamp", CHOICE, prune, make_recipe(seed=7, label_smoothing=0.1), INPUTS)

    same: dict[str, Any] = {"label_smoothing": 0.1, "batch_size": 4, "clean_epochs": 1}
    assert [step.recipe for step in steps] == [
        make_recipe(seed=derive_seed(7, "prune 0.5"), epochs=2, learning_rate=0.1, **same),
        make_recipe(seed=derive_seed(7, "prune 0.75"), epochs=3, learning_rate=0.2, **same),
    ]
    assert [str(step.checkpoint.path) for step in steps] == [
        f"data/checkpoints/prune@lamp-{sparsity}-7.npz" for sparsity in (0.5, 0.75)
    ]


@pytest.mark.usefixtures("folder")
def test_the_same_step_of_every_ladder_sees_the_same_batches() -> None:
    seeds = [[step.recipe.seed for step in list_steps(way, CHOICE, PRUNE, make_recipe(), INPUTS)] for way in PRUNE.ways]

    assert len(seeds[0]) == len(set(seeds[0])) == 2
    assert all(of_way == seeds[0] for of_way in seeds)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("changes", "num_same"),
    [
        ({}, 2),
        ({"rankings": ("uniform",)}, 2),
        ({"sparsities": (0.5, 0.8)}, 1),
        ({"sparsities": (0.4, 0.75)}, 0),
        ({"learning_rate": (0.01, 0.02)}, 1),
        ({"epochs": (3, 2)}, 0),
        ({"frequency": 3}, 0),
        ({"ramp_fraction": 0.6}, 0),
        ({"easy_share": 0.5}, 0),
        ({"macs_weight": 0.25}, 0),
    ],
    ids=str,
)
def test_a_checkpoint_belongs_to_its_sparsity_and_those_before(changes: dict[str, Any], num_same: int) -> None:
    before, after = (
        [step.checkpoint.fingerprint for step in list_steps("uniform", CHOICE, prune, make_recipe(), INPUTS)]
        for prune in (PRUNE, replace(PRUNE, **changes))
    )

    assert [one == other for one, other in zip(before, after, strict=True)] == [n < num_same for n in range(2)]


@pytest.mark.usefixtures("folder")
def test_an_unknown_ranking_is_refused() -> None:
    with pytest.raises(UserError, match="ladder: unknown name 'finished-lamb'; did you mean 'finished-lamp'"):
        climb("finished-lamb")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("ladder", ["magnitude-0.25-cost", "magnitude-0.5-lamp"])
def test_what_no_stage_prunes_is_refused(ladder: str) -> None:
    with pytest.raises(UserError, match=rf"unknown name '{ladder}'; did you mean 'magnitude-0\.5-cost'"):
        climb(ladder)


@pytest.mark.usefixtures("folder")
def test_each_seed_prunes_its_own_finished_model(dense_path: Path) -> None:
    other = read_model(dense_path)
    other.get_layer("conv2").kernel.assign(2 * other.get_layer("conv2").kernel)
    write_model(Path("data/finish/8/model.h5"), other)
    write_arrays(Path("data/finish/8/losses.npz"), train=LOSSES)
    of_seven, of_eight = (
        kernels(climb(seed=seed, seeds=(7, 8), sparsities=(0.5,), epochs=(1,), learning_rate=(1e-30,))[0])
        for seed in ("7", "8")
    )

    assert np.array_equal(of_eight["conv2"], 2 * of_seven["conv2"])


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["model.h5", "losses.npz"])
def test_a_checkpoint_belongs_to_the_model_that_is_pruned_and_to_its_seed(name: str) -> None:
    def list_fingerprints(seed: int) -> list[str]:
        steps = list_steps("uniform", CHOICE, PRUNE, make_recipe(seed=seed), INPUTS)
        return [step.checkpoint.fingerprint for step in steps]

    found = [*list_fingerprints(7), *list_fingerprints(8)]
    (FINISHED / name).write_bytes(b"of another training")

    assert len({*found, *list_fingerprints(7)}) == 6


@pytest.mark.usefixtures("folder")
def test_a_seed_that_is_not_pruned_is_refused() -> None:
    with pytest.raises(UserError, match="seed: unknown name '8'; known: 7"):
        climb(seed="8")
