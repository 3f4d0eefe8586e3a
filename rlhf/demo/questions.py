"""Questions about a scene, the shortest right answer, and demonstrations in four styles.

The demonstrations are as people write: terse, wordy, hedging, some that list two answers, and in
any style some that mistake what they see. A model that imitates them leaves right-before-wrong and
short-before-long to be preferred, and only the image tells a mistake from a right answer.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Protocol

from rlhf.data.records import DemonstrationRecord, PromptRecord, write_records
from rlhf.demo.scenes import COLOURS, PLACES, SHAPES, write_images

Facts = list[dict[str, str]]


class Depicted(Protocol):
    """A scene: what is in its image, one mapping for each thing."""

    def facts(self) -> Facts: ...


@dataclass(frozen=True)
class Topic:
    """What is asked and said about scenes of one sort.

    Attributes:
        thing: how a thing is named, from its facts.
        values: every value a fact can have; `count` is of the image.
        kinds: of each kind the question, the shortest right answer, the same as a clause.
        listed: kinds of which people like to list two answers.
    """

    thing: str
    values: Mapping[str, Sequence[str]]
    kinds: Mapping[str, tuple[str, str, str]]
    listed: Sequence[str]


COUNTS = ("one", "two", "three")
SHAPES_TOPIC = Topic(
    thing="{colour} {shape}",
    values={"shape": SHAPES, "colour": COLOURS, "place": PLACES, "count": COUNTS},
    kinds={
        "colour": ("What colour is the {shape}?", "{colour}", "the {shape} is {colour}"),
        "shape": ("Which shape is {colour}?", "{shape}", "the {colour} shape is a {shape}"),
        "place": ("Where is the {shape}?", "{place}", "the {shape} is at the {place}"),
        "thing": ("What is at the {place}?", "{colour} {shape}", "it is a {colour} {shape}"),
        "count": ("How many shapes are there?", "{count}", "the number of shapes is {count}"),
        "description": ("Describe the picture.", "{terse}", "there is {wordy}"),
    },
    listed=("colour", "place"),
)
_STYLES = {
    "terse": "{answer}",
    "wordy": "In this picture {clause}.",
    "hedging": "I think {clause}, but I am not sure.",
}
_LISTING = "It could be {answer} or {wrong}."
_LISTING_SHARE = 0.3  # of the demonstrations of a listed kind
_MISTAKEN_SHARE = 0.35  # of those that do not list


def prompt_records(
    images: Iterable[tuple[Path, Depicted]],
    root: Path,
    *,
    per_image: int,
    seed: int,
    topic: Topic = SHAPES_TOPIC,
) -> list[PromptRecord]:
    """Random questions about images; an image's own do not depend on the other images.

    Paths are relative to `root`. `meta` holds what a judge needs: `objects`, `kind`, `about` (the
    thing asked about, and the count) and `answer` (the shortest right one).
    """
    records = []
    for path, scene in images:
        image_path, facts = path.relative_to(root).as_posix(), scene.facts()
        rng = random.Random(f"questions/{seed}/{image_path}")
        for number in range(per_image):
            kind = rng.choice(list(topic.kinds))
            about = rng.choice(_counted(facts))
            instruction, answer, _ = _phrased(kind, about, facts, topic)
            meta = {"objects": facts, "kind": kind, "about": about, "answer": answer}
            records.append(PromptRecord(image_path, instruction, f"{image_path}#{number}", meta))
    return records


def demonstration(
    prompt: PromptRecord, rng: random.Random, topic: Topic = SHAPES_TOPIC
) -> DemonstrationRecord:
    """A response in a random style; `meta` notes the style and whether something is mistaken.

    It is wrong when it lists two answers or is mistaken.
    """
    kind, facts, about = (prompt.meta[key] for key in ("kind", "objects", "about"))
    absent = _absent(facts, rng, topic)
    if kind in topic.listed and rng.random() < _LISTING_SHARE:
        style, form, mistaken = "listing", _LISTING, False
    else:
        style = rng.choice(list(_STYLES))
        form, mistaken = _STYLES[style], rng.random() < _MISTAKEN_SHARE
    if mistaken:
        about, facts = _mistaken(kind, about, facts, absent, rng, topic)
    _, answer, clause = _phrased(kind, about, facts, topic)
    _, wrong, _ = _phrased(kind, absent, [absent], topic)
    response = form.format(answer=answer, clause=clause, wrong=wrong)
    meta = {**prompt.meta, "style": style, "mistaken": mistaken}
    return DemonstrationRecord(prompt.image_path, prompt.instruction, response, prompt.id, meta)


def write_split(
    root: Path, name: str, images: int, *, per_image: int, seed: int, demonstrate: bool = False
) -> Path:
    """Draw images in `root/images/name`; write prompts or demonstrations, `root/name.jsonl`.

    Splits of different names share no image: `sft` and `evaluation` are drawn apart.
    """
    drawn = write_images(root / "pictures" / name, images, f"{name}/{seed}")
    return write_questions(
        root, name, drawn, per_image=per_image, seed=seed, demonstrate=demonstrate
    )


def write_questions(
    root: Path,
    name: str,
    images: Iterable[tuple[Path, Depicted]],
    *,
    per_image: int,
    seed: int,
    demonstrate: bool,
    topic: Topic = SHAPES_TOPIC,
) -> Path:
    """Write prompts or demonstrations about images below `root`, `root/name.jsonl`."""
    prompts = prompt_records(images, root, per_image=per_image, seed=seed, topic=topic)
    rng = random.Random(f"demonstrations/{name}/{seed}")
    path = root / f"{name}.jsonl"
    write_records(path, [demonstration(p, rng, topic) for p in prompts] if demonstrate else prompts)
    return path


def _phrased(kind: str, about: dict[str, str], facts: Facts, topic: Topic) -> list[str]:
    """Question, shortest right answer and clause of one kind."""
    terse = ", ".join(f"{topic.thing} {{place}}".format(**fact) for fact in facts)
    wordy = " and ".join(f"a {topic.thing} at the {{place}}".format(**fact) for fact in facts)
    return [text.format(**about, terse=terse, wordy=wordy) for text in topic.kinds[kind]]


def _mistaken(
    kind: str,
    about: dict[str, str],
    facts: Facts,
    absent: dict[str, str],
    rng: random.Random,
    topic: Topic,
) -> tuple[dict[str, str], Facts]:
    """What is asked about and the image, with one of them wrong.

    A description gets one fact of nobody's; an answer is that of another thing, or of nobody.
    """
    if kind == "description":
        row, field = rng.randrange(len(facts)), rng.choice(list(facts[0]))
        return about, [{**f, field: absent[field]} if n == row else f for n, f in enumerate(facts)]
    answer = [field for _, field, _, _ in Formatter().parse(topic.kinds[kind][1]) if field]
    others = [fact for fact in facts if fact["place"] != about["place"] and kind != "count"]
    source = rng.choice(others) if others and rng.random() < 0.5 else absent
    return {**about, **{field: source[field] for field in answer}}, facts


def _absent(facts: Facts, rng: random.Random, topic: Topic) -> dict[str, str]:
    """A thing none of whose facts is true of the image."""
    true = {value for fact in _counted(facts) for value in fact.values()}
    return {
        key: rng.choice([value for value in known if value not in true])
        for key, known in topic.values.items()
    }


def _counted(facts: Facts) -> Facts:
    return [{**fact, "count": COUNTS[len(facts) - 1]} for fact in facts]
