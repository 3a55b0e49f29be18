import io
import os
import struct
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from stages.lib.errors import UserError
from stages.lib.sources.decode import FORMATS, read_picture
from stages.lib.sources.fit import reduce_photo
from stages.lib.sources.garment import PHOTO_SIZE_PX, find_box, measure_distance, prepare_photo, resize, sharpen

WHITE, BLACK, NAVY, RED = (255, 255, 255), (0, 0, 0), (20, 30, 90), (190, 40, 50)
T_SHIRT = [(22, 15), (26, 17), (34, 17), (38, 15), (52, 22), (48, 33), (42, 30), (42, 65), (18, 65), (18, 30), (12, 33)]
TROUSERS = [(20, 10), (40, 10), (43, 72), (33, 72), (30, 25), (27, 72), (17, 72)]


def draw(
    garment: list[tuple[int, int]], background: tuple[int, ...] = WHITE, color: tuple[int, ...] = NAVY
) -> np.ndarray:
    """Draws a garment whose corners are (x, y) in a field of 60 x 80, five times as large, with soft edges."""
    image = Image.new("RGB", (300, 400), background)
    ImageDraw.Draw(image).polygon([(5 * x, 5 * y) for x, y in garment], fill=color)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(1)))


def make_rectangle(
    size: tuple[int, int], box: tuple[int, int, int, int], background: int = 255, level: int = 0
) -> np.ndarray:
    """Makes a (height, width, 3) photo of one rectangle (top, bottom, left, right)."""
    photo = np.full((*size, 3), background, np.uint8)
    photo[box[0] : box[1], box[2] : box[3]] = level
    return photo


def make_dataset_image() -> np.ndarray:
    """Makes a 28 x 28 image as the data set has them: a garment of many levels, 20 px wide, on 0."""
    image = np.zeros((28, 28), np.uint8)
    image[:, 4:24] = np.random.default_rng(3).integers(1, 256, (28, 20))
    image[7, 9] = 255
    return image


def as_photo(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., np.newaxis], 3, axis=2)


def read_photo(path: Path) -> np.ndarray:
    """Reads a photo as it is before anything is found on it, on white."""
    return reduce_photo(read_picture(path, PHOTO_SIZE_PX), background=255)


def save(path: Path, image: Image.Image | np.ndarray, **options: Any) -> Path:
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)
    return path


def correlate(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


# Like the data set


@pytest.mark.parametrize("is_negated", [False, True])
def test_an_image_of_the_data_set_is_left_as_it_is(is_negated: bool) -> None:
    image = make_dataset_image()

    np.testing.assert_array_equal(prepare_photo(as_photo(255 - image if is_negated else image), 28), image)


def test_an_image_of_the_data_set_survives_being_blown_up_on_white() -> None:
    image = np.asarray(Image.fromarray(make_dataset_image()).filter(ImageFilter.GaussianBlur(1)))
    image = (image * (255 / image.max())).astype(np.uint8)
    large = np.full((800, 600), 255, np.uint8)
    large[100:548, 60:508] = 255 - np.asarray(Image.fromarray(image).resize((448, 448), Image.Resampling.BICUBIC))

    prepared = prepare_photo(as_photo(large)[::2, ::2], 28)

    assert correlate(prepared, image) > 0.95


@pytest.mark.parametrize("garment", [T_SHIRT, TROUSERS])
@pytest.mark.parametrize(
    ("background", "color"),
    [(WHITE, RED), (BLACK, WHITE), ((250, 242, 228), NAVY), ((128, 128, 128), WHITE), ((128, 128, 128), BLACK)],
)
def test_a_garment_looks_the_same_on_any_background(
    garment: list[tuple[int, int]], background: tuple[int, ...], color: tuple[int, ...]
) -> None:
    on_white = prepare_photo(draw(garment), 28)

    assert correlate(prepare_photo(draw(garment, background, color), 28), on_white) > 0.98


def test_trousers_are_as_tall_as_the_image_centred_and_have_two_legs() -> None:
    prepared = prepare_photo(draw(TROUSERS), 28)
    columns = np.flatnonzero(prepared.max(axis=0) > 100)

    assert (prepared.max(axis=1) > 100).all()
    assert abs(columns[0] - (27 - columns[-1])) <= 1
    assert columns[-1] - columns[0] + 1 == pytest.approx(28 * 26 / 62, abs=1)
    assert prepared[25, 13] < 30 < 100 < min(prepared[25, 9], prepared[25, 18])


def test_a_garment_of_the_same_grey_as_the_background_is_seen_by_its_colour() -> None:
    photo = make_rectangle((100, 100), (20, 80, 40, 60), background=76)
    photo[20:50, 40:60] = (254, 0, 0)  # grey 76 as well

    prepared = prepare_photo(photo, 28)

    assert prepared[2:12, 11:17].min() > 150
    assert prepared[:, :8].max() == 0


def test_sharp_edges_do_not_dim_what_is_as_dark_as_can_be() -> None:
    prepared = prepare_photo(draw(T_SHIRT, color=BLACK), 28)

    assert prepared[10:24, 11:17].min() == 255


@pytest.mark.parametrize(("background", "garment"), [(255, 55), (0, 200), (100, 255)])
def test_texture_keeps_its_contrast(background: int, garment: int) -> None:
    photo = make_rectangle((224, 224), (0, 224, 56, 168), background, garment)
    photo[112:, 56:168] = (background + garment) // 2

    prepared = prepare_photo(photo, 28).astype(float)

    assert prepared[20, 14] / prepared[8, 14] == pytest.approx(0.5, abs=0.01)


# Background and noise


def test_the_distance_from_white_is_the_negative_in_grey() -> None:
    photo = make_rectangle((9, 9), (3, 6, 3, 6))
    photo[4, 4] = (255, 0, 0)

    distance, intensity, limit = measure_distance(photo)

    assert (distance[3, 3], distance[4, 4], distance[0, 0]) == (255, 255, 0)
    assert intensity[4, 4] == pytest.approx(255 - 0.299 * 255)
    assert (intensity[3, 3], limit) == pytest.approx((255, 255))


def test_the_background_is_the_commonest_colour_of_the_frame_where_the_garment_touches_it() -> None:
    distance, _, _ = measure_distance(make_rectangle((10, 10), (2, 10, 3, 7)))

    assert (distance > 0).sum() == 8 * 4
    assert distance[9, 3] == 255


def test_noise_of_the_background_becomes_0() -> None:
    noise = np.random.default_rng(0).normal(0, 3, (200, 160, 3))
    photo = (make_rectangle((200, 160), (50, 150, 60, 100), 230, 40) + noise).round().astype(np.uint8)

    distance, _, _ = measure_distance(photo)

    assert find_box(distance) == (50, 150, 60, 100)
    assert (distance[:50] > 0).mean() < 0.01


def test_a_background_that_grows_darker_is_cut_off() -> None:
    photo = make_rectangle((200, 160), (50, 150, 60, 100), 255, 20).astype(int)
    photo[..., :] -= np.where(photo > 100, np.linspace(0, 40, 200).round().astype(int)[:, np.newaxis, np.newaxis], 0)

    assert find_box(measure_distance(photo.astype(np.uint8))[0]) == (50, 150, 60, 100)


@pytest.mark.parametrize(("difference", "left"), [(12, 2), (13, 1)])
def test_what_is_within_5_percent_of_the_background_is_cut_off(difference: int, left: int) -> None:
    photo = make_rectangle((20, 20), (2, 18, 2, 18), 255, 200)
    photo[10, 1] = 255 - difference  # the limit is 12.75

    assert find_box(measure_distance(photo)[0]) == (2, 18, left, 18)


@pytest.mark.parametrize("size", [(2, 2), (28, 28), (300, 200)])
def test_a_photo_of_one_colour_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    path = save(tmp_path / "wall.png", np.full((*size, 3), RED, np.uint8))

    with pytest.raises(UserError, match=r"^expected a garment on a plain background, found nothing that"):
        prepare_photo(read_photo(path), 28)


def test_the_smallest_garment_is_a_28th_of_the_photo() -> None:
    assert prepare_photo(make_rectangle((224, 224), (50, 58, 70, 78)), 28).shape == (28, 28)
    with pytest.raises(UserError, match=r"found only a speck of 7 x 7 of 224 x 224 pixels.*photograph it from nearer"):
        prepare_photo(make_rectangle((224, 224), (50, 57, 70, 77)), 28)


# Steps


@pytest.mark.parametrize(
    ("shape", "resized"),
    [((56, 28), (28, 14)), ((10, 20), (14, 28)), ((300, 1), (28, 1)), ((28, 28), (28, 28)), ((7, 7), (28, 28))],
)
def test_resizing_keeps_the_aspect_ratio_and_fits_the_longest_edge(
    shape: tuple[int, int], resized: tuple[int, int]
) -> None:
    result = resize(np.full(shape, 7.5), 28)

    assert result.shape == resized
    np.testing.assert_allclose(result, 7.5, rtol=1e-6)


def test_sharpening_spreads_a_point_as_the_kernel_of_imagemagick() -> None:
    # 3 x 3 Gaussian of deviation 1: 1, e^-0.5, e^-1; sum 4.8976. Centre 2 x 4.8976, all divided by 4.8976 + 1.
    point = np.zeros((5, 5))
    point[2, 2] = 1

    np.testing.assert_allclose(
        sharpen(point)[1:4, 1:4],
        [[-0.06238, -0.10284, -0.06238], [-0.10284, 1.66088, -0.10284], [-0.06238, -0.10284, -0.06238]],
        atol=1e-5,
    )


# Files


@pytest.mark.parametrize("suffix", ["avif", "bmp", "gif", "jpg", "png", "ppm", "tiff", "webp"])
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    photo = draw(T_SHIRT)[::2, ::2]

    read = read_photo(save(tmp_path / f"x.{suffix}", photo))

    assert read.dtype == np.uint8
    assert read.shape == photo.shape
    assert np.abs(read.astype(int) - photo).mean() < 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "I", "F"])
def test_every_mode_gives_the_same_picture(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(draw(T_SHIRT, color=BLACK)).convert("L")
    image = grey.convert("P").convert("PA") if mode == "PA" else grey.convert(mode)
    path = save(tmp_path / ("x.png" if mode in ("1", "LA", "P", "RGBA") else "x.tiff"), image)

    assert correlate(prepare_photo(read_photo(path), 28), prepare_photo(np.asarray(grey.convert("RGB")), 28)) > 0.99


def test_16_bits_are_scaled_by_their_range(tmp_path: Path) -> None:
    levels = np.full((10, 10), 65535, np.uint16)
    levels[5] = 32768

    assert np.unique(read_photo(save(tmp_path / "x.png", levels))).tolist() == [128, 255]


def test_16_bits_take_little_more_memory_than_their_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", np.full((1000, 1000), 65535, np.uint16))

    tracemalloc.start()
    try:
        read_photo(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak_bytes < 12 * 1000 * 1000


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    if mode == "P":
        image = Image.new("P", (6, 6), 1)
        image.putpalette([9, 9, 9, 0, 0, 0])
        image.putpixel((0, 0), 0)
        path = save(tmp_path / "x.png", image, transparency=1)
    else:
        image = Image.new(mode, (6, 6), 0)
        image.putpixel((0, 0), (9, 9, 9, 255)[-len(mode) :])
        path = save(tmp_path / "x.png", image)

    photo = read_photo(path)

    assert (photo[0, 0].tolist(), photo[3, 3].tolist()) == ([9, 9, 9], [255, 255, 255])


@pytest.mark.parametrize(("orientation", "dark"), [(1, (0, 0)), (3, (-1, -1)), (6, (0, -1)), (8, (-1, 0))])
def test_a_photo_is_turned_as_the_camera_was(tmp_path: Path, orientation: int, dark: tuple[int, int]) -> None:
    photo = make_rectangle((40, 80), (0, 10, 0, 10))
    exif = Image.Exif()
    exif[0x0112] = orientation

    read = read_photo(save(tmp_path / "x.jpg", photo, exif=exif))

    assert read.shape == ((80, 40, 3) if orientation > 4 else (40, 80, 3))
    assert read[dark].max() < 30


def make_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", checksum)


def make_segment(marker: bytes, content: bytes) -> bytes:
    return b"\xff" + marker + struct.pack(">H", 2 + len(content)) + content


def make_exif(kind: int, value: bytes) -> bytes:
    """Makes EXIF that turns a photo by a quarter to the right, and has a resolution of a kind that is not its own."""
    entries = struct.pack("<HHHLHH", 2, 0x112, 3, 1, 6, 0) + struct.pack("<HHLL", 0x11A, kind, 1, 38)
    return b"II*\0\x08\0\0\0" + entries + b"\0\0\0\0" + value


DOUBLE, SIGNED, TEXT = (12, struct.pack("<d", float("nan"))), (10, struct.pack("<ll", -1, 0)), (2, b"72 dpi\0\0")
PNG_METADATA = [
    make_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2_000_000))),
    make_chunk(b"tEXt", b"Comment\0some")[:-1] + b"?",
    make_chunk(b"gAMA", b"\0"),
    make_chunk(b"fcTL", b""),
]
JPEG_METADATA = [make_segment(marker, content) for marker, content in ((b"\xe0", b"JFIF"), (b"\xe2", b"MPF\0II"))]


@pytest.mark.parametrize(("kind", "value"), [DOUBLE, SIGNED, TEXT])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_photo_is_turned_whatever_else_its_exif_holds(tmp_path: Path, kind: int, value: bytes, suffix: str) -> None:
    photo = make_rectangle((40, 80), (0, 10, 0, 10))
    path = save(tmp_path / f"x.{suffix}", photo, exif=b"Exif\0\0" + make_exif(kind, value))

    read = read_photo(path)

    assert read.shape == (80, 40, 3)
    assert read[0, -1].max() < 30


@pytest.mark.parametrize("place", [33, -12], ids=["before the pixels", "after the pixels"])
@pytest.mark.parametrize("metadata", PNG_METADATA, ids=["long", "bad checksum", "short", "no animation"])
def test_metadata_of_a_png_do_not_decide(tmp_path: Path, metadata: bytes, place: int) -> None:
    photo = make_rectangle((40, 80), (0, 10, 0, 10))
    content = encode(photo, "PNG")
    turn = make_chunk(b"eXIf", make_exif(*TEXT))
    path = tmp_path / "x.png"
    path.write_bytes(content[:33] + turn + content[33:place] + metadata + content[place:])

    np.testing.assert_array_equal(read_photo(path), np.rot90(photo, -1))


def make_tiff(*tags: tuple[int, int, int, bytes]) -> bytes:
    """Makes a TIFF of `make_rectangle` that turns it by a quarter, with more tags: number, kind, count, value."""
    pixels, size = make_rectangle((40, 80), (0, 10, 0, 10)), struct.Struct("<HHL4s")
    known = {256: 80, 257: 40, 258: 0, 259: 1, 262: 2, 273: 0, 274: 6, 277: 3, 278: 40, 279: pixels.nbytes}
    end = 10 + size.size * (len(known) + len(tags)) + 4
    known |= {258: end, 273: end + 6}
    entries = [(tag, 3, 3 if tag == 258 else 1, struct.pack("<L", value)) for tag, value in known.items()]
    directory = b"".join(size.pack(*entry) for entry in sorted([*entries, *tags]))
    head = b"II*\0" + struct.pack("<LH", 8, len(entries) + len(tags))
    return head + directory + bytes(4) + struct.pack("<3H", 8, 8, 8) + pixels.tobytes()


FAR = b"\xff\xff\xff\x7f"


@pytest.mark.parametrize(
    "tag",
    [(700, 4, 1, FAR), (700, 2, 4, b"xmp\0"), (270, 3, 4, FAR), (255, 1, 100_000_000, FAR), (34665, 6, 1, FAR)],
    ids=["XMP as a number", "XMP as text", "beyond the end", "longer than the file", "EXIF before the start"],
)
def test_metadata_of_a_tiff_do_not_decide(tmp_path: Path, tag: tuple[int, int, int, bytes]) -> None:
    sound, odd = tmp_path / "sound.tiff", tmp_path / "odd.tiff"
    sound.write_bytes(make_tiff())
    odd.write_bytes(make_tiff(tag))

    np.testing.assert_array_equal(read_photo(odd), read_photo(sound))
    assert read_photo(odd).shape == (80, 40, 3)


@pytest.mark.parametrize("exif", [make_exif(*DOUBLE), make_exif(*SIGNED), make_exif(*TEXT), b"no EXIF at all"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_metadata_of_an_avif_do_not_decide(tmp_path: Path, exif: bytes, orientation: int) -> None:
    sound = Image.Exif()
    sound[0x010E], sound[0x0112] = 80 * "x", orientation
    path = save(tmp_path / "x.avif", make_rectangle((40, 80), (0, 10, 0, 10)), exif=sound.tobytes())
    expected, content = read_photo(path), path.read_bytes()
    start = content.index(b"MM\0*")
    path.write_bytes(content[:start] + exif + content[start + len(exif) :])

    np.testing.assert_array_equal(read_photo(path), expected)
    assert expected.shape == ((80, 40, 3) if orientation == 6 else (40, 80, 3))


@pytest.mark.parametrize("metadata", [*JPEG_METADATA, make_segment(b"\xe1", b"Exif\0\0no EXIF at all")])
def test_metadata_of_a_jpeg_do_not_decide(tmp_path: Path, metadata: bytes) -> None:
    content = encode(make_rectangle((40, 80), (0, 10, 0, 10)), "JPEG")
    sound, odd = tmp_path / "sound.jpg", tmp_path / "odd.jpg"
    sound.write_bytes(content)
    odd.write_bytes(content[:2] + metadata + content[2:])

    np.testing.assert_array_equal(read_photo(odd), read_photo(sound))


@pytest.mark.parametrize(
    ("color", "bits", "levels"), [(0, 16, (1000,)), (2, 16, (1000, 2000, 3000)), (2, 8, (9, 8, 7)), (0, 8, (9,))]
)
def test_the_transparent_colour_of_a_png_is_white(
    tmp_path: Path, color: int, bits: int, levels: tuple[int, ...]
) -> None:
    row = b"\0" + b"".join(level.to_bytes(bits // 8) for level in (0,) * len(levels) + 2 * levels)
    chunks = {
        b"IHDR": struct.pack(">LLBBBBB", 3, 2, bits, color, 0, 0, 0),
        b"tRNS": b"".join(level.to_bytes(2) for level in levels),
        b"IDAT": zlib.compress(2 * row),
        b"IEND": b"",
    }
    path = tmp_path / "x.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(make_chunk(*chunk) for chunk in chunks.items()))

    assert read_photo(path)[:, :, 0].tolist() == 2 * [[0, 255, 255]]


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), level) for level in (40, 200)]
    path = save(tmp_path / "x.gif", frames[0], save_all=True, append_images=frames[1:])

    assert np.unique(read_photo(path)).tolist() == [40]


@pytest.mark.parametrize(("size", "read"), [((2000, 500), (56, 224)), ((500, 3000), (224, 37)), ((30, 20), (20, 30))])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_large_photo_is_reduced_to_a_longest_edge_of_224(
    tmp_path: Path, size: tuple[int, int], read: tuple[int, int], suffix: str
) -> None:
    assert read_photo(save(tmp_path / f"x.{suffix}", Image.new("RGB", size))).shape == (*read, 3)


def test_a_large_jpeg_takes_less_time_than_to_unpack_it(tmp_path: Path) -> None:
    path = save(tmp_path / "x.jpg", Image.fromarray(draw(T_SHIRT)).resize((4500, 6000)))
    started = time.process_time()
    with Image.open(path) as image:
        image.load()
    unpacked = time.process_time()

    read_photo(path)

    assert time.process_time() - unpacked < (unpacked - started) / 1.5


def encode(photo: np.ndarray, name: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo).save(file, name)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "found an empty file"),
        (b"no picture", "found another file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "found another file"),
        (encode(draw(T_SHIRT), "PNG")[:500], "found a damaged one ("),
        (encode(draw(T_SHIRT), "JPEG")[:900], "found a damaged one ("),
        (encode(draw(T_SHIRT), "WEBP")[:300], "found "),
        (
            encode(np.full((4, 4), np.nan, np.float32), "TIFF"),
            "found a damaged one (levels that are no finite",
        ),
    ],
    ids=["empty", "text", "program", "png", "jpeg", "webp", "no numbers"],
)
def test_a_file_that_is_no_whole_image_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)

    with pytest.raises(UserError) as caught:
        prepare_photo(read_photo(path), 28)

    assert str(caught.value).startswith(f"expected an image in one of {', '.join(FORMATS)}, {found}")
    assert str(caught.value).endswith("; give a photo saved as one of them")


def test_damage_anywhere_is_refused_or_read_and_never_a_fault(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "x"
    for name in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        content = encode(draw(T_SHIRT)[::4, ::4], name)
        for _ in range(40):
            damaged = bytearray(content)
            for index in rng.integers(0, min(len(content), 400), 3):
                damaged[index] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                assert prepare_photo(read_photo(path), 28).shape == (28, 28)
            except UserError as error:
                assert str(error).startswith("expected ")


def test_what_is_no_file_or_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(Image, "open", refuse)

    for name, found in {
        "missing": "No such file or directory; expected a photo there",
        ".": "expected an image in one of .*, found a folder; give a photo",
        "file/below": "Not a directory; expected",
        "pipe": "expected an image in one of .*, found no regular file; give a photo",
        "file": "Permission denied; expected a photo there: check its path, and that it may be read",
    }.items():
        with pytest.raises(UserError, match=f"^{found}"):
            read_photo(tmp_path / name)


def refuse(*_: Any, **__: Any) -> None:
    raise PermissionError(13, "Permission denied")  # not by its mode: the superuser may read all


@pytest.mark.parametrize("error", [MemoryError(), OSError("out of memory error when reading image file")])
def test_short_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    path = save(tmp_path / "x.png", draw(T_SHIRT))
    monkeypatch.setattr(Image.Image, "convert", fail)

    with pytest.raises(UserError, match=r"^memory is short to unpack it; make the photo smaller, or free"):
        read_photo(path)


def test_a_file_that_unpacks_to_too_much_is_refused_and_a_large_one_gives_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, too_large = (save(tmp_path / f"{rows}.png", Image.new("1", (30, rows))) for rows in (20, 21))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 314)

    assert read_photo(large).shape == (20, 30, 3)  # a warning would be an error here
    with pytest.raises(UserError, match=r"^expected at most 628 pixels, found more; make the photo smaller"):
        read_photo(too_large)
