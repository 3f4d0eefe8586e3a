"""Preference pairs with a model's scores, and means over them with confidence intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import torch
from torch import Tensor

from rlhf.functional.preference_metrics import pair_credit, percentile_interval, resampled_means

RESAMPLES = 2000  # of whole images: pairs of one image are not independent
MIN_IMAGES = 20  # distinct images of decided pairs: an interval over fewer is unreliable


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
        """Score of the preferred response minus that of the other, [n] float64; NaN for a tie."""
        sides = 2 * self.labels.double() - 1
        return (sides * self.differences).where(sides != 0, nan)

    @property
    def decided_images(self) -> int:
        """Number of distinct images of the pairs that are no tie."""
        return len(self.image_ids[self.labels != 0.5].unique())

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
        return self.select(torch.tensor([name == kind for name in self.kinds]).nonzero()[:, 0])

    def select(self, rows: Tensor) -> "ScoredPairs":
        """Return the pairs at `rows` [m] int64, in that order.

        Raises:
            ValueError: there is no row.
        """
        selected = {name: tensor[rows] for name, tensor in self._tensors().items()}
        return replace(self, **selected, kinds=tuple(self.kinds[row] for row in rows.tolist()))

    def _tensors(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "kinds"}


@dataclass(frozen=True)
class ChangedPairs:
    """n pairs, scored with their own prompts and again with changed ones.

    Attributes:
        own: scored with their own prompts.
        changed: scored under each change of their prompts.

    Raises:
        ValueError: the labels differ.
    """

    own: ScoredPairs
    changed: tuple[ScoredPairs, ...]

    def __post_init__(self) -> None:
        if not all(torch.equal(self.own.labels, part.labels) for part in self.changed):
            raise ValueError("pairs: wanted the same pairs in the same order each time")

    @property
    def all(self) -> tuple[ScoredPairs, ...]:
        """The pairs as they are, then those under each change."""
        return self.own, *self.changed

    @staticmethod
    def concatenate(parts: Sequence["ChangedPairs"]) -> "ChangedPairs":
        """Return the pairs of all parts, in order; no image may be in two of them."""
        columns = zip(*(part.all for part in parts), strict=True)
        own, *changed = map(ScoredPairs.concatenate, columns)
        return ChangedPairs(own, tuple(changed))


@dataclass(frozen=True)
class Estimate:
    """Mean of a quantity over the decided pairs of a group, with its 95 % interval.

    Attributes:
        name: of the group.
        pairs: decided pairs in the group.
        value: the mean; NaN without a pair.
        low: lower end of the interval over resampled images; NaN without a pair.
        high: upper end of that interval.
    """

    name: str
    pairs: int
    value: float
    low: float
    high: float


def resampled(values: Tensor, image_ids: Tensor, seed: int) -> Tensor:
    """Compute means over bootstrap samples of whole images, the same samples for every column.

    Args:
        values: [n, K] float64, K quantities or groups of pairs; NaN where a pair is left out.
        image_ids: [n] int64.
        seed: of the samples.

    Returns:
        [2000, K] float64, the mean in each sample.
    """
    generator = torch.Generator().manual_seed(seed)
    return resampled_means(values, image_ids, resamples=RESAMPLES, generator=generator)


def estimates(names: Sequence[str], values: Tensor, means: Tensor) -> tuple[Estimate, ...]:
    """Compute the mean of each column of values, with its 95 % interval.

    Args:
        names: of the K columns.
        values: [n, K] float64; NaN where a pair is left out.
        means: [R, K] float64, what `resampled` returns for them.
    """
    columns = (~values.isnan()).sum(dim=0), values.nanmean(dim=0), *percentile_interval(means)
    return tuple(map(Estimate, names, *(column.tolist() for column in columns)))


def exceeds_zero(low: float, high: float, images: int, *, negligible: float) -> bool | None:
    """Decide from the interval of a difference whether it is above 0.

    Args:
        low: lower end of the interval.
        high: upper end.
        images: distinct images that it is over; of fewer than 20 it is unreliable.
        negligible: a difference below this counts as none.

    Returns:
        True if the interval lies above 0, False if it ends below `negligible`, None if it holds
        both or is unreliable: too few pairs.
    """
    if images < MIN_IMAGES:
        return None
    if low > 0:
        return True
    return False if high < negligible else None


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
