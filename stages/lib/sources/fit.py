"""Makes the network's input of a picture of any size and colour: the same for training and for predicting."""

import numpy as np
from PIL import Image

from stages.lib.errors import UserError
from stages.lib.sources.garment import PHOTO_SIZE_PX, prepare_photo

FITS = ("pad", "crop", "stretch", "garment")
"""How a picture becomes square: pad keeps all of it and its shape, crop keeps the middle, stretch keeps all and bends
it; garment trims, negates and centres one thing on a plain background (`stages.lib.sources.garment`)."""


def find_enough_px(image_size_px: int, fit: str) -> int:
    """Finds how long the sides of a picture have to be, so that its reduction still has all pixels it is made of."""
    return PHOTO_SIZE_PX if fit == "garment" else 2 * image_size_px


def prepare_picture(picture: Image.Image, image_size_px: int, channels: int, fit: str, background: int) -> np.ndarray:
    """Makes an input of a picture.

    A picture of `image_size_px` on both sides is left as it is, but by garment.

    Args:
        picture: of mode RGB or RGBA.
        image_size_px: height and width of the result.
        channels: 1, grey, or 3, red, green and blue; 1 by garment.
        fit: one of `FITS`.
        background: grey level, 0 black to 255 white, of what is transparent, and of what pad adds.

    Returns:
        (image_size_px, image_size_px) uint8, or (image_size_px, image_size_px, 3) in colour.

    Raises:
        UserError: by garment, if nothing stands out from the background.
    """
    if fit == "garment":
        return prepare_photo(reduce_photo(picture, background), image_size_px)
    opaque = lay_on(picture, background)
    return make_square(turn_grey(opaque) if channels == 1 else opaque, image_size_px, fit, background)


def reduce_photo(picture: Image.Image, background: int) -> np.ndarray:
    """Reduces a picture to (height, width, 3) uint8 whose longest edge is `PHOTO_SIZE_PX` at most."""
    small = picture.copy()
    small.thumbnail((PHOTO_SIZE_PX, PHOTO_SIZE_PX), Image.Resampling.LANCZOS)
    return np.asarray(lay_on(small, background))


def lay_on(picture: Image.Image, background: int) -> Image.Image:
    """Lays a picture, where it is transparent, on a grey level; returns one of mode RGB."""
    if picture.mode != "RGBA":
        return picture
    below = Image.new("RGBA", picture.size, (background, background, background, 255))
    return Image.alpha_composite(below, picture).convert("RGB")


def turn_grey(picture: Image.Image) -> Image.Image:
    """Turns a picture of mode RGB grey (ITU-R BT.601); what is grey keeps its levels."""
    return picture.convert("L")


def make_square(picture: Image.Image, size_px: int, fit: str, background: int) -> np.ndarray:
    """Makes a picture of mode L or RGB square, by a filter that averages what it reduces (Lanczos).

    Returns:
        (size_px, size_px) uint8, or (size_px, size_px, 3).
    """
    size, (width, height) = (size_px, size_px), picture.size
    if fit == "stretch":
        return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
        return np.asarray(picture.resize(size, Image.Resampling.LANCZOS, box=box))
    inner = [max(1, round(edge * size_px / max(width, height))) for edge in (width, height)]
    padded = Image.new(picture.mode, size, (background,) * len(picture.getbands()))
    place = ((size_px - inner[0]) // 2, (size_px - inner[1]) // 2)
    padded.paste(picture.resize((inner[0], inner[1]), Image.Resampling.LANCZOS), place)
    return np.asarray(padded)


def check_fit(fit: object, background: object, where: str, remedy: str) -> None:
    """Checks what the file `where` says of how its pictures become inputs; `remedy` is what to do if it is wrong.

    Raises:
        UserError: if `fit` is none of `FITS`, or `background` no grey level.
    """
    if fit not in FITS:
        raise UserError(f"{where}: expected fit as one of {', '.join(FITS)}; got {fit!r}; {remedy}")
    if not isinstance(background, int) or not 0 <= background <= 255:
        raise UserError(f"{where}: expected background as a grey level from 0 to 255; got {background!r}; {remedy}")
