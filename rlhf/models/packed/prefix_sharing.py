"""Split prompts into shared prefixes and their suffixes, so that shared tokens are run once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlhf.kernels.prefix_groups import PrefixGroups
from rlhf.types import PromptBatch


@dataclass(frozen=True, eq=False)
class PrefixSplit:
    """B prompts, each split into a prefix, which several prompts may share, and a suffix.

    Attributes:
        prefixes: the g distinct prefixes.
        groups: which prefix each prompt begins with.
        prefix_lens: [B] int64, tokens of each prompt's prefix.
        suffix_tokens: [T] int64, token ids of all suffixes, end to end.
        suffix_lens: [B] int64, tokens of each suffix, at least 1.
    """

    prefixes: PromptBatch
    groups: PrefixGroups
    prefix_lens: Tensor
    suffix_tokens: Tensor
    suffix_lens: Tensor

    @staticmethod
    def at(prompts: PromptBatch, prefix_lens: Tensor) -> "PrefixSplit":
        """Split each prompt after its first `prefix_lens` [B] tokens, fewer than it has."""
        spans = prompts.spans
        prefixes = prompts.truncate(prefix_lens)
        first_rows, groups = unique_prompts(prefixes)
        in_suffix = spans.positions >= prefix_lens[spans.segment_ids]
        return PrefixSplit(
            prefixes.select(first_rows),
            groups,
            prefix_lens,
            prompts.tokens[in_suffix],
            spans.lengths - prefix_lens,
        )


@dataclass(frozen=True)
class Sharing:
    """How a model shares prefixes between the prompts of a batch.

    Attributes:
        image_token_id: the placeholder of image features.
        always: split prompts even if no prefix is shared: the last layer then skips the prefixes,
            whose hidden states are never read.
        cached_before: token ids that end every prompt; the tokens before them are not packed but
            run into a KV cache first. None: prefixes are packed.
    """

    image_token_id: int
    always: bool = False
    cached_before: tuple[int, ...] | None = None

    def split(self, prompts: PromptBatch) -> PrefixSplit | None:
        """Split prompts so that an image, or else a prompt, that several rows share is run once.

        Args:
            prompts: B prompts.

        Returns:
            The split, or None where nothing is shared.

        Raises:
            ValueError: a prompt ends with an image, or does not end with `cached_before`.
        """
        if self.cached_before is not None:
            return split_before_suffix(prompts, self.cached_before, self.image_token_id)
        prefix_lens = image_prefix_lens(prompts, self.image_token_id)
        if prefix_lens is not None:
            return PrefixSplit.at(prompts, prefix_lens)
        split = split_before_suffix(prompts, None, self.image_token_id)
        return split if self.always or len(split.prefixes) < len(prompts) else None


def split_before_suffix(
    prompts: PromptBatch, suffix: Sequence[int] | None, image_token_id: int
) -> PrefixSplit:
    """Split each prompt before a common suffix.

    Args:
        prompts: B prompts.
        suffix: token ids of the suffix; None: the last token of each prompt, whichever it is.
        image_token_id: the placeholder of image features.

    Raises:
        ValueError: a prompt does not end with the suffix, or the suffix contains an image.
    """
    split = PrefixSplit.at(prompts, prompts.spans.lengths - (len(suffix) if suffix else 1))
    if suffix and split.suffix_tokens.tolist() != [*suffix] * len(prompts):
        raise ValueError(f"prompts: wanted each to end with {suffix}")
    if bool((split.suffix_tokens == image_token_id).any()):
        raise ValueError("prompts: wanted text at the end of each, got an image")
    return split


def image_prefix_lens(prompts: PromptBatch, image_token_id: int) -> Tensor | None:
    """Prefix lengths [B] with which an image shared by several prompts is run once.

    With a prefix of p tokens that ends with the image and suffixes of q_b tokens, the B rows cost
    p + Σ q_b tokens. Split before the last token instead, each distinct prompt costs p + q_b - 1
    tokens and each row 1. A prompt is split after its last image where that costs fewer tokens, and
    before its last token elsewhere.

    Args:
        prompts: B prompts.
        image_token_id: the placeholder of image features.

    Returns:
        [B] int64; None if splitting after images saves no token, or a prompt ends with an image.
    """
    spans, last = prompts.spans, prompts.spans.lengths - 1
    is_image = prompts.tokens == image_token_id
    first_rows, _ = unique_prompts(prompts)
    if len(first_rows) == len({*prompts.images}) or bool(is_image[spans.offsets[1:] - 1].any()):
        return None
    after_image = torch.zeros_like(last)
    ends = (spans.positions + 1) * is_image
    after_image = after_image.scatter_reduce(0, spans.segment_ids, ends, "amax")
    prefix_lens = torch.where(after_image > 0, after_image, last)
    prefix_ids = unique_prompts(prompts.truncate(prefix_lens))[1].prefix_ids
    saved = prefix_ids[first_rows].bincount(last[first_rows])
    saved = saved - prefix_ids.bincount(last - prefix_lens)
    gains = saved[prefix_ids] > prefix_lens
    return torch.where(gains, prefix_lens, last) if bool(gains.any()) else None


def prefix_cache_keys(prompts: PromptBatch) -> list[tuple[tuple[Path, ...], bytes]]:
    """Key of each prompt by its content: the paths of its images and its token ids."""
    rows = prompts.tokens.split(prompts.spans.lengths.tolist())
    return [
        (images, row.numpy().tobytes()) for images, row in zip(prompts.images, rows, strict=True)
    ]


def unique_prompts(prompts: PromptBatch) -> tuple[Tensor, PrefixGroups]:
    """First row [g] of each distinct prompt, and groups of the B rows by distinct prompt."""
    ids: dict[object, int] = {}
    prompt_ids = [ids.setdefault(key, len(ids)) for key in prefix_cache_keys(prompts)]
    first_rows: dict[int, int] = {}
    for row, prompt_id in enumerate(prompt_ids):
        first_rows.setdefault(prompt_id, row)
    return torch.tensor([*first_rows.values()]), PrefixGroups(torch.tensor(prompt_ids))
