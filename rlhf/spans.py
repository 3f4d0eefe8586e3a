"""Positions of the responses in a flat [N] tensor that holds a batch end to end, unpadded."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


def check_rows(name: str, tensor: Tensor, rows: int, *, allow_trailing: bool = False) -> None:
    """Refuse a tensor whose first dimension is not `rows`.

    Args:
        name: what the error calls it.
        tensor: to be checked.
        rows: wanted size of the first dimension.
        allow_trailing: whether more dimensions may follow.

    Raises:
        ValueError: names the tensor, its shape and the shape wanted.
    """
    if tensor.shape[:1] != (rows,) or (tensor.dim() > 1 and not allow_trailing):
        wanted = f"[{rows}, ...]" if allow_trailing else f"[{rows}]"
        raise ValueError(f"{name}: got shape {list(tensor.shape)}, wanted {wanted}")


@dataclass(frozen=True, eq=False)
class Spans:
    """Positions of B responses in a flat [N] tensor: response b is flat[offsets[b]:offsets[b+1]].

    Attributes:
        offsets: [B+1] int64, strictly increasing from 0 to N; `from_lengths` makes and checks them.
    """

    offsets: Tensor

    @classmethod
    def from_lengths(cls, lengths: Sequence[int] | Tensor) -> "Spans":
        """Make the spans of responses of these lengths, end to end.

        Args:
            lengths: [B], tokens, whole numbers of at least 1.

        Raises:
            ValueError: lengths are not [B] whole numbers of at least 1.
        """
        sizes = torch.as_tensor(lengths)
        if sizes.dim() != 1 or (sizes.numel() and (sizes.is_floating_point() or sizes.min() < 1)):
            raise ValueError(f"lengths: got {lengths}, wanted [B] whole numbers, each at least 1")
        return cls(torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]).long())

    @classmethod
    def concatenate(cls, parts: Sequence["Spans"]) -> "Spans":
        """Make the spans of `torch.cat` of the flat tensors of all parts, in order."""
        return cls.from_lengths(torch.cat([part.lengths for part in parts]) if parts else [])

    def __len__(self) -> int:
        """B, the number of responses."""
        return self.offsets.numel() - 1

    @cached_property
    def lengths(self) -> Tensor:
        """[B] int64, tokens of each response."""
        return self.offsets.diff()

    @cached_property
    def num_tokens(self) -> int:
        """N, the tokens of all responses."""
        return int(self.offsets[-1])

    @cached_property
    def max_len(self) -> int:
        """Tokens of the longest response; 0 when there is none."""
        return int(self.lengths.max()) if len(self) else 0

    @property
    def equal_lengths(self) -> bool:
        """Whether all spans are equally long."""
        return self.num_tokens == len(self) * self.max_len

    @cached_property
    def segment_ids(self) -> Tensor:
        """[N] int64, index of the response of each token."""
        rows = torch.arange(len(self), device=self.offsets.device)
        return rows.repeat_interleave(self.lengths, output_size=self.num_tokens)

    @cached_property
    def positions(self) -> Tensor:
        """[N] int64, index of each token inside its response, from 0."""
        return (
            torch.arange(self.num_tokens, device=self.offsets.device)
            - self.offsets[self.segment_ids]
        )

    def to(self, device: torch.device | str) -> "Spans":
        """Copy the spans to another device; sizes known on the host are not read again."""
        moved = Spans(self.offsets.to(device))
        vars(moved).update(num_tokens=self.num_tokens, max_len=self.max_len)
        return moved

    def select(self, indices: Sequence[int] | Tensor) -> "Spans":
        """Make the spans of the selected responses, end to end.

        Args:
            indices: [K] responses, in the order wanted, or a boolean [B].
        """
        return Spans.from_lengths(self.lengths[self._index(indices)])

    def token_indices(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Indices of the tokens of the selected responses, so that `flat[...]` fits `select`.

        Args:
            indices: [K] responses, in the order wanted, or a boolean [B].

        Returns:
            [N′] int64, indices into a flat [N] tensor.
        """
        selected = self.select(indices)
        starts = self.offsets[:-1][self._index(indices)]
        return starts[selected.segment_ids] + selected.positions

    def _index(self, indices: Sequence[int] | Tensor) -> Tensor:
        index = torch.as_tensor(indices, device=self.offsets.device)
        return index if index.numel() else index.long()
