"""A rollout of ours and what we make of it: python -m baselines.parity_ours DIRECTORY."""

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from baselines.ours import build, fixed_lengths, prompts_of
from baselines.parity import nudge
from baselines.spec import PPO, World
from rlhf.config.schema import PPOConfig, SamplingConfig
from rlhf.models.policy import Policy
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.ppo.rollout import collect_rollout
from rlhf.ppo.updater import Updater


def metrics(world: World) -> dict[str, Tensor]:
    """Tokens [B, R] and what is compared, of a whole iteration."""
    case = world.case
    with fixed_lengths():
        policy, reward, config = build(world)
        nudge(policy.llava.model)
        rollout = collect_rollout(
            policy,
            reward,
            prompts_of(world),
            SamplingConfig(max_new_tokens=case.response, batch_size=case.batch),
            seed=0,
            iteration=0,
            samples=torch.zeros(case.batch, dtype=torch.int64),
            config=config,
        )
        buffer = RolloutBuffer()
        buffer.append(rollout)
        buffer.finish(config)
        steps = _steps(policy, config, buffer, case.epochs)
    shape = (case.batch, case.response)
    return {
        "tokens": rollout.responses.tokens.view(shape),
        "logprobs": rollout.old_logprobs.view(shape),
        "ref_logprobs": rollout.ref_logprobs.view(shape),
        "values": rollout.values.view(shape),
        "scores": rollout.scores,
        "advantages": buffer.advantages.view(shape),
        **steps,
    }


def _steps(
    policy: Policy, config: PPOConfig, buffer: RolloutBuffer, count: int
) -> dict[str, Tensor]:
    """Loss and gradient norms of each optimizer step."""
    updater, generator = Updater(config, policy, count), torch.Generator().manual_seed(0)
    taken: list[Any] = []
    for _ in range(count):
        for minibatch in buffer.minibatches(config.minibatch_size, generator):
            taken.append(updater.step(minibatch, train_policy=True))
    loss = [step.policy_loss + PPO["vf_coef"] * step.value_loss for step in taken]
    return {
        "loss": torch.tensor(loss),
        "grad_norm_policy": torch.tensor([step.grad_norm_policy for step in taken]),
        "grad_norm_critic": torch.tensor([step.grad_norm_critic for step in taken]),
    }


def main(directory: str) -> None:
    torch.set_num_threads(1)
    save_file(metrics(World(Path(directory))), Path(directory) / "ours.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
