"""What a person looks at while PPO runs: distributions, and pictures with their answers."""

import torch

from rlhf.buffer import RolloutBuffer
from rlhf.config import PPOConfig
from rlhf.data.encoders import with_pictures
from rlhf.data.images import load_image
from rlhf.metrics import MetricsWriter, Sample
from rlhf.models.policy import Policy, in_pieces
from rlhf.types import Rollout

_SAMPLES = 4  # answers shown each time


def log_samples(
    writer: MetricsWriter,
    policy: Policy,
    rollout: Rollout,
    buffer: RolloutBuffer,
    texts: list[str],
    iteration: int,
    config: PPOConfig,
) -> dict[str, float]:
    """Write histograms and samples of an iteration after its update.

    Returns:
        `vision/grounding_gap`: mean log-probability of the responses with their picture minus
        with another row's. Near 0 the answers do not depend on the picture.
    """
    prompts, responses = rollout.prompts, rollout.responses
    others = with_pictures(prompts, prompts.other_pictures(), policy.llava.builder)
    with torch.no_grad():
        now, other = (
            in_pieces(policy.score, batch, responses, config.microbatch_tokens).logprobs
            for batch in (prompts, others)
        )
    writer.histograms(
        {
            "scores": rollout.scores,
            "advantages": buffer.advantages,
            "ratio": (now - rollout.old_logprobs).exp(),
            "response_length": rollout.spans.lengths,
        },
        iteration,
    )
    rows = range(min(_SAMPLES, len(texts)))
    writer.samples([_sample(rollout, texts, row) for row in rows], iteration)
    return {"vision/grounding_gap": float((now - other).mean())}


def _sample(rollout: Rollout, texts: list[str], row: int) -> Sample:
    return Sample(
        picture=load_image(rollout.prompts.images[row][0]),
        instruction=rollout.prompts.instructions[row],
        response=texts[row],
        score=float(rollout.scores[row]),
    )
