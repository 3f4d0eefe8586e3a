"""A folder of images in the place of the photographs, each of one colour that tells it apart."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from rlhf.demo.stamps.scenes import NAMES


def colour(name: str) -> tuple[int, int, int]:
    """Return the colour of a thing, at least 60 from the others and from white in a channel."""
    number = NAMES.index(name)
    return 60 * (number % 4), 60 * (number // 4 % 4), 120 * (number // 16)


def write_photographs(directory: Path, suffix: str = ".png") -> Path:
    """Write NAME.png, a square of one colour, for each name; return the directory."""
    directory.mkdir(parents=True)
    for name in NAMES:
        Image.new("RGB", (40, 40), colour(name)).save(directory / f"{name}{suffix}")
    return directory


def named_by(pixel: Sequence[int]) -> str:
    """Return the name whose colour is nearest to a pixel's."""
    distances = {
        name: sum((a - b) ** 2 for a, b in zip(pixel, colour(name), strict=True)) for name in NAMES
    }
    return min(distances, key=lambda name: distances[name])
