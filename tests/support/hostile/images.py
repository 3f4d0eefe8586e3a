"""Images of a few kilobytes that a decoder would work on for minutes."""

import io
import struct
import zlib

from PIL import Image

from tests.support.hostile.place import Place, hostile


def _checked(place: Place, name: str, data: bytes) -> list[str]:
    place.write(name, data)
    row = f'{{"image_path": "{name}", "instruction": "What?"}}\n'
    return ["validate", place.write("rows.jsonl", row)]


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _png(*chunks: bytes, width: int = 8, height: int = 8) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"".join((b"\x89PNG\r\n\x1a\n", header, *chunks))


@hostile
def png_with_a_text_of_1_gb(place: Place) -> list[str]:
    text = zlib.compress(bytes(1_000_000_000), 1)
    return _checked(place, "a.png", _png(_chunk(b"zTXt", b"k\0\0" + text)))


@hostile
def png_with_a_profile_of_1_gb(place: Place) -> list[str]:
    profile = zlib.compress(bytes(1_000_000_000), 1)
    return _checked(place, "a.png", _png(_chunk(b"iCCP", b"k\0\0" + profile)))


@hostile
def png_of_a_million_chunks(place: Place) -> list[str]:
    return _checked(place, "a.png", _png(_chunk(b"tIME", b"") * 1_000_000))


@hostile
def png_of_a_hundred_gigapixels(place: Place) -> list[str]:
    data = _chunk(b"IDAT", zlib.compress(bytes(10_000_000), 1))
    return _checked(place, "a.png", _png(data, width=300_000, height=300_000))


@hostile
def gif_of_a_million_blocks(place: Place) -> list[str]:
    file = io.BytesIO()
    Image.new("P", (4, 4)).save(file, "GIF")
    start = file.getvalue()[:-1]
    return _checked(place, "a.gif", start[:13] + b"\x21\xfe\x01x\x00" * 2_000_000)


@hostile
def tiff_that_names_itself_as_its_next_image(place: Place) -> list[str]:
    entries = struct.pack("<HHIHH", 256, 3, 1, 8, 0) + struct.pack("<HHIHH", 257, 3, 1, 8, 0)
    return _checked(place, "a.tif", b"II*\0\x08\0\0\0\x02\0" + entries + struct.pack("<I", 8))


@hostile
def svg_of_entities_of_entities(place: Place) -> list[str]:
    laughs = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 9}">' for n in range(1, 12))
    text = f'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a0 "ha">{laughs}]><svg>&a11;</svg>'
    return _checked(place, "a.svg", text.encode())


@hostile
def image_of_8_gb(place: Place) -> list[str]:
    words = _checked(place, "a.png", b"")
    place.write_sparse("a.png", _png())
    return words
