"""Decodes picture files: the first frame, upright, with 8 bits a channel. The only reader of picture files."""

import io
import math
import os
import warnings
import zlib
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from stages.lib.errors import UserError

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is read. A list of our own: Pillow knows formats that run other programs."""

MIN_SIDE_PX = 2
"""A picture with a shorter side shows nothing; programs write such ones to count visitors."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a photo upright, by its EXIF orientation."""

PIXEL_TAGS = {
    *(
        256,
        257,
        258,
        259,
        262,
        266,
        273,
        277,
        278,
        279,
        284,
        292,
        293,
        317,
        320,
        322,
        323,
        324,
        325,
        332,
        338,
        339,
        347,
    ),
    *(512, 513, 514, 529, 530, 531, 532),
}
"""Tags of a TIFF that its pixels need: sizes, places, compression, and what the levels mean."""


class PictureError(UserError):
    """A file that is no picture that can be used. `reason` says in a few words why, the message what to do, too."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _refusal(found: str) -> PictureError:
    return PictureError(
        found, f"expected an image in one of {', '.join(FORMATS)}, found {found}; give a photo saved as one of them"
    )


def read_picture(path: Path, enough_px: int) -> Image.Image:
    """Reads a picture file as `decode_picture` does.

    Raises:
        PictureError: if there is no such file, it may not be read, or `decode_picture` refuses what it holds.
    """
    try:
        if path.exists() and not path.is_file():
            raise _refusal("a folder" if path.is_dir() else "no regular file")
        with path.open("rb") as file:
            return decode_picture(file, enough_px)
    except OSError as error:
        remedy = "expected a photo there: check its path, and that it may be read"
        raise PictureError(str(error.strerror), f"{error.strerror}; {remedy}") from error


def decode_picture(file: BinaryIO, enough_px: int) -> Image.Image:
    """Decodes the first frame of an image.

    Args:
        file: that holds it.
        enough_px: length of a side that is enough: a large JPEG is unpacked at a fraction of its size, not below that.

    Returns:
        An upright picture of mode RGBA if it is transparent anywhere, else RGB; 8 bits a channel, 0 to 255.

    Raises:
        PictureError: if `file` holds no image in one of `FORMATS`, or not a whole one, or one with more pixels than
            Pillow lets a file unpack to, or with a side shorter than `MIN_SIDE_PX`.
        OSError: if the operating system does not let it be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes that are large but not refused
            image = _open(file, enough_px)
    except Image.DecompressionBombError as error:
        limit = f"{2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
        message = f"expected at most {limit}, found more; make the photo smaller"
        raise PictureError(f"more than {limit}", message) from error
    except Exception as error:  # on damaged files Pillow's readers raise whatever they run into
        if isinstance(error, OSError) and error.errno:
            raise
        if isinstance(error, MemoryError) or "out of memory" in str(error):
            raise PictureError(
                "too large for the memory that is free",
                "memory is short to unpack it; make the photo smaller, or free memory (see `ulimit -v`)",
            ) from error
        if file.seek(0, os.SEEK_END) == 0:
            raise _refusal("an empty file") from error
        is_other = isinstance(error, UnidentifiedImageError)
        raise _refusal("another file" if is_other else f"a damaged one ({error})") from error
    if min(image.size) < MIN_SIDE_PX:
        found = f"{image.width} x {image.height} pixels"
        message = f"expected at least {MIN_SIDE_PX} x {MIN_SIDE_PX} pixels, found {found}; give a larger photo"
        raise PictureError(f"only {found}", message)
    return image


def _open(file: BinaryIO, enough_px: int) -> Image.Image:
    """Unpacks an image; where its metadata stop Pillow, without them."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            return _to_8_bits(image, enough_px)
    except (MemoryError, Image.DecompressionBombError):
        raise
    except Exception:
        file.seek(0)
        bare = drop_metadata(file.read())
        if not bare:
            raise
    with Image.open(io.BytesIO(bare), formats=FORMATS) as image:
        return _to_8_bits(image, enough_px)


def drop_metadata(content: bytes) -> bytes:
    """Drops from an image what its pixels do not need, but for a sound orientation; of a format without that, all."""
    kept, at = [], 0
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        kept, at = [content[:8]], 8
        while chunk := content[at : at + 12 + int.from_bytes(content[at : at + 4])]:
            is_sound = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])
            if chunk[4:5].isupper() or (is_sound and chunk[4:8] in (b"tRNS", b"eXIf")):
                kept.append(chunk)
            at += len(chunk)
    elif content.startswith(b"\xff\xd8"):
        kept, at = [content[:2]], 2
        while (marker := content[at : at + 2]) > b"\xff" and marker != b"\xff\xda":  # up to the pixels
            segment = content[at : at + 2 + int.from_bytes(content[at + 2 : at + 4])]
            is_application = b"\xff\xe0" <= marker <= b"\xff\xef"
            if not is_application or (marker[1:] in b"\xe0\xe1\xee" and len(segment) >= 16):  # JFIF, EXIF, Adobe
                kept.append(segment)
            at += len(segment)
        kept.append(content[at:])
    elif content[4:12] in (b"ftypavif", b"ftypavis"):  # whose pixels are turned by boxes of their own
        head, mark, rest = content.partition(b"mdat")
        kept = [head.replace(b"Exif", b"skip"), mark, rest]
    elif content.startswith((b"II*\0", b"MM\0*")):
        kept = [_drop_tags(content)]
    return b"".join(kept)


def _drop_tags(content: bytes) -> bytes:
    """Puts in the place of each tag of a TIFF's first image that its pixels do not need one that says nothing."""
    order: Literal["little", "big"] = "little" if content.startswith(b"II") else "big"

    def read(at: int, size: int) -> int:
        return int.from_bytes(content[at : at + size], order)

    nothing = b"".join(number.to_bytes(size, order) for number, size in ((65000, 2), (1, 2), (1, 4), (0, 4)))
    changed, first = bytearray(content), read(4, 4)
    for at in range(first + 2, min(first + 2 + 12 * read(first, 2), len(content) - 11), 12):
        is_turn = (read(at, 2), read(at + 2, 2), read(at + 4, 4)) == (ExifTags.Base.Orientation, 3, 1)
        if read(at, 2) not in PIXEL_TAGS and not is_turn:
            changed[at : at + 12] = nothing
    return bytes(changed)


def _to_8_bits(image: Image.Image, enough_px: int) -> Image.Image:
    image.draft(None, (enough_px, enough_px))
    is_ppm = image.format == "PPM"
    has_16_bits = any("16" in str(tile[3]) for tile in getattr(image, "tile", []))
    image.load()
    image = _turn(image)
    transparent = image.info.get("transparency")
    if isinstance(transparent, tuple):  # a PNG's colour, of which Pillow keeps 16 bits and of the pixels 8
        image.info["transparency"] = tuple(level >> 8 if has_16_bits else level & 255 for level in transparent)
    if image.mode.startswith(("I", "F")):
        image = _scale_levels(image, transparent, has_16_bits=is_ppm or image.mode.startswith("I;16"))
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _turn(image: Image.Image) -> Image.Image:
    """Turns a photo as its EXIF says, where that can be read. `ImageOps.exif_transpose` fails where it is odd."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever Pillow runs into
        return image
    return image if turn is None else image.transpose(turn)


def _scale_levels(image: Image.Image, transparent: object, has_16_bits: bool) -> Image.Image:
    """Scales levels of more than 8 bits: 16 bits by their range, others, whose range no file says, by what occurs.

    A PNG's transparent level, if it has one, is kept as transparency.
    """
    levels = np.asarray(image).astype(np.float32)  # and in place: a photo may have 179 million pixels
    low, high = (0.0, 65535.0) if has_16_bits else (float(levels.min()), float(levels.max()))
    if not math.isfinite(high - low):
        raise ValueError("levels that are no finite numbers")
    alpha = Image.fromarray(levels != transparent).convert("L") if isinstance(transparent, int) else None
    levels -= low
    levels /= max(high - low, 1e-12) / 255
    grey = Image.fromarray(np.rint(levels, out=levels).clip(0, 255, out=levels).astype(np.uint8))
    return grey if alpha is None else Image.merge("LA", (grey, alpha))
