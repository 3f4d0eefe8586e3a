"""Losses: literals, limits, and the sum over micro-batches."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.functional import (
    center_rewards_loss,
    clipped_policy_loss,
    clipped_value_loss,
    kl_penalty_loss,
    preference_loss,
)
from rlhf.spans import Spans
from tests.support.float64 import EXACT, exact, random_float64


def test_policy_loss_literal() -> None:
    """Ratios 2 and ½ with A = 1 and -1 at ε = 0.2: -1.2 and -0.5, then 2 and 0.8."""
    ratios, advantages = exact([2.0, 0.5, 2.0, 0.5]), exact([1.0, 1.0, -1.0, -1.0])
    logprobs = ratios.log().requires_grad_()
    got = clipped_policy_loss(logprobs, torch.zeros_like(ratios), advantages, clip_range=0.2)
    assert got.loss.item() == pytest.approx((-1.2 - 0.5 + 2 + 0.8) / 4, abs=1e-12)
    assert got.clipped_sum.item() == 2
    assert got.approx_kl_sum.item() == pytest.approx(2 * math.log(2) ** 2, abs=1e-12)
    assert got.ratio_sum.item() == pytest.approx(5, abs=1e-12)
    assert not any(field.requires_grad for field in got[1:])
    got.loss.backward()
    torch.testing.assert_close(logprobs.grad, exact([0, -0.5, 2, 0]) / 4, **EXACT)


def test_clip_higher_and_dual_clip_literals() -> None:
    zero = torch.zeros(1, dtype=torch.float64)

    def loss(ratio: float, advantage: float, **options: Any) -> tuple[float, int, float]:
        logprobs = exact([ratio]).log().requires_grad_()
        got = clipped_policy_loss(logprobs, zero, exact([advantage]), clip_range=0.2, **options)
        got.loss.backward()
        assert logprobs.grad is not None
        return round(got.loss.item(), 9), int(got.clipped_sum), round(logprobs.grad.item(), 9)

    assert loss(2.0, 1.0, clip_range_high=0.5) == (-1.5, 1, 0)
    assert loss(1.4, 1.0, clip_range_high=0.5) == (-1.4, 0, -1.4)
    assert loss(0.5, -1.0, clip_range_high=0.5) == (0.8, 1, 0)
    assert loss(10.0, -1.0) == (10.0, 0, 10.0)
    assert loss(10.0, -1.0, dual_clip=3.0) == (3.0, 1, 0)
    assert loss(2.0, -1.0, dual_clip=3.0) == (2.0, 0, 2.0)
    assert loss(0.1, 2.0, dual_clip=3.0) == (-0.2, 0, -0.2)
    assert loss(1.0, -1.0, dual_clip=1.0) == (1.0, 0, 1.0)  # at the bound, not above it


@pytest.mark.parametrize("advantage", [1.0, 0.0])
def test_a_ratio_that_overflows_is_clipped_like_any_other(advantage: float) -> None:
    logprobs = torch.tensor([200.0, 0.0], requires_grad=True)
    advantages = torch.tensor([advantage, 1.0])
    got = clipped_policy_loss(logprobs, torch.zeros(2), advantages, clip_range=0.2)
    assert got.loss.item() == pytest.approx(-(1.2 * advantage + 1) / 2)
    got.loss.backward()
    assert logprobs.grad is not None and logprobs.grad.tolist() == [0.0, -0.5]


def test_an_unchanged_policy() -> None:
    """Ratio 1 everywhere: nothing clipped, no KL, and the gradient is the policy gradient's."""
    advantages, logprobs = random_float64(9), random_float64(9, grad=True)
    got = clipped_policy_loss(logprobs, logprobs.detach(), advantages, clip_range=0.2)
    assert [field.item() for field in got[1:]] == [0, 0, 9]
    got.loss.backward()
    torch.testing.assert_close(logprobs.grad, -advantages / 9, **EXACT)


def test_kl_penalty_literal() -> None:
    """Ratios 1, 2 and ¼ to the old policy, held to 1, 1.2 and 0.8; log-ratio 2 to the reference."""
    old = exact([1.0, 2.0, 0.25]).log() * -1
    logprobs, reference = exact([0.0, 0.0, 0.0]).requires_grad_(), exact([-2.0, -2.0, -2.0])
    loss = kl_penalty_loss(logprobs, reference, old, clip_range=0.2)
    assert loss.item() == pytest.approx((2 + 2 * 1.2 + 2 * 0.8) / 3, abs=1e-12)
    loss.backward()
    torch.testing.assert_close(logprobs.grad, exact([2, 2.4, 1.6]) / 3, **EXACT)
    higher = kl_penalty_loss(
        logprobs, reference, old, clip_range=0.2, clip_range_high=0.5, token_count=6
    )
    assert higher.item() == pytest.approx((2 + 2 * 1.5 + 2 * 0.8) / 6, abs=1e-12)
    with pytest.raises(ValueError, match="clip_range: got 2"):
        kl_penalty_loss(logprobs, reference, old, clip_range=2.0)
    with pytest.raises(ValueError, match="ref_logprobs"):
        kl_penalty_loss(logprobs, reference[:1], old, clip_range=0.2)


def test_kl_penalty_has_the_gradient_of_the_kl() -> None:
    """In the mean over the policy, on it and (by the ratio) a little off it."""
    logits, old_logits = random_float64(5, grad=True), random_float64(5) / 20
    old_logits += logits.detach()
    reference = random_float64(5).log_softmax(0)
    log_p, old = logits.log_softmax(0), old_logits.log_softmax(0)
    (expected,) = torch.autograd.grad((log_p.exp() * (log_p - reference)).sum(), logits)
    log_p = logits.log_softmax(0)
    terms = [
        kl_penalty_loss(log_p[a : a + 1], reference[a : a + 1], old[a : a + 1], clip_range=0.9)
        for a in range(5)
    ]
    mean = (torch.stack(terms) * old.exp()).sum()
    (got,) = torch.autograd.grad(mean, logits)
    torch.testing.assert_close(got, expected, **EXACT)


def test_value_loss_literals() -> None:
    """PPO2's larger error: 2² over 1² keeps its gradient, 1² under 2² has none."""
    values = exact([2.0, 2.0]).requires_grad_()
    old_values, returns = exact([0.0, 0.0]), exact([0.0, 3.0])
    unclipped = clipped_value_loss(values, old_values, returns)
    assert unclipped.loss.item() == (2 + 0.5) / 2
    assert unclipped.clipped_sum.item() == 0
    clipped = clipped_value_loss(values, old_values, returns, clip_range_value=1.0)
    assert clipped.loss.item() == (2 + 2) / 2
    assert clipped.clipped_sum.item() == 1
    clipped.loss.backward()
    assert values.grad is not None
    assert (values.grad * 2).tolist() == [2.0, 0.0]


def test_value_loss_of_huber_literals() -> None:
    """With δ = 1 an error of 2 counts 2 - ½, with gradient 1; errors up to 1 are squared."""
    values = exact([2.0, 2.0, 2.5]).requires_grad_()
    old_values, returns = exact([0.0, 0.0, 0.0]), exact([0.0, 3.0, 2.0])
    loss = clipped_value_loss(values, old_values, returns, huber_delta=1.0)
    assert loss.loss.item() == pytest.approx((1.5 + 0.5 + 0.125) / 3, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss.loss, values)
    torch.testing.assert_close(gradient * 3, exact([1.0, -1.0, 0.5]), **EXACT)
    clipped = clipped_value_loss(
        values, old_values, returns, clip_range_value=1.0, huber_delta=1.0, token_count=1
    )
    assert clipped.loss.item() == pytest.approx(1.5 + 1.5 + 0.5, rel=1e-12)
    assert clipped.clipped_sum.item() == 2
    (gradient,) = torch.autograd.grad(clipped.loss, values)
    torch.testing.assert_close(gradient, exact([1.0, 0.0, 0.0]), **EXACT)
    wide = clipped_value_loss(values, old_values, returns, huber_delta=100.0)
    assert wide.loss.item() == clipped_value_loss(values, old_values, returns).loss.item()


@pytest.mark.parametrize("lengths", [[1, 2, 40, 7, 3, 90], [5, 64, 1, 1, 33, 2]])
def test_micro_batches_add_up_to_the_whole_step(lengths: list[int]) -> None:
    spans = Spans.from_lengths(lengths)
    old, advantages, returns = (random_float64(spans.num_tokens) for _ in range(3))
    start = old + random_float64(spans.num_tokens) / 4
    share = torch.linspace(-2, 2, spans.num_tokens, dtype=torch.float64)

    def gradient(size: int, token_count: int | None) -> tuple[float, Tensor, Tensor]:
        """One shared parameter moves every token, as in a network."""
        weight = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        total, sums = 0.0, torch.zeros(4, dtype=torch.float64)
        batches = range(0, len(lengths), size)
        for first in batches:
            at = spans.token_indices(list(range(first, min(first + size, len(lengths)))))
            now = start[at] + weight[0] * share[at] + weight[1]
            policy = clipped_policy_loss(
                now, old[at], advantages[at], clip_range=0.2, token_count=token_count
            )
            value = clipped_value_loss(
                now, old[at], returns[at], clip_range_value=0.3, token_count=token_count
            )
            loss = policy.loss + value.loss
            loss = loss if token_count else loss / len(batches)
            loss.backward()
            total += loss.item()
            sums += torch.stack([*policy[1:], value.clipped_sum])
        assert weight.grad is not None
        return total, weight.grad, sums

    expected = gradient(len(lengths), None)
    for size in (1, 2, 3, len(lengths)):
        for ours, theirs in zip(gradient(size, spans.num_tokens), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    means = gradient(1, None)[1]
    assert float((means - expected[1]).norm() / expected[1].norm()) > 0.05


def test_losses_are_float32_for_half_inputs() -> None:
    half = torch.zeros(3).bfloat16()
    assert clipped_policy_loss(half, half, half, clip_range=0.2).loss.dtype == torch.float32
    assert clipped_value_loss(half, half, half).loss.dtype == torch.float32
    assert preference_loss(half, half).dtype == torch.float32


def test_losses_refuse() -> None:
    x, none = torch.zeros(3), torch.zeros(0)
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"clip_range": -0.1}, "clip_range"),
        ({"clip_range": 0.2, "clip_range_high": -1.0}, "clip_range_high"),
        ({"clip_range": 0.2, "dual_clip": 0.5}, "dual_clip"),
        ({"clip_range": 0.2, "token_count": 0}, "token_count"),
    )
    for options, name in cases:
        with pytest.raises(ValueError, match=f"{name}: got"):
            clipped_policy_loss(x, x, x, **options)
    with pytest.raises(ValueError, match="advantages"):
        clipped_policy_loss(x, x, x[:, None], clip_range=0.2)
    with pytest.raises(ValueError, match="token_count: got 0"):
        clipped_policy_loss(none, none, none, clip_range=0.2)
    assert clipped_policy_loss(none, none, none, clip_range=0.2, token_count=4).loss.item() == 0
    with pytest.raises(ValueError, match="clip_range_value: got 0"):
        clipped_value_loss(x, x, x, clip_range_value=0.0)
    with pytest.raises(ValueError, match="huber_delta: got 0"):
        clipped_value_loss(x, x, x, huber_delta=0.0)
    with pytest.raises(ValueError, match="returns"):
        clipped_value_loss(x, x, x[:2])


def test_preference_literals() -> None:
    """Scores apart by log 3: the chosen answer has probability 3/4."""
    chosen, rejected = exact([math.log(3), 1.0]), exact([0.0, 1.0])
    assert preference_loss(chosen, rejected).item() == pytest.approx(
        (math.log(4 / 3) + math.log(2)) / 2, abs=1e-12
    )
    margin = exact([math.log(3), 0.0])
    assert preference_loss(chosen, rejected, margin=margin).item() == pytest.approx(
        math.log(2), abs=1e-12
    )
    number = preference_loss(chosen, rejected, margin=torch.tensor(1.0)).item()
    assert number == preference_loss(chosen, rejected, margin=1.0).item()
    with pytest.raises(ValueError, match="pairs: got 0"):
        preference_loss(chosen[:0], rejected[:0])
    smoothed = preference_loss(chosen[:1], rejected[:1], label_smoothing=0.1).item()
    assert smoothed == pytest.approx(0.9 * math.log(4 / 3) + 0.1 * math.log(4), abs=1e-12)
    assert preference_loss(exact([-1000.0]), exact([0.0])).item() == 1000
    assert preference_loss(chosen, rejected, margin=0.5) > preference_loss(chosen, rejected)


def test_a_tie_counts_half_each_way_and_has_no_margin() -> None:
    """Scores apart by log 3: -½·log ¾ - ½·log ¼."""
    chosen, rejected = exact([math.log(3), 1.0]), exact([0.0, 1.0])
    labels = exact([0.5, 1.0])
    half = (math.log(4 / 3) + math.log(4)) / 2
    loss = preference_loss(chosen, rejected, labels).item()
    assert loss == pytest.approx((half + math.log(2)) / 2, abs=1e-12)
    tie = preference_loss(chosen[:1], rejected[:1], labels[:1], margin=7.0).item()
    assert tie == pytest.approx(half, abs=1e-12)
    smoothed = preference_loss(chosen[:1], rejected[:1], labels[:1], label_smoothing=0.2).item()
    assert smoothed == pytest.approx(half, abs=1e-12)


def test_the_centering_penalty_is_the_mean_square_of_the_sums() -> None:
    chosen, rejected = exact([1.0, -2.0]).requires_grad_(), exact([3.0, 2.0])
    penalty = center_rewards_loss(chosen, rejected)
    assert penalty.item() == (16 + 0) / 2
    penalty.backward()
    assert chosen.grad is not None and chosen.grad.tolist() == [4.0, 0.0]  # 2·(c + r)/n
    with pytest.raises(ValueError, match="rejected_scores"):
        center_rewards_loss(chosen, rejected[:1])


def test_preference_refuses() -> None:
    x = torch.zeros(3)
    with pytest.raises(ValueError, match="rejected_scores"):
        preference_loss(x, x[:1])
    with pytest.raises(ValueError, match="margin"):
        preference_loss(x, x, margin=x[:, None])
    with pytest.raises(ValueError, match="label_smoothing: got 0.6"):
        preference_loss(x, x, label_smoothing=0.6)
