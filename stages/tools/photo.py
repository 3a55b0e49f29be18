"""Makes an image such as the data set holds out of a photo of one garment on a plain background. No TensorFlow.

The steps are those that made the data set: Xiao, Rasul, Vollgraf 2017, Fashion-MNIST: a Novel Image Dataset for
Benchmarking Machine Learning Algorithms, section 2, https://arxiv.org/abs/1708.07747. Two are not in that section.
Contrast is stretched: in the data set the lightest pixel of every image is 254 or 255, in dim ones exactly one pixel.
And the background may be of any colour: a pixel's value is its distance from the background, which on white is the
published negative, and on black leaves an image as it is.
"""

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

PHOTO_SIZE_PX = 224
"""Longest edge to which a photo is reduced before it is looked at: 8 times that of the data set's images, so that
a garment may fill an eighth of the photo, and the noise of single pixels is averaged away."""

BORDER_FRACTION = 0.02
"""Width of the frame that shows the background, as a fraction of the longest edge."""

TRIM_TOLERANCE = 0.05 * 255
"""Largest distance from the background's colour, in levels of any channel, that is cut off, as published."""

NOISE_DEVIATIONS = 5
"""Distance, in median absolute deviations of the frame from its median, up to which a pixel is the background's."""

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

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in grey: ITU-R BT.601."""


def read_photo(path: Path) -> np.ndarray:
    """Reads an image file as `decode_photo` does.

    Raises:
        UserError: if there is no such file, or `decode_photo` refuses what it holds.
    """
    try:
        if path.exists() and not path.is_file():
            raise _refusal("a folder" if path.is_dir() else "no regular file")
        with path.open("rb") as file:
            return decode_photo(file)
    except OSError as error:
        raise UserError(f"{error.strerror}; expected a photo there: check its path, and that it may be read") from error


def _refusal(found: str) -> UserError:
    return UserError(
        f"expected an image in one of {', '.join(FORMATS)}, found {found}; give a photo saved as one of them"
    )


def decode_photo(file: BinaryIO) -> np.ndarray:
    """Decodes the first frame of an image, upright, on white where it is transparent.

    Returns:
        (height, width, 3) uint8 red, green and blue in [0, 255], longest edge at most `PHOTO_SIZE_PX`.

    Raises:
        UserError: if `file` holds no image in one of `FORMATS`, or not a whole one, or one with more pixels than
            Pillow lets a file unpack to.
        OSError: if the operating system does not let it be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes that are large but not refused
            return _open(file)
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UserError(f"expected at most {limit:,} pixels, found more; make the photo smaller") from error
    except Exception as error:  # on damaged files Pillow's readers raise whatever they run into
        if isinstance(error, OSError) and error.errno:
            raise
        if isinstance(error, MemoryError) or "out of memory" in str(error):
            raise UserError(
                "memory is short to unpack it; make the photo smaller, or free memory (see `ulimit -v`)"
            ) from error
        if file.seek(0, os.SEEK_END) == 0:
            raise _refusal("an empty file") from error
        is_other = isinstance(error, UnidentifiedImageError)
        raise _refusal("another file" if is_other else f"a damaged one ({error})") from error


def _open(file: BinaryIO) -> np.ndarray:
    """Unpacks an image; where its metadata stop Pillow, without them."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            return _to_rgb(image)
    except (MemoryError, Image.DecompressionBombError):
        raise
    except Exception:
        file.seek(0)
        bare = drop_metadata(file.read())
        if not bare:
            raise
    with Image.open(io.BytesIO(bare), formats=FORMATS) as image:
        return _to_rgb(image)


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


def _to_rgb(image: Image.Image) -> np.ndarray:
    image.draft(None, (PHOTO_SIZE_PX, PHOTO_SIZE_PX))  # a large JPEG is unpacked at a fraction of its size
    has_16_bits = any("16" in str(tile[3]) for tile in getattr(image, "tile", []))
    image.load()
    image = _turn(image)
    transparent = image.info.get("transparency")
    if isinstance(transparent, tuple):  # a PNG's colour, of which Pillow keeps 16 bits and of the pixels 8
        image.info["transparency"] = tuple(level >> 8 if has_16_bits else level & 255 for level in transparent)
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image, transparent)
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.thumbnail((PHOTO_SIZE_PX, PHOTO_SIZE_PX), Image.Resampling.LANCZOS)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return np.asarray(image)


def _turn(image: Image.Image) -> Image.Image:
    """Turns a photo as its EXIF says, where that can be read. `ImageOps.exif_transpose` fails where it is odd."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever Pillow runs into
        return image
    return image if turn is None else image.transpose(turn)


def _to_8_bit(image: Image.Image, transparent: object) -> Image.Image:
    """Scales levels of more than 8 bits: 16 bits by their range, others, whose range no file says, by what occurs.

    A PNG's transparent level, if it has one, becomes white.
    """
    levels = np.asarray(image).astype(np.float32)  # and in place: a photo may have 179 million pixels
    low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else (float(levels.min()), float(levels.max()))
    if not math.isfinite(high - low):
        raise ValueError("levels that are no finite numbers")
    if isinstance(transparent, int):
        levels[levels == transparent] = high
    levels -= low
    levels /= max(high - low, 1e-12) / 255
    return Image.fromarray(np.rint(levels, out=levels).clip(0, 255, out=levels).astype(np.uint8))


def prepare_photo(photo: np.ndarray, image_size_px: int) -> np.ndarray:
    """Trims, scales, sharpens, centres and negates a photo, as the data set's images were.

    A photo of the network's own size is framed already: only its background is removed and its contrast stretched,
    which leaves an image of the data set as it is.

    Args:
        photo: (height, width, 3) uint8 red, green and blue in [0, 255].
        image_size_px: height and width of the result.

    Returns:
        (image_size_px, image_size_px) uint8; the background is 0, the strongest pixel 255.

    Raises:
        UserError: if nothing stands out from the background, or only something too small to recognise.
    """
    distance, intensity, limit = measure_distance(photo)
    top, bottom, left, right = find_box(distance)
    if photo.shape[:2] != (image_size_px, image_size_px):
        height, width = bottom - top, right - left
        if max(height, width) * image_size_px < max(photo.shape):
            raise UserError(
                f"expected a garment, found only a speck of {width} x {height} of {photo.shape[1]} x {photo.shape[0]} "
                "pixels on one colour; photograph it from nearer"
            )
        intensity = resize(intensity[top:bottom, left:right], image_size_px)
        intensity = pad_to_square(sharpen(intensity), image_size_px)
    intensity = intensity.clip(0, limit)
    return np.rint(intensity * 255 / intensity.max()).astype(np.uint8)


def measure_distance(photo: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Measures how far the pixels of a photo are from its background, the median colour of its frame.

    Args:
        photo: (height, width, 3) uint8.

    Returns:
        (height, width) float64, the largest difference in any channel; 0 where it is within the frame's noise.
        (height, width) float64, the difference in grey; 0 in the same places. No channel offsets another, so what
        differs in colour alone does not vanish.
        The largest difference in grey that any colour has from this background.
    """
    border_px = max(1, round(BORDER_FRACTION * max(photo.shape[:2])))
    is_border = np.ones(photo.shape[:2], dtype=bool)
    is_border[border_px:-border_px, border_px:-border_px] = False
    background = np.median(photo[is_border], axis=0)
    differences = np.abs(photo - background)
    distance = differences.max(axis=2)
    noise = NOISE_DEVIATIONS * np.median(distance[is_border])
    is_background = distance <= noise
    limit = float(np.maximum(background, 255 - background) @ LUMA)
    return np.where(is_background, 0, distance), np.where(is_background, 0, differences @ LUMA), limit


def find_box(distance: np.ndarray) -> tuple[int, int, int, int]:
    """Finds the smallest box around all that is further than `TRIM_TOLERANCE` from the background.

    Returns:
        First row, row after the last, first column, column after the last.

    Raises:
        UserError: if nothing is.
    """
    box = Image.fromarray(distance > TRIM_TOLERANCE).getbbox()
    if box is None:
        raise UserError("expected a garment on a plain background, found nothing that stands out from it")
    left, top, right, bottom = box
    return top, bottom, left, right


def resize(image: np.ndarray, longest_px: int) -> np.ndarray:
    """Resizes a (height, width) image to float64 whose longest edge is `longest_px`; keeps the aspect ratio."""
    height, width = (max(1, round(edge * longest_px / max(image.shape))) for edge in image.shape)
    resized = Image.fromarray(image.astype(np.float32)).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized, dtype=np.float64)


def sharpen(image: np.ndarray) -> np.ndarray:
    """Sharpens a (height, width) image with a Gaussian of radius and standard deviation 1.0, as ImageMagick does.

    The 3 x 3 kernel is a negative Gaussian whose centre is twice the Gaussian's sum, divided by its own sum; beyond
    the edges the outermost pixels repeat.
    """
    side, corner = math.exp(-1 / 2), math.exp(-1)
    total = 1 + 4 * side + 4 * corner
    padded = np.pad(image, 1, mode="edge")
    sides = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    corners = padded[:-2, :-2] + padded[:-2, 2:] + padded[2:, :-2] + padded[2:, 2:]
    return (2 * total * image - side * sides - corner * corners) / (total + 1)


def pad_to_square(image: np.ndarray, size_px: int) -> np.ndarray:
    """Centres a (height, width) image, neither edge longer than `size_px`, on zeros; an odd pixel goes below or right.

    >>> pad_to_square(np.array([[5, 6]]), 2).tolist()
    [[5, 6], [0, 0]]
    """
    margins = [size_px - edge for edge in image.shape]
    return np.pad(image, [(margin // 2, margin - margin // 2) for margin in margins])
