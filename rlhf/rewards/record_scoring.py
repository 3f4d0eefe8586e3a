"""Score the responses in records."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf.data.collate import Record, prompt_batch
from rlhf.data.records import responses
from rlhf.data.token_limits import TokenLimits
from rlhf.data.tokenization import TextEncoder, response_batch
from rlhf.rewards.base import Scorer
from rlhf.rewards.reward_card import RewardCard

RecordScores = list[list[float]]  # one per response of each record; NaN: no score


@dataclass(frozen=True)
class RecordScorer:
    """A scorer together with the encoder that converts records to its input.

    Attributes:
        scorer: gives the scores.
        encoder: encodes the prompts and responses.
        limits: the most tokens of a prompt and its response.
        max_tokens: padded tokens of one microbatch.
        card: card of the reward model; None for an external scorer.
    """

    scorer: Scorer
    encoder: TextEncoder
    limits: TokenLimits
    max_tokens: int
    card: RewardCard | None = None

    def scores(self, records: Sequence[Record], root: Path) -> RecordScores:
        """Scores of the responses of each record; NaN where a response has none.

        Args:
            records: n records with the responses to score.
            root: the directory that relative image paths start from.
        """
        texts = [responses(record) for record in records]
        repeated = [record for record, row in zip(records, texts, strict=True) for _ in row]
        limit = self.limits.max_prompt_tokens
        prompts = prompt_batch(repeated, self.encoder, root, max_tokens=limit, repeats_share=True)
        batch = response_batch([text for row in texts for text in row], self.encoder)
        scores = self.scorer.scores(prompts, batch, max_tokens=self.max_tokens)
        return [part.tolist() for part in scores.split([len(row) for row in texts])]
