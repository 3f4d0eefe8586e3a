"""The gradient of an optimizer step, accumulated over microbatches, parts and processes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from rlhf.parallel.world import ALONE, World
from rlhf.training.gradient_sum import GradientSum
from rlhf.training.oom_retry import OOMRetry

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Statistics:
    """What is measured with a gradient.

    Attributes:
        sums: [S] float32, which are added up over microbatches, parts and processes.
        maximum: a number whose maximum is taken instead.
    """

    sums: Tensor
    maximum: float = 0.0


class GradientAccumulator(Generic[Batch]):
    """Accumulates the gradient of an optimizer step in microbatches that fit into memory.

    A batch is cut into parts. The gradient of a part is computed by itself, and the gradients of
    all parts of all processes are summed in the order of a binary tree, see `GradientSum`. If
    memory runs out, the step is repeated with smaller microbatches.

    Args:
        parameters: their `grad` is set.
        max_tokens: most tokens of a microbatch.
        num_sums: S, number of sums that `backward` measures.
        oom_retry: splits microbatches after out-of-memory errors.
        world: this process among those of the run.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        max_tokens: int,
        num_sums: int,
        oom_retry: OOMRetry,
        world: World = ALONE,
    ) -> None:
        self.parameters, self.max_tokens, self.num_sums = list(parameters), max_tokens, num_sums
        self.oom_retry, self.world = oom_retry, world

    def run(
        self,
        parts: Sequence[Batch],
        microbatches: Callable[[Batch, int], Iterable[Batch]],
        backward: Callable[[Batch], Statistics],
    ) -> Statistics:
        """Set `grad` of each parameter, and return what was measured with it.

        Args:
            parts: those of this process, each cut alike on any number of processes.
            microbatches: splits a part into microbatches of at most so many tokens.
            backward: adds the gradient of a microbatch to `grad`, with every mean divided by the
                count of the whole optimizer step.
        """
        if self.world.size == 1 and len(parts) == 1:
            work = partial(self._accumulate, parts[0], microbatches, backward)
            return self.oom_retry.run("update", work)
        own = self.oom_retry.run("update", partial(self._sum, parts, microbatches, backward))
        gradient_sum, maximum = own
        return Statistics(gradient_sum.finish(self.world), self.world.most(maximum))

    def _sum(
        self,
        parts: Sequence[Batch],
        microbatches: Callable[[Batch, int], Iterable[Batch]],
        backward: Callable[[Batch], Statistics],
    ) -> tuple[GradientSum, float]:
        """Sum the gradients of parts; also return the maximum over them."""
        gradient_sum, maximum = GradientSum(self.parameters), 0.0
        for part in parts:
            statistics = self._accumulate(part, microbatches, backward)
            gradient_sum.add(statistics.sums)
            maximum = max(maximum, statistics.maximum)
        return gradient_sum, maximum

    def _accumulate(
        self,
        part: Batch,
        microbatches: Callable[[Batch, int], Iterable[Batch]],
        backward: Callable[[Batch], Statistics],
    ) -> Statistics:
        """Compute the gradient of a part."""
        for parameter in self.parameters:
            parameter.grad = None
        sums, maximum = torch.zeros(self.num_sums), 0.0
        for microbatch in microbatches(part, self.oom_retry.split(self.max_tokens)):
            statistics = backward(microbatch)
            sums = sums + statistics.sums.cpu()
            maximum = max(maximum, statistics.maximum)
        return Statistics(sums, maximum)
