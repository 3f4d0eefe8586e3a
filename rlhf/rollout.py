"""Sample responses and score them: everything PPO needs to know before an update."""

import torch
from torch import Tensor

from rlhf.config import SamplingConfig
from rlhf.models.generation import generate
from rlhf.models.policy import Policy, in_pieces
from rlhf.models.reward import RewardModel, score
from rlhf.types import PromptBatch, Rollout


@torch.no_grad()
def collect_rollout(
    policy: Policy,
    reward: RewardModel,
    prompts: PromptBatch,
    sampling: SamplingConfig,
    *,
    seed: int,
    iteration: int,
    samples: Tensor,
    max_tokens: int,
    rescore: bool = True,
) -> Rollout:
    """One response to each prompt with its log-probabilities, values and score.

    Args:
        policy, reward: who answers and who judges.
        prompts: B prompts.
        sampling: the one distribution of generation and of every log-probability.
        seed, iteration, samples: keys of the sampling, see `generate`.
        max_tokens: padded tokens of one forward.
        rescore: old log-probabilities come from the training forward, so that the first ratio
            is 1; otherwise from generation.
    """
    responses, drawn = generate(
        policy.llava, prompts, sampling, seed=seed, iteration=iteration, samples=samples
    )
    scored = in_pieces(policy.score, prompts, responses, max_tokens)
    referenced = in_pieces(policy.reference_score, prompts, responses, max_tokens)
    return Rollout(
        prompts=prompts,
        responses=responses,
        old_logprobs=scored.logprobs if rescore else drawn,
        ref_logprobs=referenced.logprobs,
        values=scored.values,
        entropy=scored.entropy,
        scores=score(reward, prompts, responses, max_tokens=max_tokens),
        logprob_gap=(scored.logprobs - drawn).abs(),
    )
