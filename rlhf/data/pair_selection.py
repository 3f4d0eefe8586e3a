"""Which pairs of answers a person should see, by the scores that a reward model gives them."""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from math import isnan
from typing import NamedTuple

from rlhf.config.schema import PairChoice


class SelectedPair(NamedTuple):
    """Answers `first` < `second` to prompt `row`, and by how much the second scores higher."""

    row: int
    first: int
    second: int
    score_diff: float


def select_pairs(
    scores: Sequence[Sequence[float]], choice: PairChoice, *, limit: int = 0
) -> list[SelectedPair]:
    """The pairs to be ranked, at most `limit` of them unless that is 0.

    - best_vs_worst: of each prompt the answers of highest and lowest score;
    - closest: of each prompt the two whose scores differ least;
    - uncertain: of all prompts, those first whose preference the scores tell least:
      P(second wins) = σ(gap) nearest to 1/2.

    Args:
        scores: of each prompt's answers; NaN where there is none, such an answer is left out.
    """
    found = [pair for row, own in enumerate(scores) for pair in _of_prompt(row, own, choice)]
    if choice == "uncertain":
        found.sort(key=lambda pair: abs(pair.score_diff))
    return found[:limit] if limit else found


def _of_prompt(row: int, scores: Sequence[float], choice: PairChoice) -> Iterator[SelectedPair]:
    order = sorted((score, n) for n, score in enumerate(scores) if not isnan(score))
    pairs: list[tuple[tuple[float, int], tuple[float, int]]] = list(combinations(order, 2))
    if choice == "best_vs_worst":
        pairs = [(order[0], order[-1])] if pairs else []
    elif choice == "closest":
        pairs = [min(pairwise(order), key=lambda pair: pair[1][0] - pair[0][0])] if pairs else []
    for pair in pairs:  # in the order of the answers: the side must not tell the score
        (first, before), (second, after) = sorted((n, score) for score, n in pair)
        yield SelectedPair(row, first, second, after - before)
