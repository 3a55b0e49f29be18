import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sections import augmentation, replace
from tiny import NONE, make_images, make_recipe, read_bytes_of
from tiny import TRAIN as SHORT

from stages import train as stage
from stages.lib.errors import UserError
from stages.lib.network.architecture import list_layers
from stages.lib.network.keras2 import keras, tf
from stages.lib.network.metrics import compute_probabilities
from stages.lib.network.model import build_model, measure_accuracy, predict_logits, read_model
from stages.lib.network.pixels import to_network_input
from stages.lib.params.load import load_params
from stages.lib.params.sections import ModelParams
from stages.lib.storage.files import read_arrays, read_csv, read_json, write_arrays
from stages.lib.storage.selected import Rows
from stages.lib.training.checkpoint import Checkpoint
from stages.lib.training.divergence import DivergedError
from stages.lib.training.loop import History, OneCycle, build_optimizer, train_model
from stages.lib.training.muon import Muon
from stages.lib.training.outcome import write_trained
from stages.train import keep_share, split_anew

TRAIN = replace(SHORT, epochs=15, batch_size=16, learning_rate=0.02, warmup_fraction=0.25)
TINY = ModelParams(
    blocks=((4,),),
    separable=False,
    residual=False,
    global_pool=False,
    dense=(8,),
    batch_norm=("conv",),
    dropout=0.1,
)
TRAIN_SET, VAL_SET = make_images(64, seed=0, size=8), make_images(20, seed=1, size=8)
PARAMS = load_params()
LAYERS = list_layers(8, 3, **TINY.model_dump())


def train_tiny(folder: Path, val_set: Any = VAL_SET, weights: Any = None, **changes: Any) -> keras.Model:
    keras.backend.clear_session()  # as in a process of its own: Keras numbers the layers that have no name
    checkpoint = Checkpoint(folder / "checkpoint.npz", "of this test")
    checkpoint.remove()
    return train_model(
        layers=LAYERS,
        recipe=make_recipe(train=TRAIN, **changes),
        train_set=TRAIN_SET,
        val_set=val_set,
        history_path=folder / "history.csv",
        checkpoint=checkpoint,
        initial_weights=weights,
    )


def test_a_training_starts_from_the_weights_that_it_is_given(tmp_path: Path) -> None:
    initial = build_model(LAYERS, seed=99)

    trained = train_tiny(tmp_path, weights=initial.get_weights(), epochs=1, learning_rate=1e-30)  # moves no weight

    for name in ("conv1", "dense1", "logits"):
        np.testing.assert_array_equal(trained.get_layer(name).kernel.numpy(), initial.get_layer(name).kernel.numpy())


def test_a_training_whose_loss_is_no_number_ends_in_that_epoch_and_its_state_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"^checkpoint: the loss became nan in epoch 1; lower the learning_rate"):
        train_tiny(tmp_path, weights=[np.full_like(w, np.nan) for w in build_model(LAYERS, seed=1).get_weights()])

    assert not (tmp_path / "checkpoint.npz").exists()


def train_on(folder: Path, train_set: tuple[np.ndarray, np.ndarray], **changes: Any) -> keras.Model:
    """Trains a network for these images by the recipe with `changes`; the same images are those of validation."""
    keras.backend.clear_session()
    _, size, *channels = train_set[0].shape[1:]
    layers = list_layers(size, 3, **TINY.model_dump(), channels=(channels or [1])[0])
    checkpoint = Checkpoint(folder / "other.npz", "of this test")
    checkpoint.remove()
    recipe = make_recipe(train=TRAIN, **changes)
    return train_model(layers, recipe, train_set, train_set, folder / "history.csv", checkpoint)


def test_colour_is_learned_where_nothing_else_tells_classes_apart(tmp_path: Path) -> None:
    labels = (np.arange(60) % 3).astype(np.uint8)
    images = np.random.default_rng(0).integers(0, 120, (60, 4, 4, 3), np.uint8)
    images[np.arange(60), ..., labels] += 60

    model = train_on(tmp_path, (images, labels), epochs=20)

    assert measure_accuracy(model, images, labels) > 0.9
    assert measure_accuracy(model, np.repeat(images[..., :1], 3, axis=-1), labels) < 0.7  # grey ones tell nothing


def test_a_set_smaller_than_a_batch_is_trained_in_one_step_an_epoch(tmp_path: Path) -> None:
    images, labels = make_images(50, seed=3, size=8)

    model = train_on(tmp_path, (images, labels), batch_size=256, epochs=40)

    rows = read_csv(tmp_path / "history.csv")
    assert [int(row["epoch"]) for row in rows if row["split"] == "train"] == list(range(1, 41))
    assert measure_accuracy(model, images, labels) > 0.9


def test_balanced_weights_keep_a_rare_class_from_being_forgotten(tmp_path: Path) -> None:
    labels = np.repeat([0, 1, 2], [90, 90, 6]).astype(np.uint8)
    # Nothing in the images tells the classes apart: what is left is how often each is right.
    images = np.full((186, 4, 4), 128, np.uint8)

    shares = {}
    for class_weights in ("none", "balanced"):
        model = train_on(tmp_path, (images, labels), class_weights=class_weights, epochs=30, batch_size=93)
        shares[class_weights] = compute_probabilities(predict_logits(model, to_network_input(images[:1])))[0]

    assert shares["none"][2] < 0.1
    np.testing.assert_allclose(shares["balanced"], 1 / 3, atol=0.1)


# The optimizer and its schedule


@pytest.mark.parametrize("warmup_fraction", [0.0, 0.1, 0.25, 0.37, 0.9])
def test_one_cycle_equals_its_formula_at_every_step(warmup_fraction: float) -> None:
    total, peak = 47, 0.01
    steps = np.arange(total + 1)
    warmup = warmup_fraction * total
    rise = peak * np.clip((steps + 1) / (warmup or 1), 0, 1)
    fall = peak * np.cos(np.pi / 2 * (steps - warmup) / (total - warmup)) ** 2  # (1 + cos 2a) / 2 = cos^2 a
    expected = np.where(steps < warmup, rise, fall)

    rates = [float(OneCycle(peak, total, warmup_fraction)(step)) for step in steps]

    assert rates == pytest.approx(expected.tolist(), abs=1e-8)
    assert min(rates[:-1]) > 0  # no update is lost


@pytest.mark.parametrize("warmup_fraction", [0.0, 0.5, 0.99])
def test_one_cycle_of_a_single_step_makes_it_at_the_peak(warmup_fraction: float) -> None:
    schedule = OneCycle(0.1, 1, warmup_fraction)

    assert [float(schedule(step)) for step in (0, 1)] == pytest.approx([0.1, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adam", keras.optimizers.Adam),
        ("adamw", keras.optimizers.AdamW),
        ("muon", Muon),
        ("sgd", keras.optimizers.SGD),
    ],
)
@pytest.mark.parametrize(("schedule", "rates"), [("constant", [0.02, 0.02, 0.02]), ("one_cycle", [0.01, 0.02, 0.01])])
def test_an_optimizer_is_built_by_its_name_and_follows_the_schedule(
    name: str, kind: Any, schedule: str, rates: list[float]
) -> None:
    optimizer: Any = build_optimizer(replace(TRAIN, optimizer=name, schedule=schedule, weight_decay=0.03), 8)

    found, weight = [], tf.Variable([0.0])
    for step in (0, 2, 5):
        optimizer.iterations.assign(step)
        optimizer.apply_gradients([(tf.constant([0.0]), weight)])
        found.append(float(optimizer.learning_rate))

    assert found == pytest.approx(rates)
    assert type(optimizer) is kind
    assert optimizer.weight_decay == (0.03 if name in ("adamw", "muon") else None)
    assert name != "sgd" or (optimizer.momentum, optimizer.nesterov) == (0.9, True)


def test_an_unknown_optimizer_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'lion'"):
        build_optimizer(replace(TRAIN, optimizer="lion"), 8)


# The learning curves


def test_history_has_a_row_for_each_split_after_each_epoch(tmp_path: Path) -> None:
    history = History(tmp_path / "history.csv", [])
    history.set_model(SimpleNamespace(optimizer=SimpleNamespace(learning_rate=tf.constant(0.003))))
    first = "epoch,split,accuracy,loss,learning_rate\n1,train,0.5,1.25,0.003\n1,val,0.75,0.333333,0.003\n"

    history.on_epoch_end(0, {"accuracy": 0.5, "loss": 1.25, "val_accuracy": 0.75, "val_loss": 1 / 3})
    assert (tmp_path / "history.csv").read_text() == first
    history.on_epoch_end(1, {"accuracy": 1.0, "loss": 1e-7, "val_accuracy": 1.0, "val_loss": 12.0})

    assert (tmp_path / "history.csv").read_text() == first + "2,train,1,1e-07,0.003\n2,val,1,12,0.003\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, Path]:
    """Is a model that was trained for 15 epochs of 4 steps, and the folder of its history."""
    folder = tmp_path_factory.mktemp("trained")
    return train_tiny(folder), folder


def test_a_tiny_network_learns_64_separable_images_by_heart(trained: tuple[keras.Model, Path]) -> None:
    predicted = predict_logits(trained[0], to_network_input(TRAIN_SET[0])).argmax(axis=1)

    assert predicted.tolist() == TRAIN_SET[1].tolist()


def test_the_history_has_every_epoch_with_the_learning_rate_of_its_last_update(
    trained: tuple[keras.Model, Path],
) -> None:
    rows = read_csv(trained[1] / "history.csv")

    assert [(row["epoch"], row["split"]) for row in rows] == [
        (str(epoch), split) for epoch in range(1, 16) for split in ("train", "val")
    ]
    rates = [float(row["learning_rate"]) for row in rows if row["split"] == "val"]
    assert rates == pytest.approx([float(OneCycle(0.02, 60, 0.25)(4 * epoch - 1)) for epoch in range(1, 16)], rel=1e-5)


def test_the_model_is_that_of_the_last_epoch(trained: tuple[keras.Model, Path], tmp_path: Path) -> None:
    last = read_csv(trained[1] / "history.csv")[-1]

    metrics = write_trained(tmp_path, trained[0], [{"epoch": 1}], VAL_SET)

    assert metrics["val_accuracy"] == pytest.approx(float(last["accuracy"]))
    assert metrics["val_loss"] == pytest.approx(float(last["loss"]), rel=1e-3)


# What the bytes depend on


def test_two_runs_give_the_same_bytes(trained: tuple[keras.Model, Path], tmp_path: Path) -> None:
    again = train_tiny(tmp_path)

    assert read_bytes_of(again, tmp_path) == read_bytes_of(trained[0], tmp_path)
    assert (tmp_path / "history.csv").read_bytes() == (trained[1] / "history.csv").read_bytes()


def test_seed_augmentation_smoothing_and_precision_change_what_is_learnt_and_validation_images_do_not(
    tmp_path: Path,
) -> None:
    shift = augmentation(shift_fraction=0.2)
    other = 255 - VAL_SET[0][:10], VAL_SET[1][:10]

    def train(**changes: Any) -> bytes:
        return read_bytes_of(train_tiny(tmp_path, epochs=1, **changes), tmp_path)

    plain = train()
    changed: list[dict[str, Any]] = [
        {"seed": 8},
        {"limits": shift},
        {"label_smoothing": 0.4},
        {"policy": "mixed_bfloat16"},
    ]
    assert len({plain, *(train(**change) for change in changed)}) == 5
    assert train(val_set=other) == plain
    assert train(limits=shift, clean_epochs=1) == plain


def test_a_model_trained_in_bfloat16_is_returned_in_float32(tmp_path: Path) -> None:
    model = train_tiny(tmp_path, policy="mixed_bfloat16", epochs=1)

    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert {weights.dtype for weights in model.get_weights()} == {np.dtype(np.float32)}
    assert b"bfloat16" not in read_bytes_of(model, tmp_path)


# Which images it sees


def make_numbered(labels: list[int], first: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes images of one pixel, which is their number."""
    return np.arange(first, first + len(labels), dtype=np.uint8).reshape(-1, 1, 1), np.array(labels, np.uint8)


SMALL_TRAIN = make_numbered([0, 1, 2, 2] * 6, first=0)
SMALL_VAL = make_numbered([0, 1, 2, 2], first=24)


def test_a_new_split_has_other_validation_images_and_as_many_of_each_class() -> None:
    train_set, val_set = split_anew(SMALL_TRAIN, SMALL_VAL, seed=7)

    for new, old in ((train_set, SMALL_TRAIN), (val_set, SMALL_VAL)):
        assert np.bincount(new[1]).tolist() == np.bincount(old[1]).tolist()
        assert {array.dtype for array in new} == {np.dtype(np.uint8)}
        assert new[1].tolist() == [[0, 1, 2, 2][number % 4] for number in new[0][:].ravel()]  # each with its own label
    assert sorted([*train_set[0][:].ravel(), *val_set[0][:].ravel()]) == list(range(28))
    assert val_set[0][:].tolist() != SMALL_VAL[0].tolist()


def test_a_new_split_depends_on_the_seed_alone() -> None:
    one, same, other = (split_anew(SMALL_TRAIN, SMALL_VAL, seed)[1][0][:].tolist() for seed in (7, 7, 8))

    assert one == same != other


def test_a_share_of_the_images_of_each_class_is_kept() -> None:
    images, labels = keep_share(SMALL_TRAIN, 0.5, seed=7)

    assert np.bincount(labels).tolist() == [3, 3, 6]
    assert labels.tolist() == [[0, 1, 2, 2][number % 4] for number in images[:].ravel()]
    assert images[:].tolist() != keep_share(SMALL_TRAIN, 0.5, seed=8)[0][:].tolist()
    for kept, whole in zip(keep_share(SMALL_TRAIN, 1.0, seed=7), SMALL_TRAIN, strict=True):
        assert np.array_equal(kept[:], whole)


def test_a_share_that_leaves_no_image_of_a_class_is_refused() -> None:
    with pytest.raises(
        UserError,
        match=r"^params\.yaml: study\.keep_fraction: 0\.05 leaves 1 training images, none of class 0, 1; raise it, or",
    ):
        keep_share(SMALL_TRAIN, 0.05, seed=7)


# The stage


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is a folder in which the stage can train `tiny`; it has no data/prepare/test.npz."""
    monkeypatch.chdir(tmp_path)
    for name, (images, labels) in (("train", TRAIN_SET), ("val", VAL_SET)):
        write_arrays(Path(f"data/prepare/{name}.npz"), images=images, labels=labels)
    return tmp_path


def run_stage_for(*names: str, keep_fraction: float = 1.0, split_by_seed: bool = False) -> None:
    """Runs the stage in the working directory, twice over the images; the seed of the split is 42."""
    study = replace(PARAMS.study, seeds=(42, 7), keep_fraction=keep_fraction, split_by_seed=split_by_seed)
    params = replace(
        PARAMS,
        seed=42,
        dataset=replace(PARAMS.dataset, image_size_px=8, class_names=("a", "b", "c")),
        models={"tiny": TINY},
        augmentations={"none": NONE},
        study=study,
        train=replace(TRAIN, epochs=2),
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(stage, "load_params", lambda **_: params)
        monkeypatch.setattr("stages.lib.running.arguments.load_params", lambda: params)
        monkeypatch.setattr(sys, "argv", ["train", *names])
        stage.main()


def test_the_stage_trains_without_test_images_and_its_numbers_are_those_of_its_model(folder: Path) -> None:
    run_stage_for("tiny", "none", "42")

    names = ("model.h5", "history.csv", "metrics.json", "probabilities.npz")
    outputs = {f"train/tiny-none/42/{name}" for name in names}
    written = {str(path.relative_to(folder / "data")) for path in (folder / "data").rglob("*") if path.is_file()}
    assert written == outputs | {"prepare/train.npz", "prepare/val.npz", "timing/training/train@tiny-none-42.json"}
    path = folder / "data/train/tiny-none/42/model.h5"
    found = write_trained(folder / "again", read_model(path), [{"epoch": 1}], VAL_SET)
    assert read_json(path.parent / "metrics.json") == found
    timing = read_json(folder / "data/timing/training/train@tiny-none-42.json")
    assert timing["model_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert timing["policy"] == "float32"
    assert timing["images_per_second"] == pytest.approx(2 * 64 / timing["seconds"], rel=0.1, abs=0.6)


@pytest.fixture
def given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Is what the stage hands to the training, which is left out."""
    assert folder.is_dir()
    given: dict[str, Any] = {}

    def leave_out(**what: Any) -> keras.Model:
        given.update(what)
        what["checkpoint"].rows.append({"epoch": 1})
        return build_model(LAYERS, seed=1)

    monkeypatch.setattr(stage, "train_model", leave_out)
    return given


def is_same(one: tuple[Rows, np.ndarray], other: tuple[Rows, np.ndarray]) -> bool:
    return np.array_equal(one[0][:], other[0][:]) and np.array_equal(one[1], other[1])


@pytest.mark.parametrize(
    ("seed", "split_by_seed", "draws"), [(42, False, False), (42, True, False), (7, False, False), (7, True, True)]
)
def test_validation_images_of_its_own_has_a_seed_that_is_not_that_of_the_split_where_params_say_so(
    given: dict[str, Any], seed: int, split_by_seed: bool, draws: bool
) -> None:
    run_stage_for("tiny", "none", str(seed), split_by_seed=split_by_seed)

    train_set, val_set = split_anew(TRAIN_SET, VAL_SET, seed) if draws else [TRAIN_SET, VAL_SET]
    assert is_same(given["train_set"], train_set)
    assert is_same(given["val_set"], val_set)
    (labels,) = read_arrays(Path(f"data/train/tiny-none/{seed}/probabilities.npz"), "labels")
    assert np.array_equal(labels, val_set[1])
    assert given["recipe"].seed == seed


def test_a_candidate_sees_its_share_of_the_training_images_and_all_validation_images(given: dict[str, Any]) -> None:
    run_stage_for("tiny", "none", "7", keep_fraction=0.5)

    assert is_same(given["train_set"], keep_share(TRAIN_SET, 0.5, seed=7))
    assert is_same(given["val_set"], VAL_SET)


def test_a_checkpoint_belongs_to_the_images_that_a_training_sees(given: dict[str, Any]) -> None:
    fingerprints = []
    for seed, split_by_seed, keep_fraction in ((42, False, 1.0), (42, True, 1.0), (42, False, 0.5), (7, True, 1.0)):
        run_stage_for("tiny", "none", str(seed), split_by_seed=split_by_seed, keep_fraction=keep_fraction)
        fingerprints.append(given["checkpoint"].fingerprint)
    run_stage_for("tiny", "none", "7")

    assert fingerprints[0] == fingerprints[1]  # 42 has the prepared split in any case
    assert len({*fingerprints, given["checkpoint"].fingerprint}) == 4


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("arguments", [["tny", "none", "42"], ["tiny", "tny", "42"], ["tiny", "none", "tny"]])
def test_the_stage_refuses_unknown_names(arguments: list[str]) -> None:
    with pytest.raises(UserError, match="unknown name 'tny'"):
        run_stage_for(*arguments)
