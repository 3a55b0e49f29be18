"""What a folder holds is found out by what lies in it, and everything odd is told."""

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import draw, fill, save
from PIL import Image

from stages.lib.errors import UserError
from stages.lib.sources.find import find_source
from stages.lib.sources.folders import walk
from stages.lib.sources.listing import Bad, Entry, Source
from stages.lib.sources.packed import IDX_FILES
from stages.lib.sources.read import read_inputs

CLASSES = ("cat", "dog")


def list_files(source: Source) -> list[str]:
    return [entry.file for entry in source.entries]


def read(folder: Path, size: int = 12) -> dict[str, str]:
    """Reads all pictures of a folder; returns the reason of each that cannot be used, by its path."""
    inputs = read_inputs(find_source(folder, CLASSES, size), size, 1, "pad", 0, scratch=folder)
    return {each.file: each.reason for each in inputs.bad}


def read_images(source: Source, size: int, fit: str = "pad") -> np.ndarray:
    """Reads all images of a source as grey inputs."""
    return read_inputs(source, size, 1, fit, 0, scratch=source.folder).images[:]


# Folders


def test_a_folder_for_each_class_is_read_nested_and_sorted_and_any_suffix_counts(tmp_path: Path) -> None:
    fill(tmp_path, "dog/b.PNG", "dog/a.JpEg", "cat/deep/er/x.png", "cat/b.bmp")
    (tmp_path / "cat/no suffix").write_bytes((tmp_path / "dog/b.PNG").read_bytes())

    source = find_source(tmp_path, CLASSES)

    assert source.kind == "folders"
    assert list_files(source) == ["cat/b.bmp", "cat/deep/er/x.png", "cat/no suffix", "dog/a.JpEg", "dog/b.PNG"]
    assert [entry.label for entry in source.entries] == ["cat"] * 3 + ["dog"] * 2
    assert {entry.split for entry in source.entries} == {""}
    assert len(read_images(source, 12)) == 5


def test_classes_are_numbered_as_params_name_them_and_a_listing_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "cat/a.png", "dog/a.png", "cat/c.png", "cat/b.png")
    before = list_files(find_source(tmp_path, ("dog", "cat")))
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: sorted(iterdir(path), reverse=True))

    assert list_files(find_source(tmp_path, ("dog", "cat"))) == before


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train", "val", "test"), ["test", "train", "val"]),
        (("Train", "Validation"), ["train", "val"]),
        (("train", "valid", "test"), ["test", "train", "val"]),
        (("train",), ["train"]),
    ],
)
def test_folders_of_splits_have_a_folder_for_each_class(
    tmp_path: Path, names: tuple[str, ...], splits: list[str]
) -> None:
    fill(tmp_path, *(f"{name}/{label}/a.png" for name in names for label in CLASSES))

    entries = find_source(tmp_path, CLASSES).entries

    assert [(entry.split, entry.label) for entry in entries] == [(split, name) for split in splits for name in CLASSES]


def test_classes_may_be_called_like_splits(tmp_path: Path) -> None:
    fill(tmp_path, "train/steam/a.png", "test/a.png")

    source = find_source(tmp_path, ("train", "test"))

    assert [(entry.split, entry.label) for entry in source.entries] == [("", "test"), ("", "train")]


def test_folders_called_like_splits_with_pictures_right_in_them_are_classes(tmp_path: Path) -> None:
    fill(tmp_path, "train/a.png", "test/a.png")

    assert [(entry.split, entry.label) for entry in find_source(tmp_path).entries] == [("", "test"), ("", "train")]


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat/a.png", "val/cat/a.png", "valid/dog/a.png")

    with pytest.raises(UserError, match="expected one folder for val; got 'val' and 'valid'; put the pictures"):
        find_source(tmp_path, CLASSES)


def test_folders_that_are_no_classes_and_classes_without_a_folder_are_told_at_once_with_the_nearest(
    tmp_path: Path,
) -> None:
    fill(tmp_path, "cats/a.png", "dog/a.png", "zebra/a.png")

    with pytest.raises(UserError) as caught:
        find_source(tmp_path, ("cat", "dog", "cow"))

    assert str(caught.value) == (
        f"{tmp_path}: expected a folder for each of dataset.class_names in params.yaml, and no other; got 'cats' is no "
        "class (did you mean 'cat'?); 'zebra' is no class; no folder for 'cat'; no folder for 'cow'; rename the "
        "folder, or mend dataset.class_names"
    )


def test_without_params_the_classes_are_those_of_the_folders(tmp_path: Path) -> None:
    fill(tmp_path, "b/x.png", "a/x.png")

    assert {entry.label for entry in find_source(tmp_path).entries} == {"a", "b"}


def test_junk_empty_folders_and_other_files_beside_the_classes_are_named_and_skipped(tmp_path: Path) -> None:
    fill(tmp_path, "cat/a.png", "dog/a.png", "cat/.hidden.png", "cat/@eaDir/a.png")
    for name in (".DS_Store", "cat/Thumbs.db", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "horse/white").mkdir(parents=True)

    source = find_source(tmp_path, CLASSES)

    assert list_files(source) == ["cat/a.png", "dog/a.png"]
    assert sorted(source.skipped) == [
        *(".DS_Store", "cat/.hidden.png", "cat/@eaDir", "cat/Thumbs.db", "horse/white/", "notes.txt")
    ]
    assert source.bad == []


@pytest.mark.parametrize("place", ["", "nowhere", "file"])
def test_a_source_without_pictures_is_refused_with_what_is_there(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(UserError, match=r"expected a folder .*; got .*dataset\.source|dataset\.source: expected"):
        find_source(tmp_path / place, CLASSES)


# Bad pictures


def test_every_picture_that_cannot_be_used_is_listed_with_its_reason_and_none_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    fill(tmp_path, "cat/a.png", "dog/a.png", "loose.png")
    save(tmp_path / "cat/one.png", Image.new("L", (1, 1)))
    save(tmp_path / "cat/thin.png", Image.new("L", (1, 50)))
    save(tmp_path / "dog/bomb.png", Image.new("1", (40, 40)))
    (tmp_path / "dog/cut.png").write_bytes((tmp_path / "dog/a.png").read_bytes()[:90])
    (tmp_path / "dog/empty.png").touch()
    (tmp_path / "dog/notes.txt").write_text("no picture")
    (tmp_path / "dog/circle").symlink_to(tmp_path / "dog")
    (tmp_path / "dog/self.png").symlink_to(tmp_path / "dog/self.png")
    (tmp_path / "dog/gone.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "dog/pipe")
    (tmp_path / os.fsdecode(b"dog/caf\xe9.png")).write_bytes(b"")
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}

    bad = read(tmp_path)

    assert bad.pop("dog/cut.png").startswith("a damaged one (")
    assert bad == {
        "cat/one.png": "only 1 x 1 pixels",
        "cat/thin.png": "only 1 x 50 pixels",
        "dog/bomb.png": "more than 1,000 pixels",
        "dog/caf\udce9.png": "a name that is no UTF-8",
        "dog/circle": "a link in a circle",
        "dog/empty.png": "an empty file",
        "dog/gone.png": "a link that leads nowhere",
        "dog/notes.txt": "another file",
        "dog/pipe": "no regular file",
        "dog/self.png": "a link in a circle",
        "loose.png": "lies in no folder of a class",
    }
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_links_that_lead_elsewhere_are_followed(tmp_path: Path) -> None:
    fill(tmp_path, "elsewhere/a.png", "source/dog/a.png")
    (tmp_path / "source/cat").symlink_to(tmp_path / "elsewhere")

    assert list_files(find_source(tmp_path / "source", CLASSES)) == ["cat/a.png", "dog/a.png"]


def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> Any:
        raise PermissionError(13, "Permission denied")  # not by its mode: the superuser may read all

    monkeypatch.setattr(Path, "iterdir", refuse)

    assert list(walk(tmp_path, "cat/")) == [("cat", "Permission denied")]


# A CSV file


def write_manifest(folder: Path, text: str) -> None:
    (folder / "List.CSV").write_text(text, encoding="utf-8")


def test_a_csv_file_names_pictures_classes_splits_and_groups(tmp_path: Path) -> None:
    fill(tmp_path, "b.png", "sub/a.png", "c.png")
    write_manifest(
        tmp_path, "\ufeffpath,label,group,split,more\nb.png,dog,day 1,Train,x\nsub/a.png, cat ,,valid\nc.png,cat\n"
    )

    source = find_source(tmp_path, CLASSES)

    assert (source.kind, source.bad) == ("manifest", [])
    assert source.entries == [
        Entry("b.png", 0, "dog", "train", "day 1"),
        Entry("sub/a.png", 0, "cat", "val", ""),
        Entry("c.png", 0, "cat", "", ""),
    ]
    assert len(read_images(source, 12)) == 3


def test_paths_of_a_csv_file_that_lead_nowhere_out_of_its_folder_or_twice_to_one_picture_are_listed(
    tmp_path: Path,
) -> None:
    fill(tmp_path, "outside.png", "in/a.png")
    paths = ["a.png", "../outside.png", str(tmp_path / "outside.png"), "x/../../outside.png", "gone.png", "a.png", ""]
    write_manifest(tmp_path / "in", "path,label\n" + "".join(f"{path},cat\n" for path in paths) + "a\0b.png,dog\n")

    source = find_source(tmp_path / "in", CLASSES)

    outside = "a path that leaves the folder of the CSV file"
    assert list_files(source) == ["a.png"]
    assert source.bad == [
        *(Bad(path, "cat", outside) for path in paths[1:4]),
        Bad("gone.png", "cat", "no such file"),
        Bad("a.png", "cat", "named in line 2 already"),
        Bad("line 8", "cat", "no path"),
        Bad("a\0b.png", "dog", "a path with a null byte"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,class\na.png,cat\n", r"expected the columns path,label, .*; got \['file', 'class'\]"),
        ("path;label\na.png;cat\n", r"got \['path;label'\]"),
        ("", "expected the columns path,label, .*; got None"),
        ("path,label\n", "expected a row for each picture; got none"),
        ("path,label\na.png,\n", "line 2: expected a label; got ''"),
        ("path,label,split\na.png,cat,tran\n", "line 2: expected a split of train, .*; got 'tran'"),
        ("path,label\na.png,cta\na.png,dog\n", r"'cta' is no class \(did you mean 'cat'\?\); no label for 'cat'"),
    ],
)
def test_a_csv_file_that_is_not_sound_is_refused(tmp_path: Path, text: str, message: str) -> None:
    fill(tmp_path, "a.png")
    write_manifest(tmp_path, text)

    with pytest.raises(UserError, match=rf"List\.CSV.*{message}"):
        find_source(tmp_path, CLASSES)


def test_a_csv_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("path,label\nü.png,cat\n".encode("latin-1"))

    with pytest.raises(UserError, match="expected a CSV file in UTF-8; 'utf-8' codec"):
        find_source(tmp_path, CLASSES)


def test_two_files_that_could_be_the_list_are_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path, "path,label\n")
    np.savez(tmp_path / "a.npz", images=np.zeros(1))

    with pytest.raises(UserError, match=r"expected at most one \.csv or \.npz file.*; got List\.CSV, a\.npz; move"):
        find_source(tmp_path, CLASSES)


# An .npz


def pack(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "all.npz", **arrays)
    return folder


IMAGES = np.arange(4 * 6 * 6, dtype=np.uint8).reshape(4, 6, 6)


def test_an_npz_holds_images_labels_splits_and_groups(tmp_path: Path) -> None:
    splits, groups = np.array(["train", "", "test", "validation"]), np.array([3, 3, 4, 5])
    pack(tmp_path, images=IMAGES, labels=np.array([0, 1, 1, 0]), split=splits, group=groups, more=np.zeros(2))

    source = find_source(tmp_path, CLASSES)

    assert source.kind == "packed"
    assert source.entries[1:3] == [Entry("all.npz", 1, "dog", "", "3"), Entry("all.npz", 2, "dog", "test", "4")]
    assert source.entries[3].split == "val"
    np.testing.assert_array_equal(read_images(source, 6), IMAGES)


@pytest.mark.parametrize(
    ("save_npz", "images", "is_mapped"),
    [
        (np.savez, IMAGES, True),
        (np.savez, IMAGES[..., np.newaxis], True),
        (np.savez, IMAGES / 255, True),
        (np.savez, np.asfortranarray(IMAGES), False),
        (np.savez_compressed, IMAGES, False),
    ],
)
def test_images_of_an_npz_stay_on_disk_where_they_lie_there_as_they_are(
    tmp_path: Path, save_npz: Any, images: np.ndarray, is_mapped: bool
) -> None:
    save_npz(tmp_path / "all.npz", images=images, labels=np.array([0, 1, 1, 0]))

    source = find_source(tmp_path, CLASSES)

    assert isinstance(source.stored, np.memmap) == is_mapped
    np.testing.assert_array_equal(read_images(source, 6), IMAGES)


def test_images_of_an_npz_that_are_not_those_that_were_written_are_refused(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 90, 90), np.uint8)  # more than is read with the header
    path = pack(tmp_path, images=images, labels=np.array([0, 1, 1, 0])) / "all.npz"
    with path.open("r+b") as file:
        file.seek(20_000)
        file.write(b"another")

    with pytest.raises(UserError, match=r"all\.npz: expected .*; Bad CRC-32 for file 'images\.npy'; write it anew"):
        find_source(tmp_path, CLASSES)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (np.array([0, 128, 65535], np.uint16), [0, 0, 255]),
        (np.array([0, 32896, 65535], np.uint16), [0, 128, 255]),
        (np.array([0, 0.5, 1], np.float64), [0, 128, 255]),
        (np.array([False, False, True]), [0, 0, 255]),
        (np.array([1, 2, 16], np.uint8), [1, 2, 16]),
    ],
)
def test_levels_of_an_npz_are_scaled_by_the_range_of_their_type(
    tmp_path: Path, images: np.ndarray, expected: list[int]
) -> None:
    pack(tmp_path, images=np.tile(images[:, np.newaxis, np.newaxis], (1, 4, 4)), labels=np.array(["cat", "dog", "dog"]))

    inputs = read_images(find_source(tmp_path, CLASSES), 4, "stretch")

    assert inputs[:, 1, 1].tolist() == expected


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_of_an_npz_may_have_channels(tmp_path: Path, channels: int) -> None:
    images = np.repeat(IMAGES[..., np.newaxis], channels, axis=3)
    if channels == 4:
        images[..., 3] = 255
    pack(tmp_path, images=images, labels=np.array([0, 1, 1, 0]))

    np.testing.assert_array_equal(read_images(find_source(tmp_path, CLASSES), 6, "crop"), IMAGES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": IMAGES.astype(np.int32)}, "expected images of uint8, uint16, bool or floats; got int32; scale"),
        ({"images": IMAGES.astype(np.float32)}, "expected floats from 0 to 1 in images; got 0 to 143; scale them"),
        ({"images": np.full((4, 2, 2), np.nan)}, "expected floats from 0 to 1 in images; got nan to nan"),
        (
            {"images": IMAGES[..., np.newaxis, np.newaxis]},
            r"expected images \(N, height, .*; got \(4, 6, 6, 1, 1",
        ),
        ({"images": IMAGES.reshape(4, 3, 6, 2)}, r"got \(4, 3, 6, 2\)"),
        ({"images": IMAGES[:0]}, r"got \(0, 6, 6\)"),
        ({"labels": np.array([0, 1, 1])}, r"expected labels \(4,\), as there are images; got \(3,\)"),
        ({"labels": np.array([0, 1, 2, 0])}, "expected labels from 0 to 1, a number for each .*; got 0 to 2; name"),
        ({"labels": np.array([0, -1, 1, 0])}, "got -1 to 1"),
        ({"labels": np.array([0, 1, 1, 0.5])}, "expected labels that are integers or words; got float64"),
        ({"labels": np.zeros(4, int)}, "no label for 'dog'"),
        ({"labels": np.array([None, 1, 1, 0])}, "without Python objects; Object arrays cannot be loaded"),
        ({"split": np.array(["train", "", "test", "tset"])}, "expected split as train, .*; got 'tset'"),
    ],
)
def test_an_npz_that_is_not_sound_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    pack(tmp_path, **{"images": IMAGES, "labels": np.array([0, 1, 1, 0])} | changes)

    with pytest.raises(UserError, match=rf"all\.npz: .*{message}"):
        find_source(tmp_path, CLASSES)


@pytest.mark.parametrize("content", [b"", b"no npz at all", b"PK\x03\x04 cut"])
def test_a_damaged_npz_and_one_without_labels_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "all.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"all\.npz: expected an \.npz with the arrays images and labels"):
        find_source(tmp_path, CLASSES)

    pack(tmp_path, images=IMAGES)
    with pytest.raises(UserError, match="expected arrays images and labels; got images"):
        find_source(tmp_path, CLASSES)


# IDX files


def test_idx_files_give_training_and_test_images_as_they_are(tmp_path: Path) -> None:
    for name in IDX_FILES:
        values = IMAGES[:, :4, :4] if "images" in name else np.array([1, 0, 1, 2], np.uint8)
        header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
        (tmp_path / name).write_bytes(header + values.tobytes())
    save(tmp_path / "cat/a.png", draw(0))  # which is not looked at

    source = find_source(tmp_path)

    assert source.kind == "idx"
    assert source.entries[0] == Entry("train", 0, "1", "train", "")
    assert source.entries[7] == Entry("t10k", 3, "2", "test", "")
    np.testing.assert_array_equal(read_images(source, 4, "garment")[4:], IMAGES[:, :4, :4])
    with pytest.raises(
        UserError, match=r"dataset\.channels: expected 1 for the IDX files in .*, which are grey; got 3"
    ):
        read_inputs(source, 4, 3, "pad", 0, tmp_path)

    (tmp_path / IDX_FILES[2]).unlink()
    with pytest.raises(UserError, match=r"expected all of .*; got no t10k-images-idx3-ubyte; put it there"):
        find_source(tmp_path)
