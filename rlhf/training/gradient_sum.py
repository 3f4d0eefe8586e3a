"""The gradient of an optimizer step, summed over parts and processes in a fixed order."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlhf.parallel.world import World


class GradientSum:
    """Sums the gradients of parts, and statistics of them, in the order of a binary tree.

        ((0 + 1) + (2 + 3)) + …

    Args:
        parameters: their `grad` is what is summed.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self._sums: list[tuple[int, Tensor]] = []  # number of parts in a sum, and the sum

    def add(self, statistics: Tensor) -> None:
        """Add the gradient of the next part of this process, and clear it.

        Args:
            statistics: [S] float, sums over the part.
        """
        count, total = 1, self._flat(statistics)
        while self._sums and self._sums[-1][0] == count:
            total = self._sums.pop()[1] + total
            count *= 2
        self._sums.append((count, total))
        for parameter in self.parameters:
            parameter.grad = None

    def finish(self, world: World) -> Tensor:
        """Set each `grad` to the sum over all parts of all processes.

        A parameter without a gradient in any part has none.

        Args:
            world: the processes; each has added the same number of parts.

        Returns:
            [S], the sums of the statistics, on the CPU.
        """
        total = self._sums.pop()[1]
        while self._sums:
            total = self._sums.pop()[1] + total
        total = world.sum(total)
        sizes = [parameter.numel() for parameter in self.parameters]
        *gradients, counts, statistics = total.split(
            [*sizes, len(sizes), len(total) - sum(sizes) - len(sizes)]
        )
        for parameter, gradient, count in zip(
            self.parameters, gradients, counts.tolist(), strict=True
        ):
            value = gradient.view_as(parameter).to(parameter.dtype)
            parameter.grad = value if count else None
        sums: Tensor = statistics.cpu()
        return sums

    def _flat(self, statistics: Tensor) -> Tensor:
        """Return all gradients, 1 or 0 for each that there is or not, and the statistics."""
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in self.parameters
        ]
        present = [float(parameter.grad is not None) for parameter in self.parameters]
        rest = torch.cat([torch.tensor(present), statistics])
        rest = rest.to(gradients[0].device) if gradients else rest
        return torch.cat([*(gradient.detach().flatten() for gradient in gradients), rest])
