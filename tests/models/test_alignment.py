"""Each number belongs to the right token, and responses end at the right one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlhf.config.schema import ModelConfig, SamplingConfig
from rlhf.data.microbatching import map_microbatches
from rlhf.generation.sampler import generate
from rlhf.models.llava import Llava
from rlhf.models.policy import Policy, build_policy
from rlhf.models.scalar_head import ScalarHead
from rlhf.rewards.llava_reward import LlavaReward
from rlhf.spans import Spans
from rlhf.types import Responses
from tests.support import tiny_models


@pytest.fixture
def policy(llava: Llava) -> Policy:
    """With a critic whose values differ from token to token."""
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0)
    torch.nn.init.normal_(policy.critic.head.states.linear.weight)
    return policy


def test_a_token_changes_the_value_after_it_and_none_before(policy: Policy, tiny: Path) -> None:
    """A value is V of the state before its token: that state ends with the token before."""
    prompts = tiny_models.prompts_of(policy.llava, tiny, 1)
    tokens = torch.tensor([40, 41, 42, 43, 44])
    responses = Responses(tokens, Spans.from_lengths([5]), torch.tensor([False]))
    tokens = tokens.clone()
    tokens[2] = 50
    with torch.no_grad():
        before = policy.evaluate(prompts, responses).values
        after = policy.evaluate(prompts, replace(responses, tokens=tokens)).values
    changed = ((after - before).abs() > 1e-4).tolist()
    assert changed == [False, False, False, True, True]


def test_microbatches_keep_values_and_entropies_in_order(policy: Policy, tiny: Path) -> None:
    prompts, responses = (
        tiny_models.prompts_of(policy.llava, tiny, 8),
        tiny_models.responses_of(policy.llava),
    )
    responses = Responses.concatenate([responses, responses])
    with torch.no_grad():
        expected = policy.evaluate(prompts, responses)
        parts = map_microbatches(policy.evaluate, prompts, responses, 90)
    torch.testing.assert_close(parts.values, expected.values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts.entropy, expected.entropy, atol=1e-5, rtol=1e-5)


def test_the_entropy_is_that_of_the_sampled_distribution(llava: Llava, tiny: Path) -> None:
    """-Σ p log p in float64 of the logits over the temperature, without the banned ids."""
    prompts, responses = tiny_models.prompts_of(llava, tiny, 2), tiny_models.responses_of(llava, 2)
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=0.5)
    with torch.no_grad():
        entropy = policy.evaluate(prompts, responses).entropy
        logits = llava.response_hidden_states(prompts, responses) @ llava.output_weight.T
    logits[:, llava.banned_ids] = -100
    p = (2 * logits.double()).softmax(1)
    torch.testing.assert_close(entropy.double(), -(p * p.log()).sum(1), atol=1e-5, rtol=1e-5)


def test_positions_count_the_tokens_of_a_row_from_0(llava: Llava, tiny: Path) -> None:
    """No output would show a shift by the pads, for rotary positions are relative."""
    position_ids: list[Tensor] = []

    def record(module, args, kwargs):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        position_ids.append(kwargs["position_ids"])

    llava.model.model.language_model.register_forward_pre_hook(record, with_kwargs=True)
    prompts = tiny_models.prompts_of(llava, tiny)
    hidden, state = llava.prefill(prompts, 64)
    llava.decode(torch.full((4,), 40), state)
    lengths = prompts.spans.lengths.tolist()
    assert len(set(lengths)) > 1
    assert position_ids[0][0].tolist() == [
        position for length in lengths for position in range(length - 1)
    ]
    assert position_ids[1][0].tolist() == [
        length - 1 for length in lengths
    ]  # the last token of each
    assert position_ids[2][0].tolist() == lengths


def test_every_eos_id_of_the_generation_config_ends_a_response(llava: Llava, tiny: Path) -> None:
    prompts, sampling = tiny_models.prompts_of(llava, tiny), SamplingConfig(max_new_tokens=20)
    free, _ = generate(llava, prompts, sampling)
    eos = free.rows()[0][4]
    llava.model.generation_config.eos_token_id = [llava.processor.tokenizer.eos_token_id, eos]
    stopped, _ = generate(llava, prompts, sampling)
    assert stopped.rows()[0] == free.rows()[0][: free.rows()[0].index(eos) + 1]
    assert stopped.finished[0]


def test_a_response_that_ends_in_the_last_position_is_finished(llava: Llava, tiny: Path) -> None:
    prompts = tiny_models.prompts_of(llava, tiny, 8)
    long_responses, _ = generate(llava, prompts, SamplingConfig(max_new_tokens=150))
    row = long_responses.finished.tolist().index(True)
    length = int(long_responses.spans.lengths[row])
    exact_length, _ = generate(llava, prompts, SamplingConfig(max_new_tokens=length))
    assert exact_length.rows()[row] == long_responses.rows()[row]
    assert exact_length.finished[row]
    too_short, _ = generate(llava, prompts, SamplingConfig(max_new_tokens=length - 1))
    assert not too_short.finished[row]


def test_dropout_of_the_model_is_off(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny / "model", tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    for part in ("text_config", "vision_config"):
        config[part]["attention_dropout"] = 0.5
    file.write_text(json.dumps(config))
    llava = tiny_models.load(tmp_path)
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    first, second = (llava.response_hidden_states(prompts, responses) for _ in range(2))
    assert torch.equal(first, second)
    (path,) = prompts.images[0]
    assert torch.equal(llava.vision.encode(path).tiles, llava.vision.encode(path).tiles)


def test_the_reward_model_reads_the_sampled_tokens(llava: Llava, tiny: Path) -> None:
    """Their text would be encoded to other tokens: here it is spelled letter by letter."""
    letters = llava.processor.tokenizer.convert_tokens_to_ids(list("red"))
    assert llava.builder.decode(letters) == "red"
    spelled = Responses(torch.tensor(letters), Spans.from_lengths([3]), torch.tensor([False]))
    prompts = tiny_models.prompts_of(llava, tiny, 1)
    head = ScalarHead(llava.hidden_size)
    torch.nn.init.normal_(head.linear.weight)
    with torch.no_grad():
        reward = LlavaReward(llava, head, llava.builder)
        scores = reward.raw_scores(reward.head_inputs(prompts, spelled))
        assert torch.equal(scores, head(llava.final_hidden_states(prompts, spelled)))


def test_heads_compute_in_float32() -> None:
    """1 + 2⁻¹⁰ is exact in float32 and rounds to 1 in bfloat16."""
    head = ScalarHead(2)
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0, 2.0**-10]]))
    value = head(torch.ones(3, 2, dtype=torch.bfloat16))
    assert value.dtype == torch.float32
    assert value.tolist() == [1 + 2.0**-10] * 3
