"""From a folder of pictures to the splits of prepare, and to the very same inputs in predict."""

import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import draw, fill, save
from PIL import Image
from pipeline import commit, dvc, edit_params, list_stages_to_run, make_clone, run_commands
from sections import replace

from stages import prepare as stage
from stages.lib.errors import UserError
from stages.lib.params.load import load_params
from stages.lib.params.sections import Params
from stages.lib.sources import parts, read
from stages.lib.sources.fit import FITS, prepare_picture
from stages.lib.storage import files
from stages.lib.storage.files import read_arrays, read_csv, read_split
from stages.tools.predict import read_photos

ROOT = Path(__file__).parents[1]
COMMITTED = load_params()
CLASSES = ("dog", "cat")


def set_params(monkeypatch: pytest.MonkeyPatch, seed: int = 42, **changes: Any) -> Params:
    """Makes the stage read these values of `dataset` and `prepare`."""
    dataset: dict[str, Any] = {"source": "pictures", "class_names": CLASSES}
    dataset |= {"image_size_px": 12, "channels": 1, "fit": "pad", "background": 0}
    prepare = {"leave_out": "leave_out.csv"}
    for name, value in changes.items():
        (dataset if name in type(COMMITTED.dataset).model_fields else prepare)[name] = value
    params = replace(
        COMMITTED,
        seed=seed,
        dataset=replace(COMMITTED.dataset, **dataset),
        prepare=replace(COMMITTED.prepare, **prepare),
    )
    monkeypatch.setattr(stage, "load_params", lambda **_: params)
    return params


@pytest.fixture
def pictures(tmp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is a folder of 40 dogs and 20 cats, in which the stage can run."""
    set_params(monkeypatch)
    (tmp_dir / "leave_out.csv").write_text("file,index\n")
    names = [f"dog/{number:02}.png" for number in range(40)] + [f"cat/{number:02}.png" for number in range(20)]
    fill(tmp_dir / "pictures", *names)
    return tmp_dir / "pictures"


def read_rows(split: str | None = None) -> list[dict[str, str]]:
    rows = read_csv(Path("data/prepare/pictures.csv"))
    return [row for row in rows if split is None or row["split"] == split]


def test_a_folder_of_pictures_becomes_three_stratified_splits(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.main()

    printed = capsys.readouterr()
    assert printed.out == "data/prepare: 39 train, 9 val, 12 test images\n"
    assert printed.err == ""
    for split, counts in {"train": [26, 13], "val": [6, 3], "test": [8, 4]}.items():
        images, labels = read_split(Path(f"data/prepare/{split}.npz"))
        rows = read_rows(split)
        assert np.bincount(labels).tolist() == counts
        assert [CLASSES[label] for label in labels] == [row["class"] for row in rows]
        expected = [np.asarray(Image.open(pictures / row["file"])) for row in rows]
        np.testing.assert_array_equal(images, np.stack(expected))
        assert images.dtype == labels.dtype == np.uint8
    (listed,) = read_arrays(Path("data/prepare/splits.npz"), "pictures")
    assert listed.tolist() == [row["split"] for row in read_rows()]
    assert [row["file"] for row in read_rows()] == sorted(row["file"] for row in read_rows())


@pytest.mark.usefixtures("pictures")
def test_two_runs_write_the_same_bytes_and_another_seed_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> dict[str, bytes]:
        stage.main()
        return {path.name: path.read_bytes() for path in Path("data/prepare").iterdir()}

    first = run()
    assert first == run()
    set_params(monkeypatch, seed=7)
    assert first["train.npz"] != run()["train.npz"]


def test_splits_of_the_folder_are_kept(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(
        pictures.parent / "given",
        *(f"{split}/{name}/{n}.png" for split in ("train", "validation", "test") for name in CLASSES for n in range(3)),
    )
    set_params(monkeypatch, source="given")

    stage.main()

    assert {row["file"].split("/")[0] + " " + row["split"] for row in read_rows()} == {
        *("train train", "validation val", "test test")
    }


def test_a_class_that_a_given_split_lacks_is_named(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(pictures.parent / "given", "train/cat/a.png", "train/dog/a.png", "val/dog/b.png", "test/cat/c.png")
    set_params(monkeypatch, source="given")

    with pytest.raises(UserError, match="prepare leaves 1 images in val, none of class cat;"):
        stage.main()
    assert not Path("data/prepare").exists()


def test_equal_pictures_and_groups_are_on_one_side(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):
        save(pictures / f"dog/copy of {number}.bmp", draw(number))
    for seed in range(5):
        set_params(monkeypatch, seed=seed)
        stage.main()
        sides = {row["file"]: row["split"] for row in read_rows()}
        assert all(sides[f"dog/{number:02}.png"] == sides[f"dog/copy of {number}.bmp"] for number in range(8))


def test_equal_pictures_in_two_given_splits_are_told(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(pictures.parent / "given", *(f"{split}/{name}/a.png" for split in ("train", "val") for name in CLASSES))
    fill(pictures.parent / "given", "test/cat/a.png", "test/dog/a.png")  # the first two once more
    set_params(monkeypatch, source="given")

    stage.main()

    said = capsys.readouterr().err
    assert (
        said == "prepare: images of test that equal one of train, as the source splits them: 2; they flatter results\n"
    )


@pytest.mark.usefixtures("pictures")
def test_a_group_in_two_given_splits_is_told(
    tmp_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 12, 12), np.uint8)
    given = np.repeat(["train", "val", "test"], 3)
    groups = np.array(["a", "", "b", "b", "", "c", "a", "b", "a"])
    (tmp_dir / "given").mkdir()
    np.savez(tmp_dir / "given/all.npz", images=images, labels=np.arange(9) % 2, split=given, group=groups)
    set_params(monkeypatch, source="given")

    stage.main()

    told = re.findall("images of (.*) that have the group of one of train, .*: (.*);", capsys.readouterr().err)
    assert told == [("val", "1"), ("test", "3")]


# More pictures than the memory holds


def set_rows_at_once(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Makes a part of the images be so many."""
    for module in (files, parts):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", rows)


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("source", ["pictures", "packed"])
def test_images_in_many_parts_give_the_same_bytes_and_warnings_as_in_one(
    tmp_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    images = np.random.default_rng(0).integers(200, 256, (60, 12, 12), np.uint8)
    images[33] = images[2]
    images[59, 5, 5] = 90
    (tmp_dir / "packed").mkdir()
    np.savez(tmp_dir / "packed/all.npz", images=images, labels=np.arange(60) % 2, split=np.repeat(["train", "val"], 30))
    set_params(monkeypatch, source=source)

    def run() -> tuple[dict[str, bytes], tuple[str, str]]:
        stage.main()
        return {path.name: path.read_bytes() for path in Path("data/prepare").iterdir()}, capsys.readouterr()

    whole = run()
    set_rows_at_once(monkeypatch, 7)

    assert run() == whole


@pytest.mark.parametrize("source", ["folders", "packed"])
def test_the_memory_that_it_takes_is_a_fraction_of_the_images(
    tmp_dir: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 200, 200), np.uint8)
    (tmp_dir / "leave_out.csv").write_text("file,index\n")
    (tmp_dir / "packed").mkdir()
    np.savez(tmp_dir / "packed/all.npz", images=images, labels=np.arange(300) % 2)
    for number, image in enumerate(images if source == "folders" else ()):
        save(tmp_dir / f"folders/{CLASSES[number % 2]}/{number}.bmp", Image.fromarray(image))
    set_params(monkeypatch, source=source, image_size_px=200)
    set_rows_at_once(monkeypatch, 8)
    stage.main()  # what is imported on the way does not count

    tracemalloc.start()
    stage.main()
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < images.nbytes / 5


def test_an_interrupt_leaves_no_file_of_images(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def interrupt(*arguments: Any) -> np.ndarray:
        nonlocal count
        count += 1
        if count > 30:
            raise KeyboardInterrupt
        return prepare_picture(*arguments)

    monkeypatch.setattr(read, "prepare_picture", interrupt)

    with pytest.raises(KeyboardInterrupt):
        stage.main()

    assert count == 31
    assert [path for path in (pictures.parent / "data").rglob("*") if path.is_file()] == []


# Bad pictures


def spoil(pictures: Path) -> None:
    (pictures / "dog/00.png").write_bytes(b"")
    (pictures / "cat/notes.txt").write_text("no picture")


def test_bad_pictures_stop_the_stage_which_lists_all_of_them_before_it_splits(pictures: Path) -> None:
    spoil(pictures)

    with pytest.raises(UserError) as caught:
        stage.main()

    assert str(caught.value) == (
        "2 of 61 files are no pictures that can be used (1 of cat, 1 of dog):\n  cat/notes.txt: another file\n"
        "  dog/00.png: an empty file\nmend or move them, name them in prepare.leave_out, or set prepare.bad_pictures "
        "to leave_out in params.yaml; no file was changed"
    )
    assert [path.name for path in Path("data/prepare").iterdir()] == ["pictures.csv"]


def test_of_many_bad_pictures_the_message_has_the_first_and_the_file_all(pictures: Path) -> None:
    for number in range(30):
        (pictures / f"dog/{number:02}.png").write_bytes(b"")

    with pytest.raises(UserError, match=r"  dog/19\.png: an empty file\n  and 10 more: all are in data/prep"):
        stage.main()
    assert [row["reason"] for row in read_rows()] == ["an empty file"] * 30


def test_bad_pictures_are_left_out_where_params_say_so_and_it_says_how_many_of_which_class(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(pictures)
    set_params(monkeypatch, bad_pictures="leave_out")

    stage.main()

    assert capsys.readouterr().out.endswith(" test images; left out 2 that cannot be read: 1 of cat, 1 of dog\n")
    assert [list(row.values()) for row in read_rows("")] == [
        ["cat/notes.txt", "", "cat", "", "another file"],
        ["dog/00.png", "", "dog", "", "an empty file"],
    ]
    (listed,) = read_arrays(Path("data/prepare/splits.npz"), "pictures")
    assert len(listed) == 59


def test_pictures_are_left_out_by_their_path_good_or_bad(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(pictures)
    Path("leave_out.csv").write_text("file,index\ndog/00.png,0\ncat/notes.txt,0\ncat/07.png,0\n")

    stage.main()

    assert capsys.readouterr().out.endswith("; left out 1: 1 of cat\n")
    assert [row["split"] for row in read_rows() if row["file"] == "cat/07.png"] == [""]

    Path("leave_out.csv").write_text("file,index\ncat/77.png,0\n")
    with pytest.raises(UserError, match=r"or another of 61 files; got 'cat/77\.png' and '0'"):
        stage.main()


# What is unusual


@pytest.mark.parametrize(
    ("change", "fit", "message"),
    [
        (lambda levels: levels // 16, "pad", "prepare: levels from 0 to 15, where 0 to 255 are usual"),
        (lambda levels: 255 - levels, "pad", r"dark on light \(the background is about 255 of 255\): .* the like\n"),
        (lambda levels: 255 - levels, "garment", None),
        (lambda levels: levels, "pad", None),
    ],
)
def test_levels_and_polarity_that_are_unusual_are_told_in_a_line(
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: Any,
    fit: str,
    message: str | None,
) -> None:
    for path in pictures.rglob("*.png"):
        save(path, Image.fromarray(change(np.asarray(Image.open(path)))))
    set_params(monkeypatch, fit=fit)

    stage.main()

    said = capsys.readouterr().err
    assert said.count("\n") == (message is not None)
    if message:
        assert re.search(message, said)


# What was learned is what is asked


@pytest.mark.parametrize("background", [0, 130, 255])
@pytest.mark.parametrize(("fit", "channels"), [*((fit, 1) for fit in FITS), ("pad", 3)])
def test_predict_makes_of_the_pictures_the_very_inputs_that_trained(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, fit: str, channels: int, background: int
) -> None:
    rng = np.random.default_rng(5)
    for number, path in enumerate(sorted(pictures.rglob("*.png"))):
        width, height = rng.integers(20, 90, 2).tolist()
        image = Image.new("RGBA", (width + 20, height + 30), (90, 60, 30, 0 if number % 2 else 255))
        image.paste(draw(number, width, height), (10, 15))
        path.unlink()
        modes = {".png": "RGBA", ".tiff": "CMYK", ".gif": "P", ".jpg": "RGB"}
        suffix = list(modes)[number % len(modes)]
        save(path.with_suffix(suffix), image.convert(modes[suffix]))
    params = set_params(monkeypatch, fit=fit, channels=channels, background=background, image_size_px=16)
    stage.main()

    card = {name: getattr(params.dataset, name) for name in ("image_size_px", "channels", "fit", "background")}
    for split in ("train", "val", "test"):
        images, _ = read_split(Path(f"data/prepare/{split}.npz"))
        asked, errors = read_photos([f"pictures/{row['file']}" for row in read_rows(split)], card)
        assert errors == {}
        np.testing.assert_array_equal(np.stack(list(asked.values())), images)


# The program that begins


@pytest.fixture
def repository(tmp_dir: Path) -> Path:
    """Is a repository with the committed params.yaml."""
    (tmp_dir / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    for command in ("init --quiet", "add params.yaml", "-c user.name=a -c user.email=a@b commit --quiet -m a"):
        subprocess.run(["git", *command.split()], check=True)
    return tmp_dir


def begin(folder: str, status: int = 0) -> str:
    """Runs the program as a user does; returns what it printed."""
    command = [sys.executable, "-m", "stages.tools.new_dataset", folder]
    result = subprocess.run(
        command, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert (result.returncode, bool(result.stderr)) == (status, bool(status)), result.stderr
    return result.stdout + result.stderr


def test_it_says_what_it_found_and_fills_in_params_and_prepare_takes_them(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [
        f"{split}/{name}/{number}.png"
        for split in ("train", "test")
        for name in ["2", "10", "1"]
        for number in range(9)
    ]
    fill(repository / "my digits", *names)
    save(repository / "my digits/test/1/copy.BMP", draw(0))  # of the first one, in train/2
    save(repository / "my digits/train/1/red.png", Image.new("RGBA", (30, 20), (200, 0, 0, 99)))
    (repository / "my digits/train/1/cut.jpg").write_bytes(b"\xff\xd8\xff")
    (repository / "my digits/.DS_Store").touch()

    printed = begin("./my digits/")

    for line in (
        "my digits: pictures in a folder for each class; 56 images of 3 classes",
        "splits: 28 train, 28 test",
        "  1      10 train     10 test",
        "sizes: 12 x 12 to 30 x 20 pixels, 2 different ones",
        "files: 55 .png, 1 .bmp",
        "colours: 1 in colour, which are turned grey; 1 transparent",
        "levels: 0 to 255 of 0 to 255; light on dark",
        "exact copies: 1 of 1 images; 1 of these have one in another split that is given, and 1 in another class; "
        "test/1/copy.BMP and train/2/0.png are equal",
        "skipped: 1 that are junk, empty or of no class: .DS_Store",
        "cannot be used: 1",
    ):
        assert line in printed.splitlines()
    assert "next: `dvc repro prepare`" in printed
    params = load_params(repository / "params.yaml")
    assert (params.dataset.name, params.dataset.source, params.dataset.class_names) == (
        *("my digits", "my digits"),
        ("1", "2", "10"),
    )
    assert (params.dataset.image_size_px, params.dataset.fit, params.dataset.background) == (28, "pad", 0)
    assert params.dataset.files is None
    (repository / "my digits/train/1/cut.jpg").unlink()
    (repository / "leave_out.csv").write_text("file,index\n")
    prepare = replace(params.prepare, leave_out="leave_out.csv")
    monkeypatch.setattr(stage, "load_params", lambda **_: replace(params, prepare=prepare))
    stage.main()
    assert len(read_split(repository / "data/prepare/test.npz")[0]) == 28


def test_it_keeps_every_comment_and_all_other_values(repository: Path) -> None:
    fill(repository / "set", *(f"{name}/{number}.png" for name in "ab" for number in range(4)))
    before = (repository / "params.yaml").read_text().splitlines()

    begin("set")

    after = (repository / "params.yaml").read_text().splitlines()
    changed = [line.split(":")[0].strip() for line in before if line not in after]
    assert {line for line in before if line.strip().startswith("#") or not line} <= set(after)
    assert set(changed) <= {
        *("name", "source", "image_size_px", "channels", "fit", "background", "class_names", "files", "keep_fraction"),
        *("epochs", "batch_size", "models", "augmentations", "train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        *("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    }
    assert len(after) == len(before) - 4


@pytest.mark.parametrize(("num_images", "batch_size", "least"), [(300, 32, 380), (1_500, 32, 380)])
def test_small_sets_get_small_batches_and_enough_updates(
    repository: Path, num_images: int, batch_size: int, least: int
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (num_images, 8, 8), np.uint8)
    (repository / "set").mkdir()
    np.savez(repository / "set/all.npz", images=images, labels=np.arange(num_images) % 3)

    printed = begin("set")

    params = load_params(repository / "params.yaml")
    updates = params.train.epochs * -(-round(num_images * 0.64) // batch_size)
    assert params.train.batch_size == params.prune.batch_size == batch_size
    assert least <= updates <= 1.2 * 400
    assert params.finish.epochs > params.train.epochs
    assert params.study.keep_fraction == 1
    assert f"batches of {batch_size} in {params.train.epochs} epochs are {updates}" in printed


@pytest.mark.parametrize(
    ("size_px", "axes", "suited"), [(8, (), "third"), (28, (3,), "seventh"), (32, (), "seventh"), (28, (1,), "third")]
)
def test_the_first_grid_has_a_model_that_suits_the_pictures(
    repository: Path, size_px: int, axes: tuple[int, ...], suited: str
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, size_px, size_px, *axes), np.uint8)
    (repository / "set").mkdir()
    np.savez(repository / "set/all.npz", images=images, labels=np.arange(30) % 3)

    begin("set")

    study = load_params(repository / "params.yaml").study
    assert (study.models, study.augmentations) == (("first", suited), ("none", "mild", "flip"))


def test_changes_that_are_not_committed_are_not_written_over(repository: Path) -> None:
    fill(repository / "set", "a/x.png", "b/x.png")
    with (repository / "params.yaml").open("a") as file:
        file.write("# mine\n")
    before = (repository / "params.yaml").read_bytes()

    printed = begin("set", status=1)

    assert printed.startswith("error: params.yaml: changed since the last commit, and would be changed again; commit")
    assert (repository / "params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/x.png"], "params.yaml, as it would be: dataset.class_names: expected 2 to 256 names"),
        ([], "set: expected a folder for each class, with pictures in it"),
    ],
)
def test_a_folder_that_cannot_be_learned_changes_nothing(repository: Path, names: list[str], message: str) -> None:
    (repository / "set").mkdir()
    fill(repository / "set", *names)
    before = (repository / "params.yaml").read_bytes()

    assert begin("set", status=1).splitlines()[-1].startswith(f"error: {message}")
    assert (repository / "params.yaml").read_bytes() == before


def test_the_first_commands_of_the_guide_pack_a_folder_of_pictures(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    make_clone(clone)
    edit_params(clone, prepare={"keep_fraction": 1.0})
    commit(clone)
    fill(tmp_path / "flowers", *(f"{name}/{number}.jpg" for name in ("rose", "aster") for number in range(20)))

    printed = run_commands(clone, "own-pictures")

    assert "../flowers: pictures in a folder for each class; 40 images of 2 classes" in printed
    assert "data/prepare: 26 train, 6 val, 8 test images" in printed
    assert not (clone / "data/download").exists()
    dvc(clone, "repro", "download")
    assert list((clone / "data/download").iterdir()) == []
    assert list_stages_to_run(clone, "prepare", "download") == []
    (tmp_path / "flowers/rose/5.jpg").unlink()
    assert list_stages_to_run(clone, "prepare", "download") == ["prepare"]
