"""Descriptions of three shapes, about 25 tokens, by the supervised model of the demo."""

from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from random import Random

from rlhf.data.records import write_records
from rlhf.demo.questions import SHAPE_QUESTIONS, HasFacts, prompt_records
from rlhf.demo.scenes import draw_scene, sample_scene

THINGS = 3
IMAGES = {"preference": 1000, "evaluation": 256}
LAST = "evaluation.jsonl"  # of the files that are written
TEMPLATES = replace(SHAPE_QUESTIONS, kinds={"description": SHAPE_QUESTIONS.kinds["description"]})


def draw(data: Path) -> None:
    """Draw images of three shapes as the demo does, and write prompts for descriptions."""
    for name, images in IMAGES.items():
        drawn = draw_images(data / "pictures" / name, images)
        records = prompt_records(drawn, data, per_image=1, seed=0, templates=TEMPLATES)
        write_records(data / f"{name}.jsonl", records)


def draw_images(directory: Path, images: int) -> list[tuple[Path, HasFacts]]:
    """Draw images of three shapes to `directory/00000.png` and so on."""
    directory.mkdir(parents=True, exist_ok=True)
    scenes = (sample_scene(Random(f"describe/{directory.name}/{n}")) for n in count())
    drawn: list[tuple[Path, HasFacts]] = []
    for scene in islice((x for x in scenes if len(x.shapes) == THINGS), images):
        path = directory / f"{len(drawn):05d}.png"
        draw_scene(scene).save(path)
        drawn.append((path, scene))
    return drawn
