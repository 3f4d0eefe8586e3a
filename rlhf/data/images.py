"""The one way to read an image: person and model judge the same RGB."""

import hashlib
import io
import re
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import STRIPOFFSETS, TILEOFFSETS, ImageFileDirectory_v2

from rlhf.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_BYTES = 20_000_000
MAX_PIXELS = 40_000_000  # half for WEBP and for 16 bits: twice the memory or time
MAX_ASPECT = 20
# What a small file may ask of a decoder; real images stay ten times below.
_MAX_READS = 300_000
_MAX_STRIPS = 100_000
_MAX_SCANS = 20  # of a JPEG of MAX_PIXELS, more of smaller ones; libjpeg writes up to 18
_STRIP = 512  # rows composited at a time

_T = Image.Transpose  # EXIF 2.3, tag 274: what turns the stored image upright
_UPRIGHT = {2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM, 5: _T.TRANSPOSE}
_UPRIGHT |= {6: _T.ROTATE_270, 7: _T.TRANSVERSE, 8: _T.ROTATE_90}
_SIDEWAYS = (5, 6, 7, 8)  # height and width change places
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])(..)", re.DOTALL)  # with a length, or the end
# What Pillow's decoders raise on damaged files, by their source and by mutated files.
_DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError),  # truncated data; broken chunk or header; absurd field
    *(Image.DecompressionBombError, MemoryError),  # neither is an OSError
    *(EOFError, struct.error, zlib.error, LookupError, TypeError, ArithmeticError),  # cut fields
    RuntimeError,  # a decoder that gives up or is not implemented
)
_Read = TypeVar("_Read")
_quiet = threading.Lock()  # the warning filters are global: one thread changes them at a time


def load_image(path: Path) -> Image.Image:
    """The image as upright 8-bit RGB, alpha on white, first frame only, without metadata.

    Raises:
        DataError: not one of `FORMATS`, damaged, over a limit, 32-bit grey, or no regular file.
    """
    return _read(path, _decoded)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of what `load_image` gives; of JPEG and WEBP from the header alone.

    Raises:
        DataError: as there, as far as this was read.
    """
    return _read(path, _upright_size)


def image_digest(path: Path) -> str:
    """SHA-256 of the file's bytes in hex; DataError when they cannot be read."""
    return hashlib.sha256(_content(path)).hexdigest()


def _read(path: Path, use: Callable[[bytes], _Read]) -> _Read:
    data = _content(path)
    try:
        with _quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return use(data)
    except _DECODE_ERRORS as error:
        unknown = isinstance(error, UnidentifiedImageError)
        raise _refusal(path, f"not {' or '.join(FORMATS)}" if unknown else error) from error


def _content(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a FIFO would block for ever
            raise ValueError("not a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError also for a NUL in the path
        raise _refusal(path, getattr(error, "strerror", error)) from error
    if len(data) > MAX_BYTES:
        raise _refusal(path, f"over {MAX_BYTES // 10**6} MB")
    return data


def _refusal(path: Path, reason: object) -> DataError:
    fix = "Replace or convert the image, or remove its records."
    return DataError(f"The image cannot be read: {reason}.", str(path), fix)


class _Stream(io.BytesIO):
    """A file in memory that ends the endless: millions of empty chunks, comments or runs."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > _MAX_READS:
            raise ValueError("it consists of too many parts")
        return super().read(size)


def _decoded(data: bytes) -> Image.Image:
    if data[:2] in (b"II", b"MM") and _strips(data) > _MAX_STRIPS:
        raise ValueError("it consists of too many strips")
    with Image.open(_Stream(data), formats=FORMATS) as image:
        _refuse_bombs(image, data)  # only the header is read so far
        image.load()
        turn = _UPRIGHT.get(image.getexif().get(0x0112, 1))
        rgb = _rgb(image)
    del image  # three copies of 40 megapixels would not fit into 500 MiB
    rgb = rgb if turn is None else rgb.transpose(turn)
    rgb.info = {}  # a kept EXIF block would let a later reader turn the image again
    return rgb


def _upright_size(data: bytes) -> tuple[int, int]:
    with Image.open(_Stream(data), formats=FORMATS) as image:
        if image.format not in ("JPEG", "MPO", "WEBP"):  # may tell their orientation at the end
            return _decoded(data).size[::-1]
        _refuse_bombs(image, data)
        sideways = image.getexif().get(0x0112, 1) in _SIDEWAYS
        return image.size if sideways else image.size[::-1]


def _refuse_bombs(image: Image.Image, data: bytes) -> None:
    width, height = image.size
    heavy = image.format == "WEBP" or ";16" in str(getattr(image, "tile", [])[:1])
    most = MAX_PIXELS // 2 if heavy else MAX_PIXELS
    if width * height > most:
        raise ValueError(f"{width}x{height} is over {most // 10**6} megapixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"{width}x{height} is longer than {MAX_ASPECT}:1")
    if image.format in ("JPEG", "MPO") and width * height * _scans(data) > _MAX_SCANS * MAX_PIXELS:
        raise ValueError(f"{_scans(data)} scans are too many for {width}x{height}")


def _scans(jpeg: bytes) -> int:
    """Passes over the image (ITU T.81, B.1); segments are skipped, for one may hold a JPEG."""
    scans = at = 0
    while found := _MARKER.search(jpeg, at):
        if found[1] == b"\xd9":
            break
        scans += found[1] == b"\xda"
        at = found.start() + 2 + int.from_bytes(found[2])
    return scans


def _strips(tiff: bytes) -> int:
    """Offsets in the first directory of a TIFF; the decoder takes time and memory for each."""
    stream = io.BytesIO(tiff)
    tags = ImageFileDirectory_v2(stream.read(16 if 43 in tiff[2:4] else 8))
    stream.seek(tags.next)
    tags.load(stream)
    return max(len(tags.get(tag, ())) for tag in (STRIPOFFSETS, TILEOFFSETS))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ValueError("32-bit grey has no agreed white; save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):  # convert("RGB") would clip it to white
        grey = [(value + 128) // 257 for value in range(65536)]  # 65535 is 255
        grey[image.info.pop("transparency", 65535)] = 255
        image = image.convert("I").point(grey, "L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGB", image.size, "white")
    for top in range(0, image.height, _STRIP):
        part = image.crop((0, top, image.width, min(top + _STRIP, image.height))).convert("RGBA")
        white.paste(part, (0, top), part)
    return white
