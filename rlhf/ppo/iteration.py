"""The prompts of an iteration, their parts, their rollout, and what is logged of it."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from rlhf.config.schema import Config, PPOConfig, SamplingConfig
from rlhf.models.policy import Policy
from rlhf.parallel.world import World
from rlhf.ppo.batch_sizes import split_batches
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.ppo.prompt_parts import PromptParts
from rlhf.ppo.rollout import clear_prefix_caches, collect_rollout
from rlhf.ppo.rollout_parts import collect_parts, gather_rollout
from rlhf.ppo.sample_logging import NUM_SAMPLES, image_logprobs, log_distributions, log_samples
from rlhf.ppo.updater import Updater
from rlhf.rewards.base import Scorer
from rlhf.tracking.writer import MetricsWriter
from rlhf.training.data_order import prompt_indices
from rlhf.types import PromptBatch, Rollout


class PPOIterations(Protocol):
    """What of a trainer decides its iterations; for the attributes see `PPOTrainer`."""

    policy: Policy
    reward: Scorer
    judge: Scorer | None
    scorers: Sequence[Scorer]  # the reward, and the judge if there is one
    prompts: PromptBatch
    config: PPOConfig
    sampling: SamplingConfig
    seed: int
    run_config: Config
    world: World
    updater: Updater

    @property
    def writer(self) -> MetricsWriter:
        """Writes the metrics."""

    def iteration_prompts(self, iteration: int) -> tuple[PromptBatch, Tensor]:
        """B prompts of an iteration, and the sample index of each."""


def iteration_rows(run: PPOIterations, iteration: int) -> tuple[Tensor, Tensor]:
    """Return the prompts of an iteration, by index, and their sample indices; [B] int64 each."""
    return prompt_indices(
        len(run.prompts),
        run.config.rollout_batch_size,
        iteration,
        samples_per_prompt=run.config.samples_per_prompt,
        seed=run.seed,
    )


def iteration_parts(run: PPOIterations, iteration: int) -> PromptParts:
    """Return the parts that the prompts of an iteration are computed in."""
    rows, _ = iteration_rows(run, iteration)
    return PromptParts.split(run.prompts.sampling_keys[rows], run.run_config.parallel.parts)


def collect_iteration(run: PPOIterations, iteration: int) -> Rollout:
    """Sample a response to each prompt of an iteration and score it, on all processes together.

    Args:
        run: the trainer.
        iteration: number of the iteration.

    Raises:
        ResourceError: no response has a score, or memory ran out.
    """
    prompts, samples = run.iteration_prompts(iteration)
    work = partial(_collect_own, run, prompts, samples, iteration)
    own = run.updater.oom_retry.run("rollout", work)
    return gather_rollout(own, prompts, run.world, run.reward.name)


def _collect_own(
    run: PPOIterations, prompts: PromptBatch, samples: Tensor, iteration: int
) -> Rollout:
    """Collect the parts of this process."""
    clear_prefix_caches(run.policy, run.scorers)  # they hold the prompts of the last iteration
    config, sampling = split_batches(run.config, run.sampling, run.updater.oom_retry.split)

    def collect(part: PromptBatch, part_samples: Tensor) -> Rollout:
        return collect_rollout(
            run.policy,
            run.reward,
            part,
            sampling,
            seed=run.seed,
            iteration=iteration,
            samples=part_samples,
            config=config,
            judge=run.judge,
        )

    return collect_parts(collect, prompts, samples, iteration_parts(run, iteration), run.world)


def log_iteration(
    run: PPOIterations, rollout: Rollout, buffer: RolloutBuffer, iteration: int
) -> dict[str, float]:
    """Write histograms and sampled responses, and return the metrics measured for them.

    Args:
        run: the trainer, after the update.
        rollout: of the iteration.
        buffer: has its advantages.
        iteration: number of the iteration.
    """
    work = partial(_own_samples, run, rollout, buffer.parts, iteration)
    own = run.updater.oom_retry.run("sample logging", work)
    logprobs = [run.world.gather(part) for part in own]
    return log_distributions(run.writer, rollout, buffer, iteration, *logprobs)


def _own_samples(
    run: PPOIterations, rollout: Rollout, parts: PromptParts, iteration: int
) -> tuple[Tensor, Tensor]:
    """Write sampled responses, and return `image_logprobs` of the parts of this process."""
    config, sampling = split_batches(run.config, run.sampling, run.updater.oom_retry.split)
    first = run.prompts.select(torch.arange(min(NUM_SAMPLES, len(run.prompts))))
    models, tokens = (run.policy, run.reward), config.microbatch_tokens
    if run.world.is_first:
        log_samples(run.writer, *models, first, iteration, sampling, max_tokens=tokens)
    keys = rollout.prompts.sampling_keys
    shares = [parts.rows(keys, part) for part in run.world.share(parts.count)]
    return image_logprobs(run.policy, rollout, shares, tokens)
