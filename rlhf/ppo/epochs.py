"""All optimizer steps of one rollout."""

from collections.abc import Callable

import torch

from rlhf.config.schema import PPOConfig
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.ppo.step_metrics import StepMetrics
from rlhf.ppo.updater import Updater
from rlhf.tracking.activity import working
from rlhf.tracking.profiler import count
from rlhf.types import Minibatch


def run_epochs(
    updater: Updater,
    buffer: RolloutBuffer,
    config: PPOConfig,
    *,
    train_policy: bool,
    generator: torch.Generator,
    on_skip: Callable[[Minibatch], None],
) -> list[StepMetrics]:
    """Take all optimizer steps of one rollout; stop early when a step exceeds target_kl.

    Args:
        updater: takes the steps.
        buffer: responses with advantages and returns.
        config: reads `ppo_epochs` and `minibatch_size`.
        train_policy: whether the policy is trained, not only the critic.
        generator: of the order of the minibatches.
        on_skip: called with the minibatch of each step that is not finite.

    Returns:
        Metrics of each optimizer step.
    """
    steps: list[StepMetrics] = []
    planned = config.ppo_epochs * -(-len(buffer.responses) // config.minibatch_size)
    with working("optimizer steps", planned) as progress:
        for _ in range(config.ppo_epochs):
            for minibatch in buffer.minibatches(config.minibatch_size, generator):
                step = updater.step(minibatch, train_policy=train_policy, parts=buffer.parts)
                steps.append(step)
                progress.advance()
                count("updated_responses", len(minibatch.responses))
                if step.outcome == "stopped":
                    return steps
                if step.outcome == "skipped":
                    on_skip(minibatch)
    return steps
