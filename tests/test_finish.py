import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline import compute_checksums
from sections import augmentation, replace
from tiny import TRAIN as SHORT
from tiny import make_images

from stages import finish as stage
from stages.finish import compute_losses
from stages.lib.errors import UserError
from stages.lib.network.architecture import list_layers
from stages.lib.network.keras2 import keras
from stages.lib.network.model import measure_accuracy, predict_logits, read_model
from stages.lib.network.pixels import to_network_input
from stages.lib.params.load import load_params
from stages.lib.params.sections import FinishParams
from stages.lib.storage.files import read_arrays, read_csv, read_json, write_arrays, write_json
from stages.lib.training.checkpoint import Checkpoint
from stages.lib.training.recipe import Recipe

ARCHITECTURE: dict[str, Any] = {
    "blocks": [[4]],
    "separable": False,
    "residual": False,
    "global_pool": False,
    "dense": [8],
    "batch_norm": ["conv"],
    "dropout": 0.1,
}
SHIFT = augmentation(shift_px=1)
CHOICE = {"architecture": ARCHITECTURE, "augmentation_limits": SHIFT.model_dump()}
TRAIN_SET, VAL_SET = make_images(64, seed=0), make_images(12, seed=1)
PARAMS = load_params()
TRAIN = replace(SHORT, epochs=1, batch_size=16)
FINISH = FinishParams(epochs=3, clean_epochs=1)
FILES = {"model.h5", "history.csv", "losses.npz", "metrics.json", "probabilities.npz"}


def make_folder(folder: Path) -> Path:
    """Writes what the stage reads: a choice, and no candidates; images, and none to test on."""
    write_json(folder / "data/select_model/choice.json", CHOICE)
    for name, (images, labels) in (("train", TRAIN_SET), ("val", VAL_SET)):
        write_arrays(folder / f"data/prepare/{name}.npz", images=images, labels=labels)
    return folder


def run_stage_in(folder: Path, seed: str = "42") -> None:
    """Runs the stage in `folder`."""
    dataset = replace(PARAMS.dataset, image_size_px=6, class_names=("a", "b", "c"))
    study = replace(PARAMS.study, seeds=(42, 7), keep_fraction=0.5)
    params = replace(PARAMS, dataset=dataset, study=study, train=TRAIN, finish=FINISH)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(stage, "load_params", lambda **_: params)
        monkeypatch.setattr("stages.lib.running.arguments.load_params", lambda: params)
        monkeypatch.setattr(sys, "argv", ["finish", seed])
        monkeypatch.chdir(folder)
        keras.backend.clear_session()  # as in a process of its own
        stage.main()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Is a folder in which the stage ran once for each seed."""
    folder = make_folder(tmp_path_factory.mktemp("undisturbed"))
    for seed in ("42", "7"):
        run_stage_in(folder, seed)
    return folder


def test_the_stage_writes_five_files_for_each_seed_and_leaves_no_checkpoint(undisturbed: Path) -> None:
    written = compute_checksums(undisturbed / "data/finish")
    assert set(written) == {f"{seed}/{name}" for seed in ("42", "7") for name in FILES}
    assert written["42/model.h5"] != written["7/model.h5"]
    assert list((undisturbed / "data/checkpoints").iterdir()) == []


def test_the_numbers_are_those_of_the_model_and_the_curves_have_the_epochs_of_finish(undisturbed: Path) -> None:
    path = undisturbed / "data/finish/42/model.h5"

    assert read_json(path.parent / "metrics.json")["val_accuracy"] == measure_accuracy(read_model(path), *VAL_SET)
    rows = read_csv(path.parent / "history.csv")
    assert [(row["epoch"], row["split"]) for row in rows] == [(e, s) for e in "123" for s in ("train", "val")]
    timing = read_json(undisturbed / "data/timing/training/finish@finished-42.json")
    assert timing["model_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert timing["images_per_second"] == pytest.approx(3 * 64 / timing["seconds"], rel=0.1, abs=0.6)


def test_the_loss_of_each_training_image_is_kept(undisturbed: Path) -> None:
    (losses,) = read_arrays(undisturbed / "data/finish/42/losses.npz", "train")

    model, (images, labels) = read_model(undisturbed / "data/finish/42/model.h5"), TRAIN_SET
    entropy = keras.losses.sparse_categorical_crossentropy
    expected = entropy(labels, predict_logits(model, to_network_input(images)), from_logits=True)
    assert losses.dtype == np.float32
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_a_loss_is_finite_where_the_network_is_sure_of_another_class() -> None:
    logits_are_pixels = keras.Sequential([keras.layers.InputLayer(input_shape=(1, 2, 1)), keras.layers.Flatten()])
    logits_are_pixels.add(keras.layers.Rescaling(1000.0))
    images = np.array([[[255, 0]], [[0, 255]]], np.uint8)

    losses = compute_losses(logits_are_pixels, images, np.array([0, 0], np.uint8))

    assert losses.tolist() == [0, pytest.approx(-np.log(np.finfo(np.float32).tiny))]


def test_the_chosen_candidate_is_trained_on_all_images_by_the_recipe_of_train_but_for_its_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def stop(**what: Any) -> None:
        given.update(what)
        raise KilledError

    monkeypatch.setattr(stage, "train_model", stop)
    with pytest.raises(KilledError):
        run_stage_in(make_folder(tmp_path), "7")

    assert given["recipe"] == Recipe(replace(TRAIN, epochs=3, clean_epochs=1), SHIFT, seed=7, policy="float32")
    assert given["layers"] == list_layers(6, 3, **ARCHITECTURE)
    assert [len(given[name][1]) for name in ("train_set", "val_set")] == [64, 12]


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_bytes(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    """After its last epoch there is nothing left to train."""
    folder, write, trained = make_folder(tmp_path), Checkpoint.on_epoch_end, []

    def write_and_die(checkpoint: Checkpoint, index: int, logs: Any = None) -> None:
        write(checkpoint, index, logs)
        trained.append(index + 1)
        if trained[-1] == epoch:
            raise KilledError

    monkeypatch.setattr(Checkpoint, "on_epoch_end", write_and_die)
    with pytest.raises(KilledError):
        run_stage_in(folder)
    shutil.rmtree(folder / "data/finish")  # as dvc does before it runs a stage again

    run_stage_in(folder)

    assert trained == [1, 2, 3]  # none of them twice
    assert compute_checksums(folder / "data/finish/42") == compute_checksums(undisturbed / "data/finish/42")


def test_a_seed_that_the_study_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="seed: unknown name '8'; known: 42, 7"):
        run_stage_in(make_folder(tmp_path), "8")


def test_without_a_choice_the_remedy_is_named(tmp_path: Path) -> None:
    (make_folder(tmp_path) / "data/select_model/choice.json").unlink()

    with pytest.raises(UserError, match=r"data/select_model/choice\.json: not found; run `dvc repro`"):
        run_stage_in(tmp_path)
