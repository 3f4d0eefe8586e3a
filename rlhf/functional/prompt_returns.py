"""A memory of how well the responses to each prompt have done."""

from collections.abc import Mapping

import torch
from torch import Tensor

from rlhf.functional.checks import check_between
from rlhf.spans import check_rows


class PromptReturns:
    """Remembers how far the returns of each prompt's responses lay above the mean of their rollout.

    A prompt that comes again tells the critic what it earned before. Compared with the mean of its
    rollout, this does not grow with a policy that improves.

    Args:
        decay: weight of a rollout relative to the prompt's next one, in [0, 1].

    Raises:
        ValueError: the decay is out of range.

    Source: a value tracked for each prompt, Xu and Ding 2025, arXiv:2509.13232.
    """

    def __init__(self, decay: float = 0.7) -> None:
        check_between("decay", decay, 0, 1)
        self.decay = decay
        self._sums: dict[int, tuple[float, float]] = {}  # prompt: weighted sum, weight

    def means(self, groups: Tensor) -> Tensor:
        """Return the mean so far for the prompt of each response.

        Args:
            groups: [B] int64, names the prompt of each response.

        Returns:
            [B] float64, reward units; NaN for a prompt that did not come before.
        """
        sums = [self._sums.get(key, (torch.nan, 1.0)) for key in groups.tolist()]
        return torch.tensor([total / weight for total, weight in sums], dtype=torch.float64)

    def add(self, returns: Tensor, groups: Tensor) -> None:
        """Add the responses of a rollout.

        Args:
            returns: [B], summed rewards of each response, reward units.
            groups: [B] int64, names the prompt of each response.

        Raises:
            ValueError: shapes disagree.
        """
        check_rows("returns", returns, len(groups))
        above_mean = returns.double() - returns.double().mean()
        prompts, slots, counts = groups.unique(return_inverse=True, return_counts=True)
        sums = torch.zeros(len(prompts), dtype=torch.float64).index_add(0, slots, above_mean)
        rows = zip(prompts.tolist(), sums.tolist(), counts.tolist(), strict=True)
        for key, total, count in rows:
            old_total, old_weight = self._sums.get(key, (0.0, 0.0))
            self._sums[key] = self.decay * old_total + total, self.decay * old_weight + count

    def state_dict(self) -> dict[str, Tensor]:
        """Return prompts, weighted sums and weights, for a checkpoint."""
        sums = torch.tensor([*self._sums.values()], dtype=torch.float64).reshape(-1, 2)
        return {"prompts": torch.tensor([*self._sums], dtype=torch.int64), "prompt_sums": sums}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        sums = (tuple(row) for row in state["prompt_sums"].tolist())
        self._sums = dict(zip(state["prompts"].tolist(), sums, strict=True))
