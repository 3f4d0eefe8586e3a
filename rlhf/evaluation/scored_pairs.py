"""Preference pairs with a model's scores, and its accuracy with a confidence interval."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import torch
from torch import Tensor

from rlhf.functional.preference_metrics import pair_credit, percentile_interval, resampled_means

RESAMPLES = 2000  # of whole images: pairs of one image are not independent


@dataclass(frozen=True)
class ScoredPairs:
    """n preference pairs (responses a and b to one prompt) with a model's scores.

    Attributes:
        scores_a: [n] float32, finite, reward-model units.
        scores_b: [n] float32, finite, reward-model units.
        labels: [n] float32, 1 where a is preferred, 0 where b is, 0.5 for a tie.
        lengths_a: [n] int64, words.
        lengths_b: [n] int64, words.
        image_ids: [n] int64, equal where the images of two pairs are equal by content.
        kinds: n kinds of pairs, "" where there is none.

    Raises:
        ValueError: no pair, shapes that disagree, another label, a score that is not finite.
    """

    scores_a: Tensor
    scores_b: Tensor
    labels: Tensor
    lengths_a: Tensor
    lengths_b: Tensor
    image_ids: Tensor
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
        """Score of a minus score of b, [n] float64."""
        return self.scores_a.double() - self.scores_b.double()

    @property
    def margins(self) -> Tensor:
        """Score of the preferred response minus that of the other, [m] float64, without ties."""
        sides = 2 * self.labels.double() - 1
        return (sides * self.differences)[sides != 0]

    @property
    def credit(self) -> Tensor:
        """Whether the model is right, [n] float64: 1, 0, or 0.5 for equal scores; NaN for a tie."""
        return pair_credit(self.differences, self.labels.double()).where(self.labels != 0.5, nan)

    @staticmethod
    def concatenate(parts: Sequence["ScoredPairs"]) -> "ScoredPairs":
        """Return the pairs of all parts, in order; no image may be in two of them."""
        image_ids, next_id = [], 0
        for part in parts:
            image_ids.append(part.image_ids + next_id)
            next_id += int(part.image_ids.max()) + 1
        kinds = tuple(kind for part in parts for kind in part.kinds)
        tensors = {
            name: torch.cat([getattr(part, name) for part in parts]) for name in parts[0]._tensors()
        }
        return ScoredPairs(**{**tensors, "image_ids": torch.cat(image_ids)}, kinds=kinds)

    def of_kind(self, kind: str) -> "ScoredPairs":
        """Return the pairs of one kind.

        Raises:
            ValueError: there is none.
        """
        rows = [row for row, name in enumerate(self.kinds) if name == kind]
        selected = {name: tensor[rows] for name, tensor in self._tensors().items()}
        return replace(self, **selected, kinds=tuple(kind for _ in rows))

    def _tensors(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "kinds"}


@dataclass(frozen=True)
class Accuracy:
    """Share of the decided pairs that are scored right, with its 95 % interval.

    Attributes:
        name: of the group of pairs.
        pairs: decided pairs in the group.
        value: the share, equal scores counted half; NaN without a pair.
        low: lower end of the interval over resampled images; NaN without a pair.
        high: upper end of that interval.
    """

    name: str
    pairs: int
    value: float
    low: float
    high: float


def resampled_accuracies(credit: Tensor, image_ids: Tensor, seed: int) -> Tensor:
    """Compute accuracies over bootstrap samples of whole images.

    Args:
        credit: [n, K] float64, for K groups of pairs; NaN where a pair is not in the group.
        image_ids: [n] int64.
        seed: of the samples.

    Returns:
        [2000, K] float64, the accuracy in each sample.
    """
    generator = torch.Generator().manual_seed(seed)
    return resampled_means(credit, image_ids, resamples=RESAMPLES, generator=generator)


def accuracies(names: Sequence[str], credit: Tensor, means: Tensor) -> tuple[Accuracy, ...]:
    """Compute the accuracy of each group of pairs, with its 95 % interval.

    Args:
        names: of the K groups.
        credit: [n, K] float64; NaN where a pair is not in the group.
        means: [R, K] float64, the accuracies of `resampled_accuracies`.
    """
    columns = (~credit.isnan()).sum(dim=0), credit.nanmean(dim=0), *percentile_interval(means)
    return tuple(map(Accuracy, names, *(column.tolist() for column in columns)))


def confident_rows(pairs: ScoredPairs, count: int) -> tuple[list[int], list[int]]:
    """Find the pairs with the largest difference of scores among those scored wrong and right.

    Args:
        pairs: n pairs.
        count: rows of each list at most.

    Returns:
        Rows of pairs scored wrong and of pairs scored right, the largest difference first; an
        image is at most once in a list.
    """
    order = pairs.differences.abs().argsort(descending=True, stable=True)
    credit = pairs.credit[order]
    wrong, right = (_one_per_image(pairs, order[credit == x])[:count] for x in (0, 1))
    return wrong, right


def _one_per_image(pairs: ScoredPairs, rows: Tensor) -> list[int]:
    """Keep the first row of each image."""
    first: dict[int, int] = {}
    for row in rows.tolist():
        first.setdefault(int(pairs.image_ids[row]), row)
    return list(first.values())
