"""When memory runs out: the same work again, in more and smaller pieces."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from rlhf.errors import is_out_of_memory, out_of_memory
from rlhf.tracking.console import say

Result = TypeVar("Result")


class Backoff:
    """In how many pieces work is done: twice as many each time memory runs out.

    Args:
        most: pieces beyond which smaller ones save nothing.
    """

    def __init__(self, most: int) -> None:
        self.pieces, self.most = 1, most

    def share(self, size: int) -> int:
        """One piece of a size, at least 1."""
        return max(1, size // self.pieces)

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
                if self.pieces >= self.most:
                    raise out_of_memory(error) from error
            self.pieces *= 2
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            say(
                f"out of memory in the {what}: again in {self.pieces} times as many pieces",
                "yellow",
            )
