"""What prompts begin with, read once for all that begin so: the prompt itself, or an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlhf.kernels.prefix_groups import PrefixGroups
from rlhf.models.packed.continuations import PackedSequences
from rlhf.types import PromptBatch, Responses


@dataclass(frozen=True, eq=False)
class PrefixSplit:
    """B prompts, each an opening and an end of its own.

    Attributes:
        openings: the different ones.
        groups: with which of them each prompt begins.
        cuts: [B] tokens of each prompt before its end.
        ends: [E] tokens of all ends.
        sizes: [B] tokens of each end.
    """

    prefixes: PromptBatch
    groups: PrefixGroups
    prefix_lens: Tensor
    suffix_tokens: Tensor
    suffix_lens: Tensor

    @staticmethod
    def at(prompts: PromptBatch, cuts: Tensor) -> "PrefixSplit":
        """Prompts parted after so many tokens [B] each, of which each has more."""
        spans = prompts.spans
        openings = prompts.truncate(cuts)
        firsts, groups = unique_prompts(openings)
        ends = prompts.tokens[spans.positions >= cuts[spans.segment_ids]]
        return PrefixSplit(openings.select(firsts), groups, cuts, ends, spans.lengths - cuts)

    def continued(self, responses: Responses, *, whole: bool) -> tuple[PackedSequences, Tensor]:
        """Rows of an end and a response each, and their tokens; not `whole`: without the last."""
        rest = PackedSequences.of(self.suffix_lens, responses, include_last=whole)
        return rest, rest.interleave(self.suffix_tokens, rest.response_tokens)

    def places(self, prompts: PromptBatch) -> Tensor:
        """[M] where each token of the prompts stands among those of all openings, then all ends."""
        spans, first = prompts.spans, self.prefixes.spans
        inside = spans.positions - self.prefix_lens[spans.segment_ids]
        opening = first.offsets[self.groups.prefix_ids[spans.segment_ids]] + spans.positions
        end = (
            first.num_tokens
            + (self.suffix_lens.cumsum(0) - self.suffix_lens)[spans.segment_ids]
            + inside
        )
        return torch.where(inside < 0, opening, end)


def split_before_suffix(
    prompts: PromptBatch, end: Sequence[int] | None, placeholder: int
) -> PrefixSplit:
    """Prompts parted before this end of all of them; None: before the last token of each.

    Raises:
        ValueError: a prompt ends otherwise, or with the placeholder of an image.
    """
    parted = PrefixSplit.at(prompts, prompts.spans.lengths - (len(end) if end else 1))
    if end and parted.suffix_tokens.tolist() != [*end] * len(prompts):
        raise ValueError(f"prompts: wanted each to end with {end}")
    if bool((parted.suffix_tokens == placeholder).any()):
        raise ValueError("prompts: wanted text at the end of each, got an image")
    return parted


def image_prefix_lens(prompts: PromptBatch, placeholder: int) -> Tensor | None:
    """[B] where to part prompts so that an image of which several ask is read once for them.

    Each is parted after its last image where that leaves fewer tokens to read: with p until then
    and questions of q each p + Σ q, over all B, instead of Σ (p + q) over the different prompts.
    The others are parted before their last token.

    Args:
        prompts: B prompts.
        placeholder: the token that stands where an image is.

    Returns:
        None where nothing is gained, or a prompt ends with an image.
    """
    spans, last = prompts.spans, prompts.spans.lengths - 1
    shown = prompts.tokens == placeholder
    firsts, _ = unique_prompts(prompts)
    if len(firsts) == len({*prompts.images}) or bool(shown[spans.offsets[1:] - 1].any()):
        return None
    after = torch.zeros_like(last)
    after = after.scatter_reduce(0, spans.segment_ids, (spans.positions + 1) * shown, "amax")
    cuts = torch.where(after > 0, after, last)
    owner = unique_prompts(prompts.truncate(cuts))[1].prefix_ids
    saved = owner[firsts].bincount(last[firsts]) - owner.bincount(last - cuts)
    gains = saved[owner] > cuts
    return torch.where(gains, cuts, last) if bool(gains.any()) else None


def prefix_cache_keys(prompts: PromptBatch) -> list[tuple[tuple[Path, ...], bytes]]:
    """What tells prompts apart: their images and their tokens."""
    rows = prompts.tokens.split(prompts.spans.lengths.tolist())
    return [(own, row.numpy().tobytes()) for own, row in zip(prompts.images, rows, strict=True)]


def unique_prompts(prompts: PromptBatch) -> tuple[Tensor, PrefixGroups]:
    """The first row [g] of each of the different prompts, and which of them each row is."""
    found: dict[object, int] = {}
    owner = [found.setdefault(name, len(found)) for name in prefix_cache_keys(prompts)]
    firsts: dict[int, int] = {}
    for row, prompt in enumerate(owner):
        firsts.setdefault(prompt, row)
    return torch.tensor([*firsts.values()]), PrefixGroups(torch.tensor(owner))
