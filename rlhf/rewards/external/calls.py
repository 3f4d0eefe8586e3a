"""The base class of external scorers: batched calls and the handling of failed calls."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf.config.schema import ScorerConfig
from rlhf.data.tokenization import TextEncoder
from rlhf.errors import ResourceError, RlhfError
from rlhf.history import transcript
from rlhf.parallel.world import ALONE, World
from rlhf.tracking.console import say
from rlhf.types import PromptBatch, Responses

BATCH_SIZE = 16  # responses of one call
MAX_FAILED_CALLS = 10  # consecutive calls without any score that end even on_failure=drop
USAGE = "name FILE.py:NAME or an address, as my_scorer.py:score or http://127.0.0.1:8000/score"


class Item(NamedTuple):
    """Image, instruction and response passed to an external scorer.

    Attributes:
        image: path of the prompt's first image.
        instruction: text of the prompt, its earlier turns above the instruction.
        response: text of the response.
    """

    image: Path
    instruction: str
    response: str


class CallFailedError(Exception):
    """A call returned no usable scores."""


class ExternalScorer(ABC):
    """Scores responses by calls with at most `BATCH_SIZE` of them.

    Attributes:
        name: shown in tables.
        can_fail: true, a response may have no score.
        dropped: number of responses without a score so far.
        world: the processes that score together, each a share of the calls.

    Args:
        name: shown in tables.
        encoder: decodes the responses.
        config: reads `on_failure`: `stop`, or `drop` (the score is NaN, and counted).
    """

    can_fail = True
    world: World = ALONE

    def __init__(self, name: str, encoder: TextEncoder, config: ScorerConfig) -> None:
        self.name = name
        self.dropped = 0
        self._encoder = encoder
        self._stops_on_failure, self._failed_calls = config.on_failure == "stop", 0

    @abstractmethod
    def call(self, items: list[Item]) -> Tensor:
        """Score n ≤ `BATCH_SIZE` items: [n] float32, not finite where an item has no score.

        Raises:
            CallFailedError: no item has a score.
        """

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        """Score every response.

        Args:
            prompts: B prompts.
            responses: B responses, one to each prompt.
            max_tokens: ignored.

        Returns:
            [B] float32 on the CPU, NaN where dropped.

        Raises:
            ResourceError: with on_failure=stop, a response has no score; with on_failure=drop, no
                response has one, or none in `MAX_FAILED_CALLS` consecutive calls.
        """
        items = self._items(prompts, responses)
        batches = [items[n : n + BATCH_SIZE] for n in range(0, len(items), BATCH_SIZE)]
        parts, fault = [torch.empty(0)], ""
        for values, part_fault in self.world.map(self._try_call, batches):
            part, fault = torch.tensor(values), part_fault or fault
            parts.append(part)
            self._failed_calls = 0 if part.isfinite().any() else self._failed_calls + 1
            gives_up = self._stops_on_failure or self._failed_calls >= MAX_FAILED_CALLS
            if part_fault and gives_up:
                raise self._error(fault)
            self._count_dropped(int(part.isnan().sum()), fault)
        scores = torch.cat(parts)
        if items and scores.isnan().all():
            raise self._error(fault)
        return scores

    def _items(self, prompts: PromptBatch, responses: Responses) -> list[Item]:
        texts = [self._encoder.decode(row) for row in responses.rows()]
        images = [row[0] for row in prompts.images]
        prompt_texts = map(transcript, prompts.histories, prompts.instructions)
        return [Item(*row) for row in zip(images, prompt_texts, texts, strict=True)]

    def _try_call(self, items: list[Item]) -> tuple[list[float], str]:
        """Scores of one call, NaN where missing, and why; empty if none is missing."""
        try:
            scores = self.call(items)
        except CallFailedError as error:
            return [math.nan] * len(items), str(error)
        invalid = ~scores.isfinite()
        count = int(invalid.sum())
        fault = f"{count} of {len(items)} scores are not finite" if count else ""
        return scores.masked_fill(invalid, math.nan).tolist(), fault

    def _count_dropped(self, count: int, fault: str) -> None:
        if count and not self.dropped:
            say(f"{self.name}: responses without a score are dropped and counted ({fault})")
        self.dropped += count

    def _error(self, fault: str) -> RlhfError:
        fix = (
            "correct it; scorer.timeout, scorer.retries and scorer.on_failure set what is tolerated"
        )
        error = ResourceError(f"{self.name} returns no usable scores", fault, fix)
        return self.world.agreed(error)


def to_scores(values: Sequence[float], count: int) -> Tensor:
    """Convert the numbers of a scorer to [count] float32; too large ones become infinite.

    Raises:
        CallFailedError: the number of values is not `count`.
    """
    if len(values) != count:
        raise CallFailedError(f"{len(values)} scores for {count} responses")
    return torch.tensor(values, dtype=torch.float32)
