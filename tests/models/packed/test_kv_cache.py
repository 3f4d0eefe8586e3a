"""Prompts are read in pieces, into memory taken once; before LoRA on responses, once for all."""

from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from rlhf.config.schema import GIB, CriticKind, ModelConfig, SamplingConfig
from rlhf.generation.sampler import generate
from rlhf.kernels import token_logprobs
from rlhf.models.llava import Llava
from rlhf.models.packed.kv_cache import KVCache
from rlhf.models.policy import build_policy
from rlhf.types import PromptBatch
from tests.models.test_alora import adapted
from tests.support import tiny_models

LORA_TYPES = ("lora", "alora")
ATOL: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}


def hidden_of(llava: Llava, tiny: Path) -> torch.Tensor:
    with torch.no_grad():
        return llava.response_hidden_states(
            tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
        )


def count_prompt_reads(llava: Llava, monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each prompt is read from now on, by its key."""
    fill, reads = llava._fill_cache, Counter[int]()

    def counting(prompts: PromptBatch, cache: KVCache, rows: torch.Tensor) -> None:
        reads.update(prompts.sampling_keys[rows].tolist())
        fill(prompts, cache, rows)

    monkeypatch.setattr(llava, "_fill_cache", counting)
    return reads


@pytest.mark.parametrize("lora_type", LORA_TYPES)
@pytest.mark.parametrize("tokens", [1, 60, 100])
def test_prompts_read_in_pieces_are_those_read_together(
    tiny: Path, lora_type: str, tokens: int
) -> None:
    """One prompt at a time, two, four; the rows come back in their order."""
    reference, chunked = adapted(tiny, lora_type), adapted(tiny, lora_type)
    chunked.max_prefill_tokens = tokens
    prompts = tiny_models.prompts_of(reference, tiny).select(torch.tensor([3, 0, 2, 1]))
    responses = tiny_models.responses_of(reference)
    with torch.no_grad():
        expected = reference.response_hidden_states(prompts, responses)[
            responses.spans.offsets[:-1]
        ]
    hidden, _ = chunked.prefill(prompts, 4)
    torch.testing.assert_close(hidden, expected, **ATOL)
    assert float((expected[0] - expected[1]).abs().max()) > 0.1
    greedy = SamplingConfig(temperature=0, max_new_tokens=6)
    expected_responses, responses_of_chunks = (
        generate(llava, prompts, greedy)[0] for llava in (reference, chunked)
    )
    assert torch.equal(expected_responses.tokens, responses_of_chunks.tokens)


@pytest.mark.parametrize("lora_type", LORA_TYPES)
def test_decoding_appends_in_place(tiny: Path, lora_type: str) -> None:
    llava = adapted(tiny, lora_type)
    hidden, state = llava.prefill(tiny_models.prompts_of(llava, tiny), 3)
    prompts = [state.prefix.layer(layer)[0].clone() for layer in range(2)]
    for step in range(3):
        hidden, state = llava.decode(hidden.argmax(-1) % 50, state)
        if step == 0:
            where = state.suffix.layer(0)[0].data_ptr()
    assert state.suffix.layer(0)[0].data_ptr() == where
    assert state.suffix.filled == [state.suffix.size] * 2
    for layer, before in enumerate(prompts):
        assert torch.equal(state.prefix.layer(layer)[0], before)


@pytest.mark.parametrize("critic", get_args(CriticKind))
def test_all_roles_and_epochs_read_each_prompt_once_an_iteration(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, critic: CriticKind
) -> None:
    llava = tiny_models.load(tiny)
    config = ModelConfig(lora_rank=4, lora_type="alora")
    policy = build_policy(llava, config, temperature=1.0, critic=critic)
    prompts = tiny_models.prompts_of(llava, tiny)
    run = tiny_models.two_iterations(policy, prompts, tmp_path)
    reads = count_prompt_reads(llava, monkeypatch)
    if policy.critic.llava is not llava:
        monkeypatch.setattr(policy.critic.llava, "_fill_cache", llava._fill_cache)
    run.step(1)
    assert reads == Counter(prompts.sampling_keys.tolist())
    for _ in range(2):
        policy.evaluate(prompts, tiny_models.responses_of(llava))
    assert reads == Counter(prompts.sampling_keys.tolist())
    run.step(2)
    assert reads == Counter(2 * prompts.sampling_keys.tolist())


def test_equal_prompts_of_a_batch_are_read_once(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing is kept; another image makes another prompt."""
    llava = adapted(tiny, "alora")
    prompts = tiny_models.prompts_of(llava, tiny)
    expected = hidden_of(llava, tiny).split([*tiny_models.responses_of(llava).spans.lengths])
    llava.prefix_cache.clear()
    llava.prefix_cache.limit = 0
    reads, rows = count_prompt_reads(llava, monkeypatch), torch.tensor([2, 0, 2, 1, 0, 2])
    responses = tiny_models.responses_of(llava).select(rows)
    with torch.no_grad():
        hidden = llava.response_hidden_states(prompts.select(rows), responses)
    assert reads == Counter(prompts.sampling_keys[:3].tolist())
    torch.testing.assert_close(hidden, torch.cat([expected[row] for row in rows.tolist()]), **ATOL)
    same_prompt = prompts.select(torch.tensor([0, 0]))
    other_image = PromptBatch(
        same_prompt.tokens,
        same_prompt.spans,
        (prompts.images[0], prompts.images[1]),
        same_prompt.sampling_keys,
        same_prompt.instructions,
    )
    with torch.no_grad():
        final_states = llava.final_hidden_states(
            other_image, responses.select(torch.tensor([1, 1]))
        )
    assert reads[int(same_prompt.sampling_keys[0])] == 3
    assert float((final_states[0] - final_states[1]).abs().max()) > 1e-3


def test_the_prefix_cache_stays_under_its_limit_and_other_prompts_are_read_again(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llava = adapted(tiny, "alora")
    unlimited = hidden_of(llava, tiny)
    sizes = llava.prefix_cache.bytes
    prompts = tiny_models.prompts_of(llava, tiny)
    lengths = prompts.spans.lengths - len(llava.adapters.invocation)
    shape = llava.model.config.text_config
    assert sizes == int(lengths.sum()) * 2 * shape.num_hidden_layers * shape.hidden_size * 4
    llava.prefix_cache.clear()
    assert (len(llava.prefix_cache), llava.prefix_cache.bytes) == (0, 0)
    llava.prefix_cache.limit = 0.6 * sizes / GIB
    reads = count_prompt_reads(llava, monkeypatch)
    for _ in range(3):
        torch.testing.assert_close(hidden_of(llava, tiny), unlimited, **ATOL)
    assert 0 < len(llava.prefix_cache) < 4
    assert llava.prefix_cache.bytes <= 0.6 * sizes
    assert sorted(reads.values()) == [1] * len(llava.prefix_cache) + [3] * (
        4 - len(llava.prefix_cache)
    )


def test_gradients_do_not_depend_on_cached_prompts(tiny: Path) -> None:
    """A pass leaves what is kept as it was."""
    gradients = []
    for passes in (1, 3):
        llava = adapted(tiny, "alora")
        for _ in range(passes):
            hidden = llava.response_hidden_states(
                tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
            )
        hidden.square().sum().backward()
        gradients.append({name: x.grad for name, x in llava.adapters.tensors("policy").items()})
    for name, grad in gradients[0].items():
        assert grad is not None and gradients[1][name] is not None
        torch.testing.assert_close(gradients[1][name], grad, **ATOL)


def test_responses_longer_than_the_room_are_refused(tiny: Path) -> None:
    llava = adapted(tiny, "lora")
    hidden, state = llava.prefill(tiny_models.prompts_of(llava, tiny), 0)
    with pytest.raises(ValueError, match="got 2 tokens a row, wanted at most 1"):
        llava.decode(hidden.argmax(-1) % 50, state)


@pytest.mark.parametrize("lora_type", LORA_TYPES)
def test_half_precision_decodes_from_float32(tiny: Path, lora_type: str) -> None:
    """A step is as near to the wide one as a step over the whole row is."""
    torch.manual_seed(0)
    llava = tiny_models.load(tiny, "bfloat16")
    llava.adapters.add("policy", rank=4, alpha=8, lora_type=lora_type)  # type: ignore[arg-type]
    prompts, sampling = tiny_models.prompts_of(llava, tiny), SamplingConfig(max_new_tokens=8)
    _, state = llava.prefill(prompts, 3)
    for cache in (state.prefix, state.suffix):
        assert cache.layer(0)[0].dtype == torch.float32
        assert cache.export_row(0, 2).dtype == torch.bfloat16
        assert cache.row_bytes(2) == cache.export_row(0, 2).nbytes
    responses, sampled = generate(llava, prompts, sampling)
    policy_hidden = llava.response_hidden_states(prompts, responses)
    logprobs, _ = token_logprobs(
        policy_hidden, llava.output_weight, responses.tokens, banned_ids=llava.banned_ids
    )
    assert float((logprobs.detach() - sampled.logprobs).abs().mean()) < 0.01
