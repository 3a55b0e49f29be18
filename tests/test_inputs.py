"""Every kind of picture becomes the input that its eye would expect, the same in training and in predict."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from drawn import draw, fill, save
from PIL import Image

from stages.lib.errors import UserError
from stages.lib.sources.decode import decode_picture, read_picture
from stages.lib.sources.fit import FITS, check_fit, find_enough_px, prepare_picture

HALVES = np.zeros((8, 16), np.uint8)
HALVES[:, 8:] = 200
"""Left black, right light grey; twice as wide as high."""


def prepare(path: Path, size: int = 8, fit: str = "stretch", background: int = 0, channels: int = 1) -> np.ndarray:
    return prepare_picture(read_picture(path, find_enough_px(size, fit)), size, channels, fit, background)


# Formats


@pytest.mark.parametrize(
    "suffix", ["avif", "bmp", "gif", "jpg", "jpeg", "png", "pgm", "ppm", "pnm", "tif", "tiff", "webp", "PNG", "JPG"]
)
def test_every_format_in_any_case_gives_the_same_picture(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(HALVES), **({"lossless": True} if suffix == "webp" else {}))

    levels = prepare(path, fit="stretch").astype(int)

    assert (levels[:, :3].max() < 25, levels[:, 5:].min() > 175) == (True, True)


def test_a_grey_picture_of_the_right_size_is_left_as_it_is(tmp_path: Path) -> None:
    for name, mode in (("a.png", "L"), ("b.bmp", "RGB"), ("c.tiff", "L"), ("d.png", "RGBA"), ("e.png", "LA")):
        path = save(tmp_path / name, draw(3).convert(mode))
        for fit in ("pad", "crop", "stretch"):
            np.testing.assert_array_equal(prepare(path, 12, fit, background=77), np.asarray(draw(3)))


def test_a_picture_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it to the right
    path = save(tmp_path / "a.png", Image.fromarray(HALVES), exif=exif)

    levels = prepare(path, 8)

    assert (levels[:3].max() < 40, levels[-3:].min() > 160) == (True, True)


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bits_are_scaled_and_do_not_saturate_whatever_levels_occur(tmp_path: Path, suffix: str) -> None:
    levels = np.full((8, 8), 20_000, np.uint16)
    levels[4:] = 30_000
    path = tmp_path / f"a.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 8 8 65535\n" + levels.astype(">u2").tobytes())
    else:
        save(path, Image.fromarray(levels))

    assert sorted({int(level) for level in prepare(path)[[0, -1]].ravel()}) == [78, 117]  # of 255


def test_a_palette_is_looked_up_and_what_is_transparent_in_it_is_background(tmp_path: Path) -> None:
    image = Image.fromarray((HALVES > 0).astype(np.uint8), "P")
    image.putpalette([120, 120, 120, 9, 9, 9])
    solid = save(tmp_path / "solid.png", image)
    clear = save(tmp_path / "clear.png", image, transparency=1)

    assert prepare(solid)[0, [0, -1]].tolist() == [120, 9]
    assert prepare(clear, background=200)[0, [0, -1]].tolist() == [120, 200]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("background", [0, 90, 255])
def test_what_is_transparent_lies_on_the_background(tmp_path: Path, mode: str, background: int) -> None:
    image = Image.fromarray(HALVES).convert(mode)
    image.putalpha(Image.fromarray(np.where(HALVES > 0, 255, 0).astype(np.uint8)))
    path = save(tmp_path / "a.png", image)

    assert prepare(path, background=background)[0, [0, -1]].tolist() == [background, 200]


def test_half_transparent_is_half_background(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.new("LA", (4, 4), (200, 51)))

    assert prepare(path, 4, background=100)[0, 0] == pytest.approx(120, abs=1)


def test_the_transparent_level_of_a_grey_png_of_16_bits_lies_on_the_background(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))

    row = b"\0" + struct.pack(">2H", 1000, 51400)
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">LLBBBBB", 2, 2, 16, 0, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(">H", 1000))
        + chunk(b"IDAT", zlib.compress(2 * row))
        + chunk(b"IEND", b"")
    )

    assert prepare(path, 2, background=70).tolist() == 2 * [[70, 200]]


def test_cmyk_keeps_light_and_dark(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(HALVES).convert("RGB").convert("CMYK"), quality=100)

    levels = prepare(path).astype(int)

    assert (levels[:, :2].max() < 25, abs(levels[:, -2:] - 200).max() < 25) == (True, True)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_the_first_frame_counts(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), (level,) * 3) for level in (40, 200)]
    path = save(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:])

    assert prepare(path)[4, 4] == pytest.approx(40, abs=3)


def test_colours_turn_grey_by_how_bright_they_are(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.new("RGB", (4, 4), (255, 0, 0)))

    assert prepare(path, 4)[0, 0] == 76  # 0.299 * 255


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_colours_are_kept_where_there_are_three_channels(tmp_path: Path, fit: str) -> None:
    path = save(tmp_path / "a.png", Image.new("RGB", (8, 4), (255, 10, 0)))

    inputs = prepare(path, 4, fit, background=7, channels=3)

    assert inputs.shape == (4, 4, 3)
    assert inputs[2, 2].tolist() == [255, 10, 0]
    assert inputs[0, 0].tolist() == ([7, 7, 7] if fit == "pad" else [255, 10, 0])


# Shape


def test_pad_keeps_all_of_it_in_its_shape_in_the_middle_of_the_background(tmp_path: Path) -> None:
    levels = prepare(save(tmp_path / "a.png", Image.fromarray(HALVES)), 16, "pad", background=9)

    np.testing.assert_array_equal(levels[4:12], HALVES)
    assert {*levels[:4].ravel().tolist(), *levels[12:].ravel().tolist()} == {9}


def test_crop_keeps_the_middle_and_its_shape(tmp_path: Path) -> None:
    picture = np.tile(np.arange(16, dtype=np.uint8) * 10, (8, 1))

    levels = prepare(save(tmp_path / "a.png", Image.fromarray(picture)), 8, "crop")

    np.testing.assert_array_equal(levels, picture[:, 4:12])


def test_stretch_keeps_all_of_it(tmp_path: Path) -> None:
    levels = prepare(save(tmp_path / "a.png", Image.fromarray(HALVES)), 8, "stretch").astype(int)

    assert (levels[:, :3].max() < 20, abs(levels[:, 5:] - 200).max() < 20) == (True, True)


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_fine_stripes_average_and_leave_no_pattern(tmp_path: Path, fit: str, suffix: str) -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (400, 200))
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(stripes))

    assert np.ptp(prepare(path, 24, fit)[2:-2, 2:-2].astype(int)) < 12


@pytest.mark.parametrize("size", [(700, 3), (3, 700), (2, 2), (28, 29)])
@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_pictures_of_any_shape_become_square(tmp_path: Path, fit: str, size: tuple[int, int]) -> None:
    levels = prepare(save(tmp_path / "a.png", Image.new("L", size, 50)), 28, fit, background=50)

    assert (levels.shape, str(levels.dtype), {*levels.ravel().tolist()}) == ((28, 28), "uint8", {50})


def test_garment_lays_transparent_photos_on_the_background(tmp_path: Path) -> None:
    image = Image.new("LA", (60, 60), (0, 0))
    image.paste((200, 255), (20, 10, 40, 50))
    path = save(tmp_path / "a.png", image)

    on_black, on_white = (prepare(path, 28, "garment", background) for background in (0, 255))

    assert on_black[14, 14] == on_white[14, 14] == 255
    assert on_black[14, 0] == on_white[14, 0] == 0


@pytest.mark.parametrize(
    ("fit", "background", "message"),
    [
        ("padd", 0, "expected fit as one of pad, crop, stretch, garment; got 'padd'; mend"),
        ("pad", 256, "got 256; mend"),
    ],
)
def test_a_file_that_says_nonsense_of_its_inputs_is_refused(fit: str, background: int, message: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.json: .*{message}"):
        check_fit(fit, background, "model.json", "mend it")
    for sound in FITS:
        check_fit(sound, 255, "model.json", "mend it")


def test_pictures_are_decoded_as_rgb_and_with_an_alpha_only_where_they_have_one(tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    clear = save(tmp_path / "b.png", Image.new("LA", (4, 4), (9, 0)))

    assert read_picture(tmp_path / "a.png", 8).mode == "RGB"
    with clear.open("rb") as file:
        assert decode_picture(file, 8).mode == "RGBA"
