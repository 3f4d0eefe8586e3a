"""Scores of records: one for each response, in the order of the records."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from rlhf.data.records import CandidatesRecord
from rlhf.data.token_limits import TokenLimits
from rlhf.data.tokenization import ByteEncoder
from rlhf.rewards.record_scoring import RecordScorer
from rlhf.types import PromptBatch, Responses


class LengthScorer:
    """Scores a response by its number of tokens; a single token has no score."""

    name, can_fail = "length", True

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        """[B] float32 on the CPU."""
        assert len(prompts) == len(responses)
        lengths = responses.spans.lengths.float()
        return lengths.masked_fill(lengths == 1, torch.nan)


def test_every_record_gets_the_scores_of_its_responses(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    texts = [["ab", "abcd"], ["abc", "x", "abcde"]]
    records = [CandidatesRecord("a.png", "How many?", responses) for responses in texts]
    scorer = RecordScorer(LengthScorer(), ByteEncoder(), TokenLimits(99), max_tokens=8)
    first, second = scorer.scores(records, tmp_path)
    assert first == [2.0, 4.0]
    assert str(second) == "[3.0, nan, 5.0]"
