"""Score preference pairs, and find those of which a model is surest."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rlhf.data.collate import ordered_responses
from rlhf.data.images import image_digest, load_image
from rlhf.data.records import PreferenceRecord, resolve_image
from rlhf.evaluation.reward_report import ReportPair
from rlhf.evaluation.scored_pairs import ScoredPairs, confident_rows
from rlhf.rewards.base import Scorer
from rlhf.types import PreferenceBatch


def score_pairs(
    scorer: Scorer,
    records: Sequence[PreferenceRecord],
    pairs: PreferenceBatch,
    *,
    max_tokens: int,
    image_ids: Tensor | None = None,
) -> ScoredPairs:
    """Score pairs, without the division by the standard deviation that a reward model applies.

    Args:
        scorer: scores all responses.
        records: n pairs as records.
        pairs: the n pairs, encoded.
        max_tokens: tokens scored at once.
        image_ids: [n] int64, equal for equal images; None: by the content of the image files.

    Returns:
        The n pairs; response a is the chosen one.
    """
    # σ(difference) is a probability only on the scale that the reward model was trained on.
    scale = getattr(scorer, "std", 1.0)
    scores = scorer.scores(*pairs.stacked(), max_tokens=max_tokens) * scale
    chosen, rejected = scores.chunk(2)
    words = [[len(text.split()) for text in ordered_responses(record)] for record in records]
    lengths = torch.tensor(words, dtype=torch.int64)
    return ScoredPairs(
        scores_a=chosen,
        scores_b=rejected,
        labels=pairs.labels,
        lengths_a=lengths[:, 0],
        lengths_b=lengths[:, 1],
        image_ids=identify_images(pairs) if image_ids is None else image_ids,
        kinds=tuple(str(record.meta.get("pair", "")) for record in records),
    )


def identify_images(pairs: PreferenceBatch) -> Tensor:
    """Return an id for the images of each pair, [n] int64, equal if their contents are equal."""
    images = pairs.prompts.images
    digests = {path: image_digest(path) for row in images for path in row}
    contents = [tuple(digests[path] for path in row) for row in images]
    ids = {content: number for number, content in enumerate(dict.fromkeys(contents))}
    return torch.tensor([ids[content] for content in contents])


def most_confident_pairs(
    records: Sequence[PreferenceRecord], pairs: ScoredPairs, root: Path, count: int
) -> tuple[list[ReportPair], list[ReportPair]]:
    """Load the pairs with the largest difference of scores, for a report.

    Args:
        records: n pairs as records.
        pairs: the n pairs, scored.
        root: the directory that relative image paths start from.
        count: pairs of each list at most.

    Returns:
        Pairs scored wrong, and pairs scored right.
    """
    wrong, right = confident_rows(pairs, count)
    return (
        [_report_pair(records[row], pairs, row, root) for row in wrong],
        [_report_pair(records[row], pairs, row, root) for row in right],
    )


def _report_pair(record: PreferenceRecord, pairs: ScoredPairs, row: int, root: Path) -> ReportPair:
    return ReportPair(
        load_image(resolve_image(record.image_path, root)),
        record.instruction,
        *ordered_responses(record),
        history=record.history,
        score_a=float(pairs.scores_a[row]),
        score_b=float(pairs.scores_b[row]),
        label=float(pairs.labels[row]),
        kind=pairs.kinds[row],
    )
