"""Reward models of both kinds: what they read, that they learn, that they survive the disk."""

from dataclasses import replace
from pathlib import Path

import pytest
import small
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaModel

from rlhf.config import Config, ModelConfig, PPOConfig, RewardConfig
from rlhf.data.collate import response_batch
from rlhf.errors import UsageError
from rlhf.metrics import MetricsWriter
from rlhf.models.llava import Llava
from rlhf.models.reward import CaptionReward, LlavaReward, RewardModel, score
from rlhf.models.reward_files import build_reward, load_reward, save_reward
from rlhf.trainers.reward import RewardTrainer
from rlhf.types import PreferenceBatch

KINDS = ("llava_head", "caption_text")


@pytest.fixture(scope="session")
def text_model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small text-only Llama with the tiny model's tokenizer."""
    folder = tmp_path_factory.mktemp("text")
    tokenizer = AutoTokenizer.from_pretrained(tiny / "model")
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.08,
    )
    LlamaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def options(kind: str, text_model: Path, train: str = "lora") -> RewardConfig:
    return RewardConfig(
        kind=kind, train=train, text_model=str(text_model), lr=1e-2, epochs=8, warmup_steps=2
    )


def build(kind: str, llava: Llava, text_model: Path, train: str = "lora") -> RewardModel:
    return build_reward(options(kind, text_model, train), ModelConfig(lora_rank=4), llava)


def shake(model: RewardModel) -> None:
    torch.nn.init.normal_(model.head.linear.weight)


@pytest.fixture
def llava(tiny: Path) -> Llava:
    return small.load(tiny)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_alone_and_in_a_batch_score_the_same(
    llava: Llava, tiny: Path, text_model: Path, kind: str
) -> None:
    model = build(kind, llava, text_model)
    shake(model)
    prompts, responses = small.prompts_of(llava, tiny), small.responses_of(llava)
    together = score(model, prompts, responses, max_tokens=10_000)
    alone = score(model, prompts, responses, max_tokens=1)
    assert float(together.std()) > 1e-2
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_llava_head_sees_picture_instruction_and_response(
    llava: Llava, tiny: Path, text_model: Path
) -> None:
    model = build("llava_head", llava, text_model)
    shake(model)
    prompts, responses = small.prompts_of(llava, tiny), small.responses_of(llava)
    base = score(model, prompts, responses, max_tokens=9999)
    swapped = replace(prompts, images=(*prompts.images[1:], prompts.images[0]))
    assert (score(model, swapped, responses, max_tokens=9999) != base).all()
    turned = responses.select(torch.tensor([3, 2, 1, 0]))
    assert (score(model, prompts, turned, max_tokens=9999) != base).all()


def test_caption_text_reads_description_instruction_and_response(
    llava: Llava, tiny: Path, text_model: Path
) -> None:
    model = build("caption_text", llava, text_model)
    assert isinstance(model, CaptionReward)
    prompts, responses = small.prompts_of(llava, tiny), small.responses_of(llava)
    texts = model.texts(prompts, responses)
    captions = model.captioner.captions([row[0] for row in prompts.images])
    assert texts[3] == (
        f"Image description: {captions[3]}\nInstruction: What is at the top left?\n"
        "Response: a blue star"
    )


def test_scores_are_normalised_by_the_stored_mean_and_std(
    llava: Llava, tiny: Path, text_model: Path
) -> None:
    model = build("llava_head", llava, text_model)
    shake(model)
    prompts, responses = small.prompts_of(llava, tiny), small.responses_of(llava)
    raw = score(model, prompts, responses, max_tokens=9999)
    model.mean, model.std = 2.0, 4.0
    torch.testing.assert_close(score(model, prompts, responses, max_tokens=9999), (raw - 2) / 4)


def pairs(llava: Llava, tiny: Path) -> PreferenceBatch:
    prompts = small.prompts_of(llava, tiny, 8)
    chosen = response_batch(["a red circle"] * 4 + ["blue"] * 4, llava.builder)
    rejected = response_batch(["I do not know what it is."] * 8, llava.builder)
    return PreferenceBatch(prompts, chosen, rejected)


@pytest.mark.parametrize("kind", KINDS)
def test_training_learns_an_easy_preference_and_the_files_keep_it(
    llava: Llava, tiny: Path, text_model: Path, tmp_path: Path, kind: str
) -> None:
    model, data = build(kind, llava, text_model), pairs(llava, tiny)
    settings = options(kind, text_model)
    config = Config(reward=settings, ppo=PPOConfig(microbatch_tokens=9999))
    trunk = {name: value.clone() for name, value in llava.model.named_parameters()}
    with MetricsWriter(tmp_path / "run") as writer:
        trainer = RewardTrainer(config, model, data, data, writer)
        assert trainer.run() == 1.0
    for name, value in llava.model.named_parameters():
        assert "lora_" in name or torch.equal(value, trunk[name]), name
    scores = score(model, data.prompts, data.chosen, max_tokens=9999)
    both = torch.cat([scores, score(model, data.prompts, data.rejected, max_tokens=9999)])
    assert float(both.mean()) == pytest.approx(0, abs=1e-4)
    assert float(both.std(correction=0)) == pytest.approx(1, abs=1e-3)

    save_reward(model, tmp_path / "run" / "reward", settings, llava.base)
    for share in (True, False):
        again = load_reward(str(tmp_path / "run"), small.load(tiny), share_trunk=share)
        found = score(again, data.prompts, data.chosen, max_tokens=9999)
        torch.testing.assert_close(found, scores, atol=1e-5, rtol=1e-5)


def test_the_shared_trunk_is_read_with_the_policy_adapter_off(
    llava: Llava, tiny: Path, text_model: Path, tmp_path: Path
) -> None:
    model = build("llava_head", llava, text_model)
    shake(model)
    save_reward(model, tmp_path, options("llava_head", text_model), llava.base)
    policy = small.load(tiny)
    policy.adapters.add("policy", rank=4, alpha=8)
    shared = load_reward(str(tmp_path), policy, share_trunk=True)
    assert isinstance(shared, LlavaReward) and shared.llava is policy
    assert policy.adapters.current == "policy"
    prompts, responses = small.prompts_of(policy, tiny), small.responses_of(policy)
    before = score(shared, prompts, responses, max_tokens=9999)
    with torch.no_grad():
        for value in policy.adapters.tensors("policy").values():
            value.add_(torch.randn_like(value))
    assert torch.equal(score(shared, prompts, responses, max_tokens=9999), before)


def test_another_models_responses_are_encoded_anew(
    llava: Llava, tiny: Path, text_model: Path
) -> None:
    model = build("llava_head", llava, text_model)
    shake(model)
    prompts, responses = small.prompts_of(llava, tiny), small.responses_of(llava)
    own = score(model, prompts, responses, max_tokens=9999)
    other = small.load(tiny)
    assert isinstance(model, LlavaReward)
    model.source = other.builder
    torch.testing.assert_close(score(model, prompts, responses, max_tokens=9999), own)


def test_full_training_saves_its_own_trunk(
    llava: Llava, tiny: Path, text_model: Path, tmp_path: Path
) -> None:
    model = build("llava_head", llava, text_model, train="full")
    shake(model)
    with torch.no_grad():
        for value in llava.model.model.language_model.layers.parameters():
            value.mul_(1.1)
    prompts, responses = small.prompts_of(llava, tiny), small.responses_of(llava)
    own = score(model, prompts, responses, max_tokens=9999)
    save_reward(model, tmp_path, options("llava_head", text_model, "full"), llava.base)
    again = load_reward(str(tmp_path), small.load(tiny), share_trunk=True)
    torch.testing.assert_close(score(again, prompts, responses, max_tokens=9999), own)


def test_a_folder_without_a_reward_model_is_refused(llava: Llava, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no reward model"):
        load_reward(str(tmp_path), llava, share_trunk=True)
