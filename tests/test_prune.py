import dataclasses
import gzip
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sections import replace

from stages import prune as stage
from stages.lib.errors import UserError
from stages.lib.network.architecture import list_layers
from stages.lib.network.keras2 import keras
from stages.lib.network.model import build_model, predict_logits, read_model, to_network_input, write_model
from stages.lib.params.load import load_params
from stages.lib.params.sections import PruneParams, TrainParams
from stages.lib.storage.files import read_csv, read_json, write_arrays, write_json
from stages.lib.training.checkpoint import Checkpoint
from stages.prune import (
    build_checkpoints,
    build_recipe,
    build_schedule,
    count_nonzero_macs,
    list_layer_zeros,
    list_pruned_layers,
    measure,
    measure_total_sparsity,
    prune_model,
    prune_step_by_step,
    read_pruned_kernels,
    wrap_for_pruning,
)

ROOT = Path(__file__).parents[1]
LIMITS = {"rotation_degrees": 0.0, "shift_fraction": 0.0, "zoom_fraction": 0.0, "shift_px": 0, "erase_px": 0}
LIMITS["horizontal_flip"] = False
PRUNE = PruneParams(
    rankings=("uniform", "lamp"),
    sparsities=(0.5, 0.75),
    epochs=(2, 2),
    clean_epochs=0,
    ramp_fraction=0.5,
    frequency=2,
    batch_size=8,
    learning_rate=(0.01, 0.01),
)
RECIPE = TrainParams(
    epochs=2,
    clean_epochs=0,
    batch_size=8,
    optimizer="adam",
    learning_rate=0.01,
    schedule="one_cycle",
    warmup_fraction=0.0,
    weight_decay=0.0,
    label_smoothing=0.0,
    precision="float32",
)


def make_images(num_images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes noisy 6 x 6 images of three classes: two rows of each image are bright, by its label."""
    labels = (np.arange(num_images) % 3).astype(np.uint8)
    images = np.random.default_rng(seed).integers(0, 100, (num_images, 6, 6), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 120
    return images, labels


TRAIN_SET = make_images(64, seed=0)  # 8 steps of 8 images in each epoch
ARCHITECTURE: dict[str, Any] = {
    "blocks": [[4, 4]],
    "residual": False,
    "global_pool": False,
    "dense": [8],
    "batch_norm": ["conv", "dense"],
    "dropout": 0.2,
}
ZEROS = {"conv1": 0, "conv2": 108, "dense1": 216, "logits": 0}  # 3/4 of 144 and 288


@pytest.fixture(scope="module")
def dense_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Is the file of an untrained conv, batch norm and dense model with kernels of 36, 144, 288 and 24 weights."""
    path = tmp_path_factory.mktemp("dense") / "model.h5"
    layers = list_layers(6, 3, **ARCHITECTURE)
    write_model(path, build_model(layers, seed=1))
    return path


def prune_file(
    path: Path,
    sparsity: float = 0.75,
    seed: int = 7,
    limits: dict[str, Any] = LIMITS,
    policy: str = "float32",
    **changes: Any,
) -> keras.Model:
    """Prunes a stored model from its first epoch on."""
    checkpoint = Checkpoint(path.parent / "checkpoint.npz", "of this test")
    checkpoint.remove()
    keras.backend.clear_session()  # as in a process of its own: Keras numbers the layers that have no name
    prune, recipe = change(changes)
    sparsities = {"conv2": sparsity, "dense1": sparsity}
    return prune_model(read_model(path), TRAIN_SET, limits, sparsities, prune, recipe, seed, policy, checkpoint)


def change(changes: dict[str, Any]) -> tuple[PruneParams, TrainParams]:
    """Changes how the tests prune and fine-tune."""
    recipe_fields = {field.name for field in dataclasses.fields(RECIPE)}
    of_recipe = {name: value for name, value in changes.items() if name in recipe_fields}
    of_prune = {name: value for name, value in changes.items() if name not in recipe_fields}
    return replace(PRUNE, **of_prune), replace(RECIPE, **of_recipe)


def kernels(model: keras.Model) -> dict[str, np.ndarray]:
    return {layer.name: layer.kernel.numpy() for layer in model.layers if hasattr(layer, "kernel")}


def count_zeros_by_layer(model: keras.Model) -> dict[str, int]:
    return {name: int((kernel == 0).sum()) for name, kernel in kernels(model).items()}


def read_bytes_of(model: keras.Model, folder: Path) -> bytes:
    write_model(folder / "some.h5", model)
    return (folder / "some.h5").read_bytes()


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
    ],
)
def test_the_rise_ends_at_an_update_of_the_mask(
    total_steps: int, ramp_fraction: float, frequency: int, end_step: int
) -> None:
    config = build_schedule(0.0, 0.8, total_steps, ramp_fraction, frequency).get_config()["config"]

    assert (config["begin_step"], config["end_step"], config["frequency"]) == (0, end_step, frequency)


@pytest.mark.parametrize("ramp_fraction", [0.01, 0.33, 0.5, 0.77, 0.98])
@pytest.mark.parametrize("frequency", [1, 3, 7, 10])
def test_the_last_update_of_the_mask_reaches_the_target(ramp_fraction: float, frequency: int) -> None:
    schedule = build_schedule(0.0, 0.8, 97, ramp_fraction, frequency)

    updates = [(should, sparsity) for should, sparsity in map(schedule, range(97)) if should]

    assert float(updates[-1][1]) == pytest.approx(0.8)


@pytest.mark.parametrize(("total_steps", "ramp_fraction"), [(1, 0.5), (8, 0.5), (9, 1.0)])
def test_with_fewer_steps_than_the_frequency_the_mask_is_updated_at_the_last_one(
    total_steps: int, ramp_fraction: float
) -> None:
    config = build_schedule(0.0, 0.8, total_steps, ramp_fraction, frequency=10).get_config()["config"]

    assert (config["end_step"], config["frequency"]) == (total_steps, total_steps)


def test_few_steps_reach_the_sparsity_too(dense_path: Path) -> None:
    model = prune_file(dense_path, epochs=1, frequency=100)  # 8 steps

    assert count_zeros_by_layer(model) == ZEROS


def test_the_sparsity_rises_as_zhu_and_gupta_say() -> None:
    """Their equation 1: s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3, here with s_i = 0 and t_0 = 0."""
    schedule = build_schedule(0.0, 0.8, 100, 0.4, 10)

    for step in (0, 10, 20, 30, 40):
        assert float(schedule(step)[1]) == pytest.approx(0.8 - 0.8 * (1 - step / 40) ** 3, abs=1e-6)


def test_the_sparsity_rises_from_where_it_is() -> None:
    schedule = build_schedule(0.5, 0.8, 100, 0.4, 10)

    assert [round(float(schedule(step)[1]), 6) for step in (0, 20, 40)] == [0.5, 0.7625, 0.8]  # 0.8 - 0.3 / 8


def test_the_mask_is_updated_at_multiples_of_the_frequency_until_the_rise_ends() -> None:
    schedule = build_schedule(0.0, 0.8, 100, 0.4, 10)

    assert [step for step in range(100) if schedule(step)[0]] == [0, 10, 20, 30, 40]


def test_every_kernel_but_the_first_and_the_last_has_exactly_the_sparsity(pruned: keras.Model) -> None:
    assert count_zeros_by_layer(pruned) == ZEROS


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
    layers = list_layers(6, 3, blocks, False, False, dense, batch_norm=["conv"], dropout=0.2)

    assert list_pruned_layers(build_model(layers, seed=1)) == pruned_layers


def test_a_rise_that_takes_all_steps_reaches_the_sparsity(dense_path: Path) -> None:
    model = prune_file(dense_path, epochs=1, ramp_fraction=1.0, frequency=8)

    assert count_zeros_by_layer(model) == ZEROS


def test_nothing_but_kernels_is_pruned(dense_path: Path, pruned: keras.Model) -> None:
    dense = read_model(dense_path)

    for layer in pruned.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert np.count_nonzero(layer.gamma.numpy()) == dense.get_layer(layer.name).gamma.shape[0]
        if hasattr(layer, "bias") and layer.name == "logits":
            assert np.count_nonzero(layer.bias.numpy()) == 3


def test_a_pruned_model_is_an_ordinary_model_again(dense_path: Path, pruned: keras.Model) -> None:
    dense = read_model(dense_path)

    assert [(type(layer), layer.name) for layer in pruned.layers] == [(type(x), x.name) for x in dense.layers]
    assert pruned.count_params() == dense.count_params()


def test_a_pruned_model_is_read_back_with_the_same_predictions(pruned: keras.Model, tmp_path: Path) -> None:
    write_model(tmp_path / "model.h5", pruned)

    x = to_network_input(TRAIN_SET[0])
    assert np.array_equal(predict_logits(read_model(tmp_path / "model.h5"), x), predict_logits(pruned, x))


def test_a_pruned_model_is_float32(pruned: keras.Model) -> None:
    assert {layer.compute_dtype for layer in pruned.layers} == {"float32"}
    assert {weights.dtype for weights in pruned.get_weights()} == {np.dtype(np.float32)}


def test_the_remaining_weights_are_fine_tuned(dense_path: Path, pruned: keras.Model) -> None:
    before = kernels(read_model(dense_path))

    for name, after in kernels(pruned).items():
        assert (after[after != 0] != before[name][after != 0]).all()


def test_pruned_weights_stay_exactly_zero_while_the_others_recover(
    dense_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sparsity reaches its target in step 6 of 24; whatever follows the pruning callback sees masked weights."""
    masks: list[dict[str, list[bool]]] = []

    class Recorder(keras.callbacks.Callback):
        def __init__(self, *_: object) -> None:
            super().__init__()

        def on_epoch_end(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002  (of Keras)
            wrapped = [layer.layer for layer in self.model.layers if hasattr(layer, "pruning_step")]
            masks.append({layer.name: (layer.kernel.numpy() == 0).ravel().tolist() for layer in wrapped})

    monkeypatch.setattr(stage, "Progress", Recorder)

    prune_file(dense_path, epochs=3, ramp_fraction=0.3)

    assert {name: sum(mask) for name, mask in masks[0].items()} == {"conv2": 108, "dense1": 216}
    assert masks[2] == masks[1] == masks[0]


def test_the_smallest_weights_are_pruned(dense_path: Path) -> None:
    dense = kernels(read_model(dense_path))

    pruned_kernels = kernels(prune_file(dense_path, learning_rate=1e-12))
    for name in ("conv2", "dense1"):
        kernel, magnitudes = pruned_kernels[name], np.abs(dense[name])
        assert magnitudes[kernel == 0].max() < magnitudes[kernel != 0].min()


def test_pruning_learns_from_the_images(dense_path: Path) -> None:
    def accuracy(model: keras.Model) -> float:
        predicted = predict_logits(model, to_network_input(TRAIN_SET[0])).argmax(axis=1)
        return float(np.mean(predicted == TRAIN_SET[1]))

    assert accuracy(read_model(dense_path)) < 0.5
    assert accuracy(prune_file(dense_path, sparsity=0.5, epochs=8, learning_rate=0.02)) > 0.9


def test_the_dense_file_is_not_changed(dense_path: Path) -> None:
    before = dense_path.read_bytes()

    prune_file(dense_path, epochs=1)

    assert dense_path.read_bytes() == before


def test_the_same_seed_gives_the_same_bytes(dense_path: Path, pruned: keras.Model, tmp_path: Path) -> None:
    assert read_bytes_of(prune_file(dense_path), tmp_path) == read_bytes_of(pruned, tmp_path)


def test_another_seed_gives_other_bytes(dense_path: Path, pruned: keras.Model, tmp_path: Path) -> None:
    assert read_bytes_of(prune_file(dense_path, seed=8), tmp_path) != read_bytes_of(pruned, tmp_path)


def test_the_augmentation_changes_what_is_fine_tuned_but_not_in_clean_epochs(dense_path: Path, tmp_path: Path) -> None:
    shift = LIMITS | {"shift_px": 1}
    plain, shifted, clean = (
        read_bytes_of(prune_file(dense_path, limits=limits, epochs=1, clean_epochs=clean_epochs), tmp_path)
        for limits, clean_epochs in ((LIMITS, 0), (shift, 0), (shift, 1))
    )

    assert shifted != plain
    assert clean == plain


def test_pruning_in_bfloat16_does_not_round_the_stored_weights(dense_path: Path) -> None:
    before = kernels(read_model(dense_path))

    after = kernels(prune_file(dense_path, policy="mixed_bfloat16", learning_rate=1e-30))  # too small to move a weight

    for name, kernel in after.items():
        np.testing.assert_array_equal(kernel[kernel != 0], before[name][kernel != 0])


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_the_zeros_do_not_depend_on_the_precision(dense_path: Path, policy: str) -> None:
    assert count_zeros_by_layer(prune_file(dense_path, policy=policy)) == ZEROS


def test_more_sparsity_never_means_fewer_zeros(dense_path: Path, pruned: keras.Model) -> None:
    zeros = [
        count_zeros_by_layer(model)
        for model in (prune_file(dense_path, 0.3), prune_file(dense_path, 0.5), pruned, prune_file(dense_path, 0.95))
    ]

    for fewer, more in itertools.pairwise(zeros):
        assert all(fewer[name] < more[name] for name in ("conv2", "dense1"))


def test_zeros_are_listed_by_layer(pruned: keras.Model) -> None:
    assert list_layer_zeros(pruned, {"conv2": 0.75, "dense1": 0.75}) == [
        {"layer": "conv1", "weights": 36, "zeros": 0, "sparsity": "0.000000"},
        {"layer": "conv2", "weights": 144, "zeros": 108, "sparsity": "0.750000"},
        {"layer": "dense1", "weights": 288, "zeros": 216, "sparsity": "0.750000"},
        {"layer": "logits", "weights": 24, "zeros": 0, "sparsity": "0.000000"},
    ]


def test_a_kernel_that_misses_the_sparsity_is_an_error(dense_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"conv2: expected a share of zeros of 0\.5, got 0\.0"):
        list_layer_zeros(read_model(dense_path), {"conv2": 0.5})


def test_only_the_macs_with_weights_that_are_not_zero_are_counted() -> None:
    layers = list_layers(4, 3, [[2]], False, False, dense=[], batch_norm=["conv"], dropout=0)
    rows = [{"layer": "conv1", "weights": 18, "zeros": 9}, {"layer": "logits", "weights": 24, "zeros": 23}]

    # The convolution has 4 x 4 outputs for each of its weights, the dense layer one.
    assert count_nonzero_macs(layers, rows) == 9 * 16 + 1


def climb(path: Path, folder: Path, **changes: Any) -> list[keras.Model]:
    """Prunes a stored model to one sparsity after the other, and returns a copy of it at each."""
    keras.backend.clear_session()
    ranking = changes.pop("ranking", "uniform")
    assert not {"epochs", "learning_rate"} & set(changes)  # each sparsity has its own
    rates = changes.pop("learning_rates", PRUNE.learning_rate)
    prune, recipe = change(changes | {"epochs": 9, "learning_rate": 1e9})  # of the training, which do not matter here
    prune = replace(prune, learning_rate=rates)
    checkpoints = [Checkpoint(folder / f"{sparsity}.npz", "of this test") for sparsity in prune.sparsities]
    model, copies = read_model(path), []
    for _ in prune_step_by_step(model, TRAIN_SET, LIMITS, ranking, prune, recipe, 7, "float32", checkpoints):
        copies.append(keras.models.clone_model(model))
        copies[-1].set_weights(model.get_weights())
    return copies


def test_each_sparsity_starts_from_the_model_of_the_one_before(dense_path: Path, tmp_path: Path) -> None:
    half, three_quarters = climb(dense_path, tmp_path, frequency=1, learning_rates=(1e-30, 1e-30))  # move no weight

    for name in ("conv2", "dense1"):
        zeros = kernels(half)[name] == 0
        assert (kernels(three_quarters)[name][zeros] == 0).all()
        assert zeros.mean() == 0.5
    assert count_zeros_by_layer(three_quarters) == ZEROS


def test_each_sparsity_has_a_learning_rate_of_its_own(dense_path: Path, tmp_path: Path) -> None:
    dense = kernels(read_model(dense_path))

    half, three_quarters = (kernels(model) for model in climb(dense_path, tmp_path, learning_rates=(1e-30, 0.01)))

    for name in ("conv2", "dense1"):
        kept = three_quarters[name] != 0
        assert (half[name][kept] == dense[name][kept]).all()
        assert (three_quarters[name][kept] != half[name][kept]).all()


def test_zeros_that_are_there_are_masked_from_the_start(dense_path: Path) -> None:
    model = prune_file(dense_path, sparsity=0.5)
    zeros = {name: kernel == 0 for name, kernel in read_pruned_kernels(model).items()}
    schedules = {name: build_schedule(0.5, 0.75, 100, 1.0, 50) for name in zeros}

    wrapped = wrap_for_pruning(model, schedules, "float32", 7, lambda: keras.backend.constant(0, "int64"))

    for layer in wrapped.layers:
        if hasattr(layer, "pruning_vars"):
            _, mask, _ = layer.pruning_vars[0]
            np.testing.assert_array_equal(mask.numpy() == 0, zeros[layer.layer.name])


def test_lamp_prunes_as_many_weights_as_uniform_and_spares_the_same_layers(dense_path: Path, tmp_path: Path) -> None:
    zeros = [count_zeros_by_layer(model) for model in climb(dense_path, tmp_path, ranking="lamp")]

    assert [of["conv2"] + of["dense1"] for of in zeros] == [216, 324]  # of 144 and 288
    assert [of["conv1"] + of["logits"] for of in zeros] == [0, 0]
    assert zeros[1]["conv2"] != 108


def test_a_finished_step_is_taken_from_its_checkpoint(dense_path: Path, tmp_path: Path) -> None:
    first = climb(dense_path, tmp_path)
    state = (tmp_path / "0.5.npz").stat().st_mtime_ns

    again = climb(dense_path, tmp_path)

    assert (tmp_path / "0.5.npz").stat().st_mtime_ns == state
    for before, after in zip(first, again, strict=True):
        for one, other in zip(before.get_weights(), after.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_label_smoothing_changes_what_is_learned(dense_path: Path, tmp_path: Path) -> None:
    plain, smooth = (read_bytes_of(prune_file(dense_path, label_smoothing=value), tmp_path) for value in (0.0, 0.1))

    assert plain != smooth


def test_the_kernels_that_are_pruned_are_read_by_the_names_of_their_layers(dense_path: Path) -> None:
    found = read_pruned_kernels(read_model(dense_path))

    assert {name: kernel.shape for name, kernel in found.items()} == {"conv2": (3, 3, 4, 4), "dense1": (36, 8)}


def test_the_total_sparsity_weighs_layers_by_their_weights() -> None:
    assert measure_total_sparsity([{"weights": 10, "zeros": 0}, {"weights": 30, "zeros": 30}]) == 0.75


def test_accuracy_and_size_are_measured_under_a_prefix(tmp_path: Path) -> None:
    logits_are_pixels = keras.Sequential([keras.layers.InputLayer(input_shape=(1, 2, 1)), keras.layers.Flatten()])
    images = np.array([[[255, 0]], [[0, 255]]], np.uint8)
    content = bytes(1000)
    (tmp_path / "model.h5").write_bytes(content)

    metrics = measure(
        logits_are_pixels, (images, np.array([0, 0])), (images, np.array([0, 1])), tmp_path / "model.h5", "dense_"
    )

    gzip_size_bytes = metrics.pop("dense_gzip_size_bytes")
    assert metrics == {"dense_val_accuracy": 0.5, "dense_test_accuracy": 1.0, "dense_size_bytes": 1000}
    assert gzip_size_bytes == len(gzip.compress(content, 9, mtime=0)) < 50


@pytest.fixture
def folder(dense_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is a folder in which the stage can prune the dense model to 50 and 75 %."""
    params = replace(load_params(), seed=7)
    params = replace(params, train=RECIPE, dataset=replace(params.dataset, class_names=("a", "b", "c")))
    compression = replace(load_params(), prune=PRUNE)
    monkeypatch.setattr(stage, "load_params", lambda **_: params)
    monkeypatch.setattr(stage, "load_params", lambda **_: compression)
    monkeypatch.setattr(sys, "argv", ["prune", "uniform"])
    monkeypatch.chdir(tmp_path)
    Path("data/select_model").mkdir(parents=True)
    Path("data/select_model/model.h5").write_bytes(dense_path.read_bytes())
    write_json(Path("data/select_model/choice.json"), {"architecture": ARCHITECTURE, "augmentation_limits": LIMITS})
    for name, (images, labels) in (("train", TRAIN_SET), ("val", make_images(12, 1)), ("test", make_images(9, 2))):
        write_arrays(Path(f"data/prepare/{name}.npz"), images=images, labels=labels)
    return tmp_path


def test_the_stage_writes_a_pruned_model_and_its_numbers(folder: Path, dense_path: Path) -> None:
    stage.main()

    output = folder / "data/prune/uniform/0.75"
    metrics = read_json(output / "metrics.json")
    names = ["val_accuracy", "test_accuracy", "size_bytes", "gzip_size_bytes"]
    assert {path.name for path in output.iterdir()} == {"model.h5", "metrics.json", "layers.csv"}
    assert {path.name for path in output.parent.iterdir()} == {"0.5", "0.75"}
    assert list(metrics) == ["sparsity", "nonzero_macs", *names, *[f"dense_{name}" for name in names]]
    # 36 outputs for each weight of the first two kernels, 9 of them pooled: 36 x (36 + 36) + 72 + 24
    assert metrics["nonzero_macs"] == 36 * (36 + 36) + 72 + 24
    assert metrics["sparsity"] == round((108 + 216) / (36 + 144 + 288 + 24), 6)
    assert [row["zeros"] for row in read_csv(output / "layers.csv")] == ["0", "108", "216", "0"]
    assert metrics["size_bytes"] == (output / "model.h5").stat().st_size
    assert metrics["dense_size_bytes"] == dense_path.stat().st_size
    assert count_zeros_by_layer(read_model(output / "model.h5")) == ZEROS


def test_the_stage_leaves_the_chosen_model_as_it_is(folder: Path, dense_path: Path) -> None:
    stage.main()

    assert (folder / "data/select_model/model.h5").read_bytes() == dense_path.read_bytes()


def test_the_stage_removes_its_checkpoints_when_all_is_written(folder: Path) -> None:
    stage.main()

    assert list((folder / "data/checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "num_same"),
    [
        ({}, 2),
        ({"sparsities": (0.5, 0.8)}, 1),
        ({"sparsities": (0.4, 0.75)}, 0),
        ({"rankings": ("uniform",)}, 2),
        ({"learning_rate": (0.01, 0.02)}, 1),
        ({"learning_rate": (0.02, 0.01)}, 0),
        ({"epochs": (2, 3)}, 1),
        ({"epochs": (3, 2)}, 0),
    ],
    ids=str,
)
def test_a_checkpoint_belongs_to_its_sparsity_and_those_before(
    folder: Path,  # noqa: ARG001  (the working directory)
    changes: dict[str, Any],
    num_same: int,
) -> None:
    def list_fingerprints(prune: PruneParams) -> list[str]:
        names = [f"uniform-{sparsity}" for sparsity in prune.sparsities]
        return [one.fingerprint for one in build_checkpoints(names, {"model": "third"}, prune, RECIPE, 7, "float32")]

    before, after = list_fingerprints(PRUNE), list_fingerprints(replace(PRUNE, **changes))

    assert [one == other for one, other in zip(before, after, strict=True)] == [n < num_same for n in range(2)]


def test_the_fine_tuning_follows_the_training_but_for_what_prune_says() -> None:
    prune = replace(PRUNE, batch_size=4, clean_epochs=1)

    recipe = build_recipe(RECIPE, prune)

    assert recipe == replace(RECIPE, batch_size=4, clean_epochs=1)


def test_the_batches_are_those_that_prune_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prune_in_batches_of(batch_size: int) -> bytes:
        prune = replace(PRUNE, batch_size=batch_size)
        compression = replace(load_params(ROOT / "params.yaml"), prune=prune)
        monkeypatch.setattr(stage, "load_params", lambda **_: compression)
        keras.backend.clear_session()
        stage.main()
        return (folder / "data/prune/uniform/0.75/model.h5").read_bytes()

    assert prune_in_batches_of(8) != prune_in_batches_of(16)


def test_an_unknown_ranking_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001  (cwd)
    monkeypatch.setattr(sys, "argv", ["prune", "lamb"])

    with pytest.raises(UserError, match="ranking: unknown name 'lamb'; did you mean 'lamp'"):
        stage.main()
