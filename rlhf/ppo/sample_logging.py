"""Histograms and sampled responses of a PPO run, for TensorBoard."""

from dataclasses import replace

import torch

from rlhf.config.schema import PPOConfig, SamplingConfig
from rlhf.data.images import load_image
from rlhf.data.microbatching import map_microbatches
from rlhf.data.tokenization import with_images
from rlhf.generation.sampler import generate
from rlhf.history import transcript
from rlhf.models.policy import Policy
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.rewards.base import Scorer
from rlhf.tracking.profiler import OTHER, phase
from rlhf.tracking.tracker import Sample
from rlhf.tracking.writer import MetricsWriter
from rlhf.types import PromptBatch, Rollout

NUM_SAMPLES = 4  # prompts whose responses are written


def log_distributions(
    writer: MetricsWriter,
    policy: Policy,
    rollout: Rollout,
    buffer: RolloutBuffer,
    iteration: int,
    config: PPOConfig,
) -> dict[str, float]:
    """Write histograms of an iteration after its update.

    Args:
        writer: writes the histograms.
        policy: the policy after the update.
        rollout: rollout of the iteration.
        buffer: has the advantages.
        iteration: step of the histograms.
        config: PPO options; reads microbatch_tokens.

    Returns:
        `vision/grounding_gap`: mean log-probability of the responses with their image minus that
        with the image of another prompt, nats. It is near 0 if responses ignore the image.
    """
    prompts, responses = rollout.prompts, rollout.responses
    mismatched = with_images(prompts, prompts.mismatched_images(), policy.llava.builder)
    with torch.no_grad():
        logprobs, mismatched_logprobs = (
            map_microbatches(policy.evaluate, batch, responses, config.microbatch_tokens).logprobs
            for batch in (prompts, mismatched)
        )
    writer.histograms(
        {
            "scores": rollout.scores,
            "advantages": buffer.advantages,
            "ratio": (logprobs - rollout.old_logprobs).exp(),
            "response_length": rollout.spans.lengths,
        },
        iteration,
    )
    return {"vision/grounding_gap": float((logprobs - mismatched_logprobs).mean())}


def log_samples(
    writer: MetricsWriter,
    policy: Policy,
    reward: Scorer,
    prompts: PromptBatch,
    iteration: int,
    sampling: SamplingConfig,
    *,
    max_tokens: int,
) -> None:
    """Write greedy responses to prompts, to compare them between steps.

    The profiler counts the time as `other`, not as decoding or scoring.

    Args:
        writer: writes images, instructions, responses and scores.
        policy: generates the responses.
        reward: scores the responses.
        prompts: the same ones each time.
        iteration: step of the samples.
        sampling: length and batch size of the responses.
        max_tokens: most padded tokens of one microbatch that is scored.
    """
    greedy, decode = replace(sampling, temperature=0.0), policy.llava.builder.decode
    with phase(OTHER, opaque=True):
        responses, _ = generate(policy.llava, prompts, greedy)
        scores = reward.scores(prompts, responses, max_tokens=max_tokens)
    texts = map(transcript, prompts.histories, prompts.instructions)
    writer.samples(
        [
            Sample(load_image(images[0]), text, decode(response), float(score))
            for images, text, response, score in zip(
                prompts.images, texts, responses.rows(), scores, strict=True
            )
        ],
        iteration,
    )
