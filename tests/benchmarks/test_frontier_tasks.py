"""The tasks of the frontier study: rewards and judges on literals, prompts, demonstrations."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf.data.records import PromptRecord, read_records, write_records
from rlhf.demo.scenes import COLOURS, SHAPES
from rlhf.errors import UsageError
from rlhf.rewards.external.python_function import load_function
from tests.benchmarks.frontier import (
    answers,
    describe,
    results,
    scenes,
    scorers,
    script,
    starts,
)
from tests.benchmarks.learning import task_

OBJECTS = [
    {"colour": "red", "shape": "circle", "place": "top left"},
    {"colour": "blue", "shape": "star", "place": "bottom middle"},
]
RIGHT = "There is a red circle at the top left. A blue star is at the bottom middle."
# Response: things rightly placed minus other things named; share placed; whole description right.
JUDGED = {
    RIGHT: (2, 1.0, 1.0),
    "blue star bottom middle, red circle top left": (2, 1.0, 1.0),
    "There is a red circle at the top left.": (1, 0.5, 0.0),
    "There is a red circle.": (-1, 0.0, 0.0),  # without a place
    "There is a red circle at the top middle.": (-1, 0.0, 0.0),
    "There is a green circle at the top left.": (-1, 0.0, 0.0),
    f"{RIGHT} There is a red circle at the top left.": (1, 1.0, 0.0),  # repeated
    f"{RIGHT} I can see a black square at the top right.": (1, 1.0, 0.0),
    "I see nothing.": (0, 0.0, 0.0),
    "": (0, 0.0, 0.0),
}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Path of an image with a description, and with a question about the star."""
    name = "pictures/preference/00000.png"
    meta = {"objects": OBJECTS, "kind": "description"}
    about = {**OBJECTS[1], "place": "bottom left", "count": "two"}
    question = {"objects": OBJECTS, "kind": "place", "about": about, "answer": "bottom left"}
    records = [
        PromptRecord(name, "Describe the picture.", "a", meta),
        PromptRecord(name, "Where is the star?", "b", question),
    ]
    write_records(tmp_path / "preference.jsonl", records)
    return tmp_path / name


def test_things_rightly_placed_count_one_and_others_minus_one(image: Path) -> None:
    rows = [image] * len(JUDGED), ["Describe the picture."] * len(JUDGED), [*JUDGED]
    for column, judge in enumerate(("things_score", "things_right", "description_right")):
        function = load_function(Path(starts.SCORERS), judge)
        assert function(*rows) == [values[column] for values in JUDGED.values()]


def test_answers_are_judged_by_the_rule(image: Path) -> None:
    answers = ["bottom left", "I think the star is at the bottom left.", "top left", "a star"]
    asked = ["Where is the star?"] * 4
    assert scorers.response_right([image] * 4, asked, answers) == [1, 1, 0, 0]


def test_prompts_of_describe_are_images_of_three_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(describe, "IMAGES", {"preference": 8, "evaluation": 3})
    describe.draw(tmp_path)
    for name, count in describe.IMAGES.items():
        records = read_records(tmp_path / f"{name}.jsonl", PromptRecord)
        assert len({(tmp_path / record.image_path).read_bytes() for record in records}) == count
        assert all(len(record.meta["objects"]) == 3 for record in records)
        assert {record.instruction for record in records} == {"Describe the picture."}
        images = [tmp_path / record.image_path for record in records]
        asked, right = zip(*((x.instruction, x.meta["answer"]) for x in records), strict=True)
        assert scorers.things_score(images, asked, right) == [3.0] * count


def test_images_of_scenes_have_five_or_six_things_of_different_colours() -> None:
    for seed in range(20):
        facts = scenes.sample_grid_scene(random.Random(seed)).facts()
        assert len(facts) in (5, 6)
        assert len({fact["colour"] for fact in facts}) == len(facts)
        assert [fact["place"] for fact in facts] == [
            place for place in scenes.GRID if place in {fact["place"] for fact in facts}
        ]


def test_places_of_scenes_are_classified_row_by_row() -> None:
    scene = scenes.sample_grid_scene(random.Random(0))
    classes = scenes.classes(scene)
    assert len(classes) == 6
    by_place = {shape.place: shape for shape in scene.shapes}
    for place, (colour, shape) in zip(scenes.GRID, classes, strict=True):
        if place in by_place:
            assert COLOURS[colour] == by_place[place].colour
            assert SHAPES[shape] == by_place[place].shape
        else:
            assert (colour, shape) == (len(COLOURS), len(SHAPES))


def test_demonstrations_of_scenes_are_wrong_as_often_as_said(tmp_path: Path) -> None:
    written = scenes.write_split(tmp_path, "preference", 60)
    records = read_records(tmp_path / "preference.jsonl", PromptRecord)
    rng = random.Random(0)
    told = [scenes.demonstration(record, rng).response for record in records]
    images = [tmp_path / record.image_path for record in records]
    placed = scorers.things_right(images, [scenes.INSTRUCTION] * 60, told)
    things = [len(scene.shapes) for scene in written]
    share = sum(x * n for x, n in zip(placed, things, strict=True)) / sum(things)
    expected = (1 - scenes.MISTAKEN) * (1 - scenes.LEFT_OUT)
    assert share == pytest.approx(expected, abs=0.06)


def test_a_mistake_changes_one_attribute() -> None:
    thing, rng = OBJECTS[0], random.Random(0)
    for _ in range(20):
        wrong = scenes.mistaken(thing, rng)
        assert sum(wrong[key] != value for key, value in thing.items()) == 1


def test_models_are_trained_once_and_then_come_from_their_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starts, "ARCHIVES", tmp_path / "archives")
    made: list[Path] = []

    def train(directory: Path) -> Any:
        made.append(directory)
        for name in ("1/model", "2/reward"):
            (directory / name).mkdir(parents=True)
            (directory / name / "w.safetensors").write_bytes(name.encode())
        (directory / "2/reward/reward.json").write_text(f'{{"base": "{directory}/1/model"}}')
        (directory / "2/metrics.jsonl").write_text("is not read")
        (directory / "pairs.jsonl").write_text("{}\n")
        return starts.Models("1/model", "2", "pairs.jsonl")

    def draw(data: Path) -> None:
        data.mkdir(exist_ok=True)

    here, there = tmp_path / "here/demo", tmp_path / "there/demo"
    found = [starts.starting_point(path, train, draw) for path in (here, here, there)]
    assert made == [here] and found[0] == found[1]
    assert found[2] == task_.StartingPoint(
        model=f"{there}/1/model",
        reward=f"{there}/2",
        data=f"{there}/data",
        preferences=f"{there}/pairs.jsonl",
    )
    assert starts.fingerprint(found[2]) == starts.fingerprint(found[0])
    assert (there / "2/reward/reward.json").read_text() == '{"base": "1/model"}'
    assert not (there / "2/metrics.jsonl").exists() and (there / "data").is_dir()


def test_a_fingerprint_is_that_of_the_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for part in ("model", "run/reward/adapter"):
            (tmp_path / name / part).mkdir(parents=True)
            (tmp_path / name / part / "model.safetensors").write_bytes(part.encode())

    def fingerprint(model: str, reward: str) -> str:
        start = task_.StartingPoint(
            model=str(tmp_path / model / "model"),
            reward=reward and str(tmp_path / reward / "run"),
            data="",
        )
        return str(starts.fingerprint(start))

    assert fingerprint("a", "a") == fingerprint("b", "a") != fingerprint("a", "")
    (tmp_path / "b/run/reward/adapter/model.safetensors").write_bytes(b"other")
    assert fingerprint("a", "a") != fingerprint("a", "b")


def test_missing_photographs_get_three_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "INSTALLED", tmp_path / "nowhere")
    for make in (answers.train_stamps, lambda path: answers.draw_stamps(path / "data")):
        with pytest.raises(UsageError, match="photographs of the task stamps") as caught:
            make(tmp_path)
        assert "apt-get download tuxpaint-stamps-default" in str(caught.value)


def test_the_pairs_are_those_of_the_reward_model(tmp_path: Path) -> None:
    model, run = tmp_path / "model", tmp_path / "run"
    run.mkdir()
    options = {"data": {"preferences": str(tmp_path / "pairs.jsonl")}}
    (run / "config.yaml").write_text(json.dumps(options))
    assert answers.models_of(tmp_path, model, run) == starts.Models("model", "run", "pairs.jsonl")


def test_the_archives_hold_the_models_that_the_results_began_with(tmp_path: Path) -> None:
    def untrained(_: Path) -> Any:
        raise AssertionError("there is no archive")

    begun: dict[str, set[str]] = {}
    for result in results.read_results(script.RESULTS):
        begun.setdefault(result.task, set()).add(result.start)
    made = {
        name: starts.starting_point(tmp_path / name, untrained, lambda data: None)
        for name in ("demo", "scenes", "stamps")
    }
    made["describe"] = replace(made["demo"], reward="")
    assert begun and begun == {name: {starts.fingerprint(made[name])} for name in begun}
    assert all(Path(start.model, "config.json").is_file() for start in made.values())
    for name in ("demo", "stamps"):
        assert Path(made[name].preferences).is_file()
        assert Path(made[name].reward, "reward/reward.json").is_file()
