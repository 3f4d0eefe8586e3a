"""Images of every mode and format are read upright, on white, with the right pixels."""

import hashlib
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rlhf.data import images
from rlhf.data.images import image_digest, image_size, load_image
from rlhf.errors import DataError
from tests.support.image_files import (
    BLACK,
    BLUE,
    GREEN,
    ORIENTATION,
    RED,
    WHITE,
    pixels,
    png,
    png_chunk,
    reason,
    saved,
)


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("1", 1, "png", WHITE),
        ("1", 0, "tif", BLACK),
        ("L", 77, "png", (77, 77, 77)),
        ("L", 77, "bmp", (77, 77, 77)),
        ("LA", (0, 0), "png", WHITE),
        ("LA", (0, 128), "png", (127, 127, 127)),
        ("LA", (200, 255), "tif", (200, 200, 200)),
        ("RGB", (1, 2, 3), "png", (1, 2, 3)),
        ("RGB", (1, 2, 3), "bmp", (1, 2, 3)),
        ("RGB", (1, 2, 3), "tif", (1, 2, 3)),
        ("RGB", RED, "gif", RED),
        ("RGBA", (255, 0, 0, 255), "png", RED),
        ("RGBA", (255, 0, 0, 0), "png", WHITE),
        ("RGBA", (0, 0, 0, 128), "png", (127, 127, 127)),
        ("RGBA", (0, 0, 255, 51), "webp", (204, 204, 255)),
        ("RGBA", (0, 0, 0, 0), "gif", WHITE),
        ("CMYK", (0, 255, 255, 0), "tif", RED),
        ("I;16", 65535, "png", WHITE),
        ("I;16", 257 * 9, "png", (9, 9, 9)),
        ("I;16", 257 * 9 + 128, "png", (9, 9, 9)),
        ("I;16", 257 * 9 + 129, "tif", (10, 10, 10)),
        ("I;16B", 30000, "tif", (117, 117, 117)),
    ],
)
def test_one_colour_of_every_mode(
    tmp_path: Path, mode: str, colour: object, suffix: str, expected: tuple[int, ...]
) -> None:
    options: dict[str, Any] = {"lossless": True, "exact": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"x.{suffix}", Image.new(mode, (3, 2), colour), **options)  # type: ignore[arg-type]
    image = load_image(path)
    assert (image.mode, image.size, type(image)) == ("RGB", (3, 2), Image.Image)
    assert pixels(image) == [expected] * 6


def test_lossy_formats_give_nearly_the_colour(tmp_path: Path) -> None:
    for name, mode, colour in [("a.jpg", "RGB", RED), ("b.jpg", "CMYK", (0, 255, 255, 0))]:
        path = saved(tmp_path / name, Image.new(mode, (16, 16), colour), quality=95)
        assert np.abs(np.asarray(load_image(path), int) - RED).max() <= 6


def test_palette_transparency_goes_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for x in range(3):
        image.putpixel((x, 0), x)
    path = saved(tmp_path / "a.png", image)
    assert pixels(load_image(path)) == [RED, GREEN, BLUE]
    path = saved(tmp_path / "b.png", image, transparency=1)
    assert pixels(load_image(path)) == [RED, WHITE, BLUE]
    path = saved(tmp_path / "c.png", image, transparency=bytes([255, 0, 51]))
    assert pixels(load_image(path)) == [RED, WHITE, (204, 204, 255)]
    path = saved(tmp_path / "d.gif", image, transparency=2)
    assert pixels(load_image(path)) == [RED, GREEN, WHITE]


def test_an_image_of_many_rows_is_whole(tmp_path: Path) -> None:
    """Alpha is composited 512 rows at a time: here two times and 76 rows."""
    image = Image.new("RGBA", (60, 1100), (255, 0, 0, 0))
    image.paste((*BLUE, 255), (0, 1024, 60, 1100))
    upright = load_image(saved(tmp_path / "x.png", image))
    rows = [upright.getpixel((30, y)) for y in (0, 511, 512, 1023, 1024, 1099)]
    assert rows == [WHITE] * 4 + [BLUE] * 2


def test_palette_with_alpha(tmp_path: Path) -> None:
    image = Image.new("PA", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((0, 0), (0, 255))
    image.putpixel((1, 0), (1, 0))
    assert pixels(images._to_rgb(image)) == [RED, WHITE]


def test_colour_key_transparency(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    key = png_chunk(b"tRNS", struct.pack(">HHH", 0, 255, 0))
    path.write_bytes(png(2, 1, 8, 2, b"\0" + bytes(RED) + bytes(GREEN), key))
    assert pixels(load_image(path)) == [RED, WHITE]
    key = png_chunk(b"tRNS", struct.pack(">H", 7))
    path.write_bytes(png(2, 1, 8, 0, b"\0" + bytes([7, 8]), key))
    assert pixels(load_image(path)) == [WHITE, (8, 8, 8)]
    key = png_chunk(b"tRNS", struct.pack(">H", 514))
    path.write_bytes(png(2, 1, 16, 0, b"\0" + struct.pack(">HH", 514, 515), key))
    assert pixels(load_image(path)) == [WHITE, (2, 2, 2)]


# Where the stored top-left pixel of a 3 x 2 image belongs, and the upright size (EXIF 2.3).
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize(
    ("orientation", "corner", "size"),
    [
        (1, (0, 0), (48, 32)),
        (2, (47, 0), (48, 32)),
        (3, (47, 31), (48, 32)),
        (4, (0, 31), (48, 32)),
        (5, (0, 0), (32, 48)),
        (6, (31, 0), (32, 48)),
        (7, (31, 47), (32, 48)),
        (8, (0, 47), (32, 48)),
        (9, (0, 0), (48, 32)),
    ],
)
def test_exif_orientation(
    tmp_path: Path, suffix: str, orientation: int, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    image = Image.new("RGB", (48, 32), BLACK)
    image.paste(RED, (0, 0, 16, 16))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options: dict[str, Any] = (
        {"tiffinfo": {ORIENTATION: orientation}} if suffix == "tif" else {"exif": exif}
    )
    upright = load_image(path := saved(tmp_path / f"x.{suffix}", image, **options))
    assert upright.size == size
    assert image_size(path) == size[::-1]
    width, height = size
    corners = [(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)]
    assert [at for at in corners if upright.getpixel(at)[0] > 128] == [corner]  # type: ignore[index]
    assert upright.getexif().get(ORIENTATION) is None  # no later reader turns it again


def test_orientations_5_and_7_are_mirrored(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1))
    image.putdata([RED, GREEN])
    for orientation, column in [(5, [RED, GREEN]), (6, [RED, GREEN]), (7, [GREEN, RED])]:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        upright = load_image(saved(tmp_path / "x.png", image, exif=exif))
        assert (upright.size, pixels(upright)) == ((1, 2), column)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_first_frame_only(tmp_path: Path, suffix: str) -> None:
    first, second = Image.new("RGB", (4, 4), RED), Image.new("RGB", (4, 4), BLUE)
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"x.{suffix}"
    first.save(path, save_all=True, append_images=[second], **options)
    assert load_image(path).getpixel((0, 0)) == RED


def test_32_bit_grey_has_no_known_white(tmp_path: Path) -> None:
    for mode in ("I", "F"):
        assert "32-bit grey" in reason(saved(tmp_path / "x.tif", Image.new(mode, (2, 2), 1)))


def test_no_warning_leaks_and_the_filters_stay(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(10_000, 9_000, 8, 2, b""))  # Pillow warns of its size
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool:
            assert all("megapixels" in message for message in pool.map(reason, [path] * 64))
        assert warnings.filters == before


def test_one_thread_at_a_time_changes_the_filters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_states = []
    monkeypatch.setattr(
        images, "_decode", lambda data: lock_states.append(images._warnings_lock.locked())
    )
    load_image(saved(tmp_path / "x.png", Image.new("L", (2, 2))))
    assert lock_states == [True] and not images._warnings_lock.locked()


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    first = saved(tmp_path / "a.png", Image.new("RGB", (2, 2), RED))
    (tmp_path / "b.dat").write_bytes(first.read_bytes())
    assert image_digest(first) == hashlib.sha256(first.read_bytes()).hexdigest()
    assert image_digest(tmp_path / "b.dat") == image_digest(first)
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, example B.1
    assert image_digest(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223b00361a3")
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError):
            image_digest(path)
