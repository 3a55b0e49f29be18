import hashlib
import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.lib.errors import UserError
from stages.lib.storage.files import (
    read_arrays,
    read_csv,
    read_json,
    read_split,
    replacing,
    write_arrays,
    write_bytes,
    write_csv,
    write_json,
)

ROOT = Path(__file__).parents[1]


def write_half_and_fail(path: Path, error: BaseException) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


# Whole or not at all


def test_a_block_that_succeeds_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"

    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("no"), OSError("disk full"), KeyboardInterrupt(), SystemExit(1)])
def test_a_block_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    with pytest.raises(type(error)):
        write_half_and_fail(path, error)

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_is_in_the_same_folder_and_ends_as_the_file_does(tmp_path: Path) -> None:
    with replacing(tmp_path / "model.h5") as temporary:
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".h5")
        temporary.touch()


def test_what_a_killed_writer_left_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a") as temporary:
        raise KeyboardInterrupt
    temporary.write_bytes(b"half of a longer fil")

    write_bytes(tmp_path / "a", b"whole")

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"whole"}


def test_a_file_can_be_read_by_others(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"x")

    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


# JSON


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    content = {"b": 0.1 + 0.2, "a": [1, None, True, "ü"], "tiny": 1e-300, "nested": {"x": -0.0}}

    write_json(tmp_path / "x.json", content)

    assert read_json(tmp_path / "x.json") == content


def test_json_is_indented_keeps_the_order_of_keys_and_ends_in_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": [0.1]})

    assert (tmp_path / "x.json").read_bytes() == b'{\n  "b": 1,\n  "a": [\n    0.1\n  ]\n}\n'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_holds_finite_numbers_only(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="Out of range float values"):
        write_json(tmp_path / "x.json", {"loss": value})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a JSON object; Expecting value"),
        (b'{"a": ', "expected a JSON object; Expecting value"),
        (b"[1]", "expected a JSON object, got list"),
        (b"3", "expected a JSON object, got int"),
        (b'{"a": "\xff"}', "invalid start byte"),
    ],
)
def test_a_file_that_is_no_json_object_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)

    with pytest.raises(UserError) as caught:
        read_json(path)

    assert str(caught.value).startswith(f"{path}: expected a JSON object")
    assert message in str(caught.value)
    assert str(caught.value).endswith("; remove it and run `dvc repro`")


# CSV


def test_csv_is_read_as_it_was_written_as_words(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"name": "T-shirt/top, white", "count": 3},
        {"name": 'a "quoted"\r\nline, ü', "count": 0.25},
    ]

    write_csv(tmp_path / "x.csv", rows)

    assert read_csv(tmp_path / "x.csv") == [{key: str(value) for key, value in row.items()} for row in rows]


def test_csv_has_a_header_and_newlines_only(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", [{"b": 1, "a": 0.5}, {"a": "y", "b": "x"}])

    assert (tmp_path / "x.csv").read_bytes() == b"b,a\n1,0.5\nx,y\n"


def test_a_csv_row_with_a_new_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'b'"):
        write_csv(tmp_path / "x.csv", [{"a": 1}, {"a": 1, "b": 2}])

    assert list(tmp_path.iterdir()) == []


# Arrays


@pytest.mark.parametrize(
    "array",
    [
        np.arange(8, dtype=np.uint8).reshape(2, 2, 2),
        np.array([[0.1, np.nan, -np.inf]], np.float32),
        np.zeros((0, 28, 28), np.uint8),
        np.array(["T-shirt/top", "Bag"]),
        np.int64(-(2**62)),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    ],
    ids=["uint8", "float32", "empty", "words", "scalar", "columns first"],
)
def test_an_array_is_read_as_it_was_written(tmp_path: Path, array: np.ndarray) -> None:
    write_arrays(tmp_path / "x.npz", array=array)

    (read,) = read_arrays(tmp_path / "x.npz", "array")

    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(read, array)


def test_a_split_is_read_as_images_and_labels(tmp_path: Path) -> None:
    write_arrays(tmp_path / "x.npz", labels=np.array([7], np.uint8), images=np.full((1, 2, 2), 9, np.uint8))

    images, labels = read_split(tmp_path / "x.npz")

    assert (images.tolist(), labels.tolist()) == ([[[9, 9], [9, 9]]], [7])


def test_the_bytes_of_an_archive_do_not_depend_on_the_version_of_python(tmp_path: Path) -> None:
    write_arrays(tmp_path / "x.npz", a=np.arange(3, dtype=np.uint8), b=np.array(0.5, np.float32))

    content = (tmp_path / "x.npz").read_bytes()

    assert (
        hashlib.sha256(content).hexdigest() == "cd5be020f235fa5e9c83cb4d1fb0c062d4a20f293b672d508fe5093af2e0789b"
    )  # of Python 3.11 to 3.13


def test_object_arrays_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle=False"):
        write_arrays(tmp_path / "x.npz", a=np.array([{}], dtype=object))

    assert list(tmp_path.iterdir()) == []


def test_pickled_objects_are_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.array([{}], dtype=object))

    with pytest.raises(UserError, match=r"x\.npz: expected an \.npz with a; Object arrays cannot be loaded"):
        read_arrays(tmp_path / "x.npz", "a")


def test_an_archive_that_lacks_a_name_is_refused(tmp_path: Path) -> None:
    write_arrays(tmp_path / "x.npz", images=np.zeros(1))

    with pytest.raises(UserError, match=r"x\.npz: expected an \.npz with images, labels; 'labels is not a file"):
        read_arrays(tmp_path / "x.npz", "images", "labels")


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped bit", "array"])
def test_a_file_that_is_no_sound_npz_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.npz"
    write_arrays(path, a=np.zeros(100))
    content, array = path.read_bytes(), io.BytesIO()
    np.save(array, np.zeros(3))
    flipped = content[:500] + bytes([content[500] ^ 1]) + content[501:]
    damaged = {"empty": b"", "text": b"no archive", "cut": content[:400], "flipped bit": flipped}
    path.write_bytes(damaged.get(damage, array.getvalue()))

    with pytest.raises(UserError) as caught:
        read_arrays(path, "a")

    assert str(caught.value).startswith(f"{path}: expected an .npz with a; ")
    assert str(caught.value).endswith("; remove it and run `dvc repro`")


@pytest.mark.parametrize("name", ["x.json", "x.csv", "x.npz"])
def test_a_missing_file_is_named_with_the_remedy(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    read: Any = {".json": read_json, ".csv": read_csv, ".npz": read_split}[path.suffix]

    with pytest.raises(UserError) as caught:
        read(path)

    assert str(caught.value) == f"{path}: not found; run `dvc repro` to make it"


# Bytes


def write_all(folder: Path) -> None:
    write_json(folder / "x.json", {"a": 0.1, "b": {"ü": [1, 2]}})
    write_csv(folder / "x.csv", [{"a": 0.1, "b": "ü"}])
    write_arrays(
        folder / "x.npz", images=np.arange(18, dtype=np.uint8).reshape(2, 3, 3), labels=np.array([1, 2], np.uint8)
    )


def hash_files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_bytes_do_not_depend_on_the_process_or_its_language(tmp_path: Path) -> None:
    write_all(tmp_path / "here")
    code = "import sys; from pathlib import Path; from tests.test_files import write_all; write_all(Path(sys.argv[1]))"
    environment = os.environ | {"PYTHONHASHSEED": "7", "LC_ALL": "C", "PYTHONUTF8": "0", "TZ": "Asia/Tokyo"}

    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], cwd=ROOT, env=environment, check=True)

    assert hash_files(tmp_path / "here") == hash_files(tmp_path / "there")


def test_text_is_read_whatever_the_language_of_the_machine(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", [{"name": "Schürze"}])
    (tmp_path / "x.json").write_bytes('{"name": "Schürze"}'.encode())
    code = (
        "import json, sys; from pathlib import Path; from stages.lib.storage.files import read_csv, read_json\n"
        "folder = Path(sys.argv[1])\n"
        "print(json.dumps([read_csv(folder / 'x.csv')[0], read_json(folder / 'x.json')]))"
    )
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}

    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, check=True
    )

    assert json.loads(result.stdout) == [{"name": "Schürze"}, {"name": "Schürze"}]
