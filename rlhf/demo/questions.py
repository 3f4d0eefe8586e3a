"""Questions about a scene, the shortest right answer, and demonstrations in four styles.

The demonstrations are as people write: terse, wordy, hedging, or naming more than they see.
A model that imitates them leaves right-before-wrong and short-before-long to be preferred.
"""

import random
from collections.abc import Iterable
from pathlib import Path

from rlhf.data.records import DemonstrationRecord, PromptRecord, write_records
from rlhf.demo.scenes import COLOURS, PLACES, SHAPES, Scene, write_pictures

# Of each kind: the question, the shortest right answer, the same as a clause.
_KINDS = {
    "colour": ("What colour is the {shape}?", "{colour}", "the {shape} is {colour}"),
    "shape": ("Which shape is {colour}?", "{shape}", "the {colour} shape is a {shape}"),
    "place": ("Where is the {shape}?", "{place}", "the {shape} is at the {place}"),
    "thing": ("What is at the {place}?", "{colour} {shape}", "it is a {colour} {shape}"),
    "count": ("How many shapes are there?", "{count}", "the number of shapes is {count}"),
    "description": ("Describe the picture.", "{terse}", "there is {wordy}"),
}
_STYLES = {
    "terse": "{answer}",
    "wordy": "In this picture {clause}.",
    "hedging": "I think {clause}, but I am not sure.",
    "listing": "It could be {answer} or {wrong}.",
}
# The usual style differs by kind, so that the likeliest answer is not always of one style.
_USUAL = dict(
    zip(_KINDS, ("listing", "hedging", "listing", "terse", "wordy", "wordy"), strict=True)
)
_USUAL_SHARE = 0.3  # of the demonstrations; the others take any style
_COUNTS = ("one", "two", "three")

Facts = list[dict[str, str]]


def prompt_records(
    pictures: Iterable[tuple[Path, Scene]], root: Path, *, per_picture: int, seed: int
) -> list[PromptRecord]:
    """Random questions about pictures; a picture's own do not depend on the other pictures.

    Paths are relative to `root`. `meta` holds what a judge needs: `objects`, `kind`, `about` (the
    shape asked about, and the count) and `answer` (the shortest right one).
    """
    records = []
    for path, scene in pictures:
        image_path, facts = path.relative_to(root).as_posix(), scene.facts()
        rng = random.Random(f"questions/{seed}/{image_path}")
        for number in range(per_picture):
            kind = rng.choice(list(_KINDS))
            about = rng.choice(_counted(facts))
            instruction, answer, _ = _phrased(kind, about, facts)
            meta = {"objects": facts, "kind": kind, "about": about, "answer": answer}
            records.append(PromptRecord(image_path, instruction, f"{image_path}#{number}", meta))
    return records


def demonstration(prompt: PromptRecord, rng: random.Random) -> DemonstrationRecord:
    """A response in a random style, noted in `meta`; those of style `listing` are wrong."""
    kind, facts = prompt.meta["kind"], prompt.meta["objects"]
    style = _USUAL[kind] if rng.random() < _USUAL_SHARE else rng.choice(list(_STYLES))
    absent = _absent(facts, rng)
    _, answer, clause = _phrased(kind, prompt.meta["about"], facts)
    _, wrong, _ = _phrased(kind, absent, [absent])
    response = _STYLES[style].format(answer=answer, clause=clause, wrong=wrong)
    meta = {**prompt.meta, "style": style}
    return DemonstrationRecord(prompt.image_path, prompt.instruction, response, prompt.id, meta)


def write_split(
    root: Path, name: str, pictures: int, *, per_picture: int, seed: int, demonstrate: bool = False
) -> Path:
    """Draw pictures in `root/pictures/name`; write prompts or demonstrations, `root/name.jsonl`.

    Splits of different names share no picture: `sft` and `evaluation` are drawn apart.
    """
    drawn = write_pictures(root / "pictures" / name, pictures, f"{name}/{seed}")
    prompts = prompt_records(drawn, root, per_picture=per_picture, seed=seed)
    rng = random.Random(f"demonstrations/{name}/{seed}")
    path = root / f"{name}.jsonl"
    write_records(path, [demonstration(p, rng) for p in prompts] if demonstrate else prompts)
    return path


def _phrased(kind: str, about: dict[str, str], facts: Facts) -> list[str]:
    """Question, shortest right answer and clause of one kind."""
    terse = ", ".join("{colour} {shape} {place}".format(**fact) for fact in facts)
    wordy = " and ".join("a {colour} {shape} at the {place}".format(**fact) for fact in facts)
    return [text.format(**about, terse=terse, wordy=wordy) for text in _KINDS[kind]]


def _absent(facts: Facts, rng: random.Random) -> dict[str, str]:
    """A shape none of whose facts is true of the picture."""
    values = {"shape": SHAPES, "colour": COLOURS, "place": PLACES, "count": _COUNTS}
    true = {value for fact in _counted(facts) for value in fact.values()}
    return {key: rng.choice([v for v in known if v not in true]) for key, known in values.items()}


def _counted(facts: Facts) -> Facts:
    return [{**fact, "count": _COUNTS[len(facts) - 1]} for fact in facts]
