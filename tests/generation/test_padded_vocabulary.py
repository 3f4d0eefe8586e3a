"""Ids that the model has and the tokenizer has not are neither sampled nor scored."""

from pathlib import Path

import pytest
import torch

from rlhf.config.schema import SamplingConfig
from rlhf.generation.sampler import generate
from rlhf.generation.transformers_engine import beam_search, hf_generate_batch
from rlhf.models.llava import Llava
from rlhf.models.policy import Policy
from tests.support import tiny_models


def padded(llava: Llava, rows: int) -> Llava:
    """The model with `rows` more output logits than its tokenizer has tokens, all of them large."""
    torch.manual_seed(0)
    llava.model.resize_token_embeddings(len(llava.processor.tokenizer) + rows)
    with torch.no_grad():
        llava.output_weight[-rows:] = 3 * torch.randn(rows, llava.hidden_size)
    return llava


def test_ids_beyond_the_tokenizer_are_neither_sampled_nor_scored(llava: Llava, tiny: Path) -> None:
    tokenizer, prompts = llava.processor.tokenizer, tiny_models.prompts_of(llava, tiny)
    count, banned, sampling = len(tokenizer), llava.banned_ids, SamplingConfig(max_new_tokens=12)
    with torch.no_grad():
        expected, sampled = generate(llava, prompts, sampling)
        outputs = Policy(llava, llava, temperature=1.0).evaluate(prompts, expected)
        llava = padded(tiny_models.load(tiny), 7)
        assert llava.banned_ids == sorted([*banned, *range(count, count + 7)])
        assert generate(llava, prompts, sampling)[0].rows() == expected.rows()
        stock, _ = generate(llava, prompts, sampling, batch_generator=hf_generate_batch)
        assert stock.rows() == expected.rows()
        scored = Policy(llava, llava, temperature=1.0).evaluate(prompts, expected)
    torch.testing.assert_close(scored.logprobs, outputs.logprobs, atol=1e-5, rtol=0)
    torch.testing.assert_close(scored.entropy, outputs.entropy, atol=1e-5, rtol=0)
    assert sampled.logprobs.isfinite().all()
    beams = beam_search(llava, prompts, sampling, num_beams=2)
    assert int(beams.tokens.max()) < count


def test_an_id_that_no_token_has_is_banned_between_others_too(
    llava: Llava, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, banned = llava.processor.tokenizer, llava.banned_ids
    vocabulary = {token: i for token, i in tokenizer.get_vocab().items() if i != 40}
    llava = Llava(llava.model, llava.processor, "base")
    monkeypatch.setattr(tokenizer, "get_vocab", lambda: vocabulary)
    assert llava.banned_ids == sorted([*banned, 40])
