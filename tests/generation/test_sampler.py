"""Keyed sampling: tokens depend on the key and the probabilities only."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from rlhf.config.schema import EngineKind, SamplingConfig
from rlhf.data.images import load_image
from rlhf.generation.engines import ENGINES
from rlhf.generation.sampler import generate
from rlhf.kernels import token_logprobs
from rlhf.models.llava import Llava
from rlhf.models.packed.kv_cache import DecodeState
from tests.models.test_alora import adapted
from tests.support import tiny_models


def test_batching_and_order_do_not_change_what_is_sampled(llava: Llava, tiny: Path) -> None:
    prompts = tiny_models.prompts_of(llava, tiny, 6)
    all_at_once, _ = generate(llava, prompts, SamplingConfig(max_new_tokens=12), seed=3)
    in_pairs, _ = generate(llava, prompts, SamplingConfig(max_new_tokens=12, batch_size=2), seed=3)
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    moved, _ = generate(llava, prompts.select(order), SamplingConfig(max_new_tokens=12), seed=3)
    assert all_at_once.rows() == in_pairs.rows()
    assert moved.rows() == all_at_once.select(order).rows()


def test_seed_iteration_and_sample_index_each_change_what_is_sampled(
    llava: Llava, tiny: Path
) -> None:
    prompts, sampling = tiny_models.prompts_of(llava, tiny), SamplingConfig(max_new_tokens=12)
    base = generate(llava, prompts, sampling)[0].rows()
    assert generate(llava, prompts, sampling)[0].rows() == base
    assert generate(llava, prompts, sampling, seed=1)[0].rows() != base
    assert generate(llava, prompts, sampling, iteration=1)[0].rows() != base
    ones = torch.ones(len(prompts), dtype=torch.int64)
    assert generate(llava, prompts, sampling, samples=ones)[0].rows() != base


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_log_probabilities_are_those_that_training_gives_the_hidden_states(
    tiny: Path, dtype: str
) -> None:
    llava = tiny_models.load(tiny, dtype)
    prompts, sampling = tiny_models.prompts_of(llava, tiny), SamplingConfig(max_new_tokens=12)
    responses, sampled = generate(llava, prompts, sampling, return_hidden_states=True)
    hidden, weight = sampled.hidden_states, llava.output_weight
    assert hidden is not None and hidden.dtype == getattr(torch, dtype)
    tokens, banned = responses.tokens, llava.banned_ids
    logprobs, _ = token_logprobs(hidden, weight, tokens, banned_ids=banned)
    torch.testing.assert_close(sampled.logprobs, logprobs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("lora_type", ["lora", "alora"])
def test_finished_rows_leave_the_batch_without_changing_the_others(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, lora_type: str
) -> None:
    llava, computed = adapted(tiny, lora_type), list[int]()
    monkeypatch.setattr(Llava, "eos_ids", property(lambda self: list(range(1, 300, 11))))
    prompts, sampling = tiny_models.prompts_of(llava, tiny, 8), SamplingConfig(max_new_tokens=12)
    decode = llava.decode

    def counting(tokens: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        computed.append(len(tokens))
        return decode(tokens, state)

    monkeypatch.setattr(llava, "decode", counting)
    monkeypatch.setattr("rlhf.generation.decode_loop.COMPACT_BELOW", 0)
    uncompacted, expected = generate(llava, prompts, sampling, seed=2)
    assert set(computed) == {8}
    computed.clear()
    monkeypatch.setattr("rlhf.generation.decode_loop.COMPACT_BELOW", 0.75)
    compacted, sampled = generate(llava, prompts, sampling, seed=2)
    assert compacted.rows() == uncompacted.rows()
    torch.testing.assert_close(sampled.logprobs, expected.logprobs, atol=1e-4, rtol=0)
    lengths = compacted.spans.lengths
    assert len({*lengths.tolist()}) > 3
    running = [int((lengths > position).sum()) for position in range(1, int(lengths.max()))]
    assert sum(computed) < 0.75 * 8 * len(computed)
    assert all(0.75 * rows < count <= rows for rows, count in zip(computed, running, strict=True))


def test_greedy_tokens_are_those_of_transformers(llava: Llava, tiny: Path) -> None:
    prompts = tiny_models.prompts_of(llava, tiny)
    responses, _ = generate(llava, prompts, SamplingConfig(temperature=0.0, max_new_tokens=10))
    for row, tokens in enumerate(responses.rows()):
        image = load_image(prompts.images[row][0])
        pixels = llava.processor.image_processor(image, return_tensors="pt").pixel_values
        ids = prompts.select(torch.tensor([row])).tokens.unsqueeze(0)
        output = llava.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels,
            max_new_tokens=10,
            do_sample=False,
            suppress_tokens=llava.banned_ids,
        )
        assert output[0, ids.shape[1] :].tolist() == tokens


def test_the_sampled_logprobs_are_those_of_the_training_forward(llava: Llava, tiny: Path) -> None:
    prompts = tiny_models.prompts_of(llava, tiny)
    responses, sampled = generate(llava, prompts, SamplingConfig(temperature=0.7, max_new_tokens=9))
    with torch.no_grad():
        logprobs, _ = token_logprobs(
            llava.response_hidden_states(prompts, responses),
            llava.output_weight,
            responses.tokens,
            temperature=0.7,
            banned_ids=llava.banned_ids,
        )
    torch.testing.assert_close(sampled.logprobs, logprobs, atol=1e-4, rtol=0)


def test_first_tokens_are_as_frequent_as_their_probability(llava: Llava, tiny: Path) -> None:
    """χ² of 6,000 draws at temperature 0.7 with banned ids against exp(logprob)."""
    draws = 6000
    one = tiny_models.prompts_of(llava, tiny, 1)
    prompts = replace(one.select(torch.zeros(draws, dtype=torch.int64)))
    sampling = SamplingConfig(temperature=0.7, max_new_tokens=1, batch_size=draws)
    responses, _ = generate(llava, prompts, sampling, samples=torch.arange(draws))
    with torch.no_grad():
        hidden, _ = llava.prefill(one, 0)
    vocabulary = llava.output_weight.shape[0]
    allowed = torch.tensor([i for i in range(vocabulary) if i not in llava.banned_ids])
    logprobs, _ = token_logprobs(
        hidden.expand(len(allowed), -1),
        llava.output_weight,
        allowed,
        temperature=0.7,
        banned_ids=llava.banned_ids,
    )
    expected, counts = (
        logprobs.exp().double() * draws,
        responses.tokens.bincount(minlength=vocabulary),
    )
    common = expected >= 5
    observed = counts[allowed]
    assert int(counts[llava.banned_ids].sum()) == 0
    observed_counts = torch.cat([observed[common], observed[~common].sum().view(1)]).double()
    expected_counts = torch.cat([expected[common], expected[~common].sum().view(1)])
    expected_counts *= observed_counts.sum() / expected_counts.sum()
    assert chisquare(observed_counts, expected_counts).pvalue > 1e-3


def test_finished_responses_end_with_eos(llava: Llava, tiny: Path) -> None:
    prompts = tiny_models.prompts_of(llava, tiny, 8)
    responses, _ = generate(llava, prompts, SamplingConfig(max_new_tokens=150))
    ends = [row[-1] in llava.eos_ids for row in responses.rows()]
    assert responses.finished.tolist() == ends
    for row, finished in zip(responses.rows(), ends, strict=True):
        assert len(row) == 150 or finished
        assert not any(token in llava.eos_ids for token in row[:-1])


def test_eos_belongs_to_the_response_when_it_is_also_the_pad(llava: Llava, tiny: Path) -> None:
    llava.processor.tokenizer.pad_token = llava.processor.tokenizer.eos_token
    responses, sampled = generate(
        llava, tiny_models.prompts_of(llava, tiny, 8), SamplingConfig(max_new_tokens=150), seed=1
    )
    eos = llava.processor.tokenizer.eos_token_id
    assert responses.finished.any()
    assert [row[-1] == eos for row in responses.rows()] == responses.finished.tolist()
    assert len(sampled.logprobs) == responses.spans.num_tokens


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("engine", ENGINES)
def test_logits_that_are_not_finite_are_refused(
    llava: Llava, tiny: Path, engine: EngineKind, temperature: float
) -> None:
    prompts = tiny_models.prompts_of(llava, tiny)
    torch.nn.init.constant_(llava.model.lm_head.weight[-1:], torch.inf)
    sampling = SamplingConfig(temperature=temperature, max_new_tokens=3)
    with pytest.raises(ValueError, match="logits: got a row without a distribution"):
        generate(llava, prompts, sampling, batch_generator=ENGINES[engine])
