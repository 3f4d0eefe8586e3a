"""The two settings of the demo: images of drawn shapes, and images composed of photographs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

from rlhf.demo import scenes
from rlhf.demo.questions import write_split
from rlhf.demo.stamps import scenes as stamp_scenes


class Lessons(NamedTuple):
    """Images for a vision tower to learn from.

    Attributes:
        images: RGB images.
        labels: classes of each quarter of each image, row by row, [n, 4, K] int64.
        classes: number of classes of each of the K labels.
    """

    images: list[Image.Image]
    labels: Tensor
    classes: tuple[int, ...]


class WriteSplit(Protocol):
    """Writes images and questions about them, as `rlhf.demo.questions.write_split` does."""

    def __call__(
        self,
        root: Path,
        name: str,
        images: int,
        *,
        per_image: int,
        seed: int,
        demonstrate: bool = False,
    ) -> Path:
        """Write a split and return the path of its records."""
        ...


@dataclass(frozen=True)
class Setting:
    """What the images of a demo show.

    Attributes:
        title: how its images are made, for people.
        write_split: writes images and questions.
        lessons: draws images for the vision tower, given their number and a seed.
    """

    title: str
    write_split: WriteSplit
    lessons: Callable[[int, int], Lessons]


def _shape_lessons(count: int, seed: int) -> Lessons:
    """Draw shapes; the classes are the colour and the shape in each quarter."""
    rng = Random(f"tower/{seed}")
    drawn = [scenes.sample_scene(rng) for _ in range(count)]
    labels = torch.tensor([scene.quarters() for scene in drawn])
    return Lessons([scenes.draw_scene(scene) for scene in drawn], labels, scenes.CLASSES)


def _stamp_lessons(photographs: Path, count: int, seed: int) -> Lessons:
    """Compose photographs; the class is the thing in each quarter."""
    rng = Random(f"tower/{seed}")
    composed = [stamp_scenes.sample_stamp_scene(rng) for _ in range(count)]
    images = [stamp_scenes.draw_stamp_scene(scene, photographs) for scene in composed]
    labels = torch.tensor([scene.quarters() for scene in composed])
    return Lessons(images, labels, stamp_scenes.CLASSES)


SHAPES = Setting("drawing images of coloured shapes", write_split, _shape_lessons)


def stamps(photographs: Path) -> Setting:
    """Return the setting whose images are composed of photographs.

    Args:
        photographs: a folder of them, see `rlhf.demo.stamps.scenes.stamp_path`.
    """
    return Setting(
        "composing images of photographs",
        partial(stamp_scenes.write_stamp_split, stamps_directory=photographs),
        partial(_stamp_lessons, photographs),
    )
