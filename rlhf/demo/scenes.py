"""Seeded images of one to three coloured shapes, for a vision tower trained in a minute."""

import math
import random
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 48
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "white")
PLACES = ("top left", "top right", "bottom left", "bottom right")
# Corners, direction of the first in degrees, relative radius of every second one.
_OUTLINES = {"circle": (48, 0, 1.0), "square": (4, 45, 1.0)}
_OUTLINES |= {"triangle": (3, -90, 1.0), "star": (10, -90, 0.45)}
SHAPES = tuple(_OUTLINES)
CLASSES = (len(COLOURS) + 1, len(SHAPES) + 1)  # of a quarter; the last of each means empty
_SUPERSAMPLING = 3


@dataclass(frozen=True)
class Shape:
    """A coloured shape in one quarter of the image.

    Attributes:
        shape: one of SHAPES.
        colour: one of COLOURS.
        place: one of PLACES.
        x: middle from the left, pixels.
        y: middle from the top, pixels.
        radius: of its corners, pixels.
    """

    shape: str
    colour: str
    place: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """What an image shows, before it is drawn.

    Attributes:
        shapes: one to three, all of different shape, colour and place.
        background: grey level, 0 to 255.
    """

    shapes: tuple[Shape, ...]
    background: int

    def facts(self) -> list[dict[str, str]]:
        """Shape, colour and place of each shape, in reading order."""
        return [{key: asdict(s)[key] for key in ("shape", "colour", "place")} for s in self.shapes]

    def quarters(self) -> list[tuple[int, int]]:
        """Classes of colour and shape at each of PLACES; the last of each means empty."""
        labels = {s.place: (COLOURS.index(s.colour), SHAPES.index(s.shape)) for s in self.shapes}
        return [labels.get(place, (len(COLOURS), len(SHAPES))) for place in PLACES]


def sample_scene(rng: random.Random) -> Scene:
    """Draw a random scene: one to three shapes, at most one in each quarter of the image."""
    count = rng.randint(1, 3)
    places = sorted(rng.sample(PLACES, count), key=PLACES.index)
    named = zip(rng.sample(SHAPES, count), rng.sample(COLOURS, count), places, strict=True)
    return Scene(tuple(_placed(rng, *names) for names in named), rng.randint(165, 205))


def draw_scene(scene: Scene) -> Image.Image:
    """Draw the scene as an RGB image of 48 × 48 pixels with smooth edges."""
    side = SIDE * _SUPERSAMPLING
    image = Image.new("RGB", (side, side), (scene.background,) * 3)
    for shape in scene.shapes:
        ImageDraw.Draw(image).polygon(_corners(shape), fill=shape.colour)
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def write_images(directory: Path, count: int, seed: int | str) -> list[tuple[Path, Scene]]:
    """Draw scenes to `directory/00000.png` and so on; image i depends on (seed, i) alone.

    Args:
        directory: made if needed.
        count: number of images.
        seed: of the scenes.

    Returns:
        Path and scene of each image.
    """
    directory.mkdir(parents=True, exist_ok=True)
    images = []
    for i in range(count):
        scene, path = sample_scene(random.Random(f"scene/{seed}/{i}")), directory / f"{i:05d}.png"
        draw_scene(scene).save(path)
        images.append((path, scene))
    return images


def _placed(rng: random.Random, shape: str, colour: str, place: str) -> Shape:
    half, radius = SIDE / 2, rng.uniform(8.0, 10.0)
    jitter = half / 2 - radius
    x = half * ("right" in place) + half / 2 + rng.uniform(-jitter, jitter)
    y = half * ("bottom" in place) + half / 2 + rng.uniform(-jitter, jitter)
    return Shape(shape, colour, place, x, y, radius)


def _corners(shape: Shape) -> list[tuple[float, float]]:
    count, start, inner = _OUTLINES[shape.shape]
    corners = []
    for i in range(count):
        angle = math.radians(start + 360 * i / count)
        radius = shape.radius * (inner if i % 2 else 1)
        x, y = shape.x + radius * math.cos(angle), shape.y + radius * math.sin(angle)
        corners.append((x * _SUPERSAMPLING, y * _SUPERSAMPLING))
    return corners
