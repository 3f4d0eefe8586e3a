"""Retry after an out-of-memory error, with batches split into more parts."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from rlhf.errors import is_out_of_memory, out_of_memory
from rlhf.tracking.console import say

Result = TypeVar("Result")


class OOMRetry:
    """Retries work that runs out of memory, doubling the number of parts of its batches.

    Args:
        max_splits: number of parts at which to give up.

    Attributes:
        num_splits: current number of parts of a batch; it never decreases.
        prepare: called before each try; it passes the parts on to what keeps a batch size itself.
    """

    def __init__(self, max_splits: int) -> None:
        self.max_splits = max_splits
        self.num_splits = 1
        self.prepare: Callable[[], None] = lambda: None

    def split(self, size: int) -> int:
        """Size of one part of a batch of `size`, at least 1."""
        return max(1, size // self.num_splits)

    def run(self, name: str, work: Callable[[], Result]) -> Result:
        """Call `work`, retry while memory runs out, and return its result.

        Args:
            name: name of the work, for the message.
            work: uses batch sizes from `split`; must be safe to repeat after a failure.

        Raises:
            ResourceError: memory runs out with the smallest parts too.
        """
        while True:
            try:
                self.prepare()
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.num_splits >= self.max_splits:
                    raise out_of_memory(error) from error
            self.num_splits *= 2
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            say(f"out of memory in the {name}: trying again in {self.num_splits} parts", "yellow")
