"""Score preference pairs with their own images, with other pairs' images, with a blank image."""

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
    """n pairs, scored with right, wrong and blank images.

    Attributes:
        records: the n pairs as records.
        own_images: scored with their own images.
        shuffled_images: scored with the images of others.
        blank_images: scored with a blank image.
    """

    records: list[PreferenceRecord]
    own_images: ScoredPairs
    shuffled_images: ScoredPairs
    blank_images: ScoredPairs

    @staticmethod
    def concatenate(parts: Sequence["BlindTest"]) -> "BlindTest":
        """Return the pairs of all parts, in order; no image may be in two of them."""
        return BlindTest(
            [record for part in parts for record in part.records],
            *(
                ScoredPairs.concatenate([getattr(part, name) for part in parts])
                for name in ("own_images", "shuffled_images", "blank_images")
            ),
        )


def run_blind_test(
    scorer: Scorer,
    records: Sequence[PreferenceRecord],
    pairs: PreferenceBatch,
    encoder: TextEncoder,
    blank_image: Path,
    *,
    max_tokens: int,
) -> BlindTest:
    """Score pairs with their own images, with the images of others and with a blank one.

    Args:
        scorer: scores all responses.
        records: n pairs as records.
        pairs: the n pairs, encoded with their own images.
        encoder: the encoder of `pairs`.
        blank_image: an image that shows nothing.
        max_tokens: tokens scored at once.
    """
    prompts = pairs.prompts
    blank_images = tuple((blank_image,) * len(row) for row in prompts.images)
    shuffled_pairs, blank_pairs = (
        replace(pairs, prompts=with_images(prompts, images, encoder))
        for images in (prompts.mismatched_images(), blank_images)
    )
    own = score_pairs(scorer, records, pairs, max_tokens=max_tokens)
    shuffled, blank = (
        score_pairs(scorer, records, part, max_tokens=max_tokens, image_ids=own.image_ids)
        for part in (shuffled_pairs, blank_pairs)
    )
    return BlindTest(list(records), own, shuffled, blank)


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


def write_blank_image(path: Path) -> Path:
    """Write a grey image that shows nothing; return its path."""
    Image.new("RGB", (BLANK_SIDE, BLANK_SIDE), (BLANK_GREY,) * 3).save(path)
    return path


def most_confident_pairs(
    test: BlindTest, root: Path, count: int
) -> tuple[list[ReportPair], list[ReportPair]]:
    """Load the pairs with the largest difference of scores, for a report.

    Args:
        test: the pairs, scored.
        root: the directory that relative image paths start from.
        count: pairs of each list at most.

    Returns:
        Pairs scored wrong, and pairs scored right, by their own images.
    """
    wrong, right = confident_rows(test.own_images, count)
    return (
        [_report_pair(test, row, root) for row in wrong],
        [_report_pair(test, row, root) for row in right],
    )


def _report_pair(test: BlindTest, row: int, root: Path) -> ReportPair:
    record, pairs = test.records[row], test.own_images
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
