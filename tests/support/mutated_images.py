"""Damaged copies of small images of every format; each loads or is refused in one line.

`python -m tests.support.mutated_images 10000` prints what became of as many.
"""

import io
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from rlhf.data.images import load_image
from rlhf.errors import DataError
from rlhf.tracking.console import table
from tests.support.image_files import ORIENTATION, bmp_rle8, png, tiff

COLUMNS = ("trials", "loaded", "refused", "crashes")
_HEADER = 60  # bytes where sizes, depths and offsets stand
# Mode, format, and what the encoder is told.
_KINDS: list[tuple[str, str, dict[str, Any]]] = [
    *(("RGB", "JPEG", {}), ("RGB", "JPEG", {"progressive": True}), ("CMYK", "JPEG", {})),
    *(("L", "PNG", {}), ("P", "PNG", {"transparency": 3}), ("RGBA", "PNG", {}), ("1", "PNG", {})),
    *(("LA", "PNG", {}), ("RGBA", "WEBP", {}), ("RGB", "WEBP", {"lossless": True})),
    *(("L", "BMP", {}), ("RGB", "BMP", {}), ("P", "GIF", {}), ("RGB", "TIFF", {})),
    *(("RGB", "TIFF", {"compression": "tiff_lzw"}), ("L", "TIFF", {"compression": "jpeg"})),
    ("RGBA", "TIFF", {"compression": "tiff_adobe_deflate"}),
]


def seeds() -> list[bytes]:
    """Valid files to damage: with EXIF where it may be, animated, and written by hand."""
    source = Image.effect_mandelbrot((40, 30), (-2, -1.5, 1, 1.5), 50)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    files = []
    for mode, name, options in _KINDS:
        extra = {} if name in ("BMP", "GIF") else {"exif": exif}
        files.append(_encoded(source.convert(mode), name, **extra, **options))
    for name in ("GIF", "WEBP", "PNG"):
        frames = [source.convert("RGB").rotate(90)]
        files.append(_encoded(source.convert("RGB"), name, save_all=True, append_images=frames))
    tags = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 8 + 2 + 7 * 12 + 4), (279, 4, 1, 128)]
    files += [bmp_rle8(9, 9, b"\x09\x05\0\0" * 9 + b"\0\1"), tiff(tags, bytes(range(128)))]
    return [*files, png(6, 4, 16, 2, (b"\4" + bytes(range(36))) * 4)]


def mutated(rng: random.Random, files: list[bytes]) -> bytes:
    """One file after one to ten accidents."""
    data = bytearray(rng.choice(files))
    for _ in range(rng.choice([1, 1, 2, 10])):
        at = rng.randrange(min(len(data), rng.choice([_HEADER, 400, 10**6])) or 1)
        match rng.randrange(6):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                data[at : at + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", rng.randbytes(4)])
            case 2:
                data[at:at] = rng.randbytes(rng.choice([1, 4, 40]))
            case 3:
                del data[at : at + rng.choice([1, 4, 40])]
            case 4:
                del data[rng.randrange(len(data) + 1) :]
            case 5:
                other = rng.choice(files)
                data[at:] = other[rng.randrange(len(other)) :]
    return bytes(data)


def attack(trials: int, directory: Path, seed: int = 0) -> tuple[Counter[str], float]:
    """What became of `trials` images, by COLUMNS, and the seconds of the slowest."""
    rng, files, counts, slowest = random.Random(seed), seeds(), Counter(trials=trials), 0.0
    for _ in range(trials):
        path, start = directory / "x", time.perf_counter()
        path.write_bytes(data := mutated(rng, files))
        try:
            image = load_image(path)
            outcome = "loaded" if (type(image), image.mode) == (Image.Image, "RGB") else "crashes"
        except DataError:
            outcome = "refused"
        except Exception as error:
            outcome = "crashes"
            print(f"{type(error).__name__}: {error}: {data.hex()[:4000]}", file=sys.stderr)
        counts[outcome] += 1
        slowest = max(slowest, time.perf_counter() - start)
    return counts, slowest


def main(trials: int) -> None:
    """Print the metrics of `trials` images."""
    with TemporaryDirectory() as directory:
        counts, slowest = attack(trials, Path(directory))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    row = (*(counts[column] for column in COLUMNS), slowest, peak)
    table("Mutated images", (*COLUMNS, "slowest, s", "peak memory, MB"), [row])


def _encoded(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


if __name__ == "__main__":
    main(int(sys.argv[1]))
