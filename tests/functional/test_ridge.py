"""Ridge regression on batches: the documented objective by a loop, identities and literals."""

import math

import pytest
import torch
from torch import Tensor

from rlhf.functional import RidgeRegression
from tests.support.float64 import exact, random_float64

UNCLIPPED = 1e9
Batch = tuple[Tensor, Tensor]


def fitted(*batches: Batch, decay: float = 0.9, alpha: float = 0.03, clip: float = UNCLIPPED):  # noqa: ANN201
    regression = RidgeRegression(decay=decay, alpha=alpha, clip=clip)
    for inputs, targets in batches:
        regression.add(inputs, targets)
    return regression


def random_batches(*sizes: int, width: int = 4) -> list[Batch]:
    """Batches whose means, scales and relations differ."""
    return [
        (
            (1 + index) * random_float64(size, width) + index,
            random_float64(size) * (2 + index) - index,
        )
        for index, size in enumerate(sizes)
    ]


def objective(batches: list[Batch], weights: Tensor, intercept: Tensor, decay: float, alpha: float):  # noqa: ANN201
    """The formula of the class, one sample at a time."""
    weighted = [
        (decay ** (len(batches) - 1 - k), row, target)
        for k, (inputs, targets) in enumerate(batches)
        for row, target in zip(inputs, targets, strict=True)
    ]
    count = math.fsum(share for share, _, _ in weighted)
    total = torch.zeros((), dtype=torch.float64)
    for share, row, target in weighted:
        total = total + share * (weights @ row + intercept - target).square() / count
    for j, weight in enumerate(weights):
        mean = math.fsum(share * row[j].item() for share, row, _ in weighted) / count
        variance = math.fsum(share * (row[j].item() - mean) ** 2 for share, row, _ in weighted)
        total = total + alpha * weight.square() * variance / count
    return total


@pytest.mark.parametrize(("decay", "alpha"), [(0.9, 0.03), (0.5, 0.3), (1.0, 1e-3), (0.0, 0.03)])
def test_the_solution_is_the_minimum_of_the_objective(decay: float, alpha: float) -> None:
    """The objective is strictly convex: where its gradient is 0 is its only minimum."""
    batches = random_batches(7, 5, 9)
    solution = fitted(*batches, decay=decay, alpha=alpha).solve()
    weights, intercept = (value.requires_grad_() for value in solution)
    gradients = torch.autograd.grad(
        objective(batches, weights, intercept, decay, alpha), (weights, intercept)
    )
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-11
    assert float(weights.detach().abs().max()) > 0.01


def test_a_literal() -> None:
    """x = ∓1 and y = 1, 5: both variances are 1 and 4, covariance 2; w = 2 / (1 + α), b = 3."""
    weights, intercept = fitted((exact([[-1.0], [1.0]]), exact([1.0, 5.0])), alpha=0.25).solve()  # type: ignore[list-item]
    assert weights.tolist() == pytest.approx([1.6], rel=1e-12)
    assert float(intercept) == pytest.approx(3.0, rel=1e-12)


def test_a_linear_function_is_recovered_as_alpha_vanishes() -> None:
    inputs, true = random_float64(30, 4), exact([2.0, -1.0, 0.0, 0.5])
    weights, intercept = fitted((inputs, inputs @ true + 7), alpha=1e-12).solve()
    torch.testing.assert_close(weights, true, rtol=0, atol=1e-9)
    assert float(intercept) == pytest.approx(7, abs=1e-9)


def test_neither_the_unit_of_an_input_nor_the_number_of_samples_changes_the_fit() -> None:
    ((inputs, targets),) = random_batches(20)
    weights, intercept = fitted((inputs, targets)).solve()
    scale, shift = exact([1e3, 1e-3, 4.0, 1.0]), exact([5.0, 0.0, -8.0, 1.0])
    scaled_weights, scaled_intercept = fitted((inputs * scale + shift, targets)).solve()
    torch.testing.assert_close(scaled_weights * scale, weights, rtol=1e-6, atol=1e-9)
    expected = intercept - scaled_weights @ shift
    torch.testing.assert_close(scaled_intercept, expected, rtol=1e-6, atol=1e-9)
    twice = fitted((inputs.repeat(2, 1), targets.repeat(2))).solve()
    torch.testing.assert_close(twice, (weights, intercept), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("constant", [0.0, 0.1, 7.3, -1e4, 1e-12])
def test_a_constant_input_has_weight_0_and_changes_nothing(constant: float) -> None:
    inputs, targets = random_float64(501, 3), random_float64(501)
    weights, intercept = fitted((inputs, targets)).solve()
    column = torch.full((501, 1), constant, dtype=torch.float64)
    regression = fitted((torch.cat([column, inputs], 1), targets))
    regression.add(*(value.float() for value in (torch.cat([column, inputs], 1), targets)))
    with_constant, same_intercept = regression.solve()
    assert with_constant[0] == 0
    torch.testing.assert_close(with_constant[1:], weights, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(same_intercept, intercept, rtol=1e-5, atol=1e-6)


def test_equal_inputs_share_their_weight() -> None:
    """Without α there would be no single solution."""
    inputs, targets = random_float64(20, 1), random_float64(20)
    weights, _ = fitted((inputs.repeat(1, 2), targets)).solve()
    assert float(weights[0]) == pytest.approx(float(weights[1]), rel=1e-9)


def test_targets_that_do_not_vary_are_predicted_by_the_intercept_alone() -> None:
    weights, intercept = fitted((random_float64(9, 3), torch.full((9,), 0.1)), clip=3).solve()
    assert float(weights.abs().max()) < 1e-9 and float(intercept) == pytest.approx(0.1, rel=1e-6)


def mean_target(regression: RidgeRegression) -> float:
    assert regression.moments is not None
    return float(regression.moments[-1, -2] / regression.moments[-2, -2])


def test_an_outlier_of_the_first_batch_is_clipped_around_its_mean() -> None:
    """Targets 0, 0, 0, 4: mean 1, variance 3; 4 becomes 1 + √3."""
    regression = fitted((random_float64(4, 2), exact([0.0, 0.0, 0.0, 4.0])), clip=1)
    assert mean_target(regression) == pytest.approx((1 + math.sqrt(3)) / 4, rel=1e-12)


def test_later_outliers_are_clipped_around_the_mean_of_the_earlier_targets() -> None:
    """First 0, 4: mean 2, variance 4. At 3/2 deviations 11 becomes 5 and -11 becomes -1."""
    first = exact([[1.0], [0.0]]), exact([0.0, 4.0])  # type: ignore[list-item]
    for outlier, clipped in ((11.0, 5.0), (-11.0, -1.0), (4.5, 4.5)):
        regression = fitted(first, (exact([[1.0]]), exact([outlier])), clip=1.5, decay=1.0)  # type: ignore[list-item]
        assert mean_target(regression) == pytest.approx((4 + clipped) / 3, rel=1e-12)


def test_targets_that_come_to_vary_more_are_clipped_by_their_own_deviation() -> None:
    """First -1, 1: mean 0, variance 1. Then ±8, of variance 64: within 1.5 deviations."""
    first = exact([[1.0], [0.0]]), exact([-1.0, 1.0])  # type: ignore[list-item]
    later = exact([[1.0], [0.0]]), exact([8.0, -8.0])  # type: ignore[list-item]
    regression = fitted(first, later, clip=1.5, decay=1.0)
    assert regression.moments is not None
    assert float(regression.moments[-1, -1]) == pytest.approx(2 + 128, rel=1e-12)


def test_a_restored_regression_continues_to_the_bit() -> None:
    batches = random_batches(7, 5, 9)
    uninterrupted, saved = fitted(*batches[:2], clip=2.0), fitted(*batches[:2], clip=2.0)
    state = {name: value.clone() for name, value in saved.state_dict().items()}
    resumed = RidgeRegression(clip=2.0)
    resumed.load_state_dict(state)
    for regression in (uninterrupted, resumed):
        regression.add(*batches[2])
    assert all(map(torch.equal, uninterrupted.solve(), resumed.solve()))
    assert RidgeRegression().state_dict() == {}
    resumed.load_state_dict({})
    assert resumed.moments is None


def test_what_is_refused() -> None:
    for options, message in (
        ({"decay": 1.5}, "decay: got 1.5"),
        ({"alpha": 0.0}, "alpha: got 0"),
        ({"clip": 0.0}, "clip: got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            RidgeRegression(**options)
    with pytest.raises(ValueError, match="no batch was added"):
        RidgeRegression().solve()
    with pytest.raises(ValueError, match="targets: got shape"):
        RidgeRegression().add(torch.zeros(3, 2), torch.zeros(2))


def test_no_graph_is_kept() -> None:
    regression = fitted((torch.ones(3, 2, requires_grad=True), torch.ones(3)))
    assert regression.moments is not None and not regression.moments.requires_grad
