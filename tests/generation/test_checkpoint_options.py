"""No option of a checkpoint's generation_config changes what is sampled; what is unused is said."""

from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from rlhf.config.schema import SamplingConfig
from rlhf.generation.checkpoint_options import unused_options
from rlhf.generation.sampler import BatchGenerator, generate, generate_batch
from rlhf.generation.transformers_engine import beam_search, hf_generate_batch
from rlhf.models.llava import Llava
from rlhf.tracking.console import say_once
from tests.support import tiny_models

SAMPLING = SamplingConfig(max_new_tokens=10)
OPTIONS: dict[str, Any] = {
    "bad_words_ids": [[number] for number in range(5, 200)],
    "begin_suppress_tokens": list(range(5, 200)),
    "diversity_penalty": 0.5,
    "do_sample": True,
    "encoder_repetition_penalty": 3.0,
    "epsilon_cutoff": 0.05,
    "exponential_decay_length_penalty": (1, 3.0),
    "forced_bos_token_id": 40,
    "forced_eos_token_id": 41,
    "guidance_scale": 4.0,
    "length_penalty": -9.0,
    "max_length": 3,
    "max_time": 1e-9,
    "min_length": 300,
    "min_new_tokens": 9,
    "min_p": 0.9,
    "no_repeat_ngram_size": 1,
    "num_beams": 3,
    "num_return_sequences": 2,
    "prompt_lookup_num_tokens": 2,
    "repetition_penalty": 9.0,
    "sequence_bias": [[[40], 100.0]],
    "stop_strings": ["a", "e", "o"],
    "suppress_tokens": list(range(5, 200)),
    "temperature": 0.01,
    "top_k": 1,
    "top_p": 0.1,
    "typical_p": 0.2,
}


@pytest.fixture(scope="module")
def llava(tiny: Path) -> Llava:
    return tiny_models.load(tiny)


def sampled(llava: Llava, tiny: Path, engine: BatchGenerator) -> list[list[int]]:
    prompts = tiny_models.prompts_of(llava, tiny, 2)
    return generate(llava, prompts, SAMPLING, batch_generator=engine)[0].rows()


def searched(llava: Llava, tiny: Path) -> list[list[int]]:
    prompts = tiny_models.prompts_of(llava, tiny, 2)
    return beam_search(llava, prompts, SAMPLING, num_beams=3).rows()


@pytest.fixture(scope="module")
def expected(llava: Llava, tiny: Path) -> tuple[list[list[int]], list[list[int]]]:
    """Of the tiny model, whose generation_config holds ids only."""
    assert unused_options(llava) == {}
    return sampled(llava, tiny, generate_batch), searched(llava, tiny)


@pytest.mark.parametrize("option", OPTIONS)
def test_no_option_of_the_checkpoint_changes_a_token(
    llava: Llava,
    tiny: Path,
    expected: tuple[Any, Any],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
) -> None:
    stored = GenerationConfig(eos_token_id=llava.eos_ids)
    setattr(stored, option, OPTIONS[option])
    monkeypatch.setattr(llava.model, "generation_config", stored)
    assert unused_options(llava) == {option: OPTIONS[option]}
    engines = (generate_batch, hf_generate_batch)
    assert [sampled(llava, tiny, engine) for engine in engines] == [expected[0]] * 2
    assert searched(llava, tiny) == expected[1]
    assert llava.model.generation_config is stored


def test_what_is_unused_is_said_once(
    llava: Llava, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say_once.cache_clear()
    stored = GenerationConfig(eos_token_id=1, repetition_penalty=1.05, top_k=20, temperature=1.0)
    monkeypatch.setattr(llava.model, "generation_config", stored)
    for _ in range(2):
        sampled(llava, tiny, generate_batch)
        searched(llava, tiny)
    said = capsys.readouterr().out
    assert said.count("generation_config.json is not used") == 1
    assert "instead of repetition_penalty=1.05, top_k=20\n" in said
