"""Histograms and sampled responses of a PPO run, for TensorBoard."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from rlhf.config.schema import SamplingConfig
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


@torch.no_grad()
def image_logprobs(
    policy: Policy, rollout: Rollout, shares: Iterable[Tensor], max_tokens: int
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [n] of responses with their image, and with the image of another prompt.

    Args:
        policy: the policy after the update.
        rollout: rollout of the iteration.
        shares: rows [b] int64 of the rollout, one share after the other.
        max_tokens: most padded tokens of one microbatch.
    """
    prompts, responses = rollout.prompts, rollout.responses
    mismatched = with_images(prompts, prompts.mismatched_images(), policy.llava.builder)
    filled = [rows for rows in shares if len(rows)]
    logprobs, mismatched_logprobs = (
        [
            map_microbatches(
                policy.evaluate, batch.select(rows), responses.select(rows), max_tokens
            ).logprobs
            for rows in filled
        ]
        for batch in (prompts, mismatched)
    )
    empty = rollout.old_logprobs[:0]
    return torch.cat([empty, *logprobs]), torch.cat([empty, *mismatched_logprobs])


def log_distributions(
    writer: MetricsWriter,
    rollout: Rollout,
    buffer: RolloutBuffer,
    iteration: int,
    logprobs: Tensor,
    mismatched_logprobs: Tensor,
) -> dict[str, float]:
    """Write histograms of an iteration after its update.

    Args:
        writer: writes the histograms.
        rollout: rollout of the iteration.
        buffer: has the advantages.
        iteration: step of the histograms.
        logprobs: [N] of the responses after the update, nats.
        mismatched_logprobs: [N], with the image of another prompt.

    Returns:
        `vision/grounding_gap`: mean log-probability of the responses with their image minus that
        with the image of another prompt, nats. It is near 0 if responses ignore the image.
    """
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
