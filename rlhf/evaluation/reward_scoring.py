"""A scorer on judged pairs: with their own pictures, with others', and with a blank one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from rlhf.data.collate import ordered_responses
from rlhf.data.images import load_image, picture_digest
from rlhf.data.records import PreferenceRecord, resolve_image
from rlhf.data.tokenization import Encoder, with_pictures
from rlhf.evaluation.reward_report import JudgedPair
from rlhf.evaluation.scored_pairs import ScoredPairs, confident_rows
from rlhf.rewards.llava_reward import Scorer
from rlhf.types import PreferenceBatch

BLANK_SIDE, BLANK_GREY = 64, 128  # pixels; between black and white


@dataclass(frozen=True)
class Judged:
    """Records with their scores: by their own pictures, by others' and by a blank one."""

    records: list[PreferenceRecord]
    own: ScoredPairs
    shuffled: ScoredPairs
    blank: ScoredPairs

    @staticmethod
    def joined(parts: Sequence["Judged"]) -> "Judged":
        """All parts, in order; no picture is in two of them."""
        return Judged(
            [record for part in parts for record in part.records],
            *(
                ScoredPairs.joined([getattr(part, name) for part in parts])
                for name in ("own", "shuffled", "blank")
            ),
        )


def judge(
    scorer: Scorer,
    records: Sequence[PreferenceRecord],
    pairs: PreferenceBatch,
    encoder: Encoder,
    blank: Path,
    *,
    max_tokens: int,
) -> Judged:
    """The pairs, which `encoder` encoded, scored three times; `blank` shows nothing."""
    prompts = pairs.prompts
    grey = tuple((blank,) * len(row) for row in prompts.images)
    others, nothing = (
        replace(pairs, prompts=with_pictures(prompts, images, encoder))
        for images in (prompts.other_pictures(), grey)
    )
    own = scored_pairs(scorer, records, pairs, max_tokens=max_tokens)
    shuffled, blanked = (
        scored_pairs(scorer, records, part, max_tokens=max_tokens, pictures=own.pictures)
        for part in (others, nothing)
    )
    return Judged(list(records), own, shuffled, blanked)


def scored_pairs(
    scorer: Scorer,
    records: Sequence[PreferenceRecord],
    pairs: PreferenceBatch,
    *,
    max_tokens: int,
    pictures: Tensor | None = None,
) -> ScoredPairs:
    """The pairs with their scores, on the scale the model was trained on; chosen stands as a.

    Args:
        records: n pairs as written.
        pairs: the same, encoded.
        pictures: [n] int64, what tells pictures apart; None: the content of their own files.
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
        pictures=picture_numbers(pairs) if pictures is None else pictures,
        kinds=tuple(str(record.meta.get("pair", "")) for record in records),
    )


def picture_numbers(pairs: PreferenceBatch) -> Tensor:
    """[n] int64, equal where the pictures of two pairs are equal by content."""
    images = pairs.prompts.images
    digests = {path: picture_digest(path) for row in images for path in row}
    contents = [tuple(digests[path] for path in row) for row in images]
    numbers = {content: number for number, content in enumerate(dict.fromkeys(contents))}
    return torch.tensor([numbers[content] for content in contents])


def write_blank(path: Path) -> Path:
    """A plain grey picture; its path."""
    Image.new("RGB", (BLANK_SIDE, BLANK_SIDE), (BLANK_GREY,) * 3).save(path)
    return path


def surest_pairs(
    judged: Judged, root: Path, count: int
) -> tuple[list[JudgedPair], list[JudgedPair]]:
    """The pairs scored wrong and right with the largest difference, to be looked at."""
    wrong, right = confident_rows(judged.own, count)
    return (
        [_judged_pair(judged, row, root) for row in wrong],
        [_judged_pair(judged, row, root) for row in right],
    )


def _judged_pair(judged: Judged, row: int, root: Path) -> JudgedPair:
    record, pairs = judged.records[row], judged.own
    return JudgedPair(
        load_image(resolve_image(record.image_path, root)),
        record.instruction,
        *ordered_responses(record),
        score_a=float(pairs.scores_a[row]),
        score_b=float(pairs.scores_b[row]),
        label=float(pairs.labels[row]),
        kind=pairs.kinds[row],
    )
