"""The one way to read a picture: person and model judge the same RGB."""

import hashlib
import io
import stat
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from rlhf.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_BYTES = 20_000_000
MAX_PIXELS = 40_000_000
MAX_ASPECT = 20

_T = Image.Transpose  # EXIF 2.3, tag 274: what turns the stored picture upright
_UPRIGHT = {2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM, 5: _T.TRANSPOSE}
_UPRIGHT |= {6: _T.ROTATE_270, 7: _T.TRANSVERSE, 8: _T.ROTATE_90}
# What Pillow's decoders raise on damaged files, by their source and by mutated files.
_DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError),  # truncated data; broken chunk or header; absurd field
    *(Image.DecompressionBombError, MemoryError),  # neither is an OSError
    *(EOFError, struct.error, zlib.error, LookupError, TypeError, ArithmeticError),  # cut fields
    RuntimeError,  # a decoder that gives up or is not implemented
)
_quiet = threading.Lock()  # the warning filters are global: one thread changes them at a time


def load_image(path: Path) -> Image.Image:
    """The picture as upright 8-bit RGB, alpha on white, first frame only, without metadata.

    Raises:
        DataError: not one of `FORMATS`, damaged, over a limit, 32-bit grey, or no regular file.
    """
    data = _content(path)
    try:
        with _quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decoded(data)
    except _DECODE_ERRORS as error:
        unknown = isinstance(error, UnidentifiedImageError)
        raise _refusal(path, f"not {' or '.join(FORMATS)}" if unknown else error) from error


def picture_digest(path: Path) -> str:
    """SHA-256 of the file's bytes in hex; DataError when they cannot be read."""
    return hashlib.sha256(_content(path)).hexdigest()


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
    fix = "Replace or convert the picture, or remove its records."
    return DataError(f"The picture cannot be read: {reason}.", str(path), fix)


def _decoded(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size  # only the header is read so far: a bomb stops here
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width}x{height} is over {MAX_PIXELS // 10**6} megapixels")
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise ValueError(f"{width}x{height} is longer than {MAX_ASPECT}:1")
        image.load()
        turn = _UPRIGHT.get(image.getexif().get(0x0112, 1))
        rgb = _rgb(image)
    rgb = rgb if turn is None else rgb.transpose(turn)
    rgb.info = {}  # a kept EXIF block would let a later reader turn the picture again
    return rgb


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ValueError("32-bit grey has no agreed white; save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):  # convert("RGB") would clip it to white
        deep = np.asarray(image)
        grey = deep // 257 + (deep % 257 > 128)  # v/257 rounded: 65535 is 255
        grey[deep == image.info.get("transparency", -1)] = 255
        image = Image.fromarray(grey.astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return white
