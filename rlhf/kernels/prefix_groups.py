"""Responses grouped by the prefix that they continue."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PrefixGroups:
    """B responses grouped by the prefix that each continues.

    Attributes:
        prefix_ids: [B] int64 in 0 .. g-1, the prefix of each response; each of the g prefixes has
            at least one response.
    """

    prefix_ids: Tensor

    @cached_property
    def slots(self) -> Tensor:
        """[B] int64, slot of each response among g·G slots, G = `max_size` for each prefix."""
        order, counts = self.prefix_ids.argsort(stable=True), self.prefix_ids.bincount()
        rank = torch.empty_like(self.prefix_ids)
        group_starts = (counts.cumsum(0) - counts)[self.prefix_ids[order]]
        rank[order] = torch.arange(len(order), device=order.device) - group_starts
        return self.prefix_ids * self.max_size + rank

    @cached_property
    def max_size(self) -> int:
        """G, the largest number of responses to one prefix."""
        return int(self.prefix_ids.bincount().max())

    @cached_property
    def num_prefixes(self) -> int:
        """g, the number of prefixes."""
        return int(self.prefix_ids.max()) + 1

    @cached_property
    def in_order(self) -> bool:
        """Whether every prefix has G responses and they are consecutive rows."""
        return self.slots.tolist() == list(range(self.num_prefixes * self.max_size))

    def slots_on(self, device: torch.device) -> Tensor:
        """`slots` on a device, copied there once: a CUDA graph may not copy from the host."""
        if device not in self._copied_slots:
            self._copied_slots[device] = self.slots.to(device)
        return self._copied_slots[device]

    @cached_property
    def _copied_slots(self) -> dict[torch.device, Tensor]:
        return {}

    def group(self, rows: Tensor) -> Tensor:
        """Concatenate the rows of responses to one prefix.

        Args:
            rows: [B, H, R, D].

        Returns:
            [g, H, G·R, D], zeros where a prefix has fewer than G responses.
        """
        if self.in_order and self.max_size == 1:
            return rows
        if not self.in_order:
            slots = rows.new_zeros(self.num_prefixes * self.max_size, *rows.shape[1:])
            rows = slots.index_copy(0, self.slots_on(rows.device), rows)
        grouped: Tensor = rows.unflatten(0, (-1, self.max_size)).transpose(1, 2).flatten(2, 3)
        return grouped

    def ungroup(self, grouped: Tensor) -> Tensor:
        """Undo `group`: [g, H, G·R, D] to [B, H, R, D]."""
        if self.in_order and self.max_size == 1:
            return grouped
        rows: Tensor = grouped.unflatten(2, (self.max_size, -1)).transpose(1, 2).flatten(0, 1)
        return rows if self.in_order else rows.index_select(0, self.slots_on(rows.device))

    def select(self, rows: Tensor) -> tuple["PrefixGroups", Tensor]:
        """Keep some responses, and the prefixes that they continue.

        Args:
            rows: [K] int64, indices of responses.

        Returns:
            Groups of the selected responses, and [g′] int64 indices of the prefixes they continue,
            increasing.
        """
        prefixes, prefix_ids = self.prefix_ids[rows].unique(return_inverse=True)
        return PrefixGroups(prefix_ids), prefixes
