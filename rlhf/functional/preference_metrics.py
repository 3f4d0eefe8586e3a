"""Metrics of a reward model on n preference pairs of responses a and b.

`differences` [n] is the score of a minus the score of b; `labels` [n] is 1 where a is preferred, 0
where b is preferred, ½ for a tie. A pair that is not a tie is called decided.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf.functional.checks import check_between, check_positive, check_same_shape
from rlhf.functional.losses import preference_loss
from rlhf.kernels.dtypes import at_least_float32
from rlhf.spans import check_rows

# Length of the preferred response relative to the other; much: at least a factor of 2.
LENGTH_BANDS = ("much shorter", "shorter", "equally long", "longer", "much longer")
_CHUNK_DRAWS = 2**22  # bootstrap draws of clusters that are held in memory


class CalibrationCurve(NamedTuple):
    """Result of `calibration_curve`, one entry per bin.

    Attributes:
        predicted: [bins] float64, mean probability of the response that scores higher; NaN in an
            empty bin.
        observed: [bins] float64, share of pairs in which it is preferred; NaN in an empty bin.
        counts: [bins] int64, pairs.
    """

    predicted: Tensor
    observed: Tensor
    counts: Tensor


def pair_credit(differences: Tensor, labels: Tensor) -> Tensor:
    """1 where the preferred response scores higher, 0 where lower, ½ for equal scores or a tie.

        ½ + sign(d)·(y - ½)

    Args:
        differences: d [n], score units.
        labels: y [n] in [0, 1].

    Returns:
        [n].

    Raises:
        ValueError: shapes disagree, there is no pair, or a label is outside [0, 1].
    """
    _check_pairs(differences, labels)
    return 0.5 + differences.sign() * (at_least_float32(labels) - 0.5)


def pair_accuracy(differences: Tensor, labels: Tensor) -> Tensor:
    """Mean `pair_credit` of the decided pairs, 0-d; NaN if there is none. Equal scores count half.

    Args:
        differences: [n], score units.
        labels: [n] in [0, 1].
    """
    return pair_credit(differences, labels)[labels != 0.5].mean()


def log_loss(differences: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of the labels, 0-d, nats per pair; equal scores give log 2.

        L = -mean[y·log σ(d) + (1-y)·log σ(-d)]

    Args:
        differences: d [n], score units.
        labels: y [n] in [0, 1].

    Source: Bradley and Terry 1952.
    """
    _check_pairs(differences, labels)
    return preference_loss(differences, torch.zeros_like(differences), labels)


def calibration_curve(differences: Tensor, labels: Tensor, *, bins: int = 10) -> CalibrationCurve:
    """Compare predicted probabilities with observed shares, in bins of the predicted probability.

        p = σ(|d|), in [½, 1]        observed: mean of `pair_credit`

    The order of a and b has no meaning, so p is the probability of the response that scores higher;
    over [0, 1] the lower half of the curve would mirror the upper half. A tie counts ½.

    Args:
        differences: d [n], score units.
        labels: [n] in [0, 1].
        bins: number of bins, each of width ½ / bins.

    Raises:
        ValueError: shapes disagree, or there is no pair or no bin.

    Source: Guo et al. 2017, arXiv:1706.04599.
    """
    check_positive("bins", bins)
    credit = pair_credit(differences, labels).double()
    p = at_least_float32(differences).double().abs().sigmoid()
    bin_ids = ((p - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    counts = bin_ids.bincount(minlength=bins)
    predicted, observed = (bin_ids.bincount(x, minlength=bins) / counts for x in (p, credit))
    return CalibrationCurve(predicted, observed, counts)


def calibration_error(curve: CalibrationCurve) -> Tensor:
    """Expected calibration error of a curve, 0-d, in [0, 1].

        Σ_b count_b·|observed_b - predicted_b| / n

    Source: Guo et al. 2017, arXiv:1706.04599.
    """
    errors = (curve.observed - curve.predicted).abs().nan_to_num(0.0)
    return (curve.counts * errors).sum() / curve.counts.sum()


def margin_histogram(
    differences: Tensor, labels: Tensor, *, bins: int = 20
) -> tuple[Tensor, Tensor]:
    """Count the margins of the decided pairs in bins; margins of 0 are left out.

        margin = score of the preferred response - score of the other

    The edges are symmetric around 0, which is one of them, and reach to the 99th percentile of
    |margin| (1 without margins). The outermost bins also count larger margins.

    Args:
        differences: [n], score units.
        labels: [n] in [0, 1].
        bins: an even number above 0.

    Returns:
        Edges [bins + 1], score units, and counts [bins] int64.

    Raises:
        ValueError: shapes disagree, there is no pair, or bins is odd.
    """
    _check_pairs(differences, labels)
    if bins < 2 or bins % 2:
        raise ValueError(f"bins: got {bins}, wanted an even number above 0")
    margins = at_least_float32(differences) * (at_least_float32(labels) - 0.5).sign()
    margins = margins[margins != 0]
    sizes = margins.abs().sort().values
    largest_edge = sizes[math.ceil(0.99 * (len(sizes) - 1))] if len(sizes) else margins.new_ones(())
    steps = torch.arange(-bins // 2, bins // 2 + 1, device=margins.device)
    edges = largest_edge * steps / (bins // 2)
    return edges, torch.bucketize(margins, edges[1:-1], right=True).bincount(minlength=bins)


def length_bands(lengths_a: Tensor, lengths_b: Tensor, labels: Tensor) -> Tensor:
    """Index in LENGTH_BANDS of each pair, [n] int64; for a tie, b is taken as preferred.

    Args:
        lengths_a: [n], length of response a.
        lengths_b: [n], length of response b.
        labels: [n] in [0, 1].

    Raises:
        ValueError: shapes disagree.
    """
    check_same_shape(lengths_a=lengths_a, lengths_b=lengths_b, labels=labels)
    a_wins = labels > 0.5
    preferred = lengths_a.where(a_wins, lengths_b)
    other = lengths_b.where(a_wins, lengths_a)
    much = torch.maximum(preferred, other) >= 2 * torch.minimum(preferred, other)
    return 2 + (preferred - other).sign().long() * (1 + much.long())


def longer_shares(differences: Tensor, labels: Tensor, longer: Tensor) -> tuple[Tensor, Tensor]:
    """Share of pairs whose longer response is preferred, and share whose longer one scores higher.

    Both are over the decided pairs of unequal length; equal scores count half.

    Args:
        differences: [n], score units.
        labels: [n] in [0, 1].
        longer: [n], length of a minus length of b.

    Returns:
        Two 0-d shares, NaN without such pairs.

    Raises:
        ValueError: shapes disagree, or there is no pair.
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
    """Linear correlation of x and y [n], 0-d, in [-1, 1]; 0 where one of them does not vary.

    Raises:
        ValueError: shapes disagree, or n is 0.
    """
    check_same_shape(x=x, y=y)
    check_positive("x", len(x))
    if (x == x[0]).all() or (y == y[0]).all():
        return at_least_float32(x).new_zeros(())
    a, b = x.double() - x.double().mean(), y.double() - y.double().mean()
    return torch.dot(a / a.norm(), b / b.norm()).clamp(-1, 1).to(at_least_float32(x).dtype)


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """Rank correlation of x and y [n], 0-d, in [-1, 1]; equal values share their mean rank.

    Raises:
        ValueError: shapes disagree, or n is 0.
    """
    return pearson(_ranks(x), _ranks(y)).to(at_least_float32(x).dtype)


def resampled_means(
    values: Tensor, clusters: Tensor, *, resamples: int = 2000, generator: torch.Generator
) -> Tensor:
    """Bootstrap the column means of `values` by resampling whole clusters.

    Each resample draws, with replacement, as many clusters as there are. Rows of a cluster are not
    independent, so they are drawn together. A resample is used for all columns, so that columns can
    be compared.

    Args:
        values: [n, K], NaN where a row is left out of a column.
        clusters: [n] int64, id of the cluster of each row.
        resamples: R, number of resamples.
        generator: generator of the random draws.

    Returns:
        [R, K] float64, NaN where a resample has no value in a column.

    Raises:
        ValueError: shapes disagree, or there is no row or no resample.

    Source: Davison and Hinkley 1997, Bootstrap Methods and Their Application, section 3.8.
    """
    check_positive("rows", len(values))
    check_positive("resamples", resamples)
    check_rows("clusters", clusters, len(values))
    if values.dim() != 2:
        raise ValueError(f"values: got shape {list(values.shape)}, wanted [n, K]")
    _, cluster_ids = clusters.unique(return_inverse=True)
    count, exact = int(cluster_ids.max()) + 1, values.double()
    stacked = torch.cat([exact.nan_to_num(0.0), (~exact.isnan()).double()], dim=1)
    sums = stacked.new_zeros(count, stacked.shape[1]).index_add(0, cluster_ids, stacked)
    chunk, unit, means = max(_CHUNK_DRAWS // count, 1), sums.new_ones(()), []
    for start in range(0, resamples, chunk):
        draws = torch.randint(count, (min(chunk, resamples - start), count), generator=generator)
        times = sums.new_zeros(draws.shape).scatter_add(1, draws, unit.expand(draws.shape))
        total, rows = (times @ sums).chunk(2, dim=1)
        means.append(total / rows)
    return torch.cat(means)


def percentile_interval(samples: Tensor, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Percentile interval of bootstrap samples; NaN is left out.

    If all samples are equal, the interval has width 0.

    Args:
        samples: [R, K].
        level: share of the samples inside, in [0, 1].

    Returns:
        Low end [K] and high end [K].

    Raises:
        ValueError: level is outside [0, 1].

    Source: Efron 1979.
    """
    check_between("level", level, 0, 1)
    low, high = ((1 - level) / 2, (1 + level) / 2)
    return samples.nanquantile(low, dim=0), samples.nanquantile(high, dim=0)


def _ranks(values: Tensor) -> Tensor:
    """Ranks [n] float64, from 1; equal values get their mean rank."""
    _, value_ids, counts = values.unique(return_inverse=True, return_counts=True)
    mean_ranks: Tensor = counts.cumsum(0) - (counts - 1) / 2
    return mean_ranks.double()[value_ids]


def _check_pairs(differences: Tensor, labels: Tensor) -> None:
    check_same_shape(differences=differences, labels=labels)
    check_positive("pairs", len(labels))
    for end in labels.aminmax():
        check_between("labels", float(end), 0, 1)
