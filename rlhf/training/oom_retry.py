"""When memory runs out: the same work again, in more and smaller pieces."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from rlhf.errors import is_out_of_memory, out_of_memory
from rlhf.tracking.console import say

Result = TypeVar("Result")


class OOMRetry:
    """In how many pieces work is done: twice as many each time memory runs out.

    Args:
        most: pieces beyond which smaller ones save nothing.
    """

    def __init__(self, most: int) -> None:
        self.num_splits, self.max_splits = 1, most

    def split(self, size: int) -> int:
        """One piece of a size, at least 1."""
        return max(1, size // self.num_splits)

    def run(self, what: str, work: Callable[[], Result]) -> Result:
        """What `work` returns, which reads `share` and has no effect until it returns.

        Raises:
            ResourceError: memory runs out in the smallest pieces as well.
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
            say(
                f"out of memory in the {what}: again in {self.num_splits} times as many pieces",
                "yellow",
            )
