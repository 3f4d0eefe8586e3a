"""What a model's scores of n judged pairs are worth.

`differences` [n] is the score of answer a minus that of b; `labels` [n] is 1 where a is preferred,
0 where b is, ½ for a tie. A pair that is not a tie is decided.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf.functional.checks import check_between, check_positive, check_same_shape
from rlhf.functional.losses import preference_loss
from rlhf.kernels.dtypes import at_least_float32
from rlhf.spans import check_rows

# How long the preferred answer is beside the other; much: twice the words, or half, and beyond.
LENGTH_BANDS = ("much shorter", "shorter", "equally long", "longer", "much longer")
_DRAWS_AT_ONCE = 2**22


class CalibrationCurve(NamedTuple):
    """Each [bins]; both shares are NaN in an empty bin."""

    predicted: Tensor  # mean probability given to the answer scored higher
    observed: Tensor  # share of pairs in which it is the preferred one
    counts: Tensor


def pair_credit(differences: Tensor, labels: Tensor) -> Tensor:
    """[n], 1 where the preferred answer scores higher, 0 where lower, ½ where either is a tie.

    ½ + sign(d)·(y - ½)
    """
    _check_pairs(differences, labels)
    return 0.5 + differences.sign() * (at_least_float32(labels) - 0.5)


def pair_accuracy(differences: Tensor, labels: Tensor) -> Tensor:
    """0-d, the mean credit of the decided pairs: equal scores count half; NaN if none is."""
    return pair_credit(differences, labels)[labels != 0.5].mean()


def log_loss(differences: Tensor, labels: Tensor) -> Tensor:
    """0-d, nats a pair; scores that say nothing give log 2.

        L = -mean[y·log σ(d) + (1-y)·log σ(-d)]

    Source: Bradley and Terry 1952.
    """
    _check_pairs(differences, labels)
    return preference_loss(differences, torch.zeros_like(differences), labels)


def calibration_curve(differences: Tensor, labels: Tensor, *, bins: int = 10) -> CalibrationCurve:
    """Predicted against observed share, in bins of equal width of the predicted one.

        p = σ(|d|), in [½, 1]        observed: the mean credit

    Which answer is a means nothing, so each pair is read from the side the model prefers; over
    [0, 1] the lower half would mirror the upper. A tie has been right half the time.

    Args: bins, of width ½ / bins.
    Source: Guo et al. 2017, arXiv:1706.04599.
    """
    check_positive("bins", bins)
    credit = pair_credit(differences, labels).double()
    p = at_least_float32(differences).double().abs().sigmoid()
    places = ((p - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    counts = places.bincount(minlength=bins)
    predicted, observed = (places.bincount(x, minlength=bins) / counts for x in (p, credit))
    return CalibrationCurve(predicted, observed, counts)


def calibration_error(curve: CalibrationCurve) -> Tensor:
    """0-d, Σ_b count_b·|observed_b - predicted_b| / n, in [0, 1]: the expected calibration error.

    Source: Guo et al. 2017, arXiv:1706.04599.
    """
    apart = (curve.observed - curve.predicted).abs().nan_to_num(0.0)
    return (curve.counts * apart).sum() / curve.counts.sum()


def margin_histogram(
    differences: Tensor, labels: Tensor, *, bins: int = 20
) -> tuple[Tensor, Tensor]:
    """Edges [bins + 1] and counts [bins] of the decided pairs' margins that are not 0.

        margin = score of the preferred answer - score of the other

    The edges are symmetric, up to the 99th percentile of |margin| (1 if there is none), and 0 is
    one of them; the outermost bins hold what lies beyond, so that one outlier hides nothing.

    Args: bins, an even number.
    """
    _check_pairs(differences, labels)
    if bins < 2 or bins % 2:
        raise ValueError(f"bins: got {bins}, wanted an even number above 0")
    margins = at_least_float32(differences) * (at_least_float32(labels) - 0.5).sign()
    margins = margins[margins != 0]
    sizes = margins.abs().sort().values
    reach = sizes[math.ceil(0.99 * (len(sizes) - 1))] if len(sizes) else margins.new_ones(())
    edges = reach * torch.arange(-bins // 2, bins // 2 + 1, device=margins.device) / (bins // 2)
    return edges, torch.bucketize(margins, edges[1:-1], right=True).bincount(minlength=bins)


def length_bands(lengths_a: Tensor, lengths_b: Tensor, labels: Tensor) -> Tensor:
    """[n] int64, place in LENGTH_BANDS by the lengths of both answers; of a tie b is preferred."""
    check_same_shape(lengths_a=lengths_a, lengths_b=lengths_b, labels=labels)
    wins = labels > 0.5
    own, other = lengths_a.where(wins, lengths_b), lengths_b.where(wins, lengths_a)
    apart, much = (own - other).sign(), torch.maximum(own, other) >= 2 * torch.minimum(own, other)
    return 2 + apart.long() * (1 + much.long())


def longer_shares(differences: Tensor, labels: Tensor, longer: Tensor) -> tuple[Tensor, Tensor]:
    """0-d each: how often the longer answer is preferred, and how often it scores higher.

    Of the decided pairs of unequal length; equal scores count half; NaN without such pairs.

    Args: longer [n], length of a minus length of b.
    """
    _check_pairs(differences, labels)
    check_rows("longer", longer, len(labels))
    rows, sign, y = (labels != 0.5) & (longer != 0), longer.sign(), at_least_float32(labels)
    preferred, scored_higher = (
        0.5 + sign * (y - 0.5),
        0.5 + sign * at_least_float32(differences).sign() / 2,
    )
    return preferred[rows].mean(), scored_higher[rows].mean()


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """0-d, linear correlation of x and y [n], in [-1, 1]; 0 where one of them does not vary."""
    check_same_shape(x=x, y=y)
    check_positive("x", len(x))
    if (x == x[0]).all() or (y == y[0]).all():
        return at_least_float32(x).new_zeros(())
    a, b = x.double() - x.double().mean(), y.double() - y.double().mean()
    return torch.dot(a / a.norm(), b / b.norm()).clamp(-1, 1).to(at_least_float32(x).dtype)


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """0-d, `pearson` of the ranks of x and y [n]; equal values share their mean rank."""
    return pearson(_ranks(x), _ranks(y)).to(at_least_float32(x).dtype)


def resampled_means(
    values: Tensor, clusters: Tensor, *, resamples: int = 2000, generator: torch.Generator
) -> Tensor:
    """[resamples, K] float64, column means of values after drawing whole clusters anew.

    As many clusters as there are, with replacement: rows of a cluster are not independent, so
    they come and go together. One draw serves all columns, so they may be compared within it.

    Args: values [n, K], NaN where a row does not count; clusters [n] int64 names each row's.
    Returns: NaN where a draw holds no row that counts.
    Source: Davison and Hinkley 1997, Bootstrap Methods and Their Application, section 3.8.
    """
    check_positive("rows", len(values))
    check_positive("resamples", resamples)
    check_rows("clusters", clusters, len(values))
    if values.dim() != 2:
        raise ValueError(f"values: got shape {list(values.shape)}, wanted [n, K]")
    _, owner = clusters.unique(return_inverse=True)
    count, exact = int(owner.max()) + 1, values.double()
    stacked = torch.cat([exact.nan_to_num(0.0), (~exact.isnan()).double()], dim=1)
    sums = stacked.new_zeros(count, stacked.shape[1]).index_add(0, owner, stacked)
    piece, one, means = max(_DRAWS_AT_ONCE // count, 1), sums.new_ones(()), []
    for start in range(0, resamples, piece):
        draws = torch.randint(count, (min(piece, resamples - start), count), generator=generator)
        drawn = sums.new_zeros(draws.shape).scatter_add(1, draws, one.expand(draws.shape))
        total, rows = (drawn @ sums).chunk(2, dim=1)
        means.append(total / rows)
    return torch.cat(means)


def percentile_interval(samples: Tensor, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Low and high end [K] of the middle `level` of samples [R, K]; NaN is left out.

    Source: Efron 1979; where all rows of a bootstrap are alike the interval has no width.
    """
    check_between("level", level, 0, 1)
    low, high = ((1 - level) / 2, (1 + level) / 2)
    return samples.nanquantile(low, dim=0), samples.nanquantile(high, dim=0)


def _ranks(values: Tensor) -> Tensor:
    """[n] float64, 1 for the smallest."""
    _, places, counts = values.unique(return_inverse=True, return_counts=True)
    middles: Tensor = counts.cumsum(0) - (counts - 1) / 2
    return middles.double()[places]


def _check_pairs(differences: Tensor, labels: Tensor) -> None:
    check_same_shape(differences=differences, labels=labels)
    check_positive("pairs", len(labels))
    for end in labels.aminmax():
        check_between("labels", float(end), 0, 1)
