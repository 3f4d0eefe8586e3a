"""Prompts, or their ends, and what each is continued with: which token stands where."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.spans import Spans
from rlhf.types import Responses


@dataclass(frozen=True, eq=False)
class PackedSequences:
    """B rows of tokens, M of them of prompts and N of responses.

    Attributes:
        rows: where each row lies in the M + N tokens.
        cuts: [B] tokens of each row before its response.
        said: [N], those of responses.
        whole: whether the last token of each response is among them.
    """

    rows: Spans
    cuts: Tensor
    response_tokens: Tensor
    include_last: bool

    @staticmethod
    def of(cuts: Tensor, responses: Responses, *, include_last: bool) -> "PackedSequences":
        """Of rows that begin with so many tokens [B] of a prompt.

        Args:
            whole: False leaves out each response's last token, after which nothing is said.
        """
        spans = responses.spans
        lengths = spans.lengths if include_last else spans.lengths - 1
        said = responses.tokens.cpu()[spans.positions < lengths[spans.segment_ids]]
        return PackedSequences(Spans.from_lengths(cuts + lengths), cuts, said, include_last)

    @property
    def predicting_idx(self) -> Tensor:
        """Where the token before each token of the responses stands."""
        rows = self.rows
        speaks = rows.positions >= self.cuts[rows.segment_ids] - 1
        if self.include_last:
            speaks[self.last_idx] = False
        return speaks.nonzero().squeeze(1)

    @property
    def last_idx(self) -> Tensor:
        """[B], where the last token of each row stands."""
        return self.rows.offsets[1:] - 1

    def interleave(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """[M + N, …], a row after the other, of what belongs to prompts [M, …] and responses."""
        says = self.rows.positions >= self.cuts[self.rows.segment_ids]
        order = torch.empty(len(says), dtype=torch.int64)
        order[~says] = torch.arange(len(prompts))
        order[says] = torch.arange(len(responses)) + len(prompts)
        return torch.cat([prompts, responses])[order.to(prompts.device)]
