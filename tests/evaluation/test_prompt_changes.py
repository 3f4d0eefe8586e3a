"""Pairs scored with other images and other instructions: which ones, by which model."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from rlhf.data.collate import preference_batch
from rlhf.data.records import PreferenceRecord
from rlhf.data.tokenization import ByteEncoder
from rlhf.evaluation.prompt_changes import (
    EvaluatedPairs,
    evaluate_pairs,
    exchanged,
    write_blank_image,
)
from rlhf.evaluation.prompt_tests import BLINDNESS, INSTRUCTION_TEST
from rlhf.types import PromptBatch, Responses

MAX_BYTES = 12  # of prompt and response together, that the model below reads


class Matching:
    """Prefers the response that begins like the instruction; images do not matter."""

    encoder, std = ByteEncoder(), 1.0

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        assert bool(self.fits(prompts, responses).all())
        texts = [bytes(row).decode() for row in responses.rows()]
        matches = zip(texts, prompts.instructions, strict=True)
        return torch.tensor([float(text[0] == asked[0]) for text, asked in matches])

    def fits(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        return prompts.spans.lengths + responses.spans.lengths <= MAX_BYTES


def evaluated(directory: Path, instructions: str, *, length: int = 2) -> EvaluatedPairs:
    """Evaluate a pair for each instruction, whose preferred response begins like it.

    Responses have two bytes, the preferred one of the third pair `length`.
    """
    records = []
    for number, instruction in enumerate(instructions.split()):
        image, count = f"{number}.png", length if number == 2 else 2
        Image.new("RGB", (4, 4), (number, 0, 0)).save(directory / image)
        texts: dict[str, Any] = {"response_a": instruction[:1] * count, "response_b": "xx"}
        records.append(PreferenceRecord(image, instruction, **texts, preference="response_a"))
    model: Any = Matching()
    pairs = preference_batch(records, model.encoder, directory, max_tokens=99)
    blank = write_blank_image(directory / "blank.png")
    return evaluate_pairs(model, records, pairs, blank, max_tokens=50)


def test_three_texts_have_two_derangements() -> None:
    """Each of three different texts goes to another row: a cycle, in one of two directions."""
    found = {exchanged(("a", "b", "c"), seed) for seed in range(20)}
    assert found == {("b", "c", "a"), ("c", "a", "b")}


@pytest.mark.parametrize("texts", ["ab", "aabb", "abab", "aaabbb", "aabbc", "aaabbc", "abcdefgh"])
def test_no_row_keeps_its_text_and_every_text_is_used_as_often(texts: str) -> None:
    for seed in range(30):
        changed = exchanged(tuple(texts), seed)
        assert changed is not None and changed == exchanged(tuple(texts), seed)
        assert all(new != old for new, old in zip(changed, texts, strict=True))
        assert Counter(changed) == Counter(texts)


@pytest.mark.parametrize("texts", ["aab", "aaaab", "aaaabc"])
def test_a_majority_of_one_text_takes_others_more_than_once(texts: str) -> None:
    for seed in range(30):
        changed = exchanged(tuple(texts), seed)
        assert changed is not None
        assert all(new != old for new, old in zip(changed, texts, strict=True))


def test_equal_texts_cannot_be_exchanged() -> None:
    assert exchanged(("a", "a", "a"), 0) is None


def test_pairs_are_scored_with_the_instruction_of_another(tmp_path: Path) -> None:
    """With their own instruction all are right; with any other, both responses score 0."""
    found = evaluated(tmp_path, "apple berry cherry")
    assert found.scored.differences.tolist() == [1, 1, 1]
    own, wrong = found.tests[INSTRUCTION_TEST].all
    assert own.differences.tolist() == [1, 1, 1] and wrong.differences.tolist() == [0, 0, 0]
    assert [x.differences.tolist() for x in found.tests[BLINDNESS].all] == [[1, 1, 1]] * 3


def test_pairs_that_become_too_long_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The longest instruction, of ten bytes, fits before a response of two bytes, not of three."""
    words = "strawberry", "fig", "kiwi"
    assert exchanged(words, 0) == ("fig", "kiwi", "strawberry")
    found = evaluated(tmp_path, " ".join(words), length=3).tests[INSTRUCTION_TEST]
    assert found.own.differences.tolist() == [1, 1] and found.own.image_ids.tolist() == [0, 1]
    said = "wrong-instruction test: 1 of 3 pairs left out, too long in it"
    assert said in capsys.readouterr().out
    assert len(evaluated(tmp_path, " ".join(words)).tests[INSTRUCTION_TEST].own) == 3
    assert capsys.readouterr().out == ""


def test_without_another_instruction_there_is_no_test(tmp_path: Path) -> None:
    found = evaluated(tmp_path, "apple apple")
    assert INSTRUCTION_TEST not in found.tests and BLINDNESS in found.tests
    other = evaluated(tmp_path, "apple berry")
    both = EvaluatedPairs.concatenate([found, other])
    assert [len(both.records), len(both.scored)] == [4, 4]
    assert len(both.tests[INSTRUCTION_TEST].own) == 2 and len(both.tests[BLINDNESS].own) == 4
