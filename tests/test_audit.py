import json
import re
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib import pyplot as plt
from pipeline import ROOT, dvc, edit_params, run_commands
from sections import replace

from stages import audit as stage
from stages.audit import (
    Duplicate,
    Originals,
    Suspect,
    count_duplicates,
    find_duplicates,
    find_seen,
    find_suspects,
    list_duplicates,
    list_suspects,
    measure_parts,
    plot_duplicates,
    plot_suspects,
    read_originals,
    read_probabilities,
    shorten,
    standardize,
)
from stages.lib.errors import UserError
from stages.lib.params.load import load_params
from stages.lib.params.sections import AuditParams
from stages.lib.results.chance import compute_interval
from stages.lib.storage.files import read_csv, read_json, read_split, write_arrays, write_bytes
from stages.lib.storage.idx import read_images
from stages.lib.storage.variant import Variant
from stages.prepare import read_left_out

CLASS_NAMES = ("Trouser", "Coat", "Bag")
NUM_TRAIN, NUM_TEST = 60, 30
DIFFERENT = np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2)  # images


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def make_alike(num_images: int, seed: int = 0) -> np.ndarray:
    """Makes noisy copies of a few images, from clean to hardly alike."""
    rng = np.random.default_rng(seed)
    bases = rng.integers(0, 256, (20, 7, 7))
    noise = rng.normal(0, 1, (num_images, 7, 7)) * rng.uniform(0, 60, (num_images, 1, 1))
    return np.clip(bases[rng.integers(0, 20, num_images)] + noise, 0, 255).astype(np.uint8)


# Duplicates


@pytest.mark.parametrize("min_similarity", [0.6, 0.95, 0.995])
def test_the_pairs_are_those_that_numpy_finds_alike_and_none_is_missed(min_similarity: float) -> None:
    images = make_alike(1_100)  # more than a block
    correlations = np.corrcoef(images.reshape(len(images), -1)).round(6)
    expected = {
        (int(one), int(other)): correlations[one, other]
        for one, other in np.argwhere(np.triu(correlations >= min_similarity, k=1))
    }

    pairs, similarities = find_duplicates(images, min_similarity)

    found = dict(zip(map(tuple, pairs.tolist()), similarities.tolist(), strict=True))
    assert len(expected) > 20
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=1.5e-6)


def test_what_short_vectors_rule_out_is_never_alike() -> None:
    images = make_alike(300)

    short, long = shorten(images), standardize(images)

    assert short.shape == (300, 32)
    assert short.dtype == np.float32
    assert np.all(short @ short.T >= long @ long.T - 1e-6)


def test_three_equal_images_are_three_pairs_and_the_most_similar_pairs_come_first() -> None:
    images = make_alike(6)
    images[[2, 5]] = images[1]
    images[4] = np.where(images[0] > 250, images[0] - 1, images[0] + 1)

    pairs, similarities = find_duplicates(images, 0.99)

    assert pairs.tolist() == [[1, 2], [1, 5], [2, 5], [0, 4]]
    assert similarities.tolist() == [1.0, 1.0, 1.0, pytest.approx(1, abs=1e-3)]


def test_brightness_and_contrast_do_not_count() -> None:
    image = make_alike(1) // 4 * 2
    images = np.concatenate([image, image // 2 + 60, make_alike(3, seed=1)])

    assert find_duplicates(images, 1.0)[0].tolist() == [[0, 1]]


def test_images_of_one_grey_are_like_each_other_and_like_no_other() -> None:
    images = np.concatenate([np.full((2, 7, 7), 9, np.uint8), np.zeros((1, 7, 7), np.uint8), make_alike(2)])

    assert find_duplicates(images, 0.5)[0].tolist() == [[0, 1], [0, 2], [1, 2]]


def test_nothing_is_found_where_nothing_is_alike() -> None:
    pairs, similarities = find_duplicates(np.eye(9, dtype=np.uint8).reshape(9, 3, 3), 0.5)

    assert (pairs.shape, similarities.shape) == ((0, 2), (0,))


def test_more_pairs_than_anybody_reads_are_refused_with_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "MAX_PAIRS", 5)

    with pytest.raises(UserError, match=r"audit\.min_similarity: expected .* at most 5 pairs .*; got 0\.9; raise it"):
        find_duplicates(np.ones((4, 7, 7), np.uint8), 0.9)


def make_originals(**changes: Any) -> Originals:
    """Makes three images of the training file and two test images, all different."""
    known: dict[str, Any] = {
        "images": DIFFERENT,
        "labels": np.array([0, 1, 2, 0, 1], np.uint8),
        "splits": np.array(["train", "val", "train", "test", "test"]),
        "names": [("train", 0), ("train", 1), ("train", 4), ("t10k", 0), ("t10k", 1)],
    }
    return Originals(**known | changes)


def test_both_images_of_a_pair_are_named_by_file_and_index() -> None:
    images = DIFFERENT[[0, 1, 2, 3, 1]]
    originals = make_originals(images=images)

    rows = list_duplicates(originals, np.array([[1, 4], [0, 2]]), np.array([1.0, 0.996]), CLASS_NAMES)

    assert rows == [
        Duplicate("train", 1, "t10k", 1, "val", "test", "Coat", "Coat", 1.0, True),
        Duplicate("train", 0, "train", 4, "train", "train", "Trouser", "Bag", 0.996, False),
    ]
    assert np.array_equal(originals.find(rows[0].other_file, rows[0].other_index), images[4])
    assert np.array_equal(originals.find(rows[1].other_file, rows[1].other_index), images[2])


def test_pairs_are_counted_within_and_across_the_files_and_the_splits() -> None:
    def row(file: str, other_file: str, split: str, other_split: str, label: str, is_exact: bool) -> Duplicate:
        return Duplicate(file, 0, other_file, 1, split, other_split, "Bag", label, 1.0, is_exact)

    counts = count_duplicates(
        [
            row("train", "train", "train", "train", "Bag", True),
            row("train", "train", "val", "train", "Coat", False),
            row("train", "train", "train", "val", "Bag", False),
            row("train", "t10k", "train", "test", "Bag", False),
            row("t10k", "t10k", "test", "test", "Coat", True),
        ],
        is_idx=True,
    )

    none = {"exact": 0, "near": 0, "two_labels": 0}
    assert counts == {
        "files": {
            "train": {"exact": 1, "near": 2, "two_labels": 1},
            "train_t10k": {"exact": 0, "near": 1, "two_labels": 0},
            "t10k": {"exact": 1, "near": 0, "two_labels": 1},
        },
        "splits": {
            "train": {"exact": 1, "near": 0, "two_labels": 0},
            "train_val": {"exact": 0, "near": 2, "two_labels": 1},
            "train_test": none | {"near": 1},
            "val": none,
            "val_test": none,
            "test": {"exact": 1, "near": 0, "two_labels": 1},
        },
    }


def test_the_files_of_today_hold_no_equal_images_and_few_that_are_nearly_equal() -> None:
    """The first version of Fashion-MNIST had 43 equal pairs in training, 1 in test and 10 across both images."""
    files = [ROOT / f"data/download/{name}-images-idx3-ubyte" for name in ("train", "t10k")]
    if not all(file.exists() for file in files):
        pytest.skip("needs the dataset in data/download; `dvc repro download` makes it")
    images = np.concatenate([read_images(file, 28) for file in files])

    pairs, similarities = find_duplicates(images, load_params(ROOT / "params.yaml").audit.min_similarity)

    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == 70_000
    assert [int(np.sum((pairs >= 60_000).sum(axis=1) == count)) for count in range(3)] == [63, 26, 2]
    assert np.sum(similarities == 1) == 0


# Suspicious labels


def make_probabilities(true: np.ndarray, sure: list[int] | None = None, seed: int = 0) -> np.ndarray:
    """Makes what a model says that knows the true labels, and is rather sure; of some images, quite sure."""
    shares: np.ndarray = 0.75 * np.eye(3)[true] + 0.25 * np.random.default_rng(seed).dirichlet([1, 1, 1], len(true))
    for index in sure or []:
        shares[index] = np.where(np.arange(3) == true[index], 0.98, 0.01)
    return shares


def test_labels_that_the_models_contradict_are_found_the_least_probable_first() -> None:
    true = (np.arange(300) % 3).astype(np.uint8)
    probabilities = make_probabilities(true, sure=[30, 61, 122])
    given = true.copy()
    given[[30, 61, 122]] = (true[[30, 61, 122]] + 1) % 3
    probabilities[61, given[61]] -= 0.005

    suspects = find_suspects(given, probabilities)

    assert set(suspects.tolist()) == {30, 61, 122}
    assert suspects[0] == 61
    scores = probabilities[suspects, given[suspects]]
    assert scores.tolist() == sorted(scores)


def test_labels_that_nobody_doubts_are_no_suspects() -> None:
    labels = (np.arange(90) % 3).astype(np.uint8)

    assert find_suspects(labels, make_probabilities(labels)).tolist() == []


def test_suspects_are_named_in_their_file_with_both_labels_and_each_split_is_searched_alone() -> None:
    true = (np.arange(180) % 3).astype(np.uint8)
    given = true.copy()
    given[[7, 100]] = (true[[7, 100]] + 1) % 3  # a validation and a test image
    splits = np.repeat(["val", "test"], 90)
    splits[3] = ""
    names = [(file, index) for file in ("train", "t10k") for index in range(90)]
    originals = Originals(np.zeros((180, 2, 2), np.uint8), given, splits, names)
    val, test = make_probabilities(true[:90], sure=[7]), make_probabilities(true[90:], sure=[10])
    probabilities = {"val": val[splits[:90] == "val"], "test": test}

    rows = list_suspects(originals, probabilities, CLASS_NAMES)
    others = list_suspects(originals, probabilities | {"test": make_probabilities(given[90:])}, CLASS_NAMES)

    assert {(row.file, row.index, row.split) for row in rows} == {("train", 7, "val"), ("t10k", 10, "test")}
    (alone,) = (row for row in rows if row.split == "val")
    assert (alone.label, alone.suggested) == (CLASS_NAMES[given[7]], CLASS_NAMES[true[7]])
    assert (alone.score, alone.suggested_score) == (0.01, 0.98)
    assert [row.score for row in rows] == sorted(row.score for row in rows)
    assert others == [alone]


# Accuracy


def test_a_test_image_is_seen_if_a_training_image_is_like_it_and_not_for_a_validation_image() -> None:
    splits = np.array(["train", "val", "train", "test", "", "test", "test"])
    pairs = np.array([[0, 2], [0, 5], [1, 3], [2, 4], [5, 6], [2, 5]])

    assert find_seen(splits, pairs).tolist() == [False, True, False]
    assert find_seen(splits, np.empty((0, 2), np.int64)).tolist() == [False] * 3


def test_accuracy_is_measured_with_and_without_the_seen_images_with_its_interval() -> None:
    is_right = np.array([True, True, False, True, False])
    is_seen = np.array([True, False, False, False, False])

    def part(images: int, accuracy: float) -> dict[str, float]:
        low, high = compute_interval(accuracy, images)
        return {"images": images, "accuracy": accuracy, "accuracy_low": low, "accuracy_high": high}

    assert measure_parts(is_right, is_seen) == {
        "all": part(5, 0.6),
        "without_duplicates": part(4, 0.5),
        "with_duplicates": part(1, 1.0),
    }
    assert measure_parts(is_right, is_seen & False).keys() == {"all", "without_duplicates"}
    assert measure_parts(is_right, is_seen | True).keys() == {"all", "with_duplicates"}


# Pictures


def test_pictures_show_the_images_that_their_rows_name() -> None:
    originals = make_originals()
    pair = Duplicate("train", 4, "t10k", 1, "train", "test", "Bag", "Coat", 0.99512, False)
    suspect = Suspect("t10k", 0, "test", "Trouser", "Bag", 0.006, 0.916)

    axes = [plot_duplicates(originals, [pair]).axes[0], plot_suspects(originals, [suspect]).axes[0]]

    shown = [np.asarray(axis.images[0].get_array()) for axis in axes]
    assert np.array_equal(shown[0], np.hstack([DIFFERENT[2], DIFFERENT[4]]))
    assert np.array_equal(shown[1], DIFFERENT[3])
    assert [axis.get_title() for axis in axes] == ["train, test\n0.9951", "Trouser (0.6 %),\nor Bag (91.6 %)?"]


@pytest.mark.parametrize("num_rows", [0, 4, 5])
def test_pictures_show_any_number_of_rows(num_rows: int) -> None:
    rows = [Duplicate("train", 4, "t10k", 1, "train", "test", "Bag", "Coat", 0.99512, False)] * num_rows

    figure = plot_duplicates(make_originals(), rows)

    assert len([axis for axis in figure.axes if axis.images]) == num_rows
    assert f"The {num_rows} least similar" in figure.get_suptitle()


# The stage


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is a folder in which the stage can run: two candidates, and test image 0 as training image 0.

    The label of the validation image 40 is wrong. All other answers of both candidates are right.
    """
    params = load_params()
    params = replace(
        params,
        dataset=replace(params.dataset, image_size_px=7, class_names=CLASS_NAMES),
        study=replace(params.study, models=("tiny",), augmentations=("none", "flip")),
        audit=AuditParams(min_similarity=0.999, gallery_images=2),
    )
    monkeypatch.setattr(stage, "load_params", lambda **_: params)
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(1).integers(0, 256, (NUM_TRAIN + NUM_TEST, 7, 7), np.uint8)
    images[NUM_TRAIN] = images[0]
    true = (np.arange(NUM_TRAIN + NUM_TEST) % 3).astype(np.uint8)
    labels = true.copy()
    labels[40] = 2
    for name, part in (("train", slice(30)), ("val", slice(30, NUM_TRAIN)), ("test", slice(NUM_TRAIN, None))):
        write_arrays(Path(f"data/prepare/{name}.npz"), images=images[part], labels=labels[part])
    write_bytes(Path("data/prepare/pictures.csv"), b"file,index,class,split,reason\n")
    splits = {"train": np.repeat(["train", "val"], 30), "t10k": np.full(NUM_TEST, "test")}
    write_arrays(Path("data/prepare/splits.npz"), **splits)
    for seed, name in enumerate(("tiny-none", "tiny-flip")):
        shares = make_probabilities(true, sure=[40], seed=seed).astype(np.float16)
        write_arrays(Path(f"data/train/{name}/42/probabilities.npz"), val=shares[30:60])
        predicted = {"labels": labels[NUM_TRAIN:], "as_they_are": shares[NUM_TRAIN:].argmax(axis=1).astype(np.uint8)}
        for evaluated in (name, "finished"):
            path = Path(f"data/evaluate/{evaluated}/42/predictions.npz")
            write_arrays(path, **predicted, probabilities=shares[NUM_TRAIN:])
    return tmp_path


def test_the_stage_writes_its_five_files_with_numbers_that_agree(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.main()

    output = folder / "data/audit"
    metrics = read_json(output / "metrics.json")
    assert {path.name for path in output.iterdir()} == {
        *("duplicates.csv", "duplicates.png", "suspects.csv", "suspects.png", "metrics.json")
    }
    (pair,), (suspect,) = read_csv(output / "duplicates.csv"), read_csv(output / "suspects.csv")
    assert list(pair.values()) == ["train", "0", "t10k", "0", "train", "test", "Trouser", "Trouser", "1.0", "True"]
    assert list(suspect.values())[:5] == ["train", "40", "val", "Bag", "Coat"]
    assert float(suspect["score"]) == pytest.approx(0.01, abs=1e-4)
    assert float(suspect["suggested_score"]) == pytest.approx(0.98, abs=1e-3)  # as float16
    assert metrics["duplicates"]["files"]["train_t10k"] == {"exact": 1, "near": 0, "two_labels": 0}
    assert metrics["duplicates"]["splits"]["train_test"] == {"exact": 1, "near": 0, "two_labels": 0}
    assert metrics["suspects"] == {"val": {"images": 30, "suspects": 1}, "test": {"images": 30, "suspects": 0}}
    parts = metrics["test_accuracy"]
    assert {name: part["images"] for name, part in parts.items()} == {
        "all": 30,
        "without_duplicates": 29,
        "with_duplicates": 1,
    }
    assert {part["accuracy"] for part in parts.values()} == {1.0}
    assert capsys.readouterr().out == "data/audit: 1 pairs of duplicates, 1 suspicious labels\n"


def test_the_accuracy_is_that_of_the_finished_model(folder: Path) -> None:
    wrong = np.zeros(NUM_TEST, np.uint8)
    shares = np.full((NUM_TEST, 3), 1 / 3, np.float16)
    path = Path("data/evaluate/finished/42/predictions.npz")
    write_arrays(path, labels=wrong, as_they_are=wrong + 1, probabilities=shares)

    stage.main()

    assert read_json(folder / "data/audit/metrics.json")["test_accuracy"]["all"]["accuracy"] == 0


@pytest.mark.parametrize(("split_seed", "of_val"), [(None, 0.5), (42, 0.25), (9, None)])
def test_only_candidates_with_the_validation_images_of_the_split_speak_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split_seed: int | None, of_val: float | None
) -> None:
    monkeypatch.chdir(tmp_path)
    candidates = [Variant("train", "tiny", "flip", seed) for seed in (42, 7)]
    for candidate, share in zip(candidates, (0.25, 0.75), strict=True):
        write_arrays(candidate.folder / "probabilities.npz", val=np.full((1, 2), share, np.float16))
        path = Path(f"data/evaluate/tiny-flip/{candidate.seed}/predictions.npz")
        write_arrays(path, probabilities=np.full((1, 2), share, np.float16))

    found = read_probabilities(candidates, split_seed)

    assert found["test"].tolist() == [[0.5, 0.5]]
    assert (found["val"].tolist() if of_val else list(found)) == ([[of_val, of_val]] if of_val else ["test"])


def test_two_runs_write_the_same_bytes(folder: Path) -> None:
    def run() -> dict[str, bytes]:
        stage.main()
        return {path.name: path.read_bytes() for path in (folder / "data/audit").iterdir()}

    assert run() == run()


def test_tables_without_a_row_hold_the_names_of_their_columns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "find_duplicates", lambda *_: (np.empty((0, 2), np.int64), np.empty(0)))
    monkeypatch.setattr(stage, "find_suspects", lambda *_: np.empty(0, np.int64))

    stage.main()

    for name in ("duplicates", "suspects"):
        assert re.fullmatch("file,index,.+\n", (folder / f"data/audit/{name}.csv").read_text())


def test_rows_of_both_tables_are_what_prepare_can_leave_out(folder: Path) -> None:
    stage.main()

    rows = "".join(
        (folder / f"data/audit/{name}.csv").read_text().partition("\n")[2] for name in ("duplicates", "suspects")
    )
    Path("leave_out.csv").write_text(f"file,index\n{rows}")
    left_out = read_left_out(Path("leave_out.csv"), {"train": NUM_TRAIN, "t10k": NUM_TEST})
    assert left_out == {"train": [0, 40]}


@pytest.mark.parametrize(
    "missing",
    [
        "data/prepare/test.npz",
        "data/prepare/splits.npz",
        "data/prepare/pictures.csv",
        "data/train/tiny-none/42/probabilities.npz",
        "data/evaluate/tiny-none/42/predictions.npz",
        "data/evaluate/finished/42/predictions.npz",
    ],
)
def test_a_missing_file_is_named_with_the_remedy(folder: Path, missing: str) -> None:
    (folder / missing).unlink()

    with pytest.raises(UserError, match=rf"^{missing}: not found; run `dvc repro`"):
        stage.main()


def write_pictures(folder: Path, left_out: Sequence[int] = ()) -> None:
    """Writes what prepare has of the same images where they are pictures; of some, that no split has them."""
    splits = np.repeat(["train", "val", "test"], 30).astype(object)
    splits[list(left_out)] = ""
    rows = [f"part {place}/a.png,0,Bag,{split},\n" for place, split in enumerate(splits)]
    rows.insert(7, "part 7/bad.png,,Bag,,an empty file\n")
    (folder / "data/prepare/pictures.csv").write_text("file,index,class,split,reason\n" + "".join(rows))
    for name in ("train", "val", "test"):
        images, labels = read_split(folder / f"data/prepare/{name}.npz")
        kept = splits[{"train": slice(30), "val": slice(30, 60), "test": slice(60, 90)}[name]] != ""
        write_arrays(folder / f"data/prepare/{name}.npz", images=images[kept], labels=labels[kept])
    write_arrays(folder / "data/prepare/splits.npz", pictures=splits.astype("U5"))


def test_pictures_are_named_by_their_paths(folder: Path) -> None:
    write_pictures(folder)

    stage.main()

    (pair,), (suspect,) = (read_csv(folder / f"data/audit/{name}.csv") for name in ("duplicates", "suspects"))
    assert list(pair.values())[:6] == ["part 0/a.png", "0", "part 60/a.png", "0", "train", "test"]
    assert list(suspect.values())[:3] == ["part 40/a.png", "0", "val"]
    metrics = read_json(folder / "data/audit/metrics.json")["duplicates"]
    assert metrics["files"] == {"pictures": {"exact": 1, "near": 0, "two_labels": 0}}
    assert metrics["splits"]["train_test"]["exact"] == 1


def test_images_that_no_split_has_are_not_looked_at_and_the_others_keep_their_names(folder: Path) -> None:
    write_pictures(folder, left_out=[3, 0])

    stage.main()

    assert read_csv(folder / "data/audit/duplicates.csv") == []
    (suspect,) = read_csv(folder / "data/audit/suspects.csv")
    assert suspect["file"] == "part 40/a.png"


def test_images_stay_on_disk_and_are_in_the_order_of_the_source(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    images, labels = rng.integers(0, 256, (600, 90, 90), np.uint8), rng.integers(0, 3, 600, np.uint8)
    splits = rng.choice(["train", "val", "test", ""], 600)
    for name in ("train", "val", "test"):
        write_arrays(tmp_path / f"{name}.npz", images=images[splits == name], labels=labels[splits == name])
    write_arrays(tmp_path / "splits.npz", train=splits[:500], t10k=splits[500:])
    write_bytes(tmp_path / "pictures.csv", b"file,index,class,split,reason\n")
    read_originals(tmp_path)  # what is imported on the way does not count

    tracemalloc.start()
    originals = read_originals(tmp_path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    np.testing.assert_array_equal(originals.images[:], images[splits != ""])
    np.testing.assert_array_equal(originals.labels, labels[splits != ""])
    assert originals.names[-1] == ("t10k", int(np.flatnonzero(splits != "")[-1]) - 500)
    assert peak_bytes < images.nbytes / 5


# On a crumb of the real data


def test_the_kept_images_hold_no_equal_ones(finished: Path) -> None:
    files = read_json(finished / "data/audit/metrics.json")["duplicates"]["files"]
    assert {name: row["exact"] for name, row in files.items()} == {"train": 0, "train_t10k": 0, "t10k": 0}


def test_images_are_left_out_by_the_command_of_the_guide(copy: Path) -> None:
    edit_params(copy, audit={"min_similarity": 0.95})  # so that the crumb has a pair across both files
    dvc(copy, "repro", "audit")
    before = yaml.safe_load((copy / "dvc.lock").read_text())["stages"]["prepare"]

    printed = run_commands(copy, "leave-out")

    after = yaml.safe_load((copy / "dvc.lock").read_text())["stages"]["prepare"]
    assert "; left out " in printed
    assert json.dumps(before["deps"]) != json.dumps(after["deps"])
