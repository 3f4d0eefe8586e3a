"""LLaVAs with other language models give the hidden states of transformers, and train."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
)

from rlhf.config.schema import ModelConfig, PPOConfig, SamplingConfig
from rlhf.generation.sampler import generate
from rlhf.models.llava import Llava
from rlhf.models.policy import POLICY, build_policy
from rlhf.models.scalar_head import ScalarHead
from rlhf.ppo.trainer import PPOTrainer
from rlhf.rewards.llava_reward import LlavaReward
from tests.models.test_llava import hf_logits
from tests.support import tiny_models

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama, grouped queries": (LlamaConfig, {"num_key_value_heads": 2}),
    "llama, tied embeddings (SmolLM2)": (LlamaConfig, {"tie_word_embeddings": True}),
    "mistral": (MistralConfig, {"num_key_value_heads": 2, "sliding_window": None}),
    "mistral, sliding window": (MistralConfig, {"num_key_value_heads": 2, "sliding_window": 12}),
    "qwen2": (Qwen2Config, {"num_key_value_heads": 2}),
}


@pytest.fixture(params=KINDS)
def directory(request: pytest.FixtureRequest, tiny: Path, tmp_path: Path) -> Path:
    """The tiny LLaVA's images, tower and tokenizer with another language model."""
    kind, options = KINDS[request.param]
    config = LlavaConfig.from_pretrained(tiny / "model")
    shared = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
              "num_attention_heads", "max_position_embeddings", "initializer_range",
              "pad_token_id", "eos_token_id", "bos_token_id")  # fmt: skip
    text = kind(**{name: getattr(config.text_config, name) for name in shared}, **options)
    # Only LLaVA's own option counts, not that of its language model.
    ties = bool(options.get("tie_word_embeddings"))
    fresh = LlavaConfig(
        vision_config=config.vision_config,
        text_config=text,
        image_token_index=config.image_token_index,
        image_seq_length=config.image_seq_length,
        tie_word_embeddings=ties,
    )
    LlavaForConditionalGeneration(fresh).save_pretrained(tmp_path / "model")
    AutoProcessor.from_pretrained(tiny / "model").save_pretrained(tmp_path / "model")
    return tmp_path


def test_hidden_states_and_greedy_responses_are_those_of_transformers(
    directory: Path, tiny: Path
) -> None:
    llava = tiny_models.load(directory)
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    with torch.no_grad():
        logits = llava.response_hidden_states(prompts, responses) @ llava.output_weight.T
    for row, part in enumerate(logits.split(responses.spans.lengths.tolist())):
        start = int(prompts.spans.lengths[row]) - 1
        expected = hf_logits(llava, row, tiny, 1)[start : start + len(part)]
        torch.testing.assert_close(part, expected, atol=1e-5, rtol=1e-5)
    greedy = SamplingConfig(temperature=0, max_new_tokens=8)
    responses, _ = generate(llava, prompts, greedy)
    with torch.no_grad():
        logits = llava.response_hidden_states(prompts, responses) @ llava.output_weight.T
    logits[:, llava.banned_ids] = -torch.inf
    assert torch.equal(logits.argmax(1), responses.tokens)


def test_the_loop_runs_and_lora_is_on_every_linear_layer(
    directory: Path, tiny: Path, tmp_path: Path
) -> None:
    llava: Llava = tiny_models.load(directory)
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0, critic="adapter")
    assert len(llava.adapters.layers) == 2 * 7
    head = ScalarHead(llava.hidden_size)
    torch.nn.init.normal_(head.linear.weight)
    reward = LlavaReward(llava, head, llava.builder)
    ppo = PPOConfig(iterations=1, rollout_batch_size=4, minibatch_size=4, critic="adapter")
    sampling = SamplingConfig(max_new_tokens=6)
    prompts = tiny_models.prompts_of(llava, tiny)
    run = PPOTrainer(policy, reward, prompts, ppo, sampling=sampling, run_dir=tmp_path)
    run.run()  # refuses to start where a sanity check fails
    assert run.iteration == 1
    llava.adapters.save(POLICY, tmp_path / "adapter", llava.base)
    loaded = tiny_models.load(directory)
    loaded.adapters.load(POLICY, tmp_path / "adapter", trains=False)
    responses = tiny_models.responses_of(llava)
    with torch.no_grad():
        hidden, loaded_hidden = (
            x.response_hidden_states(prompts, responses) for x in (llava, loaded)
        )
    assert torch.equal(hidden, loaded_hidden)
