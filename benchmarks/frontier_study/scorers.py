"""Scripted rewards and judges of descriptions and questions, as `--scorer=FILE.py:NAME` takes them.

    rlhf ppo … --scorer=benchmarks/frontier_study/scorers.py:things_score

What an image shows stands in the record about it: the image DATA/pictures/SPLIT/NAME.png has its
records in DATA/SPLIT.jsonl, as those of `rlhf demo`.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from rlhf.data.records import PromptRecord, read_records
from rlhf.demo import scenes
from rlhf.demo.rule_judge import is_right, thing_verdicts

# Two by two places in the images of the demo, three by two in those of the task `scenes`.
PLACES = (*scenes.PLACES, "top middle", "bottom middle")

Scores = list[float]
Judge = Callable[[Sequence[Path], Sequence[str], Sequence[str]], Scores]


def things_score(
    images: Sequence[Path], instructions: Sequence[str], responses: Sequence[str]
) -> Scores:
    """Return the reward of each description: things rightly placed minus other things named.

    A thing counts as another one if it is not in the image, has no place or a wrong one, or was
    named before.

    Args:
        images: path of the image of each prompt.
        instructions: text of each prompt.
        responses: text of each response.
    """
    return [
        float(sum(1 if verdict == "placed" else -1 for verdict in verdicts))
        for _, verdicts in _judged(images, instructions, responses)
    ]


def things_right(
    images: Sequence[Path], instructions: Sequence[str], responses: Sequence[str]
) -> Scores:
    """Return the share of the things of each image that its description places rightly."""
    judged = _judged(images, instructions, responses)
    return [verdicts.count("placed") / count for count, verdicts in judged]


def description_right(
    images: Sequence[Path], instructions: Sequence[str], responses: Sequence[str]
) -> Scores:
    """Return 1 for each description that places every thing rightly and names no other, else 0."""
    judged = _judged(images, instructions, responses)
    return [float(verdicts == ["placed"] * count) for count, verdicts in judged]


def response_right(
    images: Sequence[Path], instructions: Sequence[str], responses: Sequence[str]
) -> Scores:
    """Return 1 for each response that is right by `rule-v1`, else 0."""
    rows = zip(images, instructions, responses, strict=True)
    return [float(is_right(_record(image, asked), response)) for image, asked, response in rows]


def _judged(
    images: Sequence[Path], instructions: Sequence[str], responses: Sequence[str]
) -> list[tuple[int, list[str]]]:
    """Return the number of things in each image, and the verdict on each thing that is named."""
    judged = []
    for image, instruction, response in zip(images, instructions, responses, strict=True):
        objects = _record(image, instruction).meta["objects"]
        judged.append((len(objects), thing_verdicts(objects, response, PLACES)))
    return judged


def _record(image: Path, instruction: str) -> PromptRecord:
    root, split = image.parents[2], image.parent.name
    return _records(root / f"{split}.jsonl")[image.relative_to(root).as_posix(), instruction]


@cache
def _records(path: Path) -> dict[tuple[str, str], PromptRecord]:
    return {(x.image_path, x.instruction): x for x in read_records(path, PromptRecord)}
