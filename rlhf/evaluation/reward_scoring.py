"""A scorer on judged pairs: with their own images, with others', and with a blank one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from rlhf.data.collate import ordered_responses
from rlhf.data.images import image_digest, load_image
from rlhf.data.records import PreferenceRecord, resolve_image
from rlhf.data.tokenization import TextEncoder, with_images
from rlhf.evaluation.reward_report import ReportPair
from rlhf.evaluation.scored_pairs import ScoredPairs, confident_rows
from rlhf.rewards.base import Scorer
from rlhf.types import PreferenceBatch

BLANK_SIDE, BLANK_GREY = 64, 128  # pixels; between black and white


@dataclass(frozen=True)
class BlindTest:
    """Records with their scores: by their own images, by others' and by a blank one."""

    records: list[PreferenceRecord]
    own: ScoredPairs
    shuffled: ScoredPairs
    blank: ScoredPairs

    @staticmethod
    def concatenate(parts: Sequence["BlindTest"]) -> "BlindTest":
        """All parts, in order; no image is in two of them."""
        return BlindTest(
            [record for part in parts for record in part.records],
            *(
                ScoredPairs.concatenate([getattr(part, name) for part in parts])
                for name in ("own", "shuffled", "blank")
            ),
        )


def run_blind_test(
    scorer: Scorer,
    records: Sequence[PreferenceRecord],
    pairs: PreferenceBatch,
    encoder: TextEncoder,
    blank: Path,
    *,
    max_tokens: int,
) -> BlindTest:
    """The pairs, which `encoder` encoded, scored three times; `blank` shows nothing."""
    prompts = pairs.prompts
    grey = tuple((blank,) * len(row) for row in prompts.images)
    others, nothing = (
        replace(pairs, prompts=with_images(prompts, images, encoder))
        for images in (prompts.mismatched_images(), grey)
    )
    own = scored_pairs(scorer, records, pairs, max_tokens=max_tokens)
    shuffled, blanked = (
        scored_pairs(scorer, records, part, max_tokens=max_tokens, images=own.images)
        for part in (others, nothing)
    )
    return BlindTest(list(records), own, shuffled, blanked)


def scored_pairs(
    scorer: Scorer,
    records: Sequence[PreferenceRecord],
    pairs: PreferenceBatch,
    *,
    max_tokens: int,
    images: Tensor | None = None,
) -> ScoredPairs:
    """The pairs with their scores, on the scale the model was trained on; chosen stands as a.

    Args:
        records: n pairs as written.
        pairs: the same, encoded.
        images: [n] int64, what tells images apart; None: the content of their own files.
    """
    # σ(difference) is a probability only before scores are divided by their deviation.
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
        images=image_numbers(pairs) if images is None else images,
        kinds=tuple(str(record.meta.get("pair", "")) for record in records),
    )


def image_numbers(pairs: PreferenceBatch) -> Tensor:
    """[n] int64, equal where the images of two pairs are equal by content."""
    images = pairs.prompts.images
    digests = {path: image_digest(path) for row in images for path in row}
    contents = [tuple(digests[path] for path in row) for row in images]
    numbers = {content: number for number, content in enumerate(dict.fromkeys(contents))}
    return torch.tensor([numbers[content] for content in contents])


def write_blank(path: Path) -> Path:
    """A plain grey image; its path."""
    Image.new("RGB", (BLANK_SIDE, BLANK_SIDE), (BLANK_GREY,) * 3).save(path)
    return path


def most_confident_pairs(
    judged: BlindTest, root: Path, count: int
) -> tuple[list[ReportPair], list[ReportPair]]:
    """The pairs scored wrong and right with the largest difference, to be looked at."""
    wrong, right = confident_rows(judged.own, count)
    return (
        [_judged_pair(judged, row, root) for row in wrong],
        [_judged_pair(judged, row, root) for row in right],
    )


def _judged_pair(judged: BlindTest, row: int, root: Path) -> ReportPair:
    record, pairs = judged.records[row], judged.own
    return ReportPair(
        load_image(resolve_image(record.image_path, root)),
        record.instruction,
        *ordered_responses(record),
        score_a=float(pairs.scores_a[row]),
        score_b=float(pairs.scores_b[row]),
        label=float(pairs.labels[row]),
        kind=pairs.kinds[row],
    )
