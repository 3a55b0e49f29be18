import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sections import replace

from stages import train as stage
from stages.lib.errors import UserError
from stages.lib.network.architecture import Layer, list_layers
from stages.lib.network.keras2 import keras, tf
from stages.lib.network.model import build_model, predict_logits, read_model, to_network_input, write_model
from stages.lib.params.load import load_params
from stages.lib.params.sections import AugmentationParams, ModelParams, TrainParams
from stages.lib.storage.files import read_csv, read_json, write_arrays
from stages.lib.training.checkpoint import Checkpoint
from stages.lib.training.cluster import Cluster
from stages.lib.training.loop import History, OneCycle, build_optimizer, train_model
from stages.lib.training.muon import Muon
from stages.train import describe_run, measure

NONE = AugmentationParams(
    rotation_degrees=0, shift_fraction=0, zoom_fraction=0, shift_px=0, erase_px=0, horizontal_flip=False
)
TRAIN = TrainParams(
    epochs=15,
    clean_epochs=0,
    batch_size=16,
    optimizer="adam",
    learning_rate=0.02,
    schedule="one_cycle",
    warmup_fraction=0.25,
    weight_decay=0.0,
    label_smoothing=0.0,
    precision="float32",
)
TINY = ModelParams(blocks=((4,),), residual=False, global_pool=False, dense=(8,), batch_norm=("conv",), dropout=0.1)


def make_images(num_images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes noisy 8 x 8 images of four classes: the bright quadrant is the label."""
    labels = (np.arange(num_images) % 4).astype(np.uint8)
    images = np.random.default_rng(seed).integers(0, 100, (num_images, 8, 8), np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[row : row + 4, column : column + 4] += 120
    return images, labels


TRAIN_SET, VAL_SET = make_images(64, seed=0), make_images(20, seed=1)


def tiny_layers() -> list[Layer]:
    return list_layers(8, 4, **TINY.model_dump())


def train_tiny(
    folder: Path,
    seed: int = 7,
    policy: str = "float32",
    augmentation: AugmentationParams = NONE,
    val_set: tuple[np.ndarray, np.ndarray] = VAL_SET,
    **changes: object,
) -> keras.Model:
    train = replace(TRAIN, **changes)  # type: ignore[arg-type]  # any field
    keras.backend.clear_session()  # as in a process of its own: Keras numbers the layers that have no name
    data = (TRAIN_SET, val_set, tiny_layers(), augmentation, train, seed, policy)
    checkpoint = Checkpoint(folder / "checkpoint.npz", "of this test")
    checkpoint.remove()
    return train_model(*data, folder / "history.csv", checkpoint, Cluster())


def test_a_training_starts_from_the_weights_that_it_is_given(tmp_path: Path) -> None:
    initial = build_model(tiny_layers(), seed=99)
    train = replace(TRAIN, epochs=1, learning_rate=1e-30)  # too small to move a weight
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz", "of this test")
    how = (NONE, train, 7, "float32", tmp_path / "history.csv", checkpoint, Cluster(), initial.get_weights())

    trained = train_model(TRAIN_SET, VAL_SET, tiny_layers(), *how)

    for name in ("conv1", "dense1", "logits"):
        np.testing.assert_array_equal(trained.get_layer(name).kernel.numpy(), initial.get_layer(name).kernel.numpy())


def read_bytes_of(model: keras.Model, folder: Path) -> bytes:
    write_model(folder / "some.h5", model)
    return (folder / "some.h5").read_bytes()


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.5), (1, 1.0), (2, 1.0), (3, 0.9330127), (5, 0.5), (7, 0.0669873), (8, 0.0)]
)
def test_one_cycle_rises_linearly_to_its_peak_and_falls_to_0_along_a_cosine(step: int, rate: float) -> None:
    assert float(OneCycle(1.0, 8, 0.25)(step)) == pytest.approx(rate, abs=1e-6)


def test_one_cycle_scales_with_its_peak() -> None:
    assert float(OneCycle(0.003, 8, 0.25)(2)) == pytest.approx(0.003)


@pytest.mark.parametrize(("step", "rate"), [(0, 1.0), (2, 0.5), (4, 0.0)])
def test_one_cycle_without_warmup_starts_at_its_peak(step: int, rate: float) -> None:
    assert float(OneCycle(1.0, 4, 0.0)(step)) == pytest.approx(rate, abs=1e-6)


@pytest.mark.parametrize("warmup_fraction", [0.0, 0.5, 0.99])
def test_one_cycle_of_a_single_step_makes_it_at_the_peak(warmup_fraction: float) -> None:
    schedule = OneCycle(0.1, 1, warmup_fraction)

    assert [float(schedule(step)) for step in (0, 1)] == pytest.approx([0.1, 0.0], abs=1e-6)


@pytest.mark.parametrize("warmup_fraction", [0.0, 0.01, 0.25, 0.99])
def test_one_cycle_makes_no_update_at_rate_0(warmup_fraction: float) -> None:
    schedule = OneCycle(1.0, 30, warmup_fraction)

    assert min(float(schedule(step)) for step in range(30)) > 0


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


def test_one_cycle_is_a_float32_scalar_for_the_optimizers_int64_step() -> None:
    rate = OneCycle(1.0, 8, 0.25)(keras.optimizers.Adam().iterations)

    assert (rate.dtype.name, rate.shape) == ("float32", ())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adam", keras.optimizers.Adam),
        ("adamw", keras.optimizers.AdamW),
        ("muon", Muon),
        ("sgd", keras.optimizers.SGD),
    ],
)
def test_an_optimizer_is_built_by_its_name(name: str, kind: type) -> None:
    assert type(build_optimizer(replace(TRAIN, optimizer=name), 8)) is kind


@pytest.mark.parametrize("name", ["adam", "adamw", "muon", "sgd"])
@pytest.mark.parametrize(("schedule", "rates"), [("constant", [0.02, 0.02, 0.02]), ("one_cycle", [0.01, 0.02, 0.01])])
def test_an_optimizer_follows_the_schedule(name: str, schedule: str, rates: list[float]) -> None:
    optimizer = build_optimizer(replace(TRAIN, optimizer=name, schedule=schedule), 8)

    found, weight = [], tf.Variable([0.0])
    for step in (0, 2, 5):
        optimizer.iterations.assign(step)
        optimizer.apply_gradients([(tf.constant([0.0]), weight)])
        found.append(float(optimizer.learning_rate))

    assert found == pytest.approx(rates)


def test_sgd_has_nesterov_momentum() -> None:
    optimizer = build_optimizer(replace(TRAIN, optimizer="sgd"), 8)

    assert (optimizer.momentum, optimizer.nesterov) == (0.9, True)


def test_adamw_decays_weights_as_params_say() -> None:
    train = replace(TRAIN, optimizer="adamw", weight_decay=0.03)

    assert build_optimizer(train, 8).weight_decay == 0.03


def test_an_unknown_optimizer_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'lion'"):
        build_optimizer(replace(TRAIN, optimizer="lion"), 8)


LOGS = {"accuracy": 0.5, "loss": 1.25, "val_accuracy": 0.75, "val_loss": 1 / 3}


def test_history_has_a_row_for_each_epoch_and_split(tmp_path: Path) -> None:
    history = History(tmp_path / "history.csv", [])
    history.set_model(SimpleNamespace(optimizer=SimpleNamespace(learning_rate=tf.constant(0.003))))

    history.on_epoch_end(0, LOGS)
    history.on_epoch_end(1, {"accuracy": 1.0, "loss": 1e-7, "val_accuracy": 1.0, "val_loss": 12.0})

    assert (tmp_path / "history.csv").read_text() == (
        "epoch,split,accuracy,loss,learning_rate\n"
        "1,train,0.5,1.25,0.003\n"
        "1,val,0.75,0.333333,0.003\n"
        "2,train,1,1e-07,0.003\n"
        "2,val,1,12,0.003\n"
    )


def test_history_can_be_read_after_each_epoch(tmp_path: Path) -> None:
    history = History(tmp_path / "history.csv", [])
    history.set_model(SimpleNamespace(optimizer=SimpleNamespace(learning_rate=tf.constant(0.003))))

    history.on_epoch_end(0, LOGS)
    after_one = read_csv(tmp_path / "history.csv")
    history.on_epoch_end(1, LOGS)
    after_two = read_csv(tmp_path / "history.csv")

    assert [row["epoch"] for row in after_one] == ["1", "1"]
    assert [row["epoch"] for row in after_two] == ["1", "1", "2", "2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, Path]:
    """Is a model that was trained for 15 epochs of 4 steps, and the folder of its history."""
    folder = tmp_path_factory.mktemp("trained")
    return train_tiny(folder), folder


def test_a_tiny_network_learns_64_separable_images_by_heart(trained: tuple[keras.Model, Path]) -> None:
    predicted = predict_logits(trained[0], to_network_input(TRAIN_SET[0])).argmax(axis=1)

    assert predicted.tolist() == TRAIN_SET[1].tolist()


def test_the_history_of_a_training_has_every_epoch(trained: tuple[keras.Model, Path]) -> None:
    rows = read_csv(trained[1] / "history.csv")

    assert [(row["epoch"], row["split"]) for row in rows] == [
        (str(epoch), split) for epoch in range(1, 16) for split in ("train", "val")
    ]


def test_the_history_holds_the_learning_rate_of_the_epochs_last_update(trained: tuple[keras.Model, Path]) -> None:
    rates = [float(row["learning_rate"]) for row in read_csv(trained[1] / "history.csv") if row["split"] == "val"]

    assert rates == pytest.approx([float(OneCycle(0.02, 60, 0.25)(4 * epoch - 1)) for epoch in range(1, 16)], rel=1e-5)


def test_the_model_is_that_of_the_last_epoch(trained: tuple[keras.Model, Path]) -> None:
    last = read_csv(trained[1] / "history.csv")[-1]

    metrics = measure(trained[0], *VAL_SET)

    assert metrics["val_accuracy"] == pytest.approx(float(last["accuracy"]))
    assert metrics["val_loss"] == pytest.approx(float(last["loss"]), rel=1e-3)


def test_two_runs_give_the_same_bytes(trained: tuple[keras.Model, Path], tmp_path: Path) -> None:
    again = train_tiny(tmp_path)

    assert read_bytes_of(again, tmp_path) == read_bytes_of(trained[0], tmp_path)
    assert (tmp_path / "history.csv").read_bytes() == (trained[1] / "history.csv").read_bytes()


def test_another_seed_gives_other_bytes(tmp_path: Path) -> None:
    one, two = (train_tiny(tmp_path, seed=seed, epochs=1) for seed in (7, 8))

    assert read_bytes_of(one, tmp_path) != read_bytes_of(two, tmp_path)


def test_the_validation_images_do_not_change_what_is_learnt(tmp_path: Path) -> None:
    other = 255 - VAL_SET[0][:10], VAL_SET[1][:10]
    one, two = (train_tiny(tmp_path, val_set=val_set, epochs=1) for val_set in (VAL_SET, other))

    assert read_bytes_of(one, tmp_path) == read_bytes_of(two, tmp_path)


def test_augmentation_changes_what_is_learnt_but_not_in_clean_epochs(tmp_path: Path) -> None:
    shift = AugmentationParams(
        rotation_degrees=0, shift_fraction=0.2, zoom_fraction=0, shift_px=0, erase_px=0, horizontal_flip=False
    )
    plain, shifted, clean = (
        read_bytes_of(train_tiny(tmp_path, augmentation=augmentation, epochs=1, clean_epochs=clean_epochs), tmp_path)
        for augmentation, clean_epochs in ((NONE, 0), (shift, 0), (shift, 1))
    )

    assert shifted != plain
    assert clean == plain


def test_label_smoothing_changes_the_loss(tmp_path: Path) -> None:
    losses = []
    for label_smoothing in (0.0, 0.4):
        train_tiny(tmp_path, epochs=1, label_smoothing=label_smoothing)
        losses.append(read_csv(tmp_path / "history.csv")[0]["loss"])

    assert losses[0] != losses[1]


def test_a_model_trained_in_bfloat16_is_returned_in_float32(tmp_path: Path) -> None:
    model = train_tiny(tmp_path, policy="mixed_bfloat16", epochs=1)

    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert {weights.dtype for weights in model.get_weights()} == {np.dtype(np.float32)}
    assert b"bfloat16" not in read_bytes_of(model, tmp_path)


def test_the_policy_decides_how_a_model_is_trained(tmp_path: Path) -> None:
    one, two = (train_tiny(tmp_path, policy=policy, epochs=1) for policy in ("float32", "mixed_bfloat16"))

    assert read_bytes_of(one, tmp_path) != read_bytes_of(two, tmp_path)


def test_a_measured_loss_is_the_mean_cross_entropy_in_nats() -> None:
    logits_are_pixels = keras.Sequential([keras.layers.InputLayer(input_shape=(1, 2, 1)), keras.layers.Flatten()])
    images = np.array([[[255, 0]], [[0, 255]]], np.uint8)

    metrics = measure(logits_are_pixels, images, np.array([0, 0], np.uint8))

    # Logits 1, 0 and 0, 1: the true class has 1 / (1 + 1/e) = 0.731059 and 0.268941; the mean of -ln is 0.813262.
    assert metrics == {"val_accuracy": 0.5, "val_loss": 0.813262}


def test_a_run_is_described_with_its_times_and_its_versions() -> None:
    run = describe_run(12.345, 1000, "float32")

    assert list(run) == [
        *("seconds", "images_per_second", "policy", "cpu", "num_cpus", "date", "python"),
        *("tensorflow", "tf-keras", "tensorflow-model-optimization", "numpy", "h5py", "dvc"),
    ]
    assert (run["seconds"], run["images_per_second"], run["policy"]) == (12.3, 81, "float32")
    assert run["numpy"] == np.__version__


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is a folder in which the stage can train `tiny`, twice over 64 images; it has no data/prepare/test.npz."""
    params = load_params()
    params = replace(
        params,
        dataset=replace(params.dataset, image_size_px=8, class_names=("a", "b", "c", "d")),
        models={"tiny": TINY},
        augmentations={
            "none": NONE,
            "flip": AugmentationParams(
                rotation_degrees=0, shift_fraction=0, zoom_fraction=0, shift_px=0, erase_px=0, horizontal_flip=True
            ),
        },
        train=replace(TRAIN, epochs=2),
    )
    monkeypatch.setattr(stage, "load_params", lambda **_: params)
    monkeypatch.chdir(tmp_path)
    for name, (images, labels) in (("train", TRAIN_SET), ("val", VAL_SET)):
        write_arrays(Path(f"data/prepare/{name}.npz"), images=images, labels=labels)
    return tmp_path


def test_the_stage_trains_without_test_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "tiny", "flip"])

    stage.main()

    assert not (folder / "data/prepare/test.npz").exists()
    written = {str(path.relative_to(folder / "data")) for path in (folder / "data").rglob("*") if path.is_file()}
    assert written == {
        "prepare/train.npz",
        "prepare/val.npz",
        "train/tiny-flip/model.h5",
        "train/tiny-flip/history.csv",
        "train/tiny-flip/metrics.json",
        "timing/training/tiny-flip.json",
    }


def test_the_stages_numbers_are_those_of_the_model_that_it_writes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "tiny", "none"])

    stage.main()

    path = folder / "data/train/tiny-none/model.h5"
    assert read_json(path.parent / "metrics.json") == measure(read_model(path), *VAL_SET)
    timing = read_json(folder / "data/timing/training/tiny-none.json")
    assert timing["model_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert timing["policy"] == "float32"
    assert timing["images_per_second"] == pytest.approx(2 * 64 / timing["seconds"], rel=0.1)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("arguments", [["tny", "none"], ["tiny", "tny"]])
def test_the_stage_refuses_unknown_names(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *arguments])

    with pytest.raises(UserError, match="unknown name 'tny'"):
        stage.main()
