"""Out of memory: repeat the work with its batches split into more parts."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from rlhf.errors import is_out_of_memory, out_of_memory
from rlhf.tracking.console import say

Result = TypeVar("Result")


class OOMRetry:
    """Repeats work that runs out of memory, with batches split into twice as many parts each time.

    Args:
        max_splits: number of parts from which on smaller ones save nothing.

    Attributes:
        num_splits: parts that batches are split into now; it never falls.
    """

    def __init__(self, max_splits: int) -> None:
        self.max_splits = max_splits
        self.num_splits = 1

    def split(self, size: int) -> int:
        """Size of one part of a batch of `size`, at least 1."""
        return max(1, size // self.num_splits)

    def run(self, name: str, work: Callable[[], Result]) -> Result:
        """Call `work` until its memory suffices; what it returns.

        Args:
            name: of the work, for the message.
            work: takes its batch sizes from `split` and has no effect until it returns.

        Raises:
            ResourceError: memory runs out in the smallest parts as well.
        """
        while True:
            try:
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
