"""Our numbers for the parity check: python -m baselines.parity_ours DIRECTORY."""

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from baselines.ours import build, fixed_lengths, prompts_of
from baselines.parity import perturb
from baselines.spec import PPO, CaseFiles
from rlhf.config.schema import PPOConfig, SamplingConfig
from rlhf.models.policy import Policy
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.ppo.rollout import collect_rollout
from rlhf.ppo.updater import Updater


def metrics(case_files: CaseFiles) -> dict[str, Tensor]:
    """Return the tokens [B, R] of an iteration and the metrics that are compared."""
    case = case_files.case
    with fixed_lengths():
        policy, reward, config = build(case_files)
        perturb(policy.llava.model)
        rollout = collect_rollout(
            policy,
            reward,
            prompts_of(case_files),
            SamplingConfig(max_new_tokens=case.response_tokens, batch_size=case.batch_size),
            seed=0,
            iteration=0,
            samples=torch.zeros(case.batch_size, dtype=torch.int64),
            config=config,
        )
        buffer = RolloutBuffer()
        buffer.append(rollout)
        buffer.finish(config)
        steps = _steps(policy, config, buffer, case.ppo_epochs)
    shape = (case.batch_size, case.response_tokens)
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
    """Return loss and gradient norms of each optimizer step."""
    updater, generator = Updater(config, policy, count), torch.Generator().manual_seed(0)
    steps: list[Any] = []
    for _ in range(count):
        for minibatch in buffer.minibatches(config.minibatch_size, generator):
            steps.append(updater.step(minibatch, train_policy=True))
    loss = [step.policy_loss + PPO["vf_coef"] * step.value_loss for step in steps]
    return {
        "loss": torch.tensor(loss),
        "grad_norm_policy": torch.tensor([step.grad_norm_policy for step in steps]),
        "grad_norm_critic": torch.tensor([step.grad_norm_critic for step in steps]),
    }


def main(directory: str) -> None:
    torch.set_num_threads(1)
    save_file(metrics(CaseFiles(Path(directory))), Path(directory) / "ours.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
