import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sections import replace

from stages import prepare as stage
from stages.lib.errors import UserError
from stages.lib.params.load import load_params
from stages.lib.params.sections import PrepareParams
from stages.lib.sources.listing import SPLITS, Entry
from stages.lib.sources.packed import IDX_OF, read_pair
from stages.lib.storage.files import read_arrays, read_split
from stages.prepare import check_split, list_splits, read_left_out, split_dataset

ROOT = Path(__file__).parents[1]
LABELS = np.array([0] * 10 + [1] * 5 + [2] * 4)[np.random.default_rng(0).permutation(19)]  # three classes, mixed


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
    prepare = PrepareParams(
        val_fraction=0.2, test_fraction=0.2, keep_fraction=1.0, bad_pictures="stop", leave_out="leave_out.csv"
    )
    params = replace(params, seed=5, dataset=dataset, prepare=prepare)
    monkeypatch.setattr(stage, "load_params", lambda **_: params)
    monkeypatch.chdir(tmp_path)
    Path("leave_out.csv").write_text("file,index\n")
    for name, labels in (("train", np.arange(20) % 2), ("t10k", np.array([1, 0, 0, 1, 1, 0]))):
        images, stored_labels = make_pair(labels)
        write_idx(Path(f"data/download/{name}-images-idx3-ubyte"), images)
        write_idx(Path(f"data/download/{name}-labels-idx1-ubyte"), stored_labels)
    return tmp_path


def test_a_split_without_a_class_is_refused_with_its_size_and_the_missing_classes() -> None:
    with pytest.raises(UserError, match=r"prepare leaves 3 images in val, none of class b, d; raise prepare\.keep"):
        check_split("val", np.array([2, 0, 2], np.uint8), "abcd")


def test_other_numbers_of_images_and_labels_are_refused(folder: Path) -> None:
    write_idx(folder / "data/download/t10k-labels-idx1-ubyte", np.array([0, 1, 0, 1], np.uint8))

    with pytest.raises(UserError, match="t10k has 6 images but 4 labels"):
        read_pair(folder / "data/download", "t10k", 2, 2)


def split(
    labels: np.ndarray = LABELS,
    val_fraction: float = 0.3,
    keep_fraction: float = 1.0,
    seed: int = 1,
    train: Sequence[int] = (),
    test: Sequence[int] = (),
) -> dict[str, set[int]]:
    """Splits a data set of two files with the same labels, but for `train` and `test` of them; indices as in these."""
    count = len(labels)
    splits = split_dataset(
        np.tile(labels, 2),
        np.repeat(["train", "test"], count),
        np.arange(2 * count),
        np.array([*train, *(count + index for index in test)], np.int64),
        {"val": val_fraction, "test": 0.5},
        keep_fraction,
        seed,
    )
    for indices in splits.values():
        assert indices.dtype == np.int64
        assert indices.tolist() == sorted(set(indices.tolist()))
    return {name: {index - count * (name == "test") for index in indices.tolist()} for name, indices in splits.items()}


def test_no_training_image_is_used_for_validation_and_all_test_images_test() -> None:
    splits = split()

    assert splits["train"] | splits["val"] == set(range(19))
    assert not splits["train"] & splits["val"]
    assert splits["test"] == set(range(19))


def test_keep_fraction_keeps_that_share_of_each_class_in_each_split() -> None:
    labels = np.repeat([0, 1], [40, 20])

    splits = split(labels, val_fraction=0.5, keep_fraction=0.2)

    counts = {name: np.bincount(labels[sorted(kept)]).tolist() for name, kept in splits.items()}
    assert counts == {"train": [4, 2], "val": [4, 2], "test": [8, 4]}


def test_a_taste_of_the_data_moves_no_image_between_the_splits() -> None:
    whole, taste = split(), split(keep_fraction=0.5)

    for name in whole:
        assert taste[name] < whole[name]


def test_the_seed_decides_the_split_of_the_dataset() -> None:
    assert split(seed=1)["val"] == split(seed=1)["val"]
    assert split(seed=1)["val"] != split(seed=2)["val"]


@pytest.mark.parametrize("keep_fraction", [1.0, 0.6])
def test_images_that_are_left_out_are_in_no_split_and_all_others_stay_where_they_are(keep_fraction: float) -> None:
    whole = split(keep_fraction=keep_fraction)
    one_of_each = {name: min(indices) for name, indices in whole.items()}

    left = split(
        keep_fraction=keep_fraction, train=[one_of_each["val"], one_of_each["train"]], test=[one_of_each["test"]] * 2
    )

    assert left == {name: indices - {one_of_each[name]} for name, indices in whole.items()}


def test_what_is_left_out_is_named_by_file_and_index_whatever_stands_behind(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    path.write_bytes(
        b"\xef\xbb\xbffile,index\r\ntrain,5,train,7,0.99\r\nt10k,0\r\n\r\ntrain,5\r\n"
    )  # as a spreadsheet writes

    left_out = read_left_out(path, {"train": 6, "t10k": 1})

    assert left_out == {"train": [5, 5], "t10k": [0]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"file,index\ntrain,0\ntest,3\n",
            "line 3: expected train and an index from 0 to 5 or t10k .*; got 'test' and '3'",
        ),
        (b"file,index\ntrain,6\n", "line 2: expected .*; got 'train' and '6'"),
        (b"file,index\ntrain,-1\n", "got 'train' and '-1'"),
        (b"file,index\ntrain,1.0\n", "got 'train' and '1.0'"),
        (b"file,index\ntrain\n", "got 'train' and ''"),
        (b"train,0\n", r"expected the columns file,index in its first line; got \['train', '0'\]"),
        (b"", "expected the columns file,index in its first line; got None"),
        (b"file,index\ntr\xe4in,0\n", "expected a CSV file in UTF-8; 'utf-8' codec can't decode byte 0xe4"),
    ],
)
def test_a_row_that_names_no_image_is_refused_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "some.csv").write_bytes(content)

    with pytest.raises(UserError, match=rf"some\.csv.*{message}"):
        read_left_out(tmp_path / "some.csv", {"train": 6, "t10k": 1})


def test_a_missing_list_of_images_is_refused_with_the_key_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"prepare\.leave_out: expected a CSV file .*; got .*gone\.csv"):
        read_left_out(tmp_path / "gone.csv", {"train": 6, "t10k": 1})


def test_the_committed_list_of_images_to_leave_out_names_none() -> None:
    path = ROOT / load_params(ROOT / "params.yaml").prepare.leave_out
    assert path.read_text() == "file,index\n"


def test_every_image_of_the_files_is_listed_with_its_split() -> None:
    splits = {"train": np.array([0, 3]), "val": np.array([1]), "test": np.array([5])}
    entries = [Entry(file, 0, "bag", "", "") for file in ("train",) * 4 + ("t10k",) * 2]

    listed = list_splits(entries, splits, is_idx=True)

    names = ["train", "val", "", "train", "", "test"]
    assert {name: of_file.tolist() for name, of_file in listed.items()} == {"train": names[:4], "t10k": names[4:]}
    assert list_splits(entries, splits, is_idx=False)["pictures"].tolist() == names


def test_the_stage_writes_three_splits_of_uint8(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage.main()

    splits = {name: read_split(folder / f"data/prepare/{name}.npz") for name in SPLITS}
    written = {path.name for path in (folder / "data/prepare").iterdir()}
    assert written == {"train.npz", "val.npz", "test.npz", "splits.npz", "pictures.csv"}
    assert {name: images.shape for name, (images, _) in splits.items()} == {
        "train": (16, 2, 2),
        "val": (4, 2, 2),
        "test": (6, 2, 2),
    }
    assert {array.dtype for arrays in splits.values() for array in arrays} == {np.dtype(np.uint8)}
    assert splits["test"][0].tolist() == make_pair(np.zeros(6))[0].tolist()
    assert splits["test"][1].tolist() == [1, 0, 0, 1, 1, 0]
    assert capsys.readouterr().out == "data/prepare: 16 train, 4 val, 6 test images\n"


@pytest.mark.parametrize("rows", ["", "train,3\ntrain,4\nt10k,0\ntrain,3\n"])
def test_images_stay_with_their_labels_and_in_the_order_of_the_files(folder: Path, rows: str) -> None:
    (folder / "leave_out.csv").write_text(f"file,index\n{rows}")

    stage.main()

    labels = {"train": np.arange(20) % 2, "t10k": np.array([1, 0, 0, 1, 1, 0])}
    names = dict(zip(labels, read_arrays(folder / "data/prepare/splits.npz", *labels), strict=True))
    for split in SPLITS:
        file = IDX_OF.get(split, "train")
        images, of_split = read_split(folder / f"data/prepare/{split}.npz")
        indices = np.flatnonzero(names[file] == split)
        assert images[:, 0, 0].tolist() == indices.tolist()
        assert of_split.tolist() == labels[file][indices].tolist()


def test_the_stage_says_how_many_images_of_which_class_are_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "leave_out.csv").write_text("file,index\ntrain,3\ntrain,4\nt10k,0\ntrain,3\n")

    stage.main()

    printed = capsys.readouterr().out
    assert printed.endswith("5 test images; left out 3: 2 of bag, 1 of shirt\n")
    assert sum(int(count) for count in re.findall(r"(\d+) (?:train|val)", printed)) == 18


def test_the_stage_refuses_a_validation_split_without_a_class_before_it_writes(folder: Path) -> None:
    write_idx(folder / "data/download/train-labels-idx1-ubyte", np.array([1] + [0] * 19, np.uint8))

    with pytest.raises(UserError, match="leaves 4 images in val, none of class bag;"):
        stage.main()

    assert not (folder / "data/prepare").exists()
