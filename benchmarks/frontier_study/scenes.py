"""Several sentences about five or six shapes, 60 to 100 tokens, by a tiny LLaVA of its own.

Each image has places three by two. A thing is a colour and a shape; no two have the same colour.
Demonstrations place some things wrongly and leave some out, so that there is something to gain.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import torch

from frontier_study.starts import Models
from rlhf.cli.job_runner import run_command
from rlhf.data.records import DemonstrationRecord, PromptRecord, write_records
from rlhf.demo.scenes import CLASSES, COLOURS, SHAPES, SIDE, Scene, Shape, draw_scene
from rlhf.demo.tiny_llava import build_tiny_llava, train_vision_tower
from rlhf.models.llava import Llava
from rlhf.tracking.console import say, stage, track

GRID = tuple(
    f"{row} {column}" for row in ("top", "bottom") for column in ("left", "middle", "right")
)
PATCH = 8  # pixels: three by two places do not divide the demo's four by four patches
IMAGES = {"preference": 1000, "evaluation": 256}
DEMONSTRATIONS = 5000  # images
TOWER_STEPS = 600
MISTAKEN, LEFT_OUT = 0.15, 0.05  # share of the things of a demonstration
INSTRUCTION = "Describe everything in the picture."
SENTENCES = (
    "There is a {colour} {shape} at the {place} of the picture.",
    "I can see a {colour} {shape} at the {place} of the picture.",
    "A {colour} {shape} is at the {place} of the picture.",
)
OPENINGS = ("", "In this picture there are several shapes. ", "Let me look at the picture. ")
SFT = ("sft.epochs=5", "sft.batch_size=32")


def draw(data: Path) -> None:
    """Draw images of five and six shapes, and write prompts for descriptions of them."""
    for name, count in IMAGES.items():
        write_split(data, name, count)


def train(directory: Path) -> Models:
    """Write demonstrations; build a model and train it on them."""
    data, untrained = directory / "data", directory / "untrained"
    stage("drawing images of five and six shapes")
    build_model(untrained, write_split(data, "sft", DEMONSTRATIONS))
    options = ["experiment=demo", "name=scenes", f"output_dir={directory / 'runs'}", *SFT]
    options += ["model.train=full", f"model.path={untrained}"]
    options += [f"data.demonstrations={data / 'sft.jsonl'}"]
    run, _ = run_command("sft", [], options)
    return Models(str((run / "model").relative_to(directory)))


def sample_grid_scene(rng: random.Random) -> Scene:
    """Draw a random scene: five or six shapes, at most one at each of the six places."""
    count = rng.randint(5, 6)
    places = sorted(rng.sample(GRID, count), key=GRID.index)
    colours = rng.sample(COLOURS, count)
    shapes = (
        _placed(rng, rng.choice(SHAPES), colour, place)
        for colour, place in zip(colours, places, strict=True)
    )
    return Scene(tuple(shapes), rng.randint(165, 205))


def _placed(rng: random.Random, shape: str, colour: str, place: str) -> Shape:
    row, column = divmod(GRID.index(place), 3)
    x = SIDE * (column + 0.5) / 3 + rng.uniform(-0.5, 0.5)
    y = SIDE * (row + 0.5) / 2 + rng.uniform(-3.0, 3.0)
    return Shape(shape, colour, place, x, y, rng.uniform(6.5, 7.5))


def write_split(data: Path, name: str, count: int) -> list[Scene]:
    """Draw images to `data/pictures/name` and write their prompts, or demonstrations for `sft`."""
    (data / "pictures" / name).mkdir(parents=True, exist_ok=True)
    scenes, records = [], []
    for number in range(count):
        rng = random.Random(f"{name}/{number}")
        scene, path = sample_grid_scene(rng), f"pictures/{name}/{number:05d}.png"
        draw_scene(scene).save(data / path)
        meta = {"objects": scene.facts(), "kind": "description"}
        prompt = PromptRecord(path, INSTRUCTION, path, meta)
        records.append(demonstration(prompt, rng) if name == "sft" else prompt)
        scenes.append(scene)
    write_records(data / f"{name}.jsonl", records)
    return scenes


def demonstration(prompt: PromptRecord, rng: random.Random) -> DemonstrationRecord:
    """Write a description in one of several forms, in which some things are wrong or left out."""
    facts = prompt.meta["objects"]
    told = [mistaken(x, rng) if rng.random() < MISTAKEN else x for x in facts]
    told = [x for x in told if rng.random() >= LEFT_OUT]
    sentence = rng.choice(SENTENCES)
    response = rng.choice(OPENINGS) + " ".join(sentence.format(**thing) for thing in told)
    return DemonstrationRecord(
        prompt.image_path, prompt.instruction, response, prompt.id, prompt.meta
    )


def mistaken(thing: dict[str, str], rng: random.Random) -> dict[str, str]:
    """Return a thing with another colour, shape or place."""
    field = rng.choice(("colour", "shape", "place"))
    values = {"colour": COLOURS, "shape": SHAPES, "place": GRID}[field]
    return {**thing, field: rng.choice([value for value in values if value != thing[field]])}


def build_model(directory: Path, scenes: Sequence[Scene]) -> None:
    """Write a tiny LLaVA whose vision tower tells colour and shape at each place."""
    stage("building a tiny LLaVA and training its vision tower")
    texts = [INSTRUCTION, *OPENINGS]
    texts += [x.format(**thing) for x in SENTENCES for scene in scenes for thing in scene.facts()]
    build_tiny_llava(directory, texts, seed=0, patch=PATCH)
    llava = Llava.load(str(directory), device=torch.device("cpu"), dtype=torch.float32)
    llava.model.requires_grad_(True)
    with track("vision tower", TOWER_STEPS) as progress:
        accuracy = train_vision_tower(
            llava.model,
            llava.processor,
            [draw_scene(scene) for scene in scenes],
            torch.tensor([classes(scene) for scene in scenes]),
            CLASSES,
            steps=TOWER_STEPS,
            seed=0,
            on_step=lambda done, total, loss: progress.advance(1, loss=loss),
            parts=(2, 3),
        )
    say(f"the vision tower names {accuracy:.1%} of the places of its images")
    llava.save(directory)


def classes(scene: Scene) -> list[tuple[int, int]]:
    """Return the classes of colour and shape at each place; the last of each means empty."""
    found = {x.place: (COLOURS.index(x.colour), SHAPES.index(x.shape)) for x in scene.shapes}
    return [found.get(place, (len(COLOURS), len(SHAPES))) for place in GRID]
