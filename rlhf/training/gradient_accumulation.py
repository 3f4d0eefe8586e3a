"""The gradient of an optimizer step, accumulated over microbatches, parts and processes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from rlhf.models.sharding import ShardedModels, is_sharded
from rlhf.tracking.activity import working
from rlhf.training.gradient_sum import GradientSum
from rlhf.training.oom_retry import OOMRetry

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Statistics:
    """What is measured with a gradient.

    Attributes:
        sums: [S] float32, which are added up over microbatches, parts and processes.
        maximum: a number, or a float32 tensor [], whose maximum is taken instead.
    """

    sums: Tensor
    maximum: float | Tensor = 0.0


class GradientAccumulator(Generic[Batch]):
    """Accumulates the gradient of an optimizer step in microbatches that fit into memory.

    A batch is cut into parts. The gradient of a part is computed by itself, and the gradients of
    all parts of all processes are summed in the order of a binary tree, see `GradientSum`. If
    memory runs out, the step is repeated with smaller microbatches; not if the models are
    sharded, since the processes then wait for one another in the middle of it.

    Args:
        parameters: their `grad` is set.
        max_tokens: most tokens of a microbatch.
        num_sums: S, number of sums that `backward` measures.
        oom_retry: splits microbatches after out-of-memory errors; knows the processes of the run.
        sharding: the models, which may be sharded; FSDP sums their gradients itself.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        max_tokens: int,
        num_sums: int,
        oom_retry: OOMRetry,
        sharding: ShardedModels,
    ) -> None:
        self.parameters, self.max_tokens, self.num_sums = list(parameters), max_tokens, num_sums
        self.replicated = [value for value in self.parameters if not is_sharded(value)]
        self.oom_retry, self.world, self.sharding = oom_retry, oom_retry.world, sharding

    def run(
        self,
        parts: Sequence[Batch],
        microbatches: Callable[[Batch, int], Iterable[Batch]],
        backward: Callable[[Batch], Statistics],
        batch: Batch | None = None,
    ) -> Statistics:
        """Set `grad` of each parameter, and return what was measured with it.

        Args:
            parts: those of this process, each cut alike on any number of processes.
            microbatches: splits a part into microbatches of at most so many tokens.
            backward: adds the gradient of a microbatch to `grad`, with every mean divided by the
                count of the whole optimizer step.
            batch: the parts of all processes, of which a row stands in where this process has
                fewer microbatches than another and the models are sharded.
        """
        if self.world.size == 1 and len(parts) == 1:
            work = partial(self._accumulate, parts[0], microbatches, backward)
            return self.oom_retry.run("update", work)
        if self.sharding.active:
            own = self._sum_sharded(parts, microbatches, backward, batch)
        else:
            own = self.oom_retry.run("update", partial(self._sum, parts, microbatches, backward))
        gradient_sum, maximum = own
        return Statistics(gradient_sum.finish(self.world), self.world.most(maximum))

    def _sum_sharded(
        self,
        parts: Sequence[Batch],
        microbatches: Callable[[Batch, int], Iterable[Batch]],
        backward: Callable[[Batch], Statistics],
        batch: Batch | None,
    ) -> tuple[GradientSum, float]:
        """Sum the gradients of parts, in as many passes as every other process."""
        max_tokens = self.oom_retry.split(self.max_tokens)
        passes = sum(1 for part in parts for _ in microbatches(part, max_tokens))
        missing = self.sharding.missing_passes(passes)
        for parameter in self.parameters:
            parameter.grad = None
        with self.world.collectives():
            own = self._sum(parts, microbatches, backward)
            with self.sharding.weightless():
                for _ in range(missing):
                    assert batch is not None
                    backward(next(iter(microbatches(batch, 1))))
        return own

    def _sum(
        self,
        parts: Sequence[Batch],
        microbatches: Callable[[Batch, int], Iterable[Batch]],
        backward: Callable[[Batch], Statistics],
    ) -> tuple[GradientSum, float]:
        """Sum the gradients of parts; also return the maximum over them."""
        gradient_sum, maximum = GradientSum(self.replicated), 0.0
        for part in parts:
            statistics = self._accumulate(part, microbatches, backward)
            gradient_sum.add(statistics.sums)
            maximum = max(maximum, float(statistics.maximum))
        return gradient_sum, maximum

    def _accumulate(
        self,
        part: Batch,
        microbatches: Callable[[Batch, int], Iterable[Batch]],
        backward: Callable[[Batch], Statistics],
    ) -> Statistics:
        """Compute the gradient of a part; to that of sharded parameters it is added."""
        for parameter in self.replicated:
            parameter.grad = None
        split, measured = [*microbatches(part, self.oom_retry.split(self.max_tokens))], []
        with working("micro-batches", len(split)) as progress:
            for microbatch in split:
                measured.append(_flat(backward(microbatch)))
                progress.advance()
        sums, maximum = torch.zeros(self.num_sums), 0.0
        # read together at the end: a GPU does not wait for the host between microbatches
        for row in torch.stack(measured).cpu() if measured else ():
            sums, maximum = sums + row[:-1], max(maximum, float(row[-1]))
        return Statistics(sums, maximum)


def _flat(statistics: Statistics) -> Tensor:
    """Sums and maximum, [S + 1]."""
    maximum = torch.as_tensor(statistics.maximum, device=statistics.sums.device)
    return torch.cat([statistics.sums, maximum.view(1)])
