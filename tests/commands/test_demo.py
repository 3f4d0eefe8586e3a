"""`rlhf demo demo=stamps`: what the photographs show is what is asked and answered."""

import json
from pathlib import Path

import pytest
from PIL import Image

from rlhf.cli.hydra_compose import compose_options
from rlhf.cli.main import main
from rlhf.commands.demo import _base_name
from rlhf.config.validation import load_config
from rlhf.data.records import PromptRecord, read_records
from rlhf.demo import settings
from rlhf.demo.scenes import PLACES
from rlhf.demo.stamps import photographs as stamp_photographs
from rlhf.demo.stamps.scenes import NAMES
from tests.support.photographs import named_by, write_photographs

SMALL = (
    "demo.sft_images=40",
    "demo.preference_images=20",
    "demo.evaluation_images=8",
    "demo.tower_steps=5",
    "sft.epochs=1",
    "reward.epochs=1",
    "ppo.iterations=2",
    "ppo.critic_warmup_iterations=1",
    "ppo.rollout_batch_size=8",
    "ppo.minibatch_size=4",
    "ppo.ppo_epochs=1",
)
MIDDLES = dict(zip(PLACES, ((12, 12), (36, 12), (12, 36), (36, 36)), strict=True))


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of named images; nothing is installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stamp_photographs, "INSTALLED", tmp_path / "nowhere")
    return write_photographs(tmp_path / "photographs")


@pytest.mark.slow
def test_a_short_demo_of_photographs_asks_about_what_they_show(photographs: Path) -> None:
    words = ["demo=stamps", f"demo.photographs={photographs}", *SMALL]
    assert main(["demo", *words]) == 0
    summary = json.loads(Path("runs/demo/summary.json").read_text())
    assert {"win_rate", "accuracy_before", "accuracy_after", "rule_after"} <= set(summary)
    [data] = Path("runs/demo").glob("base-*/data")
    records = read_records(data / "evaluation.jsonl", PromptRecord)
    assert len(records) == 16
    for record in records:
        assert record.meta["kind"] in ("place", "thing", "count", "description")
        if record.meta["kind"] == "thing":
            check_answer(data, record)


def check_answer(data: Path, record: PromptRecord) -> None:
    """The answer to "What is at the …?" is the name of the image that is there."""
    place = record.instruction.removeprefix("What is at the ").removesuffix("?")
    assert shown(Image.open(data / record.image_path), place) == record.meta["answer"]


def shown(image: Image.Image, place: str) -> str:
    """The name of the photograph in a quarter of an image; empty if there is none."""
    pixel = image.convert("RGB").getpixel(MIDDLES[place])
    assert isinstance(pixel, tuple)
    return "" if min(pixel) >= 215 else named_by(pixel)


def test_questions_are_about_the_things_that_images_are_named_after(photographs: Path) -> None:
    data = photographs.with_name("data")
    path = settings.stamps(photographs).write_split(data, "sft", 100, per_image=2, seed=0)
    records = read_records(path, PromptRecord)
    asked = [record for record in records if record.meta["kind"] == "thing"]
    assert len(asked) > 20
    for record in asked:
        check_answer(data, record)
    described = records[2]
    assert described.image_path == records[3].image_path == "pictures/sft/00001.png"
    image = Image.open(data / described.image_path)
    assert [shown(image, place) for place in PLACES] == ["carrot", "", "", "bison"]
    assert [(record.instruction, record.meta["answer"]) for record in records[2:4]] == [
        ("Describe the picture.", "carrot top left, bison bottom right"),
        ("Where is the bison?", "bottom right"),
    ]


def test_lessons_name_the_thing_in_each_quarter(photographs: Path) -> None:
    images, labels, classes = settings.stamps(photographs).lessons(30, 0)
    assert (len(images), labels.shape, classes) == (30, (30, 4, 1), (33,))
    for image, quarters in zip(images, labels.squeeze(-1).tolist(), strict=True):
        assert [shown(image, place) for place in PLACES] == [[*NAMES, ""][x] for x in quarters]


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        ("demo=stamps", 2, ["apt-get download tuxpaint-stamps-default", "https://packages.debian"]),
        ("demo.photographs=photographs", 2, ["demo of shapes", "add demo=stamps"]),
        ("demo=stamps demo.photographs=none.deb", 3, ["no such file", "demo.photographs=none.deb"]),
        ("demo=stamps demo.photographs=empty", 3, ["32 of the 32", "banana, basketball", "empty"]),
        ("demo=stamps demo.photographs=some", 3, ["1 of the 32", "zebra", "zebra.png"]),
        ("demo=photos", 2, ["demo/photos", "demo is one of shapes, stamps"]),
    ],
)
def test_what_is_missing_is_said_in_three_lines(
    words: str,
    code: int,
    parts: list[str],
    photographs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("rlhf.cli.input_checks.import_function", None)  # before torch is imported
    Path("empty").mkdir()
    (write_photographs(Path("some")) / "zebra.png").unlink()
    assert main(["demo", *words.split()]) == code
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 3
    assert all(part in error for part in parts), error
    assert not [path for path in Path().glob("runs/**/*") if path.is_file()]


def test_the_group_and_the_section_have_one_name() -> None:
    plain = load_config(compose_options("demo", ["demo.sft_images=40"]))
    both = load_config(compose_options("demo", ["demo=stamps", "demo.sft_images=40"]))
    assert (plain.demo.kind, plain.demo.sft_images) == ("shapes", 40)
    assert (both.demo.kind, both.demo.sft_images) == ("stamps", 40)
    assert load_config(compose_options("demo", ["demo=shapes", "demo.sft_images=40"])) == plain


def test_a_model_is_used_again_with_the_same_photographs(photographs: Path) -> None:
    config = load_config(compose_options("demo", []))
    stamps = load_config(compose_options("demo", ["demo=stamps", "demo.photographs=elsewhere"]))
    name = _base_name(stamps, photographs)
    assert _base_name(stamps, write_photographs(Path("moved"))) == name
    assert len({name, _base_name(config, None), _base_name(stamps, None)}) == 2
    Image.new("RGB", (40, 40), (1, 2, 3)).save(photographs / "zebra.png")
    assert _base_name(stamps, photographs) != name
