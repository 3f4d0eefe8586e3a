from collections import Counter
from typing import Any

import pytest

from rlhf.data.records import CandidatesRecord, PromptRecord
from rlhf.demo.rule_judge import is_right, label_pairs, rule_preference, rule_score
from rlhf.demo.scenes import COLOURS, PLACES, SHAPES
from rlhf.errors import DataError

RED_CIRCLE = {"shape": "circle", "colour": "red", "place": "top left"}
BLUE_STAR = {"shape": "star", "colour": "blue", "place": "bottom right"}
ANSWERS = {
    "colour": "red",
    "shape": "circle",
    "place": "top left",
    "thing": "red circle",
    "count": "two",
    "description": "red circle top left, blue star bottom right",
}


def _meta(kind: str) -> dict[str, Any]:
    facts = [RED_CIRCLE, BLUE_STAR]
    return {"objects": facts, "kind": kind, "about": RED_CIRCLE, "answer": ANSWERS[kind]}


def _prompt(kind: str) -> PromptRecord:
    return PromptRecord("a.png", "?", meta=_meta(kind))


@pytest.mark.parametrize(
    ("kind", "response"),
    [
        ("colour", "red"),
        ("colour", "  RED! "),
        ("colour", "In this picture the circle is red."),
        ("colour", "I think the circle is red, but I am not sure."),
        ("colour", "The red circle is at the top left."),
        ("shape", "the red shape is a Circle."),
        ("place", "top-left"),
        ("thing", "a red circle"),
        ("count", "2"),
        ("count", "There are two shapes: a red circle and a blue star."),
        ("description", "A blue star at the bottom right and a red circle at the top left."),
        ("description", "a red circle, a blue star"),
    ],
)
def test_right(kind: str, response: str) -> None:
    assert is_right(_prompt(kind), response)


@pytest.mark.parametrize(
    ("kind", "response"),
    [
        ("colour", ""),
        ("colour", "blue"),
        ("colour", "reddish"),
        ("colour", "bored"),
        ("colour", "red or blue"),
        ("colour", "red or pink"),
        ("colour", "not red"),
        ("colour", "It isn't red."),
        ("colour", "The star is red."),
        ("colour", "The circle at the bottom right is red."),
        ("shape", "circle, square, triangle, star"),
        ("place", "top"),
        ("place", "top left or bottom right"),
        ("thing", "circle"),
        ("thing", "red circle or blue star"),
        ("count", "one, two, three"),
        ("count", "2 or 7"),
        ("count", "three"),
        ("description", "a red circle"),
        ("description", "a red star and a blue circle"),
        ("description", "a red circle at the bottom right, a blue star"),
        ("description", "a red circle, a blue star and a green square"),
        ("description", "a red circle, a red circle, a blue star"),
    ],
)
def test_wrong(kind: str, response: str) -> None:
    assert not is_right(_prompt(kind), response)


def test_listing_everything_is_never_right_and_never_best() -> None:
    everything = " ".join(f"{c} {s} {p}" for c in COLOURS for s in SHAPES for p in PLACES)
    for kind, answer in ANSWERS.items():
        record = _prompt(kind)
        assert not is_right(record, everything + " one two three")
        assert rule_score(record, everything) < rule_score(record, answer)
        assert rule_score(record, everything) <= 0


@pytest.mark.parametrize(
    ("kind", "response", "score"),
    [
        ("colour", "red", 1.0),
        ("colour", "It is red.", 0.96),  # 2 words over
        ("colour", "blue", 0.0),
        ("colour", "It is blue.", -0.04),
        ("colour", "", 0.0),
        ("colour", "so " * 400 + "red", 0.5),  # 25 words charged at most
        ("place", "top left", 1.0),
        ("description", "red circle top left, blue star bottom right", 1.5),
        ("description", "a red circle at the top left and a blue star", 1.22),  # 3 over, 2 shapes
        ("description", "red circle", 0.5),
        ("description", "red circle bottom right", 0.375),
        ("description", "red circle, red circle", 0.375),
        ("description", "green circle", -0.5),
        ("description", "", 0.0),
    ],
)
def test_scores_worked_by_hand(kind: str, response: str, score: float) -> None:
    assert rule_score(_prompt(kind), response) == pytest.approx(score)


def test_a_right_answer_of_any_length_beats_a_wrong_one() -> None:
    assert rule_preference(_prompt("colour"), "well " * 500 + "red", "blue") == "response_a"


def test_preference_and_tie_margin() -> None:
    record = _prompt("colour")
    assert rule_preference(record, "red", "blue") == "response_a"
    assert rule_preference(record, "blue", "red") == "response_b"
    assert rule_preference(record, "red", "It is red") == "tie"  # 0.04 apart
    assert rule_preference(record, "red", "I say it is red") == "response_a"  # 0.08 apart


def _candidates(count: int) -> list[CandidatesRecord]:
    responses = ["red", "In this picture the circle is red.", "blue", "red", " ", "It is red."]
    return [
        CandidatesRecord(f"{i}.png", "?", responses, meta=_meta("colour")) for i in range(count)
    ]


def _right_side(pair: Any) -> str:
    return rule_preference(pair, pair.response_a, pair.response_b)


def test_pairs_leave_out_ties_equal_and_blank_texts() -> None:
    pairs = label_pairs(_candidates(1), noise=0.0, seed=0)
    texts = {frozenset((pair.response_a, pair.response_b)) for pair in pairs}
    wordy = "In this picture the circle is red."
    expected = [("red", wordy), ("red", "blue"), (wordy, "blue"), ("It is red.", "blue")]
    expected += [(wordy, "It is red.")]
    assert texts == {frozenset(pair) for pair in expected}
    assert len(pairs) == 5
    assert {pair.annotator for pair in pairs} == {"rule-v1"}
    kinds = {t: "style" if "blue" not in t else "right-wrong" for t in texts}
    for pair in pairs:
        kind = kinds[frozenset((pair.response_a, pair.response_b))]
        assert pair.meta == {**_meta("colour"), "pair": kind}


def test_a_better_of_two_wrong_descriptions_is_a_matter_of_degree() -> None:
    """One thing wrong of two, both wrong, and both wrong in more words."""
    objects = [
        {"shape": "circle", "colour": "red", "place": "top left"},
        {"shape": "star", "colour": "blue", "place": "top right"},
    ]
    meta = {"objects": objects, "kind": "description", "about": objects[0]}
    meta["answer"] = "red circle top left, blue star top right"
    half_right = "red circle top left, green star top right"
    nothing_right, wordy = (
        "green circle top left, green star top right",
        ("I think there is a green circle at the top left and a green star at the top right."),
    )
    record = CandidatesRecord(
        "a.png", "Describe the picture.", [half_right, nothing_right, wordy], meta=meta
    )
    kinds = {
        frozenset((pair.response_a, pair.response_b)): pair.meta["pair"]
        for pair in label_pairs([record], noise=0.0, seed=0)
    }
    assert kinds == {
        frozenset((half_right, nothing_right)): "degree",
        frozenset((half_right, wordy)): "degree",
        frozenset((nothing_right, wordy)): "style",
    }


def test_sides_are_random_and_labels_right_without_noise() -> None:
    pairs = label_pairs(_candidates(100), noise=0.0, seed=0)
    preferences = Counter(pair.preference for pair in pairs)
    assert all(pair.preference == _right_side(pair) for pair in pairs)
    assert (
        abs(preferences["response_a"] - 250) < 50
    )  # 500 fair coins: 50 is 4.5 standard deviations


def test_noise_flips_its_share_of_labels_and_nothing_else() -> None:
    clean = label_pairs(_candidates(100), noise=0.0, seed=0)
    noisy = label_pairs(_candidates(100), noise=0.05, seed=0)
    assert sum(pair.preference != _right_side(pair) for pair in noisy) == 25
    assert [(p.response_a, p.response_b) for p in clean] == [
        (p.response_a, p.response_b) for p in noisy
    ]
    assert label_pairs(_candidates(100), noise=0.05, seed=0) == noisy


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"noise must be in \[0, 0.5\), got 0.5"):
        label_pairs([], noise=0.5, seed=0)
    with pytest.raises(DataError, match="meta lacks objects, kind, about, answer"):
        rule_score(PromptRecord("a.png", "?"), "red")
