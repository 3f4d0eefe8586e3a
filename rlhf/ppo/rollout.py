"""Sample responses and score them: everything PPO needs to know before an update."""

from functools import partial

import torch
from torch import Tensor

from rlhf.config.resolve import kl_choice
from rlhf.config.schema import PPOConfig, SamplingConfig
from rlhf.data.microbatching import map_microbatches, microbatches
from rlhf.errors import ResourceError
from rlhf.functional import ADVANTAGE_ESTIMATORS
from rlhf.generation.engines import ENGINES
from rlhf.models.policy import Policy
from rlhf.rewards.base import Scorer
from rlhf.tracking.profiler import count_responses, phase
from rlhf.types import PromptBatch, Responses, Rollout


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
) -> Rollout:
    """One response to each prompt with its log-probabilities, values and score.

    A response that a person's scorer could not score is dropped; where the responses to a prompt
    are compared with one another, so are the others to its prompt.

    With LoRA on responses alone the prompts are read once, here, for the update as well.

    Args:
        policy, reward: who answers and who judges.
        prompts: B prompts.
        sampling: the one distribution of generation and of every log-probability.
        seed, iteration, samples: keys of the sampling, see `generate`.
        config: reads microbatch_tokens; rescore: log-probabilities, entropies and values come
            from the training forward, so that the first ratio is 1, and not from the states of
            generation; missing_eos and the KL options for what else the update will need.
    """
    max_tokens = config.microbatch_tokens
    for llava in (policy.llava, getattr(reward, "llava", policy.llava)):
        llava.prefix_cache.clear()  # those of the last iteration's prompts
    responses, drawn = ENGINES[config.engine](
        policy.llava,
        prompts,
        sampling,
        seed=seed,
        iteration=iteration,
        samples=samples,
        return_hidden_states=not config.recompute_logprobs,
    )
    count_responses(prompts, responses)
    with phase("scores"):
        scores = reward.scores(prompts, responses, max_tokens=max_tokens)
    if reward.can_fail:
        whole_groups = ADVANTAGE_ESTIMATORS[config.advantage_estimator].needs_groups
        kept = _scored_rows(scores, prompts.sampling_keys, whole_groups=whole_groups)
        if not len(kept):
            raise ResourceError(
                "every response of an iteration, or one to each prompt, lacks a score",
                reward.name,
                "mend the scorer, or raise scorer.retries",
            )
        drawn, scores = drawn.select(responses.spans.token_indices(kept)), scores[kept]
        prompts, responses = prompts.select(kept), responses.select(kept)
    with phase("old_logprobs"):
        known = {} if drawn.hidden_states is None else {"hidden_states": drawn.hidden_states}
        scored = map_microbatches(policy.evaluate, prompts, responses, max_tokens, **known)
    reference = partial(policy.reference_outputs, keep_hidden=kl_choice(config)[1] == "exact")
    with phase("ref_logprobs"):
        referenced = map_microbatches(reference, prompts, responses, max_tokens)
    bootstraps = config.missing_eos == "bootstrap"
    return Rollout(
        prompts=prompts,
        responses=responses,
        old_logprobs=scored.logprobs if config.recompute_logprobs else drawn.logprobs,
        ref_logprobs=referenced.logprobs,
        values=scored.values,
        entropy=scored.entropy,
        scores=scores,
        logprob_diff=None if known else (scored.logprobs - drawn.logprobs).abs(),
        final_values=_final_values(policy, prompts, responses, max_tokens) if bootstraps else None,
        ref_hidden=referenced.hidden_states,
    )


def _scored_rows(scores: Tensor, groups: Tensor, *, whole_groups: bool) -> Tensor:
    """[K] rows with a score; with `whole_groups` only those of groups [B] that lack none."""
    unscored = scores.isnan()
    if whole_groups:
        unscored = torch.isin(groups, groups[unscored])
    return (~unscored).nonzero().squeeze(1)


def _final_values(
    policy: Policy, prompts: PromptBatch, responses: Responses, max_tokens: int
) -> Tensor:
    """[B] V after the last token of cut responses; 0 of finished ones, whose episode is over."""
    values, cut = torch.zeros(len(responses)), (~responses.finished).nonzero().squeeze(1)
    prompts, responses = prompts.select(cut), responses.select(cut)
    for rows in microbatches(prompts, responses, max_tokens):
        found = policy.final_values(prompts.select(rows), responses.select(rows))
        values[cut[rows]] = found.cpu()
    return values
