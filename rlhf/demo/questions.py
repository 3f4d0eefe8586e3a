"""Questions about scenes, their shortest right answers, and demonstrations in four styles.

Demonstrations imitate people: terse, wordy, hedging, or listing two answers; in every style some
are wrong. A model trained on them can still improve by being right and by being short, and only
the image tells a right answer from a wrong one.
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


class HasFacts(Protocol):
    """A scene that lists what its image shows."""

    def facts(self) -> Facts:
        """One mapping of attribute to value for each thing in the image."""
        ...


@dataclass(frozen=True)
class QuestionTemplates:
    """Templates of questions and answers about scenes of one sort.

    Attributes:
        thing: name of a thing, filled from its facts.
        values: attribute to all its values; `count` is the number of things in the image.
        kinds: kind of question to its question, shortest right answer, and answer as a clause.
        listed: kinds whose demonstrations may list two answers.
    """

    thing: str
    values: Mapping[str, Sequence[str]]
    kinds: Mapping[str, tuple[str, str, str]]
    listed: Sequence[str]


COUNTS = ("one", "two", "three")
SHAPE_QUESTIONS = QuestionTemplates(
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
    images: Iterable[tuple[Path, HasFacts]],
    root: Path,
    *,
    per_image: int,
    seed: int,
    templates: QuestionTemplates = SHAPE_QUESTIONS,
) -> list[PromptRecord]:
    """Draw random questions about images; those about one image do not depend on the others.

    Args:
        images: path and scene of each image.
        root: directory that the records' paths are relative to.
        per_image: questions about each image.
        seed: of the random choices.
        templates: the questions to choose from.

    Returns:
        Prompts whose `meta` holds what a judge needs: `objects`, `kind`, `about` (the thing asked
        about, with the count) and `answer` (the shortest right one).
    """
    records = []
    for path, scene in images:
        image_path, facts = path.relative_to(root).as_posix(), scene.facts()
        rng = random.Random(f"questions/{seed}/{image_path}")
        for number in range(per_image):
            kind = rng.choice(list(templates.kinds))
            about = rng.choice(_with_count(facts))
            instruction, answer, _ = _fill_templates(kind, about, facts, templates)
            meta = {"objects": facts, "kind": kind, "about": about, "answer": answer}
            records.append(PromptRecord(image_path, instruction, f"{image_path}#{number}", meta))
    return records


def demonstration(
    prompt: PromptRecord, rng: random.Random, templates: QuestionTemplates = SHAPE_QUESTIONS
) -> DemonstrationRecord:
    """Write a response in a random style; it is wrong if it lists two answers or has a mistake.

    Args:
        prompt: a prompt of `prompt_records`.
        rng: random generator.
        templates: the templates that the prompt was made from.

    Returns:
        The demonstration; its `meta` adds `style` and `mistaken` to the prompt's.
    """
    kind, facts, about = (prompt.meta[key] for key in ("kind", "objects", "about"))
    absent = _absent_thing(facts, rng, templates)
    if kind in templates.listed and rng.random() < _LISTING_SHARE:
        style, form, mistaken = "listing", _LISTING, False
    else:
        style = rng.choice(list(_STYLES))
        form, mistaken = _STYLES[style], rng.random() < _MISTAKEN_SHARE
    if mistaken:
        about, facts = _add_mistake(kind, about, facts, absent, rng, templates)
    _, answer, clause = _fill_templates(kind, about, facts, templates)
    _, wrong, _ = _fill_templates(kind, absent, [absent], templates)
    response = form.format(answer=answer, clause=clause, wrong=wrong)
    meta = {**prompt.meta, "style": style, "mistaken": mistaken}
    return DemonstrationRecord(prompt.image_path, prompt.instruction, response, prompt.id, meta)


def write_split(
    root: Path, name: str, images: int, *, per_image: int, seed: int, demonstrate: bool = False
) -> Path:
    """Draw images of shapes and write prompts or demonstrations about them.

    Images go to `root/pictures/name`, records to `root/name.jsonl`. Splits of different names share
    no image.

    Args:
        root: directory of the data set.
        name: name of the split; it is part of the seed.
        images: number of images.
        per_image: questions about each image.
        seed: of images and questions.
        demonstrate: write demonstrations instead of prompts.

    Returns:
        Path of the records.
    """
    drawn = write_images(root / "pictures" / name, images, f"{name}/{seed}")
    return write_questions(
        root, name, drawn, per_image=per_image, seed=seed, demonstrate=demonstrate
    )


def write_questions(
    root: Path,
    name: str,
    images: Iterable[tuple[Path, HasFacts]],
    *,
    per_image: int,
    seed: int,
    demonstrate: bool,
    templates: QuestionTemplates = SHAPE_QUESTIONS,
) -> Path:
    """Write prompts or demonstrations about images to `root/name.jsonl`.

    Args:
        root: directory of the data set, above the images.
        name: name of the split; it is part of the seed of demonstrations.
        images: path and scene of each image.
        per_image: questions about each image.
        seed: of the questions.
        demonstrate: write demonstrations instead of prompts.
        templates: the questions to choose from.

    Returns:
        Path of the records.
    """
    prompts = prompt_records(images, root, per_image=per_image, seed=seed, templates=templates)
    rng = random.Random(f"demonstrations/{name}/{seed}")
    path = root / f"{name}.jsonl"
    write_records(
        path, [demonstration(p, rng, templates) for p in prompts] if demonstrate else prompts
    )
    return path


def _fill_templates(
    kind: str, about: dict[str, str], facts: Facts, templates: QuestionTemplates
) -> list[str]:
    """Question, shortest right answer and clause of one kind, filled from facts."""
    terse = ", ".join(f"{templates.thing} {{place}}".format(**fact) for fact in facts)
    wordy = " and ".join(f"a {templates.thing} at the {{place}}".format(**fact) for fact in facts)
    return [text.format(**about, terse=terse, wordy=wordy) for text in templates.kinds[kind]]


def _add_mistake(
    kind: str,
    about: dict[str, str],
    facts: Facts,
    absent: dict[str, str],
    rng: random.Random,
    templates: QuestionTemplates,
) -> tuple[dict[str, str], Facts]:
    """Return the thing asked about and the facts, with a mistake in one of them.

    In a description one attribute takes a value that is not in the image. Otherwise the answer is
    that of another thing, or of a thing that is not in the image.
    """
    if kind == "description":
        row, field = rng.randrange(len(facts)), rng.choice(list(facts[0]))
        return about, [{**f, field: absent[field]} if n == row else f for n, f in enumerate(facts)]
    answer = [field for _, field, _, _ in Formatter().parse(templates.kinds[kind][1]) if field]
    others = [fact for fact in facts if fact["place"] != about["place"] and kind != "count"]
    source = rng.choice(others) if others and rng.random() < 0.5 else absent
    return {**about, **{field: source[field] for field in answer}}, facts


def _absent_thing(facts: Facts, rng: random.Random, templates: QuestionTemplates) -> dict[str, str]:
    """A thing whose attributes all have values that are not in the image."""
    true = {value for fact in _with_count(facts) for value in fact.values()}
    return {
        key: rng.choice([value for value in known if value not in true])
        for key, known in templates.values.items()
    }


def _with_count(facts: Facts) -> Facts:
    """The facts, each with the number of things in the image."""
    return [{**fact, "count": COUNTS[len(facts) - 1]} for fact in facts]
