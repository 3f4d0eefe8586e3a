"""Measure how much annotators agree about pairs, and whether they prefer a side of the screen."""

from array import array
from itertools import combinations
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.data.records import PreferenceRecord

LABELS = 3  # tie, first text, second text
_Z = 1.959964  # 95 % of a normal distribution lie between -z and z


def wilson_interval(wins: float, trials: int) -> tuple[float, float]:
    """Compute the 95 % confidence interval of a share of wins.

        (p + z²/2n ± z·√(p(1-p)/n + z²/4n²)) / (1 + z²/n)

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.

    Args:
        wins: number of wins k, p = k/n; a tie may count as half a win.
        trials: number of trials n, at least 1.

    Returns:
        The lower and the upper end, between 0 and 1.
    """
    share, correction = wins / trials, _Z**2 / trials
    half = _Z * sqrt(share * (1 - share) / trials + correction / (4 * trials))
    center = share + correction / 2
    return (center - half) / (1 + correction), (center + half) / (1 + correction)


def cohens_kappa(first: NDArray[Any], second: NDArray[Any]) -> float | None:
    """Compute Cohen's kappa, the agreement of two annotators beyond chance.

        κ = (p_o - p_e) / (1 - p_e)        p_e = Σ_c p_c·q_c

    p_o is the share of equal labels, p_c and q_c are the annotators' shares of label c.
    Source: Cohen 1960, doi:10.1177/001316446002000104.

    Args:
        first: [n] labels by one annotator.
        second: [n] labels of the same items by the other.

    Returns:
        κ, 1 for full agreement and 0 for chance; None if all labels are equal.
    """
    labels = np.unique([first, second])
    observed = float(np.mean(first == second))
    chance = float(sum(np.mean(first == x) * np.mean(second == x) for x in labels))
    return None if chance == 1 else (observed - chance) / (1 - chance)


def krippendorffs_alpha(counts: NDArray[Any]) -> float | None:
    """Compute Krippendorff's alpha, the agreement of annotators who judged different items.

        α = 1 - D_o/D_e   o_ck = Σ_u n_uc·n_uk / (m_u - 1)   e_ck = n_c·n_k / (n - 1)

    D sums over c ≠ k: labels are names without order. Source: Krippendorff 2011, "Computing
    Krippendorff's Alpha-Reliability".

    Args:
        counts: [U, C] how many annotators n_uc gave item u the label c, m_u in all. Items with
            fewer than two annotators are left out.

    Returns:
        α, 1 for full agreement and 0 for chance; None if all labels are equal.
    """
    counts = counts[counts.sum(1) > 1].astype(np.float64)
    annotators, totals = counts.sum(1, keepdims=True), counts.sum(0)
    coincidences = counts.T @ (counts / (annotators - 1))  # o_ck off the diagonal
    observed = coincidences.sum() - np.trace(coincidences)
    expected = (totals.sum() ** 2 - (totals**2).sum()) / max(totals.sum() - 1, 1)
    return None if not expected else float(1 - observed / expected)


class AnnotatorJudgments:
    """Collects judgments in about 13 bytes each, and measures agreement and side preference."""

    def __init__(self) -> None:
        self._names = dict[str, int]()
        self._pairs, self._annotators, self._labels = array("q"), array("i"), bytearray()
        self._left, self._right = 0, 0

    def add(self, record: PreferenceRecord, pair: int, label: int) -> None:
        """Add one judgment.

        Args:
            record: the judgment.
            pair: hash of image, instruction and texts, whatever the order of the texts.
            label: 0 tie, 1 first text, 2 second text, in sorted order of the texts.
        """
        if record.preference != "tie" and record.shown_left in ("response_a", "response_b"):
            self._left += record.preference == record.shown_left
            self._right += record.preference != record.shown_left
        if record.annotator:
            self._pairs.append(pair)
            self._annotators.append(self._names.setdefault(record.annotator, len(self._names)))
            self._labels.append(label)

    def metrics(self) -> dict[str, Any]:
        """Return counts by annotator, Cohen's kappas, Krippendorff's alpha and side preference."""
        table = self._table()
        counts = np.stack([(table == label).sum(1) for label in range(LABELS)], axis=1)
        judgments = (table >= 0).sum(0).tolist()
        return {
            "annotators": dict(zip(self._names, judgments, strict=True)),
            "judged_by_several": int((counts.sum(1) > 1).sum()),
            "kappa": [self._kappa(table, a, b) for a, b in combinations(self._names, 2)],
            "alpha": krippendorffs_alpha(counts),
            **self.side_preference(),
        }

    def side_preference(self) -> dict[str, Any]:
        """Return how often the left response won: share, 95 % interval, and number of judgments."""
        decided = self._left + self._right
        return {
            "left_share": self._left / decided if decided else None,
            "left_interval": wilson_interval(self._left, decided) if decided else None,
            "decided_with_sides": decided,
        }

    def _table(self) -> NDArray[Any]:
        """Return labels [pairs, annotators], -1 for none; an annotator's last label counts."""
        keys, rows = np.unique(np.frombuffer(self._pairs, np.int64), return_inverse=True)
        table = np.full((len(keys), len(self._names)), -1, dtype=np.int8)
        table[rows, np.frombuffer(self._annotators, np.int32)] = np.frombuffer(
            self._labels, np.uint8
        )
        return table

    def _kappa(self, table: NDArray[Any], first: str, second: str) -> dict[str, Any]:
        both = table[:, [self._names[first], self._names[second]]]
        both = both[(both >= 0).all(1)]
        kappa = cohens_kappa(both[:, 0], both[:, 1]) if len(both) else None
        return {"annotators": [first, second], "pairs": len(both), "kappa": kappa}
