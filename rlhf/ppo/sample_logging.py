"""What a person looks at while PPO runs: distributions, and images with their answers."""

from dataclasses import replace

import torch

from rlhf.config.schema import Config, PPOConfig
from rlhf.data.images import load_image
from rlhf.data.microbatching import map_microbatches
from rlhf.data.tokenization import with_images
from rlhf.generation.sampler import generate
from rlhf.models.policy import Policy
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.rewards.base import Scorer
from rlhf.tracking.profiler import OTHER, phase
from rlhf.tracking.writer import MetricsWriter, Sample
from rlhf.types import PromptBatch, Rollout

_SAMPLES = 4  # answers shown each time


def log_distributions(
    writer: MetricsWriter,
    policy: Policy,
    rollout: Rollout,
    buffer: RolloutBuffer,
    iteration: int,
    config: PPOConfig,
) -> dict[str, float]:
    """Write histograms of an iteration after its update.

    Returns:
        `vision/grounding_gap`: mean log-probability of the responses with their image minus
        with another row's. Near 0 the answers do not depend on the image.
    """
    prompts, responses = rollout.prompts, rollout.responses
    others = with_images(prompts, prompts.mismatched_images(), policy.llava.builder)
    with torch.no_grad():
        now, other = (
            map_microbatches(policy.evaluate, batch, responses, config.microbatch_tokens).logprobs
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
    return {"vision/grounding_gap": float((now - other).mean())}


def log_samples(
    writer: MetricsWriter,
    policy: Policy,
    reward: Scorer,
    prompts: PromptBatch,
    iteration: int,
    config: Config,
) -> None:
    """Write the likeliest answers to the first prompts: the same each time, to be scrubbed through.

    A profile counts this neither as decoding nor as scoring.
    """
    first = prompts.select(torch.arange(min(_SAMPLES, len(prompts))))
    greedy, decode = replace(config.sampling, temperature=0.0), policy.llava.builder.decode
    with phase(OTHER, opaque=True):
        responses, _ = generate(policy.llava, first, greedy)
        scores = reward.scores(first, responses, max_tokens=config.ppo.microbatch_tokens)
    writer.samples(
        [
            Sample(load_image(images[0]), instruction, decode(response), float(score))
            for images, instruction, response, score in zip(
                first.images, first.instructions, responses.rows(), scores, strict=True
            )
        ],
        iteration,
    )
