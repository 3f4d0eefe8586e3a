import random
from pathlib import Path

import pytest
from PIL import Image

from rlhf.data.records import DemonstrationRecord, PromptRecord, read_records
from rlhf.demo.questions import demonstration, prompt_records, write_split
from rlhf.demo.rule_judge import is_right
from rlhf.demo.scenes import CLASSES, Scene, Shape, draw_scene, sample_scene, write_images

RED = (255, 0, 0)
SCENE = Scene(
    (
        Shape("circle", "red", "top left", 12.0, 12.0, 9.0),
        Shape("square", "blue", "bottom right", 36.0, 36.0, 9.0),
    ),
    background=190,
)


def test_a_drawing_shows_each_colour_where_the_facts_say() -> None:
    image = draw_scene(SCENE)
    assert image.size == (48, 48)
    assert image.getpixel((12, 12)) == RED
    assert image.getpixel((36, 36)) == (0, 0, 255)
    assert image.getpixel((36, 12)) == (190, 190, 190)


@pytest.mark.parametrize(
    ("shape", "inside", "outside"),
    [
        ("circle", (18, 12), (19, 19)),
        ("square", (17, 17), (20, 12)),
        ("triangle", (12, 4), (12, 18)),
        ("star", (12, 12), (17, 17)),
    ],
)
def test_outlines(shape: str, inside: tuple[int, int], outside: tuple[int, int]) -> None:
    image = draw_scene(Scene((Shape(shape, "red", "top left", 12.0, 12.0, 9.0),), 190))
    assert image.getpixel(inside) == RED
    assert image.getpixel(outside) == (190, 190, 190)


def test_scenes_are_distinct_in_every_fact_and_shapes_stay_in_their_quarter() -> None:
    counts = set()
    for seed in range(200):
        scene = sample_scene(random.Random(seed))
        counts.add(len(scene.shapes))
        for key in ("shape", "colour", "place"):
            assert len({fact[key] for fact in scene.facts()}) == len(scene.shapes)
        for shape in scene.shapes:
            row, column = shape.place.split()
            assert (column == "right") == (shape.x > 24)
            assert (row == "bottom") == (shape.y > 24)
            assert shape.radius <= shape.x % 24 <= 24 - shape.radius
            assert shape.radius <= shape.y % 24 <= 24 - shape.radius
    assert counts == {1, 2, 3}


def test_quarters_number_colour_and_shape_by_place() -> None:
    assert SCENE.quarters() == [(0, 0), (8, 4), (8, 4), (2, 1)]
    assert CLASSES == (9, 5)


def test_images_are_png_files_fixed_by_their_seed(tmp_path: Path) -> None:
    first = write_images(tmp_path / "a", 3, 7)
    longer = write_images(tmp_path / "b", 5, 7)
    other = write_images(tmp_path / "c", 3, 8)
    names = ["00000.png", "00001.png", "00002.png"]
    assert [path.name for path, _ in first] == names
    assert all(
        (tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names
    )
    assert [scene for _, scene in first] == [scene for _, scene in longer[:3]]
    assert [scene for _, scene in first] != [scene for _, scene in other]
    assert Image.open(first[0][0]).format == "PNG"


def test_each_kind_of_question_has_its_shortest_answer(tmp_path: Path) -> None:
    prompts = prompt_records([(tmp_path / "a.png", SCENE)], tmp_path, per_image=200, seed=0)
    answers = {record.instruction: record.meta["answer"] for record in prompts}
    assert answers == {
        "What colour is the circle?": "red",
        "What colour is the square?": "blue",
        "Which shape is red?": "circle",
        "Which shape is blue?": "square",
        "Where is the circle?": "top left",
        "Where is the square?": "bottom right",
        "What is at the top left?": "red circle",
        "What is at the bottom right?": "blue square",
        "How many shapes are there?": "two",
        "Describe the picture.": "red circle top left, blue square bottom right",
    }


def test_demonstrations_are_right_unless_they_list_or_mistake(tmp_path: Path) -> None:
    images = [(tmp_path / f"{i}.png", sample_scene(random.Random(i))) for i in range(200)]
    prompts = prompt_records(images, tmp_path, per_image=3, seed=0)
    rng = random.Random(0)
    seen = set()
    for record in (demonstration(prompt, rng) for prompt in prompts):
        wrong = record.meta["style"] == "listing" or record.meta["mistaken"]
        assert is_right(record, record.response) != wrong, record.response
        seen.add((record.meta["kind"], record.meta["style"], record.meta["mistaken"]))
    assert len(seen) == 6 * 3 * 2 + 2  # each style, right and mistaken; listed kinds


def test_an_images_questions_do_not_depend_on_the_others(tmp_path: Path) -> None:
    images = [(tmp_path / f"{i}.png", sample_scene(random.Random(i))) for i in range(4)]
    records = prompt_records(images, tmp_path, per_image=3, seed=0)
    single_image_records = prompt_records(images[2:3], tmp_path, per_image=3, seed=0)
    assert records[6:9] == single_image_records
    assert [record.id for record in single_image_records] == ["2.png#0", "2.png#1", "2.png#2"]


def test_splits_share_no_image_and_read_back(tmp_path: Path) -> None:
    sft = write_split(tmp_path, "sft", 30, per_image=2, seed=0, demonstrate=True)
    evaluation = write_split(tmp_path, "evaluation", 30, per_image=1, seed=0)
    demonstrations = read_records(sft, DemonstrationRecord)
    prompts = read_records(evaluation, PromptRecord)
    assert (len(demonstrations), len(prompts)) == (60, 30)
    trained = {(tmp_path / record.image_path).read_bytes() for record in demonstrations}
    assert len(trained) == 30
    assert trained.isdisjoint({(tmp_path / record.image_path).read_bytes() for record in prompts})
