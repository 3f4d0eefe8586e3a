"""`rule-v1`: a rule that scores responses about scenes, in place of a person.

It labels the demo's pairs and judges its evaluation; PPO sees only the reward model trained on
those labels. Records it labels carry `annotator: rule-v1`.
"""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import Any

from rlhf.data.records import CandidatesRecord, PreferenceRecord, Record
from rlhf.demo.scenes import COLOURS, PLACES, SHAPES
from rlhf.demo.stamps.scenes import NAMES
from rlhf.errors import DataError

WORD_COST, MAX_EXTRA_WORDS, TIE_MARGIN = 0.02, 25, 0.05
THING_POINTS = {"placed": 1.5, "named": 1.0, "misplaced": 0.75, "repeated": -0.25, "absent": -1.0}

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {str(value): word for value, word in enumerate(_NUMBERS)}
_NEVER_TRUE = ("pink", "brown", "grey", "gray", "rectangle", "oval", "diamond", "middle", "centre")
_VOCABULARY = {*COLOURS, *SHAPES, *NAMES, *" ".join(PLACES).split(), *_NUMBERS, *_NEVER_TRUE}
_NEGATION = re.compile(r"\b(?:not|never|no|isnt|arent)(?: (?:a|an|the|at))* (\w+)")


def rule_score(record: Record, response: str) -> float:
    """Score a response; higher is better.

        question:     1 if right, else 0; -0.02 each word over the shortest right answer
        description:  (+1 each thing of the image named once, +0.5 if placed right,
                       -0.25 a repeat or a wrong place, -1 each thing that is not there,
                       -0.02 each word over the shortest right one) / things in the image

    At most 25 words are charged, so right always beats wrong; among equals the shorter wins.

    Raises:
        DataError: `meta` lacks the facts to judge by.

    Source: this project's `rule-v1`.
    """
    meta = _facts(record)
    extra = len(_words(response)) - len(_words(meta["answer"]))
    cost = WORD_COST * min(max(extra, 0), MAX_EXTRA_WORDS)
    shared = len(meta["objects"]) if meta["kind"] == "description" else 1
    return (_points(record, response) - cost) / shared


def _points(record: Record, response: str) -> float:
    """Points for what the response says of the image, without the cost of its words."""
    meta = _facts(record)
    if meta["kind"] != "description":
        return float(is_right(record, response))
    return sum(THING_POINTS[verdict] for verdict in thing_verdicts(meta["objects"], response))


def is_right(record: Record, response: str) -> bool:
    """Whether a response says what is asked and nothing false, by whole words.

    Every colour, shape, stamp, place and number named must be true of the thing asked about (of
    any thing, in a count or a description): naming several answers is wrong, so is denying one.
    A description is right if it names every thing once and places none wrongly.
    """
    meta, words = _facts(record), _words(response)
    things = meta["objects"] if meta["kind"] in ("count", "description") else [meta["about"]]
    needed = _VOCABULARY.intersection(_words(meta["answer"]))
    true = needed.union(*(_words(value) for thing in things for value in thing.values()))
    mentioned = _VOCABULARY.intersection(words)
    if not mentioned <= true or _VOCABULARY.intersection(_NEGATION.findall(" ".join(words))):
        return False
    verdicts = thing_verdicts(things, response)
    if meta["kind"] == "description":
        return len(verdicts) == len(things) and set(verdicts) <= {"placed", "named"}
    return needed <= mentioned


def thing_verdicts(
    objects: Sequence[Mapping[str, str]], response: str, places: tuple[str, ...] = PLACES
) -> list[str]:
    """List a key of `THING_POINTS` for each thing that a response names.

    Args:
        objects: the things of the image, by colour and shape or name, with their place.
        response: e.g. "There is a red circle at the top left."
        places: the names of all places that a response may mean.
    """
    parts = ("colour", "shape", "name")
    place_of = {" ".join(f[part] for part in parts if part in f): f["place"] for f in objects}
    verdicts, named = [], set()
    for thing, place in _things(places).findall(" ".join(_words(response))):
        if thing not in place_of or thing in named:
            verdicts.append("repeated" if thing in place_of else "absent")
        else:
            verdicts.append({"": "named", place_of[thing]: "placed"}.get(place, "misplaced"))
        named.add(thing)
    return verdicts


@cache
def _things(places: tuple[str, ...]) -> re.Pattern[str]:
    """Pattern of a thing and, where it is named, its place."""
    return re.compile(
        rf"\b((?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})|{'|'.join(NAMES)})\b"
        rf"(?:(?: (?:is|at|in|on|the))* ({'|'.join(places)})\b)?"
    )


def rule_preference(record: Record, a: str, b: str) -> str:
    """Compare two responses by `rule_score`.

    Args:
        record: the prompt and its facts.
        a: first response.
        b: second response.

    Returns:
        `response_a` or `response_b`, the better one; `tie` if they are less than 0.05 apart.
    """
    difference = rule_score(record, a) - rule_score(record, b)
    if abs(difference) < TIE_MARGIN:
        return "tie"
    return "response_a" if difference > 0 else "response_b"


def label_pairs(
    candidates: Iterable[CandidatesRecord], *, noise: float, seed: int
) -> list[PreferenceRecord]:
    """Label every pair of different responses to a prompt that the rule can order.

    `meta` is the prompt's, with `pair`: `right-wrong` if one answer is right and one wrong,
    `degree` if one description is better than another though neither or both are right, else
    `style`: the answers differ in words alone.

    Args:
        candidates: sampled responses; ties, equal and blank texts are left out.
        noise: share of labels that are flipped, in [0, 0.5), as if people disagreed; records do
            not say which.
        seed: of the order in each pair and of the flips.

    Raises:
        ValueError: noise is out of range.
    """
    if not 0 <= noise < 0.5:
        raise ValueError(f"noise must be in [0, 0.5), got {noise}")
    rng, pairs = random.Random(f"pairs/{seed}"), []
    for record in candidates:
        texts = [text for text in dict.fromkeys(record.responses) if text.strip()]
        for pair in combinations(texts, 2):
            a, b = rng.sample(pair, 2)
            if rule_preference(record, a, b) != "tie":
                pairs.append((record, a, b))
    flipped = set(rng.sample(range(len(pairs)), round(noise * len(pairs))))
    return [
        PreferenceRecord(
            record.image_path,
            record.instruction,
            response_a=a,
            response_b=b,
            preference=rule_preference(record, *((b, a) if number in flipped else (a, b))),
            annotator="rule-v1",
            history=record.history,
            meta={**record.meta, "pair": _pair_kind(record, a, b)},
        )
        for number, (record, a, b) in enumerate(pairs)
    ]


def _pair_kind(record: Record, a: str, b: str) -> str:
    """How two responses differ: `right-wrong`, `degree` or `style`."""
    if is_right(record, a) != is_right(record, b):
        return "right-wrong"
    return "style" if _points(record, a) == _points(record, b) else "degree"


def _words(text: str) -> list[str]:
    words = re.findall(r"\w+", re.sub("['’]", "", text.lower()))
    return [_DIGITS.get(word, word) for word in words]


def _facts(record: Record) -> Mapping[str, Any]:
    missing = [key for key in ("objects", "kind", "about", "answer") if key not in record.meta]
    if missing:
        what = f"rule-v1 cannot judge {record.instruction!r}: meta lacks {', '.join(missing)}"
        raise DataError(what, "meta", "use prompts drawn by the demo, or another judge")
    return record.meta
