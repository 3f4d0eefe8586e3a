"""Score the records of a preference file, and return pairs to compute metrics from."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import torch
from torch import Tensor

from rlhf.data.collate import preference_batch
from rlhf.data.records import PreferenceRecord
from rlhf.data.splits import split_pairs
from rlhf.evaluation.reward_scoring import score_pairs
from rlhf.evaluation.scored_pairs import ScoredPairs
from rlhf.rewards.record_scoring import RecordScorer, RecordScores
from rlhf.types import PromptBatch, Responses


@dataclass
class PrecomputedScores:
    """A scorer that returns precomputed scores.

    Attributes:
        values: [B] float32, returned for any B responses.
        name: of the scorer.
        can_fail: whether a score may be NaN.
    """

    values: Tensor
    name: str = "precomputed"
    can_fail: bool = False

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        """Return the precomputed scores, [B] float32.

        Args:
            prompts: B prompts, not read.
            responses: B responses, not read.
            max_tokens: not read.
        """
        return self.values


def score_split(
    scorer: RecordScorer,
    records: Sequence[PreferenceRecord],
    root: Path,
    *,
    fraction: float = 0.0,
    seed: int = 0,
) -> tuple[RecordScores, dict[str, ScoredPairs]]:
    """Score preferences with a reward model, in the batches in which its training scored them.

    Args:
        scorer: the reward model; its `max_tokens` are those of training.
        records: n preferences.
        root: the directory that relative image paths start from.
        fraction: share of the images that training held out.
        seed: of the split in training.

    Returns:
        The normalized scores of each record (response a, response b), and the pairs `training`
        and `held_out` on the raw scale; a part without pairs is left out.
    """
    split = split_pairs(records, root, fraction=fraction, seed=seed)
    scores: dict[int, list[float]] = {}
    parts = {}
    for name, part in (("training", split.training), ("held_out", split.held_out)):
        if part:
            limit = scorer.limits.max_prompt_tokens
            batch = preference_batch(part, scorer.encoder, root, max_tokens=limit)
            parts[name] = score_pairs(scorer.scorer, part, batch, max_tokens=scorer.max_tokens)
            scores |= _scores_by_id(part, parts[name], getattr(scorer.scorer, "std", 1.0))
    return [scores[id(record)] for record in records], parts


def score_complete_pairs(
    scorer: RecordScorer, records: Sequence[PreferenceRecord], root: Path
) -> tuple[RecordScores, ScoredPairs | None]:
    """Score preferences with a scorer that can fail.

    Args:
        scorer: may leave responses without a score.
        records: n preferences.
        root: the directory that relative image paths start from.

    Returns:
        The scores of each record (response a, response b; NaN: none), and the pairs with two
        scores; None when there is no such pair.
    """
    scores = scorer.scores(records, root)
    rows = zip(records, scores, strict=True)
    complete = [(record, pair) for record, pair in rows if not any(map(isnan, pair))]
    if not complete:
        return scores, None
    scored_records = [record for record, _ in complete]
    limit = scorer.limits.max_prompt_tokens
    batch = preference_batch(scored_records, scorer.encoder, root, max_tokens=limit)
    values = torch.tensor([_chosen_first(*row) for row in complete]).T.flatten()
    pairs = score_pairs(
        PrecomputedScores(values), scored_records, batch, max_tokens=scorer.max_tokens
    )
    return scores, pairs


def _scores_by_id(
    records: Sequence[PreferenceRecord], pairs: ScoredPairs, std: float
) -> dict[int, list[float]]:
    """Return the normalized scores of response_a and response_b by the record's `id()`."""
    rows = torch.stack([pairs.scores_a, pairs.scores_b], dim=1) / std
    return {
        id(record): _chosen_first(record, row)
        for record, row in zip(records, rows.tolist(), strict=True)
    }


def _chosen_first(record: PreferenceRecord, scores: list[float]) -> list[float]:
    """Order scores (a, b) as (chosen, rejected), or (chosen, rejected) as (a, b)."""
    return scores[::-1] if record.preference == "response_b" else scores
