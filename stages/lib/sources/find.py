"""Finds out what form a source has, and lists it."""

from collections.abc import Sequence
from pathlib import Path

from stages.lib.errors import UserError
from stages.lib.sources.folders import is_junk, list_folders
from stages.lib.sources.listing import Source, join_some
from stages.lib.sources.manifest import read_manifest
from stages.lib.sources.packed import IDX_FILES, read_idx_files, read_packed


def find_source(folder: Path, class_names: Sequence[str] | None = None, image_size_px: int | None = None) -> Source:
    """Lists what a folder holds, in whichever form: IDX files, one .csv, one .npz, or folders of classes.

    Args:
        folder: the source.
        class_names: those of params.yaml, or None: those that the source has, in their natural order.
        image_size_px: of the inputs, which IDX files have to have; None: whatever they have.

    Raises:
        UserError: if there is no such folder, it has no such form or several, or what it holds is not sound.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        raise UserError(
            f"params.yaml: dataset.source: expected a folder with pictures; got {found}: {folder}; mend the path, or "
            "put the pictures there"
        )
    names = sorted(path.name for path in folder.iterdir() if not is_junk(path.name))
    if set(IDX_FILES) & set(names):
        if lacking := [name for name in IDX_FILES if name not in names]:
            raise UserError(
                f"{folder}: expected all of {', '.join(IDX_FILES)}; got no {', '.join(lacking)}; put it there, or "
                "`dvc repro` if that is the folder of the download"
            )
        return read_idx_files(folder, class_names, image_size_px)
    lists = [name for name in names if name.lower().endswith((".csv", ".npz")) and (folder / name).is_file()]
    if len(lists) > 1:
        raise UserError(
            f"{folder}: expected at most one .csv or .npz file, which names or holds the images; got "
            f"{join_some(lists)}; move the others out of there"
        )
    if not lists:
        return list_folders(folder, class_names)
    path = folder / lists[0]
    return read_packed(path, class_names) if path.suffix.lower() == ".npz" else read_manifest(path, class_names)
