"""Fixed parts of an iteration's prompts, which are computed one by one and summed in a tree.

With the same parts a run on one process and one on several do the same arithmetic, to the bit.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PromptParts:
    """The part that each prompt of an iteration belongs to.

    Attributes:
        keys: [K] int64, ascending, the sampling keys of the prompts.
        part_ids: [K] int64, the part of each, from 0.
        count: number of parts; some may be empty if there are fewer prompts.
    """

    keys: Tensor
    part_ids: Tensor
    count: int

    @staticmethod
    def split(sampling_keys: Tensor, count: int) -> "PromptParts":
        """Cut prompts into parts of consecutive prompts, as equal in number as possible.

        Args:
            sampling_keys: [B] int64, of the rows of an iteration; equal ones are one prompt.
            count: number of parts.
        """
        keys, prompt_ids = sampling_keys.unique(return_inverse=True)
        first_rows = torch.full_like(keys, len(sampling_keys))
        first_rows.scatter_reduce_(0, prompt_ids, torch.arange(len(sampling_keys)), "amin")
        places = first_rows.argsort().argsort()
        return PromptParts(keys, places * count // max(len(keys), 1), count)

    def of(self, sampling_keys: Tensor) -> Tensor:
        """Return the part [B] int64 of each row, by its sampling key [B] int64."""
        return self.part_ids[torch.searchsorted(self.keys, sampling_keys)]

    def rows(self, sampling_keys: Tensor, part: int) -> Tensor:
        """Return the rows [b] int64 that belong to a part.

        Args:
            sampling_keys: [B] int64, of the rows.
            part: number of the part, from 0.
        """
        return (self.of(sampling_keys) == part).nonzero().squeeze(1)

    def stratify(self, sampling_keys: Tensor, ranks: Tensor) -> Tensor:
        """Reorder prompts so that any run of consecutive ones has about as many of each part.

        Args:
            sampling_keys: [K] int64, of different prompts.
            ranks: [K] int64, the place of each in a random order.

        Returns:
            [K] int64, the place of each in the new order, in which prompts of one part follow one
            another as before. With one part: `ranks`.
        """
        in_order = ranks.argsort()
        parts = self.of(sampling_keys)[in_order]
        members = parts.unsqueeze(1) == torch.arange(self.count)
        before = (members.cumsum(0) - 1).gather(1, parts.unsqueeze(1)).squeeze(1)
        fractions = before.double() / parts.bincount(minlength=self.count)[parts]
        by_part = parts.argsort(stable=True)
        return in_order[by_part[fractions[by_part].argsort(stable=True)]].argsort()
