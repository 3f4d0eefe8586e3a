"""Supervised training, reward models, generation, evaluation and resuming on a disguised GPU.

It is mostly MPS, which lacks more than cuda; generation has a branch for each.
"""

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from rlhf.config.schema import ModelConfig, SamplingConfig, SFTConfig
from rlhf.data.record_set import Prompts
from rlhf.demo.scenes import CLASSES, draw_scene, sample_scene
from rlhf.demo.tiny_llava import train_vision_tower
from rlhf.evaluation.evaluate import evaluate
from rlhf.generation.engines import ENGINES
from rlhf.generation.sampler import generate
from rlhf.generation.transformers_engine import beam_search
from rlhf.models.lora import add_adapter
from rlhf.models.policy import POLICY
from rlhf.rewards.reward import RewardFunction, load_reward
from rlhf.storage.checkpoint import load_checkpoint
from rlhf.training.reward_trainer import RewardTrainer
from rlhf.training.sft_trainer import SFTTrainer
from tests.devices.runs import ppo_run, trained
from tests.support import reward_models as kit
from tests.support import tiny_models
from tests.support.device_tensor import Kind
from tests.support.disguised_gpu import disguised_gpu


def sft_losses(tiny: Path, device: str, train: Any) -> list[float]:
    llava = tiny_models.load(tiny, device=device)
    examples = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    config = SFTConfig(batch_size=2, epochs=2, lr=1e-3, warmup_steps=1, microbatch_tokens=60)
    torch.manual_seed(0)
    training = ModelConfig(train=train, lora_rank=4)
    return [step["sft/loss"] for step in SFTTrainer(llava, examples, config, training)]


@pytest.mark.parametrize("train", ["lora", "full"])
def test_supervised_training(tiny: Path, train: str) -> None:
    expected = sft_losses(tiny, "cpu", train)
    with disguised_gpu("mps"):
        losses = sft_losses(tiny, "mps", train)
    assert losses == pytest.approx(expected, abs=1e-5)


def tower_losses(tiny: Path, device: str) -> list[float]:
    """Losses of the vision tower that the demo trains, and the share that it names right."""
    llava, losses = tiny_models.load(tiny, device=device), list[float]()
    llava.model.requires_grad_(True)
    scenes = [sample_scene(Random(n)) for n in range(8)]
    share = train_vision_tower(
        llava.model,
        llava.processor,
        [draw_scene(scene) for scene in scenes],
        torch.tensor([scene.quarters() for scene in scenes]),
        CLASSES,
        steps=3,
        seed=0,
        on_step=lambda done, total, loss: losses.append(loss),
    )
    return [*losses, share]


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_the_demo_trains_its_vision_tower(tiny: Path, kind: Kind) -> None:
    expected = tower_losses(tiny, "cpu")
    with disguised_gpu(kind):
        assert tower_losses(tiny, kind) == pytest.approx(expected, abs=1e-5)


def reward_scores(
    tiny: Path, text_model: Path, directory: Path, device: str, kind: str, train: str
) -> list[float]:
    """Scores of a reward model after two steps, saved and loaded."""
    torch.manual_seed(0)
    llava = tiny_models.load(tiny, device=device)
    config = kit.options(kind, text_model, train, epochs=2, lr=1e-3)
    model, pairs = kit.build(llava, config), kit.pairs_of(llava, tiny)
    trainer = RewardTrainer(model, pairs, config, validation=pairs, run_dir=directory)
    trainer.run()
    saved = load_reward(trainer.save()).scorer(llava, share_base_model=train != "full")
    scores: list[float] = saved.scores(*pairs.stacked(), max_tokens=9999).tolist()
    return scores


@pytest.mark.parametrize(
    ("model", "train"),
    [
        ("llava_head", "head"),
        ("llava_head", "lora"),
        ("llava_head", "full"),
        ("caption_text", "lora"),
    ],
)
@pytest.mark.usefixtures("low_floor")
def test_reward_models(
    tiny: Path, text_model: Path, tmp_path: Path, model: str, train: str
) -> None:
    expected = reward_scores(tiny, text_model, tmp_path / "cpu", "cpu", model, train)
    with disguised_gpu("mps"):
        scores = reward_scores(tiny, text_model, tmp_path / "mps", "mps", model, train)
    assert scores == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.0}, {"top_p": 0.8}, {"top_k": 5, "temperature": 0.7}]
)
def test_generation(tiny: Path, kind: Kind, engine: Any, options: dict[str, Any]) -> None:
    sampling = SamplingConfig(max_new_tokens=6, **options)

    def sampled(device: str) -> tuple[list[list[int]], torch.Tensor]:
        llava = tiny_models.load(tiny, device=device)
        prompts = tiny_models.prompts_of(llava, tiny)
        responses, tokens = generate(llava, prompts, sampling, batch_generator=ENGINES[engine])
        return responses.rows(), tokens.logprobs

    expected, logprobs = sampled("cpu")
    with disguised_gpu(kind):
        rows, actual = sampled(kind)
    assert rows == expected
    torch.testing.assert_close(actual, logprobs, atol=2e-5, rtol=0)


def test_beam_search(tiny: Path) -> None:
    def best(device: str) -> list[list[int]]:
        llava = tiny_models.load(tiny, device=device)
        sampling = SamplingConfig(max_new_tokens=5)
        prompts = tiny_models.prompts_of(llava, tiny)
        return beam_search(llava, prompts, sampling, num_beams=3).rows()

    expected = best("cpu")
    with disguised_gpu("mps"):
        assert best("mps") == expected


def test_evaluation(tiny: Path) -> None:
    def metrics(device: str) -> dict[str, float]:
        torch.manual_seed(0)
        base, tuned = (tiny_models.load(tiny, device=device) for _ in range(2))
        add_adapter(tuned.adapters, POLICY, ModelConfig(lora_rank=4))
        for value in tuned.adapters.tensors(POLICY).values():
            torch.nn.init.normal_(value, std=0.5)
        prompts = Prompts.from_directory(tiny / "pictures", "What is it?")
        reward = RewardFunction(lambda images, texts, responses: [len(text) for text in responses])
        sampling = SamplingConfig(temperature=0.0, max_new_tokens=6)
        return evaluate({"base": base, "tuned": tuned}, prompts, reward, sampling=sampling)["tuned"]

    expected = metrics("cpu")
    with disguised_gpu("mps"):
        assert metrics("mps") == pytest.approx(expected, abs=1e-4)


def test_a_resumed_run(tiny: Path, tmp_path: Path) -> None:
    with disguised_gpu("mps"):
        whole = ppo_run(tiny, tmp_path / "whole", "mps")
        whole.run()
        cut = ppo_run(tiny, tmp_path / "cut", "mps")
        next(cut.iterations())
        cut.save_checkpoint()
        resumed = ppo_run(tiny, tmp_path / "cut", "mps")
        resumed.restore(load_checkpoint(tmp_path / "cut/checkpoints"))
        resumed.run()
        expected, actual = trained(whole), trained(resumed)
    assert all(torch.equal(actual[name], value) for name, value in expected.items())
