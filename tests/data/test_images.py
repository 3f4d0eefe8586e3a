"""A zoo of pictures: right pixels for the good, one DataError for each of the bad."""

import hashlib
import io
import os
import random
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rlhf.data import images
from rlhf.data.images import load_image, picture_digest
from rlhf.errors import DataError

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255,) * 3, (0,) * 3
ORIENTATION = 0x0112


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def pixels(image: Image.Image) -> list[tuple[int, ...]]:
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


def reason(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_image(path)
    assert caught.value.where == str(path) and caught.value.fix
    return caught.value.what


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = png_chunk(b"IDAT", zlib.compress(rows))
    end = png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + b"".join(extra) + data + end


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "seen"),
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
    tmp_path: Path, mode: str, colour: object, suffix: str, seen: tuple[int, ...]
) -> None:
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"x.{suffix}", Image.new(mode, (3, 2), colour), **options)
    image = load_image(path)
    assert (image.mode, image.size, type(image)) == ("RGB", (3, 2), Image.Image)
    assert pixels(image) == [seen] * 6


def test_lossy_formats_are_near(tmp_path: Path) -> None:
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


def test_palette_with_alpha(tmp_path: Path) -> None:
    image = Image.new("PA", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((0, 0), (0, 255))
    image.putpixel((1, 0), (1, 0))
    assert pixels(images._rgb(image)) == [RED, WHITE]


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


# Where the stored top-left pixel of a 3 x 2 picture belongs, and the upright size (EXIF 2.3).
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
    options = {"tiffinfo": {ORIENTATION: orientation}} if suffix == "tif" else {"exif": exif}
    upright = load_image(saved(tmp_path / f"x.{suffix}", image, **options))
    assert upright.size == size
    width, height = size
    corners = [(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)]
    assert [at for at in corners if upright.getpixel(at)[0] > 128] == [corner]
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
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"x.{suffix}"
    first.save(path, save_all=True, append_images=[second], **options)
    assert load_image(path).getpixel((0, 0)) == RED


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    page = tmp_path / "page.png"
    page.write_text("<!DOCTYPE html><html><body>404</body></html>")
    assert "not JPEG or PNG" in reason(page) and "BytesIO" not in reason(page)
    (tmp_path / "empty.png").touch()
    assert "not JPEG" in reason(tmp_path / "empty.png")
    assert "not JPEG" in reason(saved(tmp_path / "other.ppm", Image.new("RGB", (2, 2))))
    os.mkfifo(tmp_path / "fifo.png")
    assert "not a regular file" in reason(tmp_path / "fifo.png")
    assert "not a regular file" in reason(tmp_path)
    assert "not a regular file" in reason(Path("/dev/zero"))
    assert "No such file" in reason(tmp_path / "none.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert "cannot be read" in reason(tmp_path / "loop.png")
    assert "null" in reason(Path("a\0.png"))


def test_32_bit_grey_has_no_known_white(tmp_path: Path) -> None:
    for mode in ("I", "F"):
        assert "32-bit grey" in reason(saved(tmp_path / "x.tif", Image.new(mode, (2, 2), 1)))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tif"])
def test_truncation_is_refused_and_never_grey(tmp_path: Path, suffix: str) -> None:
    noise = random.Random(0).randbytes(64 * 64 * 3)
    path = saved(tmp_path / f"x.{suffix}", Image.frombytes("RGB", (64, 64), noise))
    data = path.read_bytes()
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        assert "cannot be read" in reason(path)


def test_bomb_headers_are_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", never)
    path = tmp_path / "x.png"
    for width, height, said in [
        (6400, 6251, "megapixels"),  # 40.0064 million
        (10_000, 9_000, "megapixels"),  # only a warning in Pillow
        (60_000, 60_000, "cannot be read"),  # an error in Pillow, not an OSError
        (1, 65535, "longer than 20:1"),
        (2101, 100, "longer than 20:1"),
        (0, 5, "cannot be read"),
    ]:
        path.write_bytes(png(width, height, 8, 2, b""))
        assert said in reason(path)
    path.write_bytes(png(2000, 100, 8, 2, b""))
    with pytest.raises(AssertionError):
        load_image(path)


def test_limits_include_their_own_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "x.png", Image.new("RGB", (20, 1), RED))
    size = path.stat().st_size
    monkeypatch.setattr(images, "MAX_BYTES", size)
    monkeypatch.setattr(images, "MAX_PIXELS", 20)
    assert load_image(path).size == (20, 1)
    monkeypatch.setattr(images, "MAX_PIXELS", 19)
    assert "megapixels" in reason(path)
    monkeypatch.setattr(images, "MAX_BYTES", size - 1)
    assert "over 0 MB" in reason(path)
    with pytest.raises(DataError, match="over 0 MB"):
        picture_digest(path)


def test_no_warning_leaks_and_the_filters_stay(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(10_000, 9_000, 8, 2, b""))  # Pillow warns of its size
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool:
            assert all("megapixels" in said for said in pool.map(reason, [path] * 64))
        assert warnings.filters == before


def test_one_thread_at_a_time_changes_the_filters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []
    monkeypatch.setattr(images, "_decoded", lambda data: held.append(images._quiet.locked()))
    load_image(saved(tmp_path / "x.png", Image.new("L", (2, 2))))
    assert held == [True] and not images._quiet.locked()


def test_broken_exif_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.webp", Image.new("RGB", (4, 4)), exif=b"no header at all")
    assert "cannot be read" in reason(path)


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    first = saved(tmp_path / "a.png", Image.new("RGB", (2, 2), RED))
    (tmp_path / "b.dat").write_bytes(first.read_bytes())
    assert picture_digest(first) == hashlib.sha256(first.read_bytes()).hexdigest()
    assert picture_digest(tmp_path / "b.dat") == picture_digest(first)
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, example B.1
    assert picture_digest(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223b00361a3")
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError):
            picture_digest(path)


def test_mutated_files_raise_nothing_else(tmp_path: Path) -> None:
    rng, seeds = random.Random(0), []
    source = Image.effect_mandelbrot((40, 30), (-2, -1.5, 1, 1.5), 50)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for mode, name in [("RGB", "JPEG"), ("P", "PNG"), ("RGBA", "WEBP"), ("L", "BMP"), ("P", "GIF")]:
        buffer = io.BytesIO()
        source.convert(mode).save(buffer, name, **({"exif": exif} if name != "BMP" else {}))
        seeds.append(buffer.getvalue())
    buffer = io.BytesIO()
    source.convert("RGB").save(buffer, "TIFF")
    seeds.append(buffer.getvalue())
    path = tmp_path / "x"
    refused = 0
    for _ in range(600):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice([1, 2, 10])):
            at = rng.randrange(min(len(data), rng.choice([60, 400, 10**6])))
            data[at : at + rng.choice([0, 1, 4])] = rng.randbytes(rng.choice([0, 1, 4]))
        path.write_bytes(data)
        try:
            assert load_image(path).mode == "RGB"
        except DataError:
            refused += 1
    assert 100 < refused < 600
