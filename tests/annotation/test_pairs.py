"""Which pairs are made of candidates, and in which order."""

import msgspec

from rlhf.annotation.pairs import Pair, candidate_pairs
from rlhf.data.records import CandidatesRecord
from rlhf.history import Exchange


def candidates(image: str, *responses: str) -> CandidatesRecord:
    return CandidatesRecord(image_path=image, instruction="What?", responses=list(responses))


def test_one_pair_of_every_prompt_comes_before_the_second_of_any() -> None:
    result = candidate_pairs([candidates("1.png", "a", "b", "c"), candidates("2.png", "d", "e")])
    shown = [(pair.image_path, pair.response_a, pair.response_b) for pair in result.values()]
    assert shown == [
        ("1.png", "a", "b"),
        ("2.png", "d", "e"),
        ("1.png", "a", "c"),
        ("1.png", "b", "c"),
    ]
    assert all(key == pair.key for key, pair in result.items())


def test_equal_responses_and_repeated_pairs_are_shown_once() -> None:
    result = candidate_pairs([candidates("1.png", "a", "b", "a"), candidates("1.png", "b", "a")])
    assert len(result) == 1


def test_a_key_knows_image_instruction_and_texts_but_not_their_order() -> None:
    pair = Pair("1.png", "What?", "a", "b")
    assert pair.key == Pair("1.png", "What?", "b", "a").key
    others = [
        Pair("2.png", "What?", "a", "b"),
        Pair("1.png", "Why?", "a", "b"),
        Pair("1.png", "What?", "a", "c"),
        Pair("1.png", "What?", "a", "bb"),
        Pair("1.pngWhat?", "", "a", "b"),
        Pair("1.png", "What?", "a", "b", (Exchange("Where?", "Here."),)),
    ]
    assert len({pair.key, *(other.key for other in others)}) == 7


def test_a_pair_keeps_the_earlier_turns() -> None:
    history = (Exchange("Where?", "Here."),)
    record = msgspec.structs.replace(candidates("1.png", "a", "b"), history=history)
    (pair,) = candidate_pairs([record]).values()
    assert pair.history == history
