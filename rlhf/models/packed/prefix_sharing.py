"""What prompts begin with, read once for all that begin so: the prompt itself, or a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlhf.kernels.shared_prefix_attention import Groups
from rlhf.models.packed.continuations import Continuations
from rlhf.types import PromptBatch, Responses


@dataclass(frozen=True, eq=False)
class Parted:
    """B prompts, each an opening and an end of its own.

    Attributes:
        openings: the different ones.
        groups: with which of them each prompt begins.
        cuts: [B] tokens of each prompt before its end.
        ends: [E] tokens of all ends.
        sizes: [B] tokens of each end.
    """

    openings: PromptBatch
    groups: Groups
    cuts: Tensor
    ends: Tensor
    sizes: Tensor

    @staticmethod
    def at(prompts: PromptBatch, cuts: Tensor) -> "Parted":
        """Prompts parted after so many tokens [B] each, of which each has more."""
        spans = prompts.spans
        openings = prompts.first(cuts)
        firsts, groups = alike(openings)
        ends = prompts.tokens[spans.positions >= cuts[spans.owner]]
        return Parted(openings.select(firsts), groups, cuts, ends, spans.lengths - cuts)

    def continued(self, responses: Responses, *, whole: bool) -> tuple[Continuations, Tensor]:
        """Rows of an end and a response each, and their tokens; not `whole`: without the last."""
        rest = Continuations.of(self.sizes, responses, whole=whole)
        return rest, rest.joined(self.ends, rest.said)

    def places(self, prompts: PromptBatch) -> Tensor:
        """[M] where each token of the prompts stands among those of all openings, then all ends."""
        spans, first = prompts.spans, self.openings.spans
        inside = spans.positions - self.cuts[spans.owner]
        opening = first.offsets[self.groups.owner[spans.owner]] + spans.positions
        end = first.total + (self.sizes.cumsum(0) - self.sizes)[spans.owner] + inside
        return torch.where(inside < 0, opening, end)


def without_ends(prompts: PromptBatch, end: Sequence[int] | None, placeholder: int) -> Parted:
    """Prompts parted before this end of all of them; None: before the last token of each.

    Raises:
        ValueError: a prompt ends otherwise, or with the placeholder of a picture.
    """
    parted = Parted.at(prompts, prompts.spans.lengths - (len(end) if end else 1))
    if end and parted.ends.tolist() != [*end] * len(prompts):
        raise ValueError(f"prompts: wanted each to end with {end}")
    if bool((parted.ends == placeholder).any()):
        raise ValueError("prompts: wanted text at the end of each, got a picture")
    return parted


def cuts_after_pictures(prompts: PromptBatch, placeholder: int) -> Tensor | None:
    """[B] where to part prompts so that a picture of which several ask is read once for them.

    Each is parted after its last picture where that leaves fewer tokens to read: with p until then
    and questions of q each p + Σ q, over all B, instead of Σ (p + q) over the different prompts.
    The others are parted before their last token.

    Args:
        prompts: B prompts.
        placeholder: the token that stands where a picture is.

    Returns:
        None where nothing is gained, or a prompt ends with a picture.
    """
    spans, last = prompts.spans, prompts.spans.lengths - 1
    shown = prompts.tokens == placeholder
    firsts, _ = alike(prompts)
    if len(firsts) == len({*prompts.images}) or bool(shown[spans.offsets[1:] - 1].any()):
        return None
    after = torch.zeros_like(last)
    after = after.scatter_reduce(0, spans.owner, (spans.positions + 1) * shown, "amax")
    cuts = torch.where(after > 0, after, last)
    owner = alike(prompts.first(cuts))[1].owner
    saved = owner[firsts].bincount(last[firsts]) - owner.bincount(last - cuts)
    gains = saved[owner] > cuts
    return torch.where(gains, cuts, last) if bool(gains.any()) else None


def prompt_names(prompts: PromptBatch) -> list[tuple[tuple[Path, ...], bytes]]:
    """What tells prompts apart: their pictures and their tokens."""
    rows = prompts.tokens.split(prompts.spans.lengths.tolist())
    return [(own, row.numpy().tobytes()) for own, row in zip(prompts.images, rows, strict=True)]


def alike(prompts: PromptBatch) -> tuple[Tensor, Groups]:
    """The first row [g] of each of the different prompts, and which of them each row is."""
    found: dict[object, int] = {}
    owner = [found.setdefault(name, len(found)) for name in prompt_names(prompts)]
    firsts: dict[int, int] = {}
    for row, prompt in enumerate(owner):
        firsts.setdefault(prompt, row)
    return torch.tensor([*firsts.values()]), Groups(torch.tensor(owner))
