"""Reads and writes this project's files. Every write is whole or not at all. No TensorFlow."""

import csv
import gzip
import hashlib
import io
import json
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from stages.lib.errors import UserError
from stages.lib.storage.selected import Selected

ROWS_AT_ONCE = 1024
"""Rows of an array that are in memory while it is written."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` if the block succeeds, removes it if not.

    The temporary name ends as `path` does, for libraries that choose the format by the suffix. It is always the same,
    so that the next write replaces what a killed process left; two processes must not write to one path at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{path.name}")
    try:
        yield temporary
        temporary.chmod(0o644)  # whatever the umask: outputs are shared
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` to `path`, and makes its folder."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def check_exists(path: Path) -> None:
    """Checks that there is a file or folder at `path`.

    Raises:
        UserError: if there is none.
    """
    if not path.exists():
        raise UserError(f"{path}: not found; run `dvc repro` to make it")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `content` as indented JSON, keys in the given order, numbers in their shortest exact form."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        UserError: if there is no such file, or it holds no JSON object.
    """
    check_exists(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: expected a JSON object; {error}; remove it and run `dvc repro`") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(content).__name__}; remove it and run `dvc repro`")
    return content


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes `rows`, at least one, as CSV; the keys of the first row are the columns, in order.

    Raises:
        ValueError: if a row has a key that the first has not.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def read_csv(path: Path) -> list[dict[str, str]]:
    """Reads a CSV file with a header into one dict of strings a row.

    Raises:
        UserError: if there is no such file.
    """
    check_exists(path)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_arrays(path: Path, **arrays: np.ndarray | Selected) -> None:
    """Writes named arrays as an uncompressed .npz, whose bytes depend on the arrays alone, a part at a time.

    `np.savez` would not do: how its headers look differs between versions of Python.

    Raises:
        ValueError: if an array holds Python objects.
    """
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # always dated 1980-01-01
            # Headers are small where this is, with some space for that of the array, less than 2 GiB.
            member.file_size = array.dtype.itemsize * math.prod(array.shape) + 4096
            with archive.open(member, "w") as file:
                if isinstance(array, Selected):
                    write_selected(file, array)
                else:
                    np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)


def write_selected(file: IO[bytes], selected: Selected) -> None:
    """Writes selected rows as the .npy that they would be as an array, without having all of them in memory."""
    description = np.lib.format.dtype_to_descr(selected.dtype)
    header = {"descr": description, "fortran_order": False, "shape": selected.shape}
    np.lib.format.write_array_header_1_0(file, header)
    for start in range(0, len(selected), ROWS_AT_ONCE):
        file.write(selected[start : start + ROWS_AT_ONCE].tobytes())


def read_arrays(path: Path, *names: str) -> tuple[np.ndarray, ...]:
    """Reads the named arrays of an .npz, in the order of `names`; pickled objects are refused.

    Raises:
        UserError: if there is no such file, it is no .npz, or it lacks a name.
    """
    check_exists(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return tuple(stored[name] for name in names)
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: expected an .npz with {', '.join(names)}; {error}; remove it and run `dvc repro`"
        ) from error


def read_split(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads a split: `images` uint8 in [0, 255] and `labels` (N,) uint8.

    Images are (N, size, size), which are grey, or (N, size, size, 3), which are red, green and blue. They stay on disk,
    and are read where they are indexed, so that a data set may be larger than the memory.

    Raises:
        UserError: as `read_arrays`.
    """
    (labels,) = read_arrays(path, "labels")
    return map_array(path, "images"), labels


def map_array(path: Path, name: str) -> np.ndarray:
    """Maps an array of an .npz that `write_arrays` wrote into memory, read-only; the system reads what is indexed.

    Raises:
        UserError: as `read_arrays`.
    """
    check_exists(path)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member, path.open("rb") as file:
            info = archive.getinfo(f"{name}.npy")
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name} is compressed")
            np.lib.format.read_magic(member)
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(member)
            if is_fortran or dtype.hasobject:
                raise ValueError(f"{name} is no plain array in C order")
            file.seek(info.header_offset + 26)  # where the header of a member says how long its name and the rest are
            start = info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))) + member.tell()
            if 0 in shape:  # nothing can be mapped
                return np.zeros(shape, dtype)
            return np.memmap(path, dtype, "r", start, shape)
    except (OSError, EOFError, KeyError, TypeError, ValueError, struct.error, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: expected an .npz with {name} as `dvc repro` writes it; {error}; remove it and run `dvc repro`"
        ) from error


def compute_sha256(path: Path) -> str:
    """Computes the SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compute_gzip_size_bytes(content: bytes) -> int:
    """Computes the bytes that `content` takes after gzip at its strongest level, with no time stamp in the header."""
    return len(gzip.compress(content, compresslevel=9, mtime=0))
