"""Models in memory or by their paths, compared by a reward as the command compares them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config.schema import ModelConfig, SamplingConfig
from rlhf.data.record_set import Prompts
from rlhf.errors import DataError, UsageError
from rlhf.evaluation.evaluate import evaluate, generate
from rlhf.models.load_model import load_model
from rlhf.models.lora import add_adapter
from rlhf.models.policy import POLICY
from rlhf.rewards.reward import RewardFunction

GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=6)


@pytest.fixture
def prompts(tiny: Path) -> Prompts:
    return Prompts.from_directory(tiny / "pictures", "What is it?")


@pytest.fixture
def changed(tiny: Path, tmp_path: Path) -> Path:
    """An adapter that makes the model say something else."""
    model = load_model(tiny / "model", device="cpu")
    add_adapter(model.adapters, POLICY, ModelConfig(lora_rank=4))
    for value in model.adapters.tensors(POLICY).values():
        torch.nn.init.normal_(value, std=0.5)
    model.adapters.save(POLICY, tmp_path, model.base)
    return tmp_path


def test_the_win_rate_is_that_of_the_responses(tiny: Path, prompts: Prompts, changed: Path) -> None:
    base, other = load_model(tiny / "model", device="cpu"), load_model(changed, device="cpu")
    before, after = generate(base, prompts, GREEDY), generate(other, prompts, GREEDY)
    assert before != after and len(before) == 8

    def length(images: Any, instructions: Any, responses: list[str]) -> list[float]:
        return [float(len(text)) for text in responses]

    metrics = evaluate(
        {"before": base, "after": changed}, prompts, RewardFunction(length), sampling=GREEDY
    )
    pairs = [(len(b), len(a)) for b, a in zip(before, after, strict=True)]
    wins = sum(a > b for b, a in pairs) + sum(a == b for b, a in pairs) / 2
    assert metrics["after"]["win_rate"] == wins / 8
    assert metrics["before"]["win_rate"] is None
    assert metrics["after"]["score_length"] == sum(a for _, a in pairs) / 8
    assert metrics["before"]["kl"] == 0 < metrics["after"]["kl"]


def test_responses_depend_on_the_seed_alone(tiny: Path, prompts: Prompts) -> None:
    model, sampling = load_model(tiny / "model", device="cpu"), SamplingConfig(max_new_tokens=6)
    first, again, other = (generate(model, prompts, sampling, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_what_cannot_be_evaluated_is_refused(tiny: Path, prompts: Prompts) -> None:
    reward = RewardFunction(lambda *given: [0.0] * len(given[0]))
    with pytest.raises(UsageError, match="no model"):
        evaluate({}, prompts, reward)
    with pytest.raises(UsageError, match="at least 1"):
        evaluate({"x": tiny / "model"}, prompts, reward, sampling=SamplingConfig(batch_size=0))
    with pytest.raises(DataError, match="positions"):
        evaluate(
            {"x": tiny / "model"}, prompts, reward, sampling=SamplingConfig(max_new_tokens=999)
        )
