"""The whole trainer on a tiny LLaVA whose reward depends on the colour of the image alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from rlhf.config.schema import ModelConfig, PPOConfig, SamplingConfig
from rlhf.data.collate import prompt_batch
from rlhf.data.records import PromptRecord
from rlhf.demo.settings import SHAPES
from rlhf.demo.tiny_llava import train_vision_tower
from rlhf.models.llava import Llava
from rlhf.models.policy import build_policy
from rlhf.models.scalar_head import ScalarHead
from rlhf.ppo.trainer import PPOTrainer
from rlhf.rewards.llava_reward import LlavaReward
from rlhf.tracking.reader import read_metrics
from rlhf.types import PromptBatch, Responses
from tests.support import tiny_models

COLOURS = ((230, 20, 20), (20, 200, 20), (20, 20, 230), (230, 230, 20))
CHANCE = 1 / len(COLOURS)
PPO = PPOConfig(
    iterations=50,
    rollout_batch_size=64,
    minibatch_size=32,
    ppo_epochs=2,
    lr=3e-3,
    lr_schedule="linear",
    kl_coef=0.01,
    critic_warmup_iterations=1,
    missing_eos="none",
    sanity_checks=False,  # one needs a reward that reads the pixels
    log_samples_every=1000,
)


class ColourReward(LlavaReward):
    """Scores 1 if the only token, modulo 4, is the index of the prompt's colour, else 0."""

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        return (responses.tokens % len(COLOURS) == prompts.sampling_keys % len(COLOURS)).float()


def coloured_prompts(llava: Llava, directory: Path) -> PromptBatch:
    """Return 64 equal questions about images of one colour each, in four shades."""
    count = PPO.rollout_batch_size
    for row in range(count):
        shade = tuple(value + 3 * (row // 4 % 4) for value in COLOURS[row % 4])
        Image.new("RGB", (48, 48), shade).save(directory / f"{row}.png")
    records = [PromptRecord(f"{row}.png", "Describe the picture.") for row in range(count)]
    prompts = prompt_batch(records, llava.builder, directory, max_tokens=200)
    return replace(prompts, sampling_keys=torch.arange(count))


def trainer(tiny: Path, directory: Path) -> PPOTrainer:
    """Return a trainer at temperature 0.2, at which the model's small logits can become certain."""
    sampling = SamplingConfig(max_new_tokens=1, temperature=0.2)
    llava, lessons = tiny_models.load(tiny), SHAPES.lessons(64, 0)
    train_vision_tower(llava.model, llava.processor, *lessons, steps=2, seed=0)
    policy = build_policy(llava, ModelConfig(train="full"), temperature=0.2)
    reward = ColourReward(llava, ScalarHead(llava.hidden_size), llava.builder)
    prompts = coloured_prompts(llava, directory)
    return PPOTrainer(policy, reward, prompts, PPO, sampling=sampling, run_dir=directory)


def last_scores(directory: Path) -> float:
    """Return the mean score of the last five iterations."""
    return sum(value for _, value in read_metrics(directory)["objective/scores"][-5:]) / 5


@pytest.mark.slow
def test_the_colour_is_learned(tiny: Path, tmp_path: Path) -> None:
    trainer(tiny, tmp_path).run()
    first = read_metrics(tmp_path)["objective/scores"][0][1]
    assert first == pytest.approx(CHANCE, abs=0.2)
    assert last_scores(tmp_path) > 0.95


@pytest.mark.slow
def test_with_shuffled_images_the_score_stays_at_chance(tiny: Path, tmp_path: Path) -> None:
    """Control: the colour can be learned from the image only."""
    run = trainer(tiny, tmp_path)
    iteration_prompts, generator = run.iteration_prompts, torch.Generator().manual_seed(0)

    def shuffled(iteration: int) -> tuple[PromptBatch, Tensor]:
        prompts, samples = iteration_prompts(iteration)
        others = torch.randperm(len(prompts), generator=generator)
        return replace(prompts, images=prompts.select(others).images), samples

    run.iteration_prompts = shuffled  # type: ignore[method-assign]
    run.run()
    assert last_scores(tmp_path) == pytest.approx(CHANCE, abs=0.1)
