"""Image files for tests, some written byte by byte."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rlhf.data.images import load_image
from rlhf.errors import DataError

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255,) * 3, (0,) * 3
ORIENTATION = 0x0112


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
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


def tiff(tags: list[tuple[int, int, int, int]], data: bytes) -> bytes:
    """One little-endian directory of (tag, type, count, value), followed by `rest`."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def write_shades(directory: Path, *shades: int, prefix: str = "") -> Path:
    """Write BMPs of 2 by 2 pixels, named by their shade of red, the same bytes everywhere."""
    directory.mkdir(parents=True, exist_ok=True)
    info = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 24, 0, 16, 3780, 3780, 0, 0)
    for shade in shades:
        rows = 2 * (2 * bytes([0, 0, shade]) + bytes(2))
        content = struct.pack("<2sIII", b"BM", 70, 0, 54) + info + rows
        (directory / f"{prefix}{shade:02}.bmp").write_bytes(content)
    return directory


def bmp_rle8(width: int, height: int, codes: bytes) -> bytes:
    """A BMP of 256 greys in run-length code."""
    palette = b"".join(bytes([level, level, level, 0]) for level in range(256))
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(codes), 0, 0, 256, 0)
    start = 14 + len(info) + len(palette)
    return struct.pack("<2sIII", b"BM", start + len(codes), 0, start) + info + palette + codes
