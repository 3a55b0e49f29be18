"""Reads all images of a source, as inputs of the network, and keeps them on disk."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from stages.lib.errors import UserError
from stages.lib.sources.decode import PictureError, read_picture
from stages.lib.sources.fit import find_enough_px, prepare_picture
from stages.lib.sources.listing import Bad, Entry, Source
from stages.lib.sources.packed import turn_uint8
from stages.lib.sources.parts import list_images
from stages.lib.storage.selected import Rows


@dataclass(frozen=True)
class Inputs:
    """What a source gives: its entries that can be read, uint8 images of them, and all that cannot."""

    entries: list[Entry]
    images: Rows  # (N, size, size), or (N, size, size, 3) in colour
    bad: list[Bad]


def open_pictures(source: Source, enough_px: int) -> Iterator[tuple[Entry, Image.Image | PictureError]]:
    """Opens all pictures of a source, with a progress bar where that is a terminal.

    Args:
        source: with pictures; of IDX files, the images as they are.
        enough_px: as `decode_picture` has it.

    Yields:
        Each entry with its picture, of mode RGB or RGBA, or with the error that says why it is none.
    """
    shown = tqdm(source.entries, desc=str(source.folder), unit=" pictures", disable=None)
    if source.stored is not None:
        for entry, levels in zip(shown, list_images(source.stored), strict=True):
            picture = Image.fromarray(turn_uint8(levels))
            yield entry, picture.convert("RGB") if picture.mode == "L" else picture
        return
    for entry in shown:
        try:
            yield entry, read_picture(source.folder / entry.file, enough_px)
        except PictureError as error:
            yield entry, error


def read_inputs(source: Source, image_size_px: int, channels: int, fit: str, background: int, scratch: Path) -> Inputs:
    """Reads all images of a source. IDX files hold inputs, which are taken as they are.

    Inputs that are made of pictures go to disk one by one, into a file without a name: the system removes it with the
    last array that is read from it, or with the process, however that ends.

    Args:
        source: what `find_source` found.
        image_size_px: height and width of the inputs.
        channels: of the inputs: 1, grey, or 3.
        fit: how a picture becomes one; see `prepare_picture`.
        background: grey level, 0 to 255; see there.
        scratch: a folder on a disk with space for all inputs.

    Raises:
        UserError: if IDX files, which hold grey images, shall give coloured ones.
        OSError: if the disk is full.
    """
    if source.kind == "idx" and source.stored is not None:
        if channels != 1:
            raise UserError(
                f"params.yaml: dataset.channels: expected 1 for the IDX files in {source.folder}, which are grey; "
                f"got {channels}; set it to 1, or store the pictures as files or in an .npz"
            )
        return Inputs(source.entries, source.stored, source.bad)
    entries, bad = [], list(source.bad)
    with tempfile.TemporaryFile(dir=scratch) as file:
        for entry, picture in open_pictures(source, find_enough_px(image_size_px, fit)):
            if isinstance(picture, PictureError):
                bad.append(Bad(entry.file, entry.label, picture.reason))
                continue
            try:
                image = prepare_picture(picture, image_size_px, channels, fit, background)
            except UserError as error:  # nothing stands out
                bad.append(Bad(entry.file, entry.label, str(error)))
                continue
            file.write(image.tobytes())  # not through a map, where a full disk would kill the process
            entries.append(entry)
        file.flush()
        shape = (len(entries), image_size_px, image_size_px, *((channels,) if channels > 1 else ()))
        images = np.memmap(file, np.uint8, "r", shape=shape) if entries else np.empty(shape, np.uint8)
    return Inputs(entries, images, sorted(bad, key=lambda each: each.file))
