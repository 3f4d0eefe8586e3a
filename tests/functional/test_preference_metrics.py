"""Metrics of judged pairs: literals, float64 loops, and the bootstrap against known cases."""

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from rlhf.functional import preference_metrics
from rlhf.functional.preference_metrics import (
    LENGTH_BANDS,
    calibration_curve,
    calibration_error,
    length_bands,
    log_loss,
    longer_shares,
    margin_histogram,
    pair_accuracy,
    pair_credit,
    pearson,
    percentile_interval,
    resampled_means,
    spearman,
)
from tests.support import oracles
from tests.support.float64 import EXACT, exact, random_float64


def random_pairs(count: int = 300) -> tuple[Tensor, Tensor]:
    differences, labels = 2 * random_float64(count), torch.randint(3, (count,)).double() / 2
    differences[:5] = 0
    return differences, labels


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_credit_and_accuracy_literals() -> None:
    differences = exact([2, -2, 2, -2, 0, 0, 3, 0])
    labels = exact([1, 1, 0, 0, 1, 0, 0.5, 0.5])
    assert pair_credit(differences, labels).tolist() == [1, 0, 0, 1, 0.5, 0.5, 0.5, 0.5]
    assert pair_accuracy(differences, labels).item() == 0.5
    assert pair_accuracy(exact([1, 1, 1, 5]), exact([1, 1, 0, 0.5])).item() == pytest.approx(2 / 3)
    assert pair_accuracy(exact([1]), exact([0.5])).isnan()


def test_credit_is_that_of_the_loop() -> None:
    differences, labels = random_pairs()
    pairs = zip(differences.tolist(), labels.tolist(), strict=True)
    assert pair_credit(differences, labels).tolist() == [oracles.pair_outcome(*x) for x in pairs]


def test_log_loss_literals() -> None:
    """A score difference of log 3 gives the preferred answer ¾."""
    differences = exact([math.log(3)])
    assert log_loss(differences, exact([1])).item() == pytest.approx(math.log(4 / 3), abs=1e-12)
    assert log_loss(differences, exact([0])).item() == pytest.approx(math.log(4), abs=1e-12)
    tie = (math.log(4 / 3) + math.log(4)) / 2
    assert log_loss(differences, exact([0.5])).item() == pytest.approx(tie, abs=1e-12)
    assert log_loss(exact([0, 0]), exact([1, 0.5])).item() == pytest.approx(math.log(2))
    assert log_loss(exact([1000.0, -1000.0]), exact([1, 1])).item() == 500


def test_log_loss_is_that_of_the_loop() -> None:
    differences, labels = random_pairs()
    expected = oracles.log_loss(differences.tolist(), labels.tolist())
    assert log_loss(differences, labels).item() == pytest.approx(expected, abs=1e-12)


def test_calibration_literal() -> None:
    """p = ¾ twice, right once; p = 0.9 from either side, right each time; p = ½ of equal scores."""
    three, nine = math.log(3), math.log(9)
    differences, labels = exact([three, three, nine, -nine, 0]), exact([1, 0, 1, 0, 1])
    curve = calibration_curve(differences, labels, bins=4)
    assert curve.counts.tolist() == [1, 0, 2, 2]
    torch.testing.assert_close(
        curve.predicted, exact([0.5, math.nan, 0.75, 0.9]), equal_nan=True, **EXACT
    )
    torch.testing.assert_close(
        curve.observed, exact([0.5, math.nan, 0.5, 1]), equal_nan=True, **EXACT
    )
    assert calibration_error(curve).item() == pytest.approx((2 * 0.25 + 2 * 0.1) / 5, abs=1e-12)
    assert calibration_curve(exact([1000]), exact([1]), bins=4).counts.tolist() == [0, 0, 0, 1]


def test_calibration_is_that_of_the_loop() -> None:
    differences, labels = random_pairs()
    curve = calibration_curve(differences, labels)
    columns = (column.tolist() for column in curve)
    rows = [row for row in zip(*columns, strict=True) if row[2]]
    expected = oracles.calibration(differences.tolist(), labels.tolist(), 10)
    assert len(rows) == len(expected) and sum(curve.counts) == 300
    for row, expected_row in zip(rows, expected, strict=True):
        assert row == pytest.approx(expected_row, abs=1e-12)
    error = sum(abs(p - x) * n for p, x, n in expected) / 300
    assert calibration_error(curve).item() == pytest.approx(error, abs=1e-12)


def test_swapping_the_sides_changes_no_metric() -> None:
    differences, labels = random_pairs()
    for function in (pair_credit, pair_accuracy, log_loss, margin_histogram, calibration_curve):
        got, swapped = function(differences, labels), function(-differences, 1 - labels)
        torch.testing.assert_close(swapped, got, equal_nan=True, **EXACT)


def test_a_calibrated_model_has_a_small_calibration_error() -> None:
    differences = 3 * random_float64(40_000)
    labels = torch.bernoulli(differences.sigmoid())
    assert calibration_error(calibration_curve(differences, labels)) < 0.01
    assert calibration_error(calibration_curve(3 * differences, labels)) > 0.1


def test_margin_histogram_literal() -> None:
    """Margins 4, -1, 2, 1e-9 and -1e-9; equal scores and ties have none."""
    differences = exact([4, 1, -2, 1e-9, 1e-9, 0, 3])
    labels = exact([1, 0, 0, 1, 0, 1, 0.5])
    edges, counts = margin_histogram(differences, labels, bins=4)
    assert edges.tolist() == [-4, -2, 0, 2, 4]
    assert counts.tolist() == [0, 2, 1, 2]
    edges, counts = margin_histogram(exact([0]), exact([1]), bins=2)
    assert edges.tolist() == [-1, 0, 1] and counts.tolist() == [0, 0]


def test_an_outlier_does_not_stretch_the_histogram() -> None:
    differences = torch.cat([torch.linspace(-1, 1, 200), torch.tensor([1000.0])])
    edges, counts = margin_histogram(differences, torch.ones(201), bins=2)
    assert edges[-1] < 1.001 and counts.tolist() == [100, 101]


def test_length_bands_literal() -> None:
    lengths_a, lengths_b = (
        torch.tensor([1, 2, 3, 4, 4, 5, 6, 8, 0, 0, 3]),
        torch.tensor([4, 4, 4, 4, 3, 4, 4, 4, 0, 2, 0]),
    )
    names = "much shorter,much shorter,shorter,equally long,longer,longer,longer,much longer"
    expected = [*names.split(","), "equally long", "much shorter", "much longer"]
    ones = torch.ones(len(lengths_a))
    for bands in (
        length_bands(lengths_a, lengths_b, ones),
        length_bands(lengths_b, lengths_a, 0 * ones),
    ):
        assert [LENGTH_BANDS[band] for band in bands] == expected


def test_longer_shares_literal() -> None:
    """Of four pairs that count, the longer is preferred in 3 and scores higher in 1½."""
    labels = exact([1, 0, 1, 0, 0.5, 1])
    longer = torch.tensor([3, -1, 2, 5, 4, 0])
    differences = exact([1, 1, 0, -1, 9, 9])
    preferred, scored = longer_shares(differences, labels, longer)
    assert (preferred.item(), scored.item()) == (0.75, 0.375)
    assert all(x.isnan() for x in longer_shares(differences, labels, 0 * longer))


def test_correlations_literals() -> None:
    """2, 4, 6 lies on a line with 1, 2, 3; of 1, 3, 2 the correlation is ½."""
    x = exact([1, 2, 3])
    assert pearson(x, 2 * x).item() == pytest.approx(1, abs=1e-12)
    assert pearson(x, -x + 7).item() == pytest.approx(-1, abs=1e-12)
    assert pearson(x, exact([1, 3, 2])).item() == pytest.approx(0.5, abs=1e-12)
    assert spearman(x, x.exp()).item() == pytest.approx(1, abs=1e-12)
    assert pearson(x, x.exp()) < 0.97
    for constant in (exact([0.1] * 3), torch.tensor([7, 7, 7])):
        assert pearson(x, constant) == pearson(constant, x) == spearman(x, constant) == 0


def test_correlations_are_those_of_scipy() -> None:
    x, y = random_float64(200), torch.randint(9, (200,))
    for ours, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
        assert ours(x + y, y).item() == pytest.approx(theirs(x + y, y).statistic, abs=1e-12)


def test_resampled_means_have_the_frequencies_of_every_draw() -> None:
    clusters = [[1.0], [0.0, 0.0, 1.0], [0.5, 0.0]]
    values = exact([0.5, 1, 0, 0, 0, 1]).unsqueeze(1)  # rows of a cluster need not be together
    names = torch.tensor([7, 40, 7, -2, -2, -2])
    means = resampled_means(values, names, resamples=20_000, generator=seeded()).squeeze(1)
    rounded = [round(mean, 12) for mean in means.tolist()]
    expected = oracles.bootstrap_shares(clusters)
    assert set(rounded) == set(expected)
    for mean, share in expected.items():
        assert rounded.count(mean) / 20_000 == pytest.approx(share, abs=0.01)  # 3 standard errors


def test_a_row_that_does_not_count_is_as_if_left_out() -> None:
    values, names = random_float64(40, 1), torch.arange(40) // 4
    missing = torch.arange(40) % 4 == 1
    expected = resampled_means(values[~missing], names[~missing], generator=seeded())
    values[missing] = math.nan
    torch.testing.assert_close(
        resampled_means(values, names, generator=seeded()), expected, **EXACT
    )
    all_missing = torch.full((40, 1), math.nan)
    assert resampled_means(all_missing, names, generator=seeded()).isnan().all()


def test_columns_share_their_draws_and_pieces_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values, names = random_float64(30, 2), torch.arange(30) // 2
    values[:, 1] = values[:, 0] + 1
    means = resampled_means(values, names, generator=seeded())
    torch.testing.assert_close(means[:, 1] - means[:, 0], torch.ones_like(means[:, 0]), **EXACT)
    assert torch.equal(means, resampled_means(values, names, generator=seeded()))
    assert not torch.equal(means, resampled_means(values, names, generator=seeded(1)))
    monkeypatch.setattr(preference_metrics, "_CHUNK_DRAWS", 100)
    chunked = resampled_means(values, names, resamples=2000, generator=seeded())
    assert chunked.shape == (2000, 2)
    torch.testing.assert_close(chunked.std(dim=0), means.std(dim=0), rtol=0.1, atol=0)


def test_all_right_has_an_interval_without_width() -> None:
    means = resampled_means(torch.ones(50, 1), torch.arange(50), generator=seeded())
    assert [end.tolist() for end in percentile_interval(means)] == [[1], [1]]


def test_percentile_interval_literal() -> None:
    samples = torch.stack([torch.arange(101.0), torch.arange(101.0) + 7], dim=1)
    samples = torch.cat([samples, torch.full((50, 2), math.nan)])
    low, high = percentile_interval(samples, level=0.9)
    assert low.tolist() == pytest.approx([5, 12]) and high.tolist() == pytest.approx([95, 102])


def test_copies_of_a_pair_do_not_narrow_the_interval() -> None:
    """Nine copies tell nothing new; taken for independent they would shrink the width threefold."""
    credit = torch.bernoulli(torch.full((60, 1), 0.7), generator=seeded())
    copies = credit.repeat_interleave(9, dim=0)

    def width(values: Tensor, names: Tensor) -> float:
        low, high = percentile_interval(resampled_means(values, names, generator=seeded()))
        return (high - low).item()

    expected = width(credit, torch.arange(60))
    assert width(copies, torch.arange(540) // 9) == pytest.approx(expected, abs=1e-6)
    assert width(copies, torch.arange(540)) == pytest.approx(expected / 3, rel=0.15)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """300 data sets of 100 images with four pairs that go together; 0.95 ± 4 standard errors."""
    covered, names = 0, torch.arange(400) // 4
    for seed in range(300):
        chances = torch.rand(100, generator=seeded(seed)).repeat_interleave(4)
        values = (torch.rand(400, generator=seeded(1000 + seed)) < chances).double()
        means = resampled_means(values[:, None], names, resamples=400, generator=seeded(seed))
        low, high = percentile_interval(means)
        covered += int(low <= 0.5 <= high)
    assert 0.90 <= covered / 300 <= 0.99


PAIR = exact([1, 2]), exact([1, 0])
CLUSTERS: dict[str, Any] = {"clusters": torch.tensor([0, 1]), "generator": torch.Generator()}


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda: pair_credit(PAIR[0], exact([1])), "differences, labels"),
        (lambda: pair_credit(exact([]), exact([])), "pairs"),
        (lambda: log_loss(PAIR[0], exact([1, 2])), "labels"),
        (lambda: log_loss(PAIR[0], exact([1, math.nan])), "labels"),
        (lambda: calibration_curve(*PAIR, bins=0), "bins"),
        (lambda: margin_histogram(*PAIR, bins=3), "bins"),
        (lambda: margin_histogram(*PAIR, bins=0), "bins"),
        (lambda: longer_shares(*PAIR, torch.tensor([1])), "longer"),
        (lambda: length_bands(*PAIR, exact([1])), "lengths_a, lengths_b, labels"),
        (lambda: pearson(exact([1]), exact([1, 2])), "x, y"),
        (lambda: pearson(exact([]), exact([])), "x"),
        (lambda: resampled_means(torch.ones(3, 1), **CLUSTERS), "clusters"),
        (lambda: resampled_means(torch.ones(2), **CLUSTERS), "values"),
        (lambda: resampled_means(torch.ones(0, 1), **CLUSTERS), "rows"),
        (lambda: resampled_means(torch.ones(2, 1), **CLUSTERS, resamples=0), "resamples"),
        (lambda: percentile_interval(torch.ones(3, 1), level=1.5), "level"),
    ],
)
def test_arguments_out_of_range_are_refused(call, name) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match=f"^{name}: got"):
        call()
