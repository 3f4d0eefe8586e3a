"""Descriptions of three shapes, about 25 tokens, by the supervised model of the demo."""

import shutil
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from random import Random

from baselines.learning_task import StartingPoint

from rlhf.data.records import write_records
from rlhf.demo.questions import SHAPE_QUESTIONS, HasFacts, prompt_records
from rlhf.demo.scenes import draw_scene, sample_scene

THINGS = 3
IMAGES = {"preference": 1000, "evaluation": 256}
TEMPLATES = replace(SHAPE_QUESTIONS, kinds={"description": SHAPE_QUESTIONS.kinds["description"]})


def make(directory: Path, demo: StartingPoint) -> StartingPoint:
    """Draw images of three shapes as the demo does, and write prompts for descriptions.

    Args:
        directory: what an interrupted call left there is removed.
        demo: its model is the supervised one.
    """
    shutil.rmtree(directory, ignore_errors=True)
    data = directory / "data"
    for name, images in IMAGES.items():
        drawn = draw(data / "pictures" / name, images)
        records = prompt_records(drawn, data, per_image=1, seed=0, templates=TEMPLATES)
        write_records(data / f"{name}.jsonl", records)
    return StartingPoint(model=demo.model, reward="", data=str(data))


def draw(directory: Path, images: int) -> list[tuple[Path, HasFacts]]:
    """Draw images of three shapes to `directory/00000.png` and so on."""
    directory.mkdir(parents=True)
    scenes = (sample_scene(Random(f"describe/{directory.name}/{n}")) for n in count())
    drawn: list[tuple[Path, HasFacts]] = []
    for scene in islice((x for x in scenes if len(x.shapes) == THINGS), images):
        path = directory / f"{len(drawn):05d}.png"
        draw_scene(scene).save(path)
        drawn.append((path, scene))
    return drawn
