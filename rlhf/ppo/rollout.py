"""Rollouts: sample responses, score them, and evaluate policy, critic and reference on them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlhf.config.resolve import kl_choice
from rlhf.config.schema import PPOConfig, SamplingConfig
from rlhf.data.microbatching import map_microbatches
from rlhf.functional import ADVANTAGE_ESTIMATORS
from rlhf.generation.engines import ENGINES
from rlhf.generation.sampler import generate
from rlhf.models.policy import Policy
from rlhf.ppo.critic_training import fits_head
from rlhf.ppo.rollout_parts import select_rows
from rlhf.rewards.base import Scorer
from rlhf.rewards.combined import reward_parts, scores_and_parts
from rlhf.tracking.profiler import count_responses, phase
from rlhf.types import PromptBatch, Responses, Rollout, SampledTokens


@torch.no_grad()
def collect_rollout(
    policy: Policy,
    reward: Scorer,
    prompts: PromptBatch,
    sampling: SamplingConfig,
    *,
    seed: int,
    iteration: int,
    samples: Tensor,
    config: PPOConfig,
    judge: Scorer | None = None,
) -> Rollout:
    """Sample a response to each prompt, with its score, log-probabilities and values.

    Responses without a score are dropped, see `Scorer.can_fail`; none may be left. With aLoRA
    adapters the prompts are run here only; the update reuses their keys and values.

    Args:
        policy: samples, with its critic and reference.
        reward: scores the responses.
        prompts: B prompts.
        sampling: distribution to sample from; all log-probabilities refer to it.
        seed: key of the sampling, see `generate`.
        iteration: key of the sampling.
        samples: [B] int64, index of each row among the samples of its prompt; key of the sampling.
        config: PPO options. With recompute_logprobs, old log-probabilities, entropies and values
            come from the training forward, so that the first ratio is 1; else from generation.
        judge: scores the same responses; training does not read its scores.
    """
    responses, sampled = generate(
        policy.llava,
        prompts,
        sampling,
        seed=seed,
        iteration=iteration,
        samples=samples,
        return_hidden_states=not config.recompute_logprobs,
        batch_generator=ENGINES[config.engine],
    )
    count_responses(prompts, responses)
    with phase("scores"):
        max_tokens = config.microbatch_tokens
        scores, parts = scores_and_parts(reward, prompts, responses, max_tokens=max_tokens)
        judged = judge.scores(prompts, responses, max_tokens=max_tokens) if judge else None
    if not reward.can_fail:
        rollout = _evaluate(policy, prompts, responses, sampled, scores, config)
        return replace(rollout, part_scores=parts, judge_scores=judged)
    rows = _scored_rows(scores, prompts.sampling_keys, config)
    read = rows if len(rows) else torch.tensor([0])  # none has the same tensors
    tokens = responses.spans.token_indices(read)
    batch = prompts.select(read), responses.select(read), sampled.select(tokens)
    rollout = _evaluate(policy, *batch, scores[read], config)
    rollout = replace(
        rollout,
        part_scores={name: part[read] for name, part in parts.items()},
        judge_scores=None if judged is None else judged[read],
    )
    return rollout if len(rows) else select_rows(rollout, rows)


def clear_prefix_caches(policy: Policy, scorers: Sequence[Scorer]) -> None:
    """Forget the prompts of the last iteration, in the models of policy, reward and judge."""
    scoring = (getattr(part, "llava", policy.llava) for part in reward_parts(*scorers))
    for llava in (policy.llava, *scoring):
        llava.prefix_cache.clear()


def _evaluate(
    policy: Policy,
    prompts: PromptBatch,
    responses: Responses,
    sampled: SampledTokens,
    scores: Tensor,
    config: PPOConfig,
) -> Rollout:
    """Add log-probabilities and values of policy, reference and critic to sampled responses."""
    max_tokens = config.microbatch_tokens
    evaluate = partial(policy.evaluate, return_critic_states=fits_head(config))
    with phase("old_logprobs"):
        hidden_states = sampled.hidden_states
        reused: dict[str, Any] = {} if hidden_states is None else {"hidden_states": hidden_states}
        outputs = map_microbatches(evaluate, prompts, responses, max_tokens, **reused)
    evaluate_reference = partial(
        policy.reference_outputs, return_hidden_states=kl_choice(config)[1] == "exact"
    )
    with phase("ref_logprobs"):
        ref_outputs = map_microbatches(evaluate_reference, prompts, responses, max_tokens)
    bootstraps = config.missing_eos == "bootstrap"
    return Rollout(
        prompts=prompts,
        responses=responses,
        old_logprobs=outputs.logprobs if config.recompute_logprobs else sampled.logprobs,
        ref_logprobs=ref_outputs.logprobs,
        values=outputs.values,
        entropy=outputs.entropy,
        scores=scores,
        logprob_diff=None if reused else (outputs.logprobs - sampled.logprobs).abs(),
        final_values=_final_values(policy, prompts, responses, max_tokens) if bootstraps else None,
        ref_hidden_states=ref_outputs.hidden_states,
        critic_states=outputs.critic_states,
    )


def _scored_rows(scores: Tensor, groups: Tensor, config: PPOConfig) -> Tensor:
    """Rows [K] with a score; if the estimator compares groups [B], only of complete groups."""
    unscored = scores.isnan()
    if ADVANTAGE_ESTIMATORS[config.advantage_estimator].needs_groups:
        unscored = torch.isin(groups, groups[unscored])
    return (~unscored).nonzero().squeeze(1)


def _final_values(
    policy: Policy, prompts: PromptBatch, responses: Responses, max_tokens: int
) -> Tensor:
    """The hidden states' part of V after truncated responses, 0 for finished ones; [B] float32."""
    values, truncated = torch.zeros(len(responses)), (~responses.finished).nonzero().squeeze(1)
    if len(truncated):
        batch = prompts.select(truncated), responses.select(truncated)
        values[truncated] = map_microbatches(policy.critic.final_values, *batch, max_tokens)
    return values
