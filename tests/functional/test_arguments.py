"""Pure functions leave their arguments alone, in the dtype in which no copy is made for them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf import functional, kernels
from rlhf.spans import Spans
from tests.support.float64 import random_float64

SPANS = Spans.from_lengths([2, 1, 3])
TOKENS, RESPONSES = 6, 3
FINISHED = torch.tensor([True, False, True])
GROUPS = torch.tensor([0, 1, 0])

CALLS: dict[str, tuple[Callable[..., Any], list[int]]] = {
    "kl_estimate": (lambda a, b: functional.kl_estimate(a, b, "k3"), [TOKENS, TOKENS]),
    "per_token_rewards": (
        lambda scores, kl: functional.per_token_rewards(scores, kl, SPANS, kl_coef=0.5),
        [RESPONSES, TOKENS],
    ),
    "missing_eos_scores": (
        lambda scores: functional.missing_eos_scores(scores, FINISHED, mode="penalty", penalty=1.0),
        [RESPONSES],
    ),
    "generalized_advantages": (
        lambda rewards, values, final: functional.generalized_advantages(
            rewards, values, SPANS, gamma=0.9, gae_lambda=0.8, final_values=final
        ),
        [TOKENS, TOKENS, RESPONSES],
    ),
    "generalized_advantages, finished": (
        lambda rewards, values: functional.generalized_advantages(
            rewards, values, SPANS, gamma=0.9, gae_lambda=0.8
        ),
        [TOKENS, TOKENS],
    ),
    "rloo_advantages": (lambda scores: functional.rloo_advantages(scores, GROUPS), [RESPONSES]),
    "grpo_advantages": (
        lambda scores: functional.grpo_advantages(scores, GROUPS, eps=0.1),
        [RESPONSES],
    ),
    "whiten": (functional.whiten, [TOKENS]),
    "explained_variance": (functional.explained_variance, [TOKENS, TOKENS]),
    "PooledExplainedVariance": (
        lambda values, returns: functional.PooledExplainedVariance().add(values, returns),
        [TOKENS, TOKENS],
    ),
    "clipped_policy_loss": (
        lambda new, old, advantages: functional.clipped_policy_loss(
            new, old, advantages, clip_range=0.2, dual_clip=3.0
        ),
        [TOKENS] * 3,
    ),
    "clipped_value_loss": (
        lambda new, old, returns: functional.clipped_value_loss(
            new, old, returns, clip_range_value=0.2
        ),
        [TOKENS] * 3,
    ),
    "kl_penalty_loss": (
        lambda new, ref, old: functional.kl_penalty_loss(new, ref, old, clip_range=0.2),
        [TOKENS] * 3,
    ),
    "preference_loss": (functional.preference_loss, [RESPONSES, RESPONSES]),
    "center_rewards_loss": (functional.center_rewards_loss, [RESPONSES, RESPONSES]),
    "ScoreScaler": (lambda scores: functional.ScoreScaler(clip=1.0).scale(scores), [RESPONSES]),
    "span_discounted_sum": (lambda x: kernels.span_discounted_sum(x, SPANS, 0.5), [TOKENS]),
    "add_at_span_end": (
        lambda flat, end: kernels.add_at_span_end(flat, end, SPANS),
        [TOKENS, RESPONSES],
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_function_changes_what_it_is_given(name: str) -> None:
    function, sizes = CALLS[name]
    arguments: list[Tensor] = [random_float64(size) for size in sizes]
    copies = [value.clone() for value in arguments]
    function(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(arguments, copies, strict=True))
