"""How far several people agree about pairs, and whether they favour a side of the screen."""

from array import array
from itertools import combinations
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.data.records import PreferenceRecord

LABELS = 3  # tie, first text, second text
_Z = 1.959964  # of the normal distribution, 95 % between -z and z


def wilson_interval(wins: float, trials: int) -> tuple[float, float]:
    """95 % interval of a share; a tie may count as half a win.

        (p + z²/2n ± z·√(p(1-p)/n + z²/4n²)) / (1 + z²/n)

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    share, more = wins / trials, _Z**2 / trials
    half = _Z * sqrt(share * (1 - share) / trials + more / (4 * trials))
    return (share + more / 2 - half) / (1 + more), (share + more / 2 + half) / (1 + more)


def cohens_kappa(first: NDArray[Any], second: NDArray[Any]) -> float | None:
    """Agreement of two people beyond chance: 1 whole, 0 by chance; None if none was possible.

        κ = (p_o - p_e) / (1 - p_e)        p_e = Σ_c p_c·q_c

    Args: first, second [n] labels of the same n things.
    Source: Cohen 1960, doi:10.1177/001316446002000104.
    """
    labels = np.unique([first, second])
    observed = float(np.mean(first == second))
    chance = float(sum(np.mean(first == x) * np.mean(second == x) for x in labels))
    return None if chance == 1 else (observed - chance) / (1 - chance)


def krippendorffs_alpha(counts: NDArray[Any]) -> float | None:
    """Agreement of any number of people, not all of whom judged everything.

        α = 1 - D_o/D_e   o_ck = Σ_u n_uc·n_uk / (m_u - 1)   e_ck = n_c·n_k / (n - 1)

    D sums over c ≠ k, labels being names without order; None when all labels are the same.

    Args: counts [U, C], how many people gave thing u the label c; m_u of them, those with fewer
        than two are left out.
    Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability".
    """
    counts = counts[counts.sum(1) > 1].astype(np.float64)
    people, totals = counts.sum(1, keepdims=True), counts.sum(0)
    together = counts.T @ (counts / (people - 1))  # off its diagonal the coincidences
    observed = together.sum() - np.trace(together)
    expected = (totals.sum() ** 2 - (totals**2).sum()) / max(totals.sum() - 1, 1)
    return None if not expected else float(1 - observed / expected)


class AnnotatorJudgments:
    """The judgments of named people, in some 13 bytes each."""

    def __init__(self) -> None:
        self._names = dict[str, int]()
        self._pairs, self._who, self._labels = array("q"), array("i"), bytearray()
        self._left, self._right = 0, 0

    def add(self, record: PreferenceRecord, pair: int, label: int) -> None:
        """Count one: `pair` is the same whatever the order of its texts, and so is its `label`."""
        if record.preference != "tie" and record.shown_left in ("response_a", "response_b"):
            self._left += record.preference == record.shown_left
            self._right += record.preference != record.shown_left
        if record.annotator:
            self._pairs.append(pair)
            self._who.append(self._names.setdefault(record.annotator, len(self._names)))
            self._labels.append(label)

    def metrics(self) -> dict[str, Any]:
        """What the judgments tell: counts by person, agreement, and the left side's share."""
        table = self._table()
        counts = np.stack([(table == label).sum(1) for label in range(LABELS)], axis=1)
        judged = (table >= 0).sum(0).tolist()
        return {
            "annotators": dict(zip(self._names, judged, strict=True)),
            "judged_by_several": int((counts.sum(1) > 1).sum()),
            "kappa": [self._kappa(table, a, b) for a, b in combinations(self._names, 2)],
            "alpha": krippendorffs_alpha(counts),
            **self.side_preference(),
        }

    def side_preference(self) -> dict[str, Any]:
        """How often the answer shown left won: its share, the 95 % interval, out of how many."""
        decided = self._left + self._right
        return {
            "left_share": self._left / decided if decided else None,
            "left_interval": wilson_interval(self._left, decided) if decided else None,
            "decided_with_sides": decided,
        }

    def _table(self) -> NDArray[Any]:
        """[pairs, people] labels, -1 where there is none; of one person's words the last."""
        keys, rows = np.unique(np.frombuffer(self._pairs, np.int64), return_inverse=True)
        table = np.full((len(keys), len(self._names)), -1, dtype=np.int8)
        table[rows, np.frombuffer(self._who, np.int32)] = np.frombuffer(self._labels, np.uint8)
        return table

    def _kappa(self, table: NDArray[Any], first: str, second: str) -> dict[str, Any]:
        both = table[:, [self._names[first], self._names[second]]]
        both = both[(both >= 0).all(1)]
        kappa = cohens_kappa(both[:, 0], both[:, 1]) if len(both) else None
        return {"annotators": [first, second], "pairs": len(both), "kappa": kappa}
