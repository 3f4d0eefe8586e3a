"""What holds for one reward model holds for each part of a weighted sum."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf.config.schema import ModelConfig, SamplingConfig
from rlhf.errors import UsageError
from rlhf.models.load_model import load_model
from rlhf.models.policy import Policy
from rlhf.models.scalar_head import ScalarHead
from rlhf.ppo.batch_sizes import limit_prefill
from rlhf.ppo.trainer import PPOTrainer
from rlhf.rewards.base import Scorer
from rlhf.rewards.combined import CombinedScorer
from rlhf.rewards.llava_reward import LlavaReward
from rlhf.rewards.reward import RewardFunction, load_reward
from rlhf.storage.checkpoint import load_checkpoint
from tests.ppo.test_trainer import PPO
from tests.support import reward_models as kit
from tests.support import tiny_models

CONFIG = replace(PPO, iterations=1, log_samples_every=100)


def trainer(tiny: Path, run_dir: Path | None = None, blind: bool = False) -> PPOTrainer:
    """A sum of a function and a head on a LLaVA; a blind head gives every response one score."""
    llava, beside = tiny_models.load(tiny), tiny_models.load(tiny)
    torch.manual_seed(0)
    policy = Policy.from_model(llava, CONFIG, ModelConfig(lora_rank=4))
    head = ScalarHead(llava.hidden_size)
    if not blind:
        torch.nn.init.normal_(head.linear.weight)
    brief = RewardFunction(lambda *given: [-float(len(text)) for text in given[2]], "brief")
    parts: dict[str, Scorer] = {"brief": brief.scorer(llava)}
    parts["head"] = LlavaReward(beside, head, llava.builder)
    return PPOTrainer(
        policy,
        CombinedScorer(parts, {"head": 1.0, "brief": 0.1}),
        tiny_models.prompts_of(llava, tiny, 8),
        CONFIG,
        sampling=SamplingConfig(max_new_tokens=6),
        run_dir=run_dir,
    )


def test_a_part_that_reads_no_image_is_refused(tiny: Path) -> None:
    trainer(tiny).run()
    with pytest.raises(UsageError, match="another image leaves unchanged"):
        trainer(tiny, blind=True).run()


def test_the_head_of_a_part_belongs_to_the_run(tiny: Path, tmp_path: Path) -> None:
    trainer(tiny, tmp_path).run()
    resumed = trainer(tiny, tmp_path)
    assert isinstance(resumed.reward, CombinedScorer)
    torch.nn.init.normal_(resumed.reward.parts["head"].head.linear.weight)  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="not the one this run began with"):
        resumed.restore(load_checkpoint(tmp_path / "checkpoints"))


def test_the_llava_of_a_part_prefills_in_smaller_parts_too(tiny: Path) -> None:
    run = trainer(tiny)
    assert isinstance(run.reward, CombinedScorer)
    limit_prefill(run.policy, run.scorers, 64)
    assert run.reward.parts["head"].llava.max_prefill_tokens == 64  # type: ignore[attr-defined]


def test_a_reward_model_shares_the_base_model_of_a_lora_only(tiny: Path, tmp_path: Path) -> None:
    llava, options = tiny_models.load(tiny), kit.options("llava_state", train="head")
    model = kit.build(llava, options)
    kit.shake(model)
    kit.save(model, tmp_path)
    for train, shares in (("lora", True), ("full", False)):
        loaded = load_model(tiny / "model", device="cpu")
        policy = Policy.from_model(loaded, CONFIG, ModelConfig(train=train))  # type: ignore[arg-type]
        prompts = tiny_models.prompts_of(loaded, tiny, 8)
        run = PPOTrainer(policy, load_reward(tmp_path), prompts, CONFIG)
        assert (run.reward.llava is loaded) == shares  # type: ignore[attr-defined]
