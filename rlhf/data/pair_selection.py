"""Select the pairs of responses that people should compare, by a reward model's scores."""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from math import isnan
from typing import NamedTuple

from rlhf.config.choices import PairChoice


class SelectedPair(NamedTuple):
    """Two responses to one prompt.

    Attributes:
        row: index of the prompt.
        first: index of one of its responses.
        second: index of the other, above `first`.
        score_diff: the second's score minus the first's.
    """

    row: int
    first: int
    second: int
    score_diff: float


def select_pairs(
    scores: Sequence[Sequence[float]], choice: PairChoice, *, limit: int = 0
) -> list[SelectedPair]:
    """Select pairs of responses to compare.

    - best_vs_worst: the highest- and the lowest-scored response of each prompt;
    - closest: the two responses of each prompt whose scores differ least;
    - uncertain: all pairs, the most uncertain first: P(second wins) = σ(score_diff) nearest
      to 1/2.

    Args:
        scores: the scores of each prompt's responses; a response with NaN is left out.
        choice: the rule.
        limit: at most so many pairs; 0 for all.
    """
    pairs = [
        pair for row, values in enumerate(scores) for pair in _pairs_of_prompt(row, values, choice)
    ]
    if choice == "uncertain":
        pairs.sort(key=lambda pair: abs(pair.score_diff))
    return pairs[:limit] if limit else pairs


def _pairs_of_prompt(
    row: int, scores: Sequence[float], choice: PairChoice
) -> Iterator[SelectedPair]:
    order = sorted((score, n) for n, score in enumerate(scores) if not isnan(score))
    pairs: list[tuple[tuple[float, int], tuple[float, int]]] = list(combinations(order, 2))
    if choice == "best_vs_worst":
        pairs = [(order[0], order[-1])] if pairs else []
    elif choice == "closest":
        pairs = [min(pairwise(order), key=lambda pair: pair[1][0] - pair[0][0])] if pairs else []
    for pair in pairs:  # in the order of the responses: the side must not reveal the score
        (first, first_score), (second, second_score) = sorted((n, score) for score, n in pair)
        yield SelectedPair(row, first, second, second_score - first_score)
