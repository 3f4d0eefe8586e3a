"""Scenes of stamps, on coloured squares and bars in the place of the photographs."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from transformers import AutoModelForImageTextToText, AutoProcessor

from rlhf.data.records import CandidatesRecord, DemonstrationRecord, PromptRecord, read_records
from rlhf.demo.questions import demonstration, prompt_records
from rlhf.demo.rule_judge import is_right, label_pairs, rule_score
from rlhf.demo.stamps.scenes import (
    CLASSES,
    NAMES,
    STAMP_QUESTIONS,
    STAMPS,
    Stamp,
    StampScene,
    draw_stamp_scene,
    sample_stamp_scene,
    stamp_path,
    write_stamp_images,
    write_stamp_split,
)
from rlhf.demo.tiny_llava import build_tiny_llava, train_vision_tower
from rlhf.errors import DataError

SCENE = StampScene(
    (
        Stamp("banana", "top left", 12.0, 12.0, 20.0),
        Stamp("zebra", "bottom right", 36.0, 36.0, 20.0),
    ),
    light=(255, 240, 220),
)
ANSWERS = {"place": "top left", "thing": "banana", "count": "two"}
ANSWERS["description"] = "banana top left, zebra bottom right"


def colour(name: str) -> tuple[int, int, int]:
    number = NAMES.index(name)
    return 60 * (number % 4), 60 * (number // 4 % 4), 120 * (number // 16)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `rlhf stamps` leaves it: squares with a transparent border; the zebra is a flat bar."""
    directory = tmp_path_factory.mktemp("stamps")
    for name, stem in STAMPS.items():
        path = directory / "pictures" / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGBA", (80, 80), (0, 0, 0, 0))
        edges = (10, 35, 69, 44) if name == "zebra" else (10, 10, 69, 69)
        ImageDraw.Draw(image).rectangle(edges, fill=colour(name))
        image.save(path)
    return directory


def prompt(kind: str) -> PromptRecord:
    about, _ = SCENE.facts()
    meta = {"objects": SCENE.facts(), "kind": kind, "about": about, "answer": ANSWERS[kind]}
    return PromptRecord("a.png", "?", meta=meta)


def test_names_are_single_words_that_take_a() -> None:
    assert len(NAMES) == len(set(STAMPS.values())) == 32
    assert all(name.isalpha() and name.islower() and name[0] not in "aeiou" for name in NAMES)
    assert list(NAMES) == sorted(NAMES)


def test_a_scene_shows_each_stamp_where_the_facts_say(directory: Path) -> None:
    image = draw_stamp_scene(SCENE, directory)
    assert image.size == (48, 48)
    red, green, blue = colour("banana")
    shaded = (red, green * 240 // 255, blue * 220 // 255)
    for corner in ((2, 2), (21, 2), (2, 21), (21, 21)):  # 20 pixels wide, without its border
        assert image.getpixel(corner) == shaded
    for outside in ((1, 12), (22, 12), (12, 1), (12, 22), (36, 12), (36, 30), (36, 42)):
        assert image.getpixel(outside) == (255, 240, 220)  # what was transparent is lit white
    assert image.getpixel((36, 36)) != (255, 240, 220)
    draw_stamp_scene(StampScene((Stamp("banana", "top left", 12, 12, 4),), (255,) * 3), directory)
    assert draw_stamp_scene(SCENE, directory).tobytes() == image.tobytes()


def test_scenes_are_distinct_in_every_fact_and_stamps_stay_in_their_quarter() -> None:
    counts, names = set(), set()
    for seed in range(300):
        scene = sample_stamp_scene(random.Random(seed))
        counts.add(len(scene.stamps))
        for key in ("name", "place"):
            assert len({fact[key] for fact in scene.facts()}) == len(scene.stamps)
        for stamp in scene.stamps:
            names.add(stamp.name)
            assert ("right" in stamp.place) == (stamp.x > 24)
            assert ("bottom" in stamp.place) == (stamp.y > 24)
            assert stamp.side / 2 <= stamp.x % 24 <= 24 - stamp.side / 2
            assert stamp.side / 2 <= stamp.y % 24 <= 24 - stamp.side / 2
        assert min(scene.light) >= 215
    assert (counts, names) == ({1, 2}, set(NAMES))


def test_quarters_number_the_stamps_by_place() -> None:
    assert SCENE.quarters() == [(0,), (32,), (32,), (31,)]
    assert CLASSES == (33,)


@pytest.mark.parametrize(
    "place",
    [
        "pictures/food/fruit/banana.png",  # `rlhf stamps`
        "food/fruit/banana.png",  # the package's directory `stamps`
        "usr/share/tuxpaint/stamps/food/fruit/banana.png",  # the package, unpacked
        "banana.png",
        "banana.jpg",
    ],
)
def test_a_photograph_is_found_as_the_package_or_its_name_has_it(
    place: str, tmp_path: Path
) -> None:
    assert stamp_path(tmp_path, "banana") == tmp_path / "pictures/food/fruit/banana.png"
    for other in ("bananas.png", "food/banana.png", "zebra.png"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).touch()
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).touch()
    assert stamp_path(tmp_path, "banana") == tmp_path / place


def test_a_missing_stamp_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        draw_stamp_scene(SCENE, tmp_path)
    assert caught.value.where.endswith("pictures/food/fruit/banana.png")


def test_images_are_fixed_by_seed_and_number(directory: Path, tmp_path: Path) -> None:
    first = write_stamp_images(tmp_path / "a", 3, 7, directory)
    longer = write_stamp_images(tmp_path / "b", 5, 7, directory)
    other = write_stamp_images(tmp_path / "c", 3, 8, directory)
    scenes = [scene for _, scene in first]
    assert scenes == [scene for _, scene in longer[:3]] != [scene for _, scene in other]
    for (left, _), (right, _) in zip(first, longer, strict=False):
        assert left.read_bytes() == right.read_bytes()


def test_each_kind_of_question_has_its_shortest_answer(tmp_path: Path) -> None:
    images = [(tmp_path / "a.png", SCENE)]
    prompts = prompt_records(images, tmp_path, per_image=200, seed=0, templates=STAMP_QUESTIONS)
    assert {record.instruction: record.meta["answer"] for record in prompts} == {
        "Where is the banana?": "top left",
        "Where is the zebra?": "bottom right",
        "What is at the top left?": "banana",
        "What is at the bottom right?": "zebra",
        "How many things are there?": "two",
        "Describe the picture.": "banana top left, zebra bottom right",
    }


def test_demonstrations_are_right_unless_they_list_or_mistake(tmp_path: Path) -> None:
    images = [(tmp_path / f"{i}.png", sample_stamp_scene(random.Random(i))) for i in range(200)]
    prompts = prompt_records(images, tmp_path, per_image=3, seed=0, templates=STAMP_QUESTIONS)
    rng, answer_kinds = random.Random(0), set()
    for record in (demonstration(prompt, rng, STAMP_QUESTIONS) for prompt in prompts):
        wrong = record.meta["style"] == "listing" or record.meta["mistaken"]
        assert is_right(record, record.response) != wrong, record.response
        answer_kinds.add((record.meta["kind"], record.meta["style"], record.meta["mistaken"]))
    assert len(answer_kinds) == 4 * 3 * 2 + 1  # each style, right and mistaken; listed kinds


@pytest.mark.parametrize(
    ("kind", "response", "right", "score"),
    [
        ("place", "top left", True, 1.0),
        ("place", "The banana is at the top left.", True, 0.9),  # 5 words over
        ("place", "bottom right", False, 0.0),
        ("place", "top left or bottom right", False, -0.06),
        ("thing", "a banana", True, 0.98),
        ("thing", "zebra", False, 0.0),
        ("thing", "not a banana", False, -0.04),
        ("thing", "banana or rose", False, -0.04),
        ("thing", "bananas", False, 0.0),
        ("count", "2", True, 1.0),
        ("count", "one", False, 0.0),
        ("description", "banana top left, zebra bottom right", True, 1.5),
        ("description", "a banana and a zebra", True, 1.0),
        ("description", "banana bottom right, zebra", False, 0.875),
        ("description", "banana top left", False, 0.75),
        ("description", "banana, banana, zebra", False, 0.875),
        ("description", "rose top left", False, -0.5),
    ],
)
def test_the_rule_by_hand(kind: str, response: str, right: bool, score: float) -> None:
    assert is_right(prompt(kind), response) is right
    assert rule_score(prompt(kind), response) == pytest.approx(score)


def test_pairs_say_whether_one_answer_is_right_and_the_other_wrong() -> None:
    responses = ["banana", "zebra", "In this picture it is a banana.", "I think it is a zebra."]
    record = CandidatesRecord("a.png", "?", responses, meta=prompt("thing").meta)
    kinds = {
        frozenset((pair.response_a, pair.response_b)): pair.meta["pair"]
        for pair in label_pairs([record], noise=0.0, seed=0)
    }
    right, wrong, wordy, hedged = responses
    assert kinds == {
        frozenset((right, wrong)): "right-wrong",
        frozenset((right, hedged)): "right-wrong",
        frozenset((wordy, wrong)): "right-wrong",
        frozenset((wordy, hedged)): "right-wrong",
        frozenset((right, wordy)): "style",
        frozenset((wrong, hedged)): "style",
    }


def test_splits_share_no_image_and_read_back(directory: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"stamps_directory": directory, "seed": 0}
    sft = write_stamp_split(tmp_path, "sft", 30, per_image=2, demonstrate=True, **options)
    other = write_stamp_split(tmp_path, "evaluation", 30, per_image=1, **options)
    demonstrations = read_records(sft, DemonstrationRecord)
    prompts = read_records(other, PromptRecord)
    assert (len(demonstrations), len(prompts)) == (60, 30)
    trained = {(tmp_path / record.image_path).read_bytes() for record in demonstrations}
    assert len(trained) == 30
    assert trained.isdisjoint({(tmp_path / record.image_path).read_bytes() for record in prompts})


def test_the_tower_learns_which_stamp_is_where(directory: Path, tmp_path: Path) -> None:
    build_tiny_llava(tmp_path, ["Where is the banana?", "top left"], seed=0)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    scenes = [sample_stamp_scene(random.Random(i)) for i in range(128)]
    images = [draw_stamp_scene(scene, directory) for scene in scenes]
    labels = torch.tensor([scene.quarters() for scene in scenes])
    losses: list[float] = []
    accuracy = train_vision_tower(
        model,
        processor,
        images,
        labels,
        CLASSES,
        steps=30,
        seed=0,
        on_step=lambda done, total, loss: losses.append(loss),
    )
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    empty = (labels == len(NAMES)).float().mean().item()
    assert accuracy > empty + 0.02  # what is told right by answering "empty" everywhere
