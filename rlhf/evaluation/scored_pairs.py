"""Judged pairs with a model's scores, and how often it is right, with an interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import torch
from torch import Tensor

from rlhf.functional.preference_metrics import pair_credit, percentile_interval, resampled_means

RESAMPLES = 2000  # of whole images: pairs of one image are not independent


@dataclass(frozen=True)
class ScoredPairs:
    """n judged pairs with a model's scores.

    Attributes:
        scores_a, scores_b: [n] float32, finite, reward-model units.
        labels: [n] float32, 1 where a is preferred, 0 where b is, 0.5 for a tie.
        lengths_a, lengths_b: [n] int64, words.
        images: [n] int64, equal where the image is the same, by content.
        kinds: the kind of each pair, or "".

    Raises:
        ValueError: no pair, shapes that disagree, another label, a score that is not finite.
    """

    scores_a: Tensor
    scores_b: Tensor
    labels: Tensor
    lengths_a: Tensor
    lengths_b: Tensor
    images: Tensor
    kinds: tuple[str, ...]

    def __post_init__(self) -> None:
        shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors().items()}
        if set(shapes.values()) != {(len(self.kinds),)} or not self.kinds:
            raise ValueError(f"pairs: got {shapes}, {len(self.kinds)} kinds, wanted n > 0 each")
        if not torch.isin(self.labels, torch.tensor([0.0, 0.5, 1.0])).all():
            raise ValueError("labels: wanted 0, 0.5 and 1 only")
        if not self.differences.isfinite().all():
            raise ValueError("scores: wanted finite numbers only")

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def differences(self) -> Tensor:
        """[n] float64, score of a minus score of b."""
        return self.scores_a.double() - self.scores_b.double()

    @property
    def margins(self) -> Tensor:
        """[m] float64, score of the preferred response minus the other's, of decided pairs."""
        sides = 2 * self.labels.double() - 1
        return (sides * self.differences)[sides != 0]

    @property
    def credit(self) -> Tensor:
        """[n] float64, 1 right, 0 wrong, 0.5 scored equal; NaN for a tie, which cannot be right."""
        return pair_credit(self.differences, self.labels.double()).where(self.labels != 0.5, nan)

    @staticmethod
    def concatenate(parts: Sequence["ScoredPairs"]) -> "ScoredPairs":
        """The pairs of all parts, in order; no image is in two of them."""
        numbers, seen = [], 0
        for part in parts:
            numbers.append(part.images + seen)
            seen += int(part.images.max()) + 1
        kinds = tuple(kind for part in parts for kind in part.kinds)
        tensors = {
            name: torch.cat([getattr(part, name) for part in parts]) for name in parts[0]._tensors()
        }
        return ScoredPairs(**{**tensors, "images": torch.cat(numbers)}, kinds=kinds)

    def _tensors(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "kinds"}


@dataclass(frozen=True)
class Accuracy:
    """Share of decided pairs scored right, equal scores half, and its 95 % interval over images.

    NaN where there is no pair.
    """

    name: str
    pairs: int
    value: float
    low: float
    high: float


def resampled_accuracies(credit: Tensor, images: Tensor, seed: int) -> Tensor:
    """[2000, K] accuracy by each column of credit [n, K], with images [n] drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    return resampled_means(credit, images, resamples=RESAMPLES, generator=generator)


def accuracies(names: Sequence[str], credit: Tensor, means: Tensor) -> tuple[Accuracy, ...]:
    """One for each column of credit [n, K] and of its resampled means [R, K]."""
    columns = (~credit.isnan()).sum(dim=0), credit.nanmean(dim=0), *percentile_interval(means)
    return tuple(map(Accuracy, names, *(column.tolist() for column in columns)))


def confident_rows(pairs: ScoredPairs, count: int) -> tuple[list[int], list[int]]:
    """Decided pairs scored wrong, and right, the surest first: each list one an image at most."""
    order = pairs.differences.abs().argsort(descending=True, stable=True)
    credit = pairs.credit[order]
    wrong, right = (_one_per_image(pairs, order[credit == x])[:count] for x in (0, 1))
    return wrong, right


def _one_per_image(pairs: ScoredPairs, rows: Tensor) -> list[int]:
    """The first of `rows` of each image."""
    first: dict[int, int] = {}
    for row in rows.tolist():
        first.setdefault(int(pairs.images[row]), row)
    return list(first.values())
