"""Unusual and malicious image files are read right or refused, fast, in little memory."""

import io
import os
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rlhf.data import images
from rlhf.data.images import image_digest, load_image
from rlhf.errors import DataError
from tests.support.image_files import (
    ORIENTATION,
    RED,
    WHITE,
    bmp_rle8,
    pixels,
    png,
    png_chunk,
    reason,
    saved,
    tiff,
)


def test_files_that_are_no_images(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tif", "avif"])
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
    def fail_if_decoded(self: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail_if_decoded)
    path = tmp_path / "x.png"
    for width, height, message in [
        (6400, 6251, "megapixels"),  # 40.0064 million
        (10_000, 9_000, "megapixels"),  # only a warning in Pillow
        (60_000, 60_000, "cannot be read"),  # an error in Pillow, not an OSError
        (1, 65535, "longer than 20:1"),
        (2101, 100, "longer than 20:1"),
        (0, 5, "cannot be read"),
    ]:
        path.write_bytes(png(width, height, 8, 2, b""))
        assert message in reason(path)
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
        image_digest(path)


def test_broken_exif_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.webp", Image.new("RGB", (4, 4)), exif=b"no header at all")
    assert "cannot be read" in reason(path)


def encoded(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def claiming(data: bytes, size: tuple[int, int], at: int, size_format: str) -> bytes:
    """The file with another width and height in its header."""
    numbers = struct.pack(size_format, *size)
    return data[:at] + numbers + data[at + len(numbers) :]


def huge(name: str) -> bytes:
    """A small file whose header claims 16000 x 15000, or in WEBP's 14 bits 16000 x 16000."""
    small = encoded(Image.new("RGB", (4, 4)), name)
    if name == "JPEG":  # height before width, after the frame marker, its length and depth
        return claiming(small, (15000, 16000), small.index(b"\xff\xc0") + 5, ">HH")
    if name == "WEBP":
        return claiming(small, (16000, 16000), small.index(b"\x9d\x01\x2a") + 3, "<HH")
    if name in (
        "AVIF",
        "HEIF",
    ):  # after the box's name, version and flags (ISO/IEC 23008-12, 6.5.3)
        return claiming(small, (16000, 15000), small.index(b"ispe") + 8, ">II")
    if name == "TIFF":
        tags = [(256, 4, 1, 16000), (257, 4, 1, 15000), (258, 3, 1, 8), (259, 3, 1, 1)]
        return tiff([*tags, (262, 3, 1, 1), (273, 4, 1, 0), (279, 4, 1, 9)], bytes(9))
    at, size_format = {"PNG": (16, ">II"), "BMP": (18, "<ii"), "GIF": (6, "<HH")}[name]
    return claiming(small, (16000, 15000), at, size_format)


@pytest.mark.parametrize("name", images.FORMATS)
def test_a_header_that_claims_a_huge_image(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(huge(name))
    assert "cannot be read" in reason(path)


@pytest.mark.parametrize("suffix", ["webp", "png", "avif"])
def test_modes_that_need_twice_the_memory_have_half_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """WEBP, AVIF, and PNG with 16 bits a channel; an 8-bit PNG of the same size is read."""
    path = saved(tmp_path / f"x.{suffix}", Image.new("RGB", (10, 2)), lossless=True)
    deep = png(10, 2, 16, 2, (b"\0" + bytes(60)) * 2)
    if suffix == "png":
        path.write_bytes(deep)
    monkeypatch.setattr(images, "MAX_PIXELS", 40)
    assert load_image(path).size == (10, 2)
    monkeypatch.setattr(images, "MAX_PIXELS", 39)
    assert "megapixels" in reason(path)
    assert load_image(saved(path, Image.new("RGB", (10, 2)), format="PNG")).size == (10, 2)


PIECES = {
    "png chunks": png(4, 4, 8, 0, bytes(20), png_chunk(b"prVt", b"") * 400),
    "png texts": png(4, 4, 8, 0, bytes(20), png_chunk(b"tEXt", b"a\0") * 400),
    "png data": png(4, 4, 8, 0, bytes(20), png_chunk(b"IDAT", b"") * 400),
    "gif comments": b"GIF89a\4\0\4\0\0\0\0" + b"\x21\xfe\1a\0" * 400,
    "gif nothing": b"GIF89a\4\0\4\0\0\0\0" + bytes(1200),
    "bmp runs": bmp_rle8(40, 40, (b"\1\7" * 40 + b"\0\0") * 40 + b"\0\1"),
    "jpeg segments": b"\xff\xd8" + b"\xff\xe0\0\2" * 400,
}


@pytest.mark.parametrize("name", PIECES)
def test_a_file_of_countless_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Millions of them fit into 20 MB and would take ten seconds or a gigabyte."""
    monkeypatch.setattr(images, "_MAX_READS", 300)
    (tmp_path / "x").write_bytes(PIECES[name])
    assert "too many parts" in reason(tmp_path / "x")


def test_a_tiff_of_countless_strips(tmp_path: Path) -> None:
    count = images._MAX_STRIPS + 1
    tags = [(256, 4, 1, 4), (257, 4, 1, 4), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, count, 8 + 2 + 8 * 12 + 4), (278, 4, 1, 1), (279, 4, 1, 4)]
    (tmp_path / "x").write_bytes(tiff(tags, bytes(4 * count)))
    assert "too many strips" in reason(tmp_path / "x")


def test_a_jpeg_of_countless_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is 65 bytes and 45 ms at 40 megapixels; what only looks like one is not counted."""
    data = encoded(Image.new("L", (100, 80), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    bomb, film = data[:-2] + data[last:-2] * 94 + data[-2:], b"\xff\xda\0\2" * 200
    comment = b"\xff\xfe" + struct.pack(">H", len(film) + 2) + film
    (tmp_path / "bomb").write_bytes(bomb)
    (tmp_path / "film").write_bytes(data[:2] + comment + data[2:] + film)
    assert load_image(tmp_path / "bomb").size == (100, 80)  # small ones may have 94 + 6
    monkeypatch.setattr(images, "MAX_PIXELS", 5 * 8000)
    assert load_image(tmp_path / "bomb").size == (100, 80)
    monkeypatch.setattr(images, "MAX_PIXELS", 5 * 8000 - 1)
    assert "100 scans are too many" in reason(tmp_path / "bomb")
    assert load_image(tmp_path / "film").getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("kind", ["iCCP", "zTXt"])
def test_a_small_chunk_that_unpacks_to_far_more(tmp_path: Path, kind: str) -> None:
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(bytes(10**6)) for _ in range(40)) + packer.flush()
    chunk = png_chunk(kind.encode(), b"name\0\0" + packed)
    (tmp_path / "x").write_bytes(png(1, 1, 8, 0, bytes(2), chunk))
    assert "too large" in reason(tmp_path / "x")


def test_formats_written_by_hand(tmp_path: Path) -> None:
    """A BMP in run-length code, from the bottom row up, and a TIFF in two tiles of 16 x 16."""
    path = tmp_path / "x"
    path.write_bytes(bmp_rle8(3, 2, bytes([3, 9, 0, 0, 1, 255, 2, 7, 0, 0, 0, 1])))
    assert pixels(load_image(path)) == [WHITE, (7,) * 3, (7,) * 3] + [(9,) * 3] * 3
    tags = [(256, 3, 1, 20), (257, 3, 1, 2), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    start = 8 + 2 + 9 * 12 + 4
    tags += [(322, 3, 1, 16), (323, 3, 1, 16), (324, 4, 2, start), (325, 4, 2, start + 8)]
    tiles = struct.pack("<IIII", start + 16, start + 272, 256, 256)
    path.write_bytes(tiff(tags, tiles + b"\x05" * 256 + b"\x06" * 256))
    assert pixels(load_image(path)) == ([(5,) * 3] * 16 + [(6,) * 3] * 4) * 2


def test_jpegs_of_other_colours(tmp_path: Path) -> None:
    """Progressive grey; CMYK marked YCCK: stored (200, 128, 128, 255) is grey 200 inverted, 55."""
    path = saved(tmp_path / "a.jpg", Image.new("L", (9, 9), 77), progressive=True)
    assert set(pixels(load_image(path))) == {(77, 77, 77)}
    data = encoded(Image.new("CMYK", (8, 8), (55, 127, 127, 0)), "JPEG", quality=100)
    adobe = data.index(b"Adobe") + 11
    path.write_bytes(data[:adobe] + b"\2" + data[adobe + 1 :])
    assert np.abs(np.asarray(load_image(path), int) - 55).max() <= 2


def test_paths_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "dangling.png").symlink_to("nowhere.png")
    assert "No such file" in reason(tmp_path / "dangling.png")
    assert "too long" in reason(tmp_path / ("x" * 300))
    large = tmp_path / "large.png"
    large.touch()
    os.truncate(large, 21_000_000)
    assert "over 20 MB" in reason(large)
    secret = saved(tmp_path / "secret.png", Image.new("RGB", (2, 2), RED))
    secret.chmod(0)
    if os.geteuid():  # nothing is forbidden to root
        assert "Permission" in reason(secret)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_the_largest_images_fit_into_500_mib(tmp_path: Path, kind: str) -> None:
    """Composited and turned, or progressive with four colours: what takes most."""
    exif, path = Image.Exif(), tmp_path / f"x.{kind}"
    exif[ORIENTATION] = 6
    size = (5000, 4000) if kind == "webp" else (8000, 5000)
    image = Image.new("CMYK" if kind == "jpg" else "RGBA", size, (10, 20, 30, 128))
    image.save(path, exif=exif, compress_level=1, method=0, progressive=True)
    code = (
        "import pathlib, re, sys; from rlhf.data.images import load_image;"
        "load_image(pathlib.Path(sys.argv[1]));"
        "print(*re.findall('VmHWM:[^0-9]*([0-9]+)', pathlib.Path('/proc/self/status').read_text()))"
    )
    command = [sys.executable, "-c", code, str(path)]
    peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(peak) < 500 * 1024
