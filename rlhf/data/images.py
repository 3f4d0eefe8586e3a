"""Read images as bounded, upright RGB: people and models see the same pixels."""

import hashlib
import io
import re
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from PIL import Image, UnidentifiedImageError, features
from PIL.TiffImagePlugin import STRIPOFFSETS, TILEOFFSETS, ImageFileDirectory_v2

from rlhf.data.file_kinds import HEIC, kind_of
from rlhf.errors import DataError

if HAS_HEIC := find_spec("pillow_heif") is not None:  # the extra rlhf-llava[heic]
    import_module("pillow_heif").register_heif_opener(thumbnails=False)
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
FORMATS += ("AVIF",) if features.check("avif") else ()
FORMATS += ("HEIF",) if HAS_HEIC else ()
MAX_BYTES = 20_000_000
MAX_PIXELS = 40_000_000  # half for 16 bits and WEBP and younger formats: twice the memory or time
MAX_ASPECT = 20
# Limits on the work that a small file can cause; real images stay ten times below.
_MAX_READS = 300_000
_MAX_STRIPS = 100_000
_MAX_SCANS = 20  # of a JPEG with MAX_PIXELS; smaller ones may have more; libjpeg writes up to 18
_ROWS_AT_ONCE = 512  # composited at a time

_T = Image.Transpose  # by EXIF orientation (EXIF 2.3, tag 274): turns the stored image upright
_UPRIGHT = {2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM, 5: _T.TRANSPOSE}
_UPRIGHT |= {6: _T.ROTATE_270, 7: _T.TRANSVERSE, 8: _T.ROTATE_90}
_SIDEWAYS = (5, 6, 7, 8)  # height and width change places
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])(..)", re.DOTALL)  # JPEG: with a length, or EOI
# What Pillow's decoders raise on damaged files, by their source code and by fuzzing.
_DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError),  # truncated data; broken chunk or header; absurd field
    *(Image.DecompressionBombError, MemoryError),  # neither is an OSError
    *(EOFError, struct.error, zlib.error, LookupError, TypeError, ArithmeticError),  # cut fields
    RuntimeError,  # a decoder that gives up or is not implemented
)
_Result = TypeVar("_Result")
_warnings_lock = threading.Lock()  # the warning filters are global to all threads


def load_image(path: Path) -> Image.Image:
    """Read an image as upright 8-bit RGB: alpha on white, first frame only, without metadata.

    Raises:
        DataError: not one of `FORMATS`, damaged, over a limit, 32-bit grey, or no regular file.
    """
    return _read_with(path, _decode)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an opened image as upright 8-bit RGB: alpha on white, first frame, no metadata.

    Raises:
        ValueError: 32-bit grey has no agreed white.
    """
    image.load()
    orientation = image.getexif().get(0x0112, 1)
    return _upright(_to_rgb(image), orientation)


def image_size(path: Path) -> tuple[int, int]:
    """Read height and width of the upright image; for JPEG and WEBP only the header is decoded.

    Raises:
        DataError: `load_image` would refuse the image, as far as this can be seen.
    """
    return _read_with(path, _upright_size)


def image_digest(path: Path) -> str:
    """Hash the file's bytes with SHA-256, in hexadecimal.

    Raises:
        DataError: they cannot be read, or are over `MAX_BYTES`.
    """
    return hashlib.sha256(_read_bytes(path)).hexdigest()


def _read_with(path: Path, decode: Callable[[bytes], _Result]) -> _Result:
    """Apply a decoder to a file's bytes, its warnings ignored and its errors as DataError."""
    data = _read_bytes(path)
    try:
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return decode(data)
    except UnidentifiedImageError as error:
        raise _unidentified(path, data) from error
    except _DECODE_ERRORS as error:
        raise _unreadable(path, error) from error


def _read_bytes(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a FIFO would block for ever
            raise ValueError("not a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError also for a NUL in the path
        raise _unreadable(path, getattr(error, "strerror", error)) from error
    if len(data) > MAX_BYTES:
        raise _unreadable(path, f"over {MAX_BYTES // 10**6} MB")
    return data


def _unidentified(path: Path, data: bytes) -> DataError:
    """The error for a file of another kind, named where it is a common one."""
    others, kind = f"not {' or '.join(FORMATS)}", kind_of(data[:512])
    if kind is None:
        return _unreadable(path, others)
    if kind == HEIC and HAS_HEIC:
        return _unreadable(path, "it is a damaged HEIC image")
    return _unreadable(
        path, f"it is {kind.name}, {others}", f"{kind.fix[0].upper()}{kind.fix[1:]}."
    )


def _unreadable(
    path: Path,
    reason: object,
    fix: str = "Replace or convert the image, or remove its records.",
) -> DataError:
    words = " ".join(str(reason).split())  # libheif ends its messages with a new line
    return DataError(f"The image cannot be read: {words}.", str(path), fix)


class _BoundedStream(io.BytesIO):
    """A file in memory that stops decoders which loop over millions of empty chunks."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > _MAX_READS:
            raise ValueError("it consists of too many parts")
        return super().read(size)


def _decode(data: bytes) -> Image.Image:
    if data[:2] in (b"II", b"MM") and _count_strips(data) > _MAX_STRIPS:
        raise ValueError("it consists of too many strips")
    with Image.open(_BoundedStream(data), formats=FORMATS) as image:
        _refuse_bombs(image, data)  # only the header is read so far
        image.load()
        orientation, rgb = image.getexif().get(0x0112, 1), _to_rgb(image)
    del image  # three copies of 40 megapixels would not fit into 500 MiB
    return _upright(rgb, orientation)


def _upright(rgb: Image.Image, orientation: int) -> Image.Image:
    """Turn an image as its EXIF orientation says, and forget its metadata."""
    transpose = _UPRIGHT.get(orientation)
    rgb = rgb if transpose is None else rgb.transpose(transpose)
    rgb.info = {}  # a kept EXIF block would let a later reader turn the image again
    return rgb


def _upright_size(data: bytes) -> tuple[int, int]:
    with Image.open(_BoundedStream(data), formats=FORMATS) as image:
        if image.format not in ("JPEG", "MPO", "WEBP"):  # others may hold EXIF behind the pixels
            return _decode(data).size[::-1]
        _refuse_bombs(image, data)
        sideways = image.getexif().get(0x0112, 1) in _SIDEWAYS
        return image.size if sideways else image.size[::-1]


def _refuse_bombs(image: Image.Image, data: bytes) -> None:
    """Raise ValueError for an opened image that would take too much memory or time to decode."""
    width, height = image.size
    heavy = image.format in ("WEBP", "AVIF", "HEIF") or ";16" in str(getattr(image, "tile", [])[:1])
    limit = MAX_PIXELS // 2 if heavy else MAX_PIXELS
    if width * height > limit:
        raise ValueError(f"{width}x{height} is over {limit // 10**6} megapixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"{width}x{height} is longer than {MAX_ASPECT}:1")
    scans = _count_scans(data) if image.format in ("JPEG", "MPO") else 0
    if width * height * scans > _MAX_SCANS * MAX_PIXELS:
        raise ValueError(f"{scans} scans are too many for {width}x{height}")


def _count_scans(jpeg: bytes) -> int:
    """Count a JPEG's scans (ITU T.81, B.1), without those of a thumbnail inside a segment."""
    scans = position = 0
    while marker := _MARKER.search(jpeg, position):
        if marker[1] == b"\xd9":
            break
        scans += marker[1] == b"\xda"
        position = marker.start() + 2 + int.from_bytes(marker[2])
    return scans


def _count_strips(tiff: bytes) -> int:
    """Count the strips or tiles of a TIFF's first image; each takes the decoder time and memory."""
    stream = io.BytesIO(tiff)
    tags = ImageFileDirectory_v2(stream.read(16 if 43 in tiff[2:4] else 8))
    stream.seek(tags.next)
    tags.load(stream)
    return max(len(tags.get(tag, ())) for tag in (STRIPOFFSETS, TILEOFFSETS))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ValueError("32-bit grey has no agreed white; save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):  # convert("RGB") would clip it to white
        grey = [(value + 128) // 257 for value in range(65536)]  # 65535 is 255
        grey[image.info.pop("transparency", 65535)] = 255
        image = image.convert("I").point(grey, "L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGB", image.size, "white")
    for top in range(0, image.height, _ROWS_AT_ONCE):
        bottom = min(top + _ROWS_AT_ONCE, image.height)
        strip = image.crop((0, top, image.width, bottom)).convert("RGBA")
        white.paste(strip, (0, top), strip)
    return white
