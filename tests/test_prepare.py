import struct
from pathlib import Path

import numpy as np
import pytest
from sections import replace

from stages import prepare as stage
from stages.lib.errors import UserError
from stages.lib.params.load import load_params
from stages.lib.params.sections import PrepareParams
from stages.lib.storage.files import read_split
from stages.prepare import check_split, read_pair, split_dataset, split_stratified

LABELS = np.array([0] * 10 + [1] * 5 + [2] * 4)[np.random.default_rng(0).permutation(19)]  # three classes, mixed


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes())


def make_pair(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Makes 2 x 2 images of which each pixel is the image's own index."""
    images = np.broadcast_to(np.arange(len(labels), dtype=np.uint8)[:, np.newaxis, np.newaxis], (len(labels), 2, 2))
    return images.copy(), labels.astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is a folder with IDX files of 20 training and 6 test images, two classes, in which the stage can run."""
    params = load_params()
    dataset = replace(params.dataset, image_size_px=2, class_names=("shirt", "bag"))
    params = replace(params, seed=5, dataset=dataset, prepare=PrepareParams(val_fraction=0.2, keep_fraction=1.0))
    monkeypatch.setattr(stage, "load_params", lambda **_: params)
    monkeypatch.chdir(tmp_path)
    for name, labels in (("train", np.arange(20) % 2), ("t10k", np.array([1, 0, 0, 1, 1, 0]))):
        images, stored_labels = make_pair(labels)
        write_idx(Path(f"data/download/{name}-images-idx3-ubyte"), images)
        write_idx(Path(f"data/download/{name}-labels-idx1-ubyte"), stored_labels)
    return tmp_path


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 0.93, 1.0])
def test_the_parts_are_disjoint_and_together_complete(fraction: float) -> None:
    first, second = split_stratified(LABELS, fraction, rng())

    assert sorted([*first, *second]) == list(range(19))


@pytest.mark.parametrize(
    ("fraction", "of_each_class"),
    [
        (0.0, [0, 0, 0]),
        (0.2, [2, 1, 1]),  # of 10, 5 and 4: 2, 1 and 0.8
        (0.5, [5, 2, 2]),  # 2.5 is rounded to the even neighbour
        (0.7, [7, 4, 3]),  # 3.5 too
        (1.0, [10, 5, 4]),
    ],
)
def test_every_class_gives_its_share_rounded_to_whole_images(fraction: float, of_each_class: list[int]) -> None:
    _, second = split_stratified(LABELS, fraction, rng())

    assert np.bincount(LABELS[second], minlength=3).tolist() == of_each_class


def test_the_parts_keep_the_order_of_the_files() -> None:
    for part in split_stratified(LABELS, 0.5, rng()):
        assert part.dtype == np.int64
        assert part.tolist() == sorted(part)


def test_a_split_without_a_class_is_refused_with_its_size_and_the_missing_classes() -> None:
    with pytest.raises(UserError, match=r"prepare leaves 3 images in val, none of class 1, 3; raise prepare\.keep"):
        check_split("val", np.array([2, 0, 2], np.uint8), 4)


def test_other_numbers_of_images_and_labels_are_refused(folder: Path) -> None:
    write_idx(folder / "data/download/t10k-labels-idx1-ubyte", np.array([0, 1, 0, 1], np.uint8))

    with pytest.raises(UserError, match="t10k has 6 images but 4 labels"):
        read_pair("t10k", 2, 2)


@pytest.mark.parametrize("keep_fraction", [1.0, 0.6])
def test_images_stay_with_their_labels(keep_fraction: float) -> None:
    train, test = make_pair(LABELS), make_pair(LABELS[::-1])

    splits = split_dataset(train, test, 0.3, keep_fraction, seed=1)

    for name, source in (("train", train), ("val", train), ("test", test)):
        images, labels = splits[name]
        assert labels.tolist() == source[1][images[:, 0, 0]].tolist()


def test_no_training_image_is_used_for_validation() -> None:
    splits = split_dataset(make_pair(LABELS), make_pair(LABELS), 0.3, 0.8, seed=1)

    assert not set(splits["train"][0][:, 0, 0]) & set(splits["val"][0][:, 0, 0])


def test_the_test_images_are_only_converted() -> None:
    test = make_pair(np.array([1, 0, 2, 2, 1]))

    images, labels = split_dataset(make_pair(LABELS), test, 0.3, 1.0, seed=1)["test"]

    assert images.tolist() == test[0].tolist()
    assert labels.tolist() == test[1].tolist()


def test_keep_fraction_keeps_that_share_of_each_class_in_each_split() -> None:
    labels = np.repeat([0, 1], [40, 20])

    splits = split_dataset(make_pair(labels), make_pair(labels), 0.5, 0.2, seed=1)

    counts = {name: np.bincount(kept).tolist() for name, (_, kept) in splits.items()}
    assert counts == {"train": [4, 2], "val": [4, 2], "test": [8, 4]}


def test_a_taste_of_the_data_moves_no_image_between_the_splits() -> None:
    whole = split_dataset(make_pair(LABELS), make_pair(LABELS), 0.3, 1.0, seed=1)
    taste = split_dataset(make_pair(LABELS), make_pair(LABELS), 0.3, 0.5, seed=1)

    for name in whole:
        assert set(taste[name][0][:, 0, 0]) < set(whole[name][0][:, 0, 0])


def test_the_seed_decides_the_split_of_the_dataset() -> None:
    def held_out(seed: int) -> list[int]:
        return split_dataset(make_pair(LABELS), make_pair(LABELS), 0.3, 1.0, seed)["val"][0][:, 0, 0].tolist()

    assert held_out(1) == held_out(1)
    assert held_out(1) != held_out(2)


def test_the_stage_writes_three_splits_of_uint8(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage.main()

    splits = {name: read_split(folder / f"data/prepare/{name}.npz") for name in ("train", "val", "test")}
    assert {path.name for path in (folder / "data/prepare").iterdir()} == {"train.npz", "val.npz", "test.npz"}
    assert {name: images.shape for name, (images, _) in splits.items()} == {
        "train": (16, 2, 2),
        "val": (4, 2, 2),
        "test": (6, 2, 2),
    }
    assert {array.dtype for arrays in splits.values() for array in arrays} == {np.dtype(np.uint8)}
    assert splits["test"][1].tolist() == [1, 0, 0, 1, 1, 0]
    assert capsys.readouterr().out == "data/prepare: 16 train, 4 val, 6 test images\n"


def test_the_stage_refuses_a_validation_split_without_a_class_before_it_writes(folder: Path) -> None:
    write_idx(folder / "data/download/train-labels-idx1-ubyte", np.array([1] + [0] * 19, np.uint8))

    with pytest.raises(UserError, match="leaves 4 images in val, none of class 1;"):
        stage.main()

    assert not (folder / "data/prepare").exists()
