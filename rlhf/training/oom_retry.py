"""Retry after an out-of-memory error, with batches split into more parts."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from rlhf.errors import ResourceError, is_out_of_memory, out_of_memory
from rlhf.parallel.world import ALONE, World
from rlhf.tracking.console import say

Result = TypeVar("Result")


class OOMRetry:
    """Retries work that runs out of memory, doubling the number of parts of its batches.

    If memory runs out on one process, all repeat the work, so that all have the same batches.

    Args:
        max_splits: number of parts at which to give up.
        world: this process among those of the run.

    Attributes:
        num_splits: current number of parts of a batch; it never decreases.
        prepare: called before each try; it passes the parts on to what keeps a batch size itself.
    """

    def __init__(self, max_splits: int, world: World = ALONE) -> None:
        self.max_splits, self.world = max_splits, world
        self.num_splits = 1
        self.prepare: Callable[[], None] = lambda: None

    def split(self, size: int) -> int:
        """Size of one part of a batch of `size`, at least 1."""
        return max(1, size // self.num_splits)

    def run(self, name: str, work: Callable[[], Result]) -> Result:
        """Call `work`, retry while memory runs out, and return its result.

        Args:
            name: name of the work, for the message.
            work: uses batch sizes from `split`; must be safe to repeat after a failure, and
                exchange nothing with other processes.

        Raises:
            ResourceError: memory runs out with the smallest parts too.
        """
        while True:
            results, failure = self._attempt(work)
            if not self.world.most(failure is not None):
                return results[0]
            if self.num_splits >= self.max_splits:
                raise failure or _failed_elsewhere(self.world)
            results.clear()
            self.num_splits *= 2
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if torch.backends.mps.is_available():
                torch.mps.empty_cache()
            say(f"out of memory in the {name}: trying again in {self.num_splits} parts", "yellow")

    def _attempt(self, work: Callable[[], Result]) -> tuple[list[Result], ResourceError | None]:
        """Return the result of `work` in a list, or no result and why memory ran out.

        The error of torch is not kept: it would hold the tensors of the attempt.
        """
        try:
            self.prepare()
            return [work()], None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return [], out_of_memory(error)


def _failed_elsewhere(world: World) -> ResourceError:
    where = f"process {world.rank} of {world.size} waits for it"
    return ResourceError(
        "memory ran out on another process", where, "see the error of that process"
    )
