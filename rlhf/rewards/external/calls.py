"""What external scorers share: calls of bounded size, and what a failed call means."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf.config.schema import ScorerConfig
from rlhf.data.tokenization import TextEncoder
from rlhf.errors import ResourceError
from rlhf.tracking.console import say
from rlhf.types import PromptBatch, Responses

BATCH_SIZE = 16  # responses of one call
MAX_FAILED_CALLS = 10  # calls in a row without one score, after which on_failure=drop stops too
USAGE = "e.g. --scorer=my_scorer.py:score or --scorer=http://127.0.0.1:8000/score"


class Item(NamedTuple):
    """One response as an external scorer sees it.

    Attributes:
        image: path of the prompt's first image.
        instruction: as the user wrote it.
        response: its text.
    """

    image: Path
    instruction: str
    response: str


class CallFailedError(Exception):
    """A call returned no usable scores."""


class ExternalScorer(ABC):
    """Scores any number of responses by calls of at most `BATCH_SIZE` of them.

    Attributes:
        name: shown in tables.
        can_fail: true, a response may be left without a score.
        dropped: responses left without a score so far.

    Args:
        name: shown in tables.
        encoder: decodes the responses.
        config: `on_failure` is read: stop, or drop (leave NaN and count).
    """

    can_fail = True

    def __init__(self, name: str, encoder: TextEncoder, config: ScorerConfig) -> None:
        self.name = name
        self.dropped = 0
        self._encoder = encoder
        self._stops_on_failure, self._failed_calls = config.on_failure == "stop", 0

    @abstractmethod
    def call(self, items: list[Item]) -> Tensor:
        """Score n ≤ `BATCH_SIZE` items: [n] float32; a score that is not finite is none.

        Raises:
            CallFailedError: there are no scores.
        """

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        """Score every response.

        Args:
            prompts: B prompts.
            responses: B responses, one to each prompt.
            max_tokens: not read, no model runs here.

        Returns:
            [B] float32 on the CPU, NaN where dropped.

        Raises:
            ResourceError: a response has no score and failures stop; or failures drop, but no
                response has a score, here or in `MAX_FAILED_CALLS` calls in a row.
        """
        items = self._items(prompts, responses)
        scores, fault = torch.empty(len(items)), ""
        for start in range(0, len(items), BATCH_SIZE):
            part, part_fault = self._try_call(items[start : start + BATCH_SIZE])
            scores[start : start + BATCH_SIZE], fault = part, part_fault or fault
            self._failed_calls = 0 if part.isfinite().any() else self._failed_calls + 1
            gives_up = self._stops_on_failure or self._failed_calls >= MAX_FAILED_CALLS
            if part_fault and gives_up:
                raise self._error(fault)
            self._count_dropped(int(part.isnan().sum()), fault)
        if items and scores.isnan().all():
            raise self._error(fault)
        return scores

    def _items(self, prompts: PromptBatch, responses: Responses) -> list[Item]:
        texts = [self._encoder.decode(row) for row in responses.rows()]
        images = [row[0] for row in prompts.images]
        return [Item(*row) for row in zip(images, prompts.instructions, texts, strict=True)]

    def _try_call(self, items: list[Item]) -> tuple[Tensor, str]:
        """The scores of one call, NaN where there is none, and why; empty if all are there."""
        try:
            scores = self.call(items)
        except CallFailedError as error:
            return torch.full((len(items),), math.nan), str(error)
        invalid = ~scores.isfinite()
        count = int(invalid.sum())
        fault = f"{count} of {len(items)} scores are not finite" if count else ""
        return scores.masked_fill(invalid, math.nan), fault

    def _count_dropped(self, count: int, fault: str) -> None:
        if count and not self.dropped:
            say(f"{self.name}: responses without a score are dropped and counted ({fault})")
        self.dropped += count

    def _error(self, fault: str) -> ResourceError:
        fix = (
            "correct it; scorer.timeout, scorer.retries and scorer.on_failure set what is tolerated"
        )
        return ResourceError(f"{self.name} returns no usable scores", fault, fix)


def to_scores(values: Sequence[float], count: int) -> Tensor:
    """Numbers of a scorer as [count] float32; beyond its range they are infinite.

    Raises:
        CallFailedError: there are not `count` of them.
    """
    if len(values) != count:
        raise CallFailedError(f"{len(values)} scores for {count} responses")
    return torch.tensor(values, dtype=torch.float32)
