"""Responses to one prompt share what is computed of it, and nothing else changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.config.schema import SamplingConfig
from rlhf.generation.sampler import generate
from rlhf.models import llava as llava_module
from rlhf.models.llava import Llava
from rlhf.models.policy import POLICY
from rlhf.types import PromptBatch, Responses
from tests.models.test_alora import adapted
from tests.support import tiny_models

ATOL: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}
ROWS = torch.tensor([2, 0, 2, 1, 0, 2])  # prompts of different lengths and numbers of responses


@pytest.fixture(params=["lora", "alora"])
def llava(request: pytest.FixtureRequest, tiny: Path) -> Llava:
    return adapted(tiny, request.param)


def batch(llava: Llava, tiny: Path) -> tuple[PromptBatch, Responses]:
    return tiny_models.prompts_of(llava, tiny).select(ROWS), tiny_models.responses_of(
        llava, len(ROWS)
    )


def questions(llava: Llava, tiny: Path) -> tuple[PromptBatch, Responses]:
    """Three about one image, of which one is asked twice, and one about another."""
    prompts = tiny_models.prompts_of(llava, tiny)
    images = (*[prompts.images[0]] * 3, prompts.images[3])
    about_one = replace(prompts, images=images).select(torch.tensor([1, 3, 0, 2, 1]))
    return about_one, tiny_models.responses_of(llava, 5)


def count_read_tokens(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens that each pass of the language model reads from now on."""
    read: list[int] = []
    run = llava_module.run_language_model  # type: ignore[attr-defined]

    def counting(model: object, embeds: Tensor, *args: object, **options: object) -> Tensor:
        read.append(len(embeds))
        return run(model, embeds, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("rlhf.models.llava.run_language_model", counting)
    return read


def assert_rows_are_those_alone(llava: Llava, prompts: PromptBatch, responses: Responses) -> None:
    """States and gradients of all together, and of a row at a time."""
    count, hidden_states, gradients = len(prompts), [], []
    pulls = torch.randn(responses.spans.num_tokens, 64, generator=torch.Generator().manual_seed(0))
    for selections in ([torch.arange(count)], torch.arange(count).split(1)):
        states = [
            llava.response_and_final_hidden_states(prompts.select(rows), responses.select(rows))
            for rows in selections
        ]
        before, last = (torch.cat(part) for part in zip(*states, strict=True))
        (before * pulls[:, : before.shape[1]]).sum().backward()
        hidden_states += [before.detach(), last.detach()]
        adapter_weights = llava.adapters.tensors(POLICY).values()
        gradients.append(
            [value.grad.clone() for value in adapter_weights if value.grad is not None]
        )
        for value in adapter_weights:
            value.grad = None
    torch.testing.assert_close(hidden_states[0], hidden_states[2], **ATOL)
    torch.testing.assert_close(hidden_states[1], hidden_states[3], **ATOL)
    assert len(gradients[0]) == len(gradients[1]) > 0
    for batch_gradient, row_gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(batch_gradient, row_gradient, atol=1e-4, rtol=1e-4)


def test_states_and_gradients_are_those_of_each_row_alone(
    llava: Llava, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, responses = batch(llava, tiny)
    read = count_read_tokens(monkeypatch)
    assert_rows_are_those_alone(llava, prompts, responses)
    if llava.adapters.lora_type == "lora":
        distinct_tokens = prompts.select(torch.tensor([0, 1, 3])).spans.num_tokens
        ends = len(ROWS) - 3  # each row has its prompt's last
        assert read[0] == distinct_tokens + responses.spans.num_tokens + ends


def test_an_image_of_which_several_ask_is_read_once(
    llava: Llava, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, responses = questions(llava, tiny)
    read = count_read_tokens(monkeypatch)
    assert_rows_are_those_alone(llava, prompts, responses)
    before = int((prompts.tokens == llava.image_token_id).nonzero()[-1]) + 1
    before -= int(prompts.spans.offsets[-2])  # up to the end of the image, for each alike
    ends = prompts.spans.lengths - before
    end = len(llava.adapters.invocation) if llava.adapters.lora_type == "alora" else 0
    distinct = ends[[0, 1, 2, 3]] - end if end else ends
    assert read[0] == 2 * before + int(distinct.sum()) + (0 if end else responses.spans.num_tokens)


def test_responses_about_one_image_are_those_to_each_question_alone(
    llava: Llava, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, _ = questions(llava, tiny)
    llava.prefix_cache.limit = 0
    read = count_read_tokens(monkeypatch)
    hidden, _ = llava.prefill(prompts, 8)
    read_together = sum(read)
    read.clear()
    hidden_alone = torch.cat(
        [llava.prefill(prompts.select(row), 8)[0] for row in torch.arange(5).split(1)]
    )
    torch.testing.assert_close(hidden, hidden_alone, **ATOL)
    assert read_together < 0.6 * sum(read)
    greedy = SamplingConfig(temperature=0, max_new_tokens=8)
    rows = generate(llava, prompts, greedy)[0].rows()
    for row in range(5):
        assert generate(llava, prompts.select(torch.tensor([row])), greedy)[0].rows() == [rows[row]]


def test_samples_are_those_of_each_row_alone(
    llava: Llava, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where some of a prompt's responses have ended and left."""
    ends = property(lambda self: list(range(1, 300, 11)))
    monkeypatch.setattr(Llava, "eos_ids", ends)
    prompts, _ = batch(llava, tiny)
    samples = torch.tensor([0, 0, 1, 0, 1, 2])
    sampling = SamplingConfig(max_new_tokens=12)
    read = count_read_tokens(monkeypatch)
    batched, batched_samples = generate(llava, prompts, sampling, samples=samples)
    assert read[-1] < len(ROWS) < read[0]
    for row in range(len(ROWS)):
        index = torch.tensor([row])
        single, single_samples = generate(
            llava, prompts.select(index), sampling, samples=samples[index]
        )
        assert batched.rows()[row] == single.rows()[0]
        token_indices = batched.spans.token_indices(index)
        torch.testing.assert_close(
            batched_samples.logprobs[token_indices], single_samples.logprobs, atol=1e-4, rtol=0
        )
    assert len({*map(tuple, batched.rows())}) == len(ROWS)
    assert len({*batched.spans.lengths.tolist()}) > 2
