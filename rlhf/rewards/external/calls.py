"""Calls of bounded size to a scorer from outside, and what a failed call means."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf.data.tokenization import TextEncoder
from rlhf.errors import ResourceError
from rlhf.tracking.console import say
from rlhf.types import PromptBatch, Responses

PIECE = 16  # responses of one call
PATIENCE = 10  # calls in a row without one score, after which dropping stops as well
EXAMPLES = "e.g. --scorer=my_scorer.py:score or --scorer=http://127.0.0.1:8000/score"


class Item(NamedTuple):
    """What a scorer from outside sees of one response."""

    image: Path
    instruction: str
    response: str


class Unscored(Exception):
    """A call that brought no usable scores."""


class ScorerCalls:
    """Scores of any number of responses; a score is a call's own finite number or there is none.

    Args:
        name: of the scorer.
        call: [n] float32 scores of n ≤ `PIECE` items; Unscored when there are none.
        builder: decodes the responses.
        on_failure: stop, or drop: leave NaN and count it.
    """

    def __init__(
        self,
        name: str,
        call: Callable[[list[Item]], Tensor],
        builder: TextEncoder,
        on_failure: str,
    ) -> None:
        self.dropped = 0
        self._name, self._call, self._builder = name, call, builder
        self._stops, self._failed_in_a_row = on_failure == "stop", 0

    def scores(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """[B] float32, NaN where dropped.

        Raises:
            ResourceError: a response without a score when failures stop; not one with a score
                here or in `PATIENCE` calls in a row when they drop.
        """
        items = self._items(prompts, responses)
        scores, fault = torch.empty(len(items)), ""
        for start in range(0, len(items), PIECE):
            found, new_fault = self._attempt(items[start : start + PIECE])
            scores[start : start + PIECE], fault = found, new_fault or fault
            self._failed_in_a_row = 0 if found.isfinite().any() else self._failed_in_a_row + 1
            if new_fault and (self._stops or self._failed_in_a_row >= PATIENCE):
                raise self._error(fault)
            self._drop(int(found.isnan().sum()), fault)
        if items and scores.isnan().all():
            raise self._error(fault)
        return scores

    def _items(self, prompts: PromptBatch, responses: Responses) -> list[Item]:
        texts = [self._builder.decode(row) for row in responses.rows()]
        images = [row[0] for row in prompts.images]
        return [Item(*row) for row in zip(images, prompts.instructions, texts, strict=True)]

    def _attempt(self, items: list[Item]) -> tuple[Tensor, str]:
        """The scores of one call, NaN where there is none, and why."""
        try:
            found = self._call(items)
        except Unscored as error:
            return torch.full((len(items),), math.nan), str(error)
        lost = ~found.isfinite()
        fault = f"{int(lost.sum())} of {len(items)} scores are not finite" if lost.any() else ""
        return found.masked_fill(lost, math.nan), fault

    def _drop(self, count: int, fault: str) -> None:
        if count and not self.dropped:
            say(f"{self._name}: responses without a score are dropped and counted ({fault})")
        self.dropped += count

    def _error(self, fault: str) -> ResourceError:
        fix = "scorer.timeout, scorer.retries and scorer.on_failure set what is tolerated"
        return ResourceError(f"{self._name} brings no usable scores", fault, f"correct it; {fix}")


def checked_scores(values: Sequence[float], count: int) -> Tensor:
    """[count] float32, infinite beyond its range; Unscored when the number of scores is wrong."""
    if len(values) != count:
        raise Unscored(f"{len(values)} scores for {count} responses")
    return torch.tensor(values, dtype=torch.float32)
