"""A short PPO run of the tiny model on any device, and what it trained."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.config.schema import ModelConfig, PPOConfig, SamplingConfig
from rlhf.models.policy import build_policy
from rlhf.models.scalar_head import ScalarHead
from rlhf.ppo.trainer import PPOTrainer
from rlhf.rewards.llava_reward import LlavaReward
from rlhf.rewards.reward import Reward, RewardFunction
from tests.support import tiny_models

SHORT: dict[str, Any] = {
    "iterations": 2,
    "rollout_batch_size": 4,
    "minibatch_size": 4,
    "ppo_epochs": 1,
    "lr": 1e-3,
    "log_samples_every": 2,
    "sanity_checks": False,
}


def ppo_run(
    tiny: Path,
    directory: Path | None = None,
    device: str = "cpu",
    *,
    dtype: str = "float32",
    temperature: float = 1.0,
    cuda_graphs: bool = False,
    reward: Reward | None = None,
    **options: Any,
) -> PPOTrainer:
    """Return a trainer of two iterations, whose reward is a random head on a LLaVA.

    Args:
        tiny: the directory of the `tiny` fixture.
        directory: of the run; None: no file is written.
        device: of all models.
        dtype: of their weights.
        temperature: of sampling.
        cuda_graphs: of sampling.
        reward: in its place, and the head becomes the judge.
        options: of `PPOConfig` and `ModelConfig`.
    """
    torch.manual_seed(0)
    names = vars(ModelConfig())
    model = ModelConfig(lora_rank=4, **{k: options.pop(k) for k in [*options] if k in names})
    ppo = PPOConfig(**SHORT | options)
    llava = tiny_models.load(tiny, dtype, device=device)
    llava.gradient_checkpointing = model.gradient_checkpointing is True
    kinds: dict[str, Any] = {"critic": ppo.critic, "critic_head": ppo.critic_head}
    policy = build_policy(llava, model, temperature=temperature, **kinds)
    scoring = llava if policy.base_is_frozen else tiny_models.load(tiny, dtype, device=device)
    head = ScalarHead(llava.hidden_size)
    torch.nn.init.normal_(head.linear.weight)
    scorer = LlavaReward(scoring, head.to(scoring.device), llava.builder)
    return PPOTrainer(
        policy,
        reward or scorer,
        tiny_models.prompts_of(llava, tiny),
        ppo,
        judge=scorer if reward else None,
        sampling=SamplingConfig(max_new_tokens=6, temperature=temperature, cuda_graphs=cuda_graphs),
        run_dir=directory,
    )


def trained(run: PPOTrainer) -> dict[str, Tensor]:
    """Return all weights that a run trains, on the CPU."""
    named = {**run.policy.trainable_parameters(), **run.policy.critic_parameters()}
    return {name: value.detach().cpu().clone() for name, value in named.items()}


def sometimes_scored() -> Reward:
    """Return a sum of two rewards, one of which has no score for some responses."""

    def length(images: Any, instructions: Any, responses: list[str]) -> list[float]:
        return [len(text) if len(text) % 3 else float("nan") for text in responses]

    def words(images: Any, instructions: Any, responses: list[str]) -> list[float]:
        return [float(len(text.split())) for text in responses]

    return 0.1 * RewardFunction(length, on_failure="drop") + RewardFunction(words)
