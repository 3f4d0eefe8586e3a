"""Responses to one prompt share what is computed of it, and nothing else changes."""

from pathlib import Path

import pytest
import small
import torch
from test_response_scope import adapted
from torch import Tensor

from rlhf.config import SamplingConfig
from rlhf.models import attention
from rlhf.models.generation import generate
from rlhf.models.llava import Llava
from rlhf.models.policy import POLICY
from rlhf.types import PromptBatch, Responses

ATOL = {"atol": 1e-5, "rtol": 1e-5}
ROWS = torch.tensor([2, 0, 2, 1, 0, 2])  # prompts of different lengths and numbers of responses


@pytest.fixture(params=["all", "response"])
def llava(request: pytest.FixtureRequest, tiny: Path) -> Llava:
    return adapted(tiny, request.param)


def batch(llava: Llava, tiny: Path) -> tuple[PromptBatch, Responses]:
    return small.prompts_of(llava, tiny).select(ROWS), small.responses_of(llava, len(ROWS))


def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens that each pass of the language model reads from now on."""
    read: list[int] = []
    run = attention.run

    def counting(model: object, embeds: Tensor, *given: object) -> Tensor:
        read.append(len(embeds))
        return run(model, embeds, *given)  # type: ignore[arg-type]

    monkeypatch.setattr("rlhf.models.llava.run", counting)
    return read


def test_states_and_gradients_are_those_of_each_row_alone(
    llava: Llava, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, responses = batch(llava, tiny)
    lengths = responses.spans.lengths.tolist()
    pulls = torch.randn(responses.spans.total, 64, generator=torch.Generator().manual_seed(0))
    found, gradients = [], []
    for together in (True, False):
        read = computed(monkeypatch)
        pieces = [torch.arange(len(ROWS))] if together else torch.arange(len(ROWS)).split(1)
        states = [
            llava.response_states(prompts.select(rows), responses.select(rows)) for rows in pieces
        ]
        before, last = (torch.cat(part) for part in zip(*states, strict=True))
        (before * pulls[:, : before.shape[1]]).sum().backward()
        found += [before.detach(), last.detach()]
        own = llava.adapters.tensors(POLICY).values()
        gradients.append([value.grad.clone() for value in own if value.grad is not None])
        for value in own:
            value.grad = None
        if together and llava.adapters.scope == "all":
            once = prompts.select(torch.tensor([0, 1, 3])).spans.total
            assert read == [once + sum(lengths) + len(ROWS) - 3]  # each row has its prompt's last
    torch.testing.assert_close(found[0], found[2], **ATOL)
    torch.testing.assert_close(found[1], found[3], **ATOL)
    assert len(gradients[0]) == len(gradients[1]) > 0
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_samples_are_those_of_each_row_alone(
    llava: Llava, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where some of a prompt's responses have ended and left."""
    ends = property(lambda self: list(range(1, 300, 11)))
    monkeypatch.setattr(Llava, "eos_ids", ends)
    prompts, _ = batch(llava, tiny)
    samples = torch.tensor([0, 0, 1, 0, 1, 2])
    sampling = SamplingConfig(max_new_tokens=12)
    read = computed(monkeypatch)
    together, drawn = generate(llava, prompts, sampling, samples=samples)
    assert read[-1] < len(ROWS) < read[0]
    for row in range(len(ROWS)):
        only = torch.tensor([row])
        alone, own = generate(llava, prompts.select(only), sampling, samples=samples[only])
        assert together.rows()[row] == alone.rows()[0]
        here = together.spans.token_indices(only)
        torch.testing.assert_close(drawn.logprobs[here], own.logprobs, atol=1e-4, rtol=0)
    assert len({*map(tuple, together.rows())}) == len(ROWS)
    assert len({*together.spans.lengths.tolist()}) > 2
