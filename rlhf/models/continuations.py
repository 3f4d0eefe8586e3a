"""Prompts, or their ends, and what each is continued with: which token stands where."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.spans import Spans


@dataclass(frozen=True, eq=False)
class Continuations:
    """B rows of tokens, M of them of prompts and N of responses.

    Attributes:
        rows: where each row lies in the M + N tokens.
        says: [M + N] bool, which are of responses.
    """

    rows: Spans
    says: Tensor

    @staticmethod
    def of(lengths: Tensor, responses: Spans) -> "Continuations":
        """Of rows that begin with so many tokens [B] of a prompt."""
        rows = Spans.from_lengths(lengths + responses.lengths)
        return Continuations(rows, rows.positions >= lengths[rows.owner])

    @property
    def before(self) -> Tensor:
        """[N], where the token before each of a response stands."""
        return self.says.nonzero().squeeze(1) - 1

    @property
    def last(self) -> Tensor:
        """[B], where the last token of each row stands."""
        return self.rows.offsets[1:] - 1

    def joined(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """[M + N, …], a row after the other, of what belongs to prompts [M, …] and responses."""
        order = torch.empty(len(self.says), dtype=torch.int64)
        order[~self.says] = torch.arange(len(prompts))
        order[self.says] = torch.arange(len(responses)) + len(prompts)
        return torch.cat([prompts, responses])[order.to(prompts.device)]
