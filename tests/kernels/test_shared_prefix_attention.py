"""Attention to shared prompts equals a softmax over what each token may see."""

import pytest
import torch
from torch import Tensor

from rlhf.kernels import shared_prefix_attention as module
from rlhf.kernels.prefix_groups import PrefixGroups
from rlhf.kernels.shared_prefix_attention import shared_prefix_attention

SCALE = 0.3
PREFIX_IDS = ([0, 0, 1, 1], [0, 1, 2], [1, 0, 0, 1, 0], [0, 0, 0])


def loop(tensors: list[Tensor], prefix_ids: list[int], lengths: list[int], window: int) -> Tensor:
    """The definition, token by token in float64."""
    query, key, value, prefix_key, prefix_value = (x.double() for x in tensors)
    key, value, prefix_key, prefix_value = (
        x.repeat_interleave(2 // x.shape[1], dim=1) for x in (key, value, prefix_key, prefix_value)
    )
    out = torch.zeros_like(query)
    first = key.shape[2] - query.shape[2]
    for row, prompt in enumerate(prefix_ids):
        for head in range(query.shape[1]):
            for position in range(query.shape[2]):
                prefix_length, end = lengths[prompt], position + first + 1
                keys = torch.cat([prefix_key[prompt, head, :prefix_length], key[row, head, :end]])[
                    -window:
                ]
                values = torch.cat(
                    [prefix_value[prompt, head, :prefix_length], value[row, head, :end]]
                )
                values = values[-window:]
                weights = [(SCALE * query[row, head, position] @ k).exp() for k in keys]
                mixed = sum(w * v for w, v in zip(weights, values, strict=True))
                out[row, head, position] = mixed / sum(weights)
    return out


Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def random_inputs(prefix_ids: list[int], rows: int, width: int, key_heads: int) -> Inputs:
    """Query, key, value, prefix key and prefix value, with two query heads."""
    generator = torch.Generator().manual_seed(len(prefix_ids))
    depth, prompts = 8, max(prefix_ids) + 1
    shapes = [(len(prefix_ids), 2, rows, depth), *[(len(prefix_ids), key_heads, width, depth)] * 2]
    shapes += [(prompts, key_heads, 5, depth)] * 2
    query, key, value, prefix_key, prefix_value = (
        2 * torch.randn(*shape, generator=generator) for shape in shapes
    )
    return query, key, value, prefix_key, prefix_value


@pytest.fixture(params=["cpu", "any device"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "any device":
        monkeypatch.setattr(module, "has_flash", lambda query: False)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("prefix_ids", PREFIX_IDS)
@pytest.mark.parametrize(("rows", "width"), [(3, 3), (1, 4), (1, 1)])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("window", [None, 1, 3, 6])
@pytest.mark.parametrize("key_heads", [1, 2])
def test_it_is_the_softmax_over_what_is_seen(
    prefix_ids: list[int], rows: int, width: int, ragged: bool, window: int | None, key_heads: int
) -> None:
    tensors = random_inputs(prefix_ids, rows, width, key_heads)
    for x in tensors:
        x.requires_grad_()
    lengths = [2, 5, 3][: max(prefix_ids) + 1] if ragged else [5] * (max(prefix_ids) + 1)
    prefix_lens = torch.tensor(lengths) if ragged else None
    groups = PrefixGroups(torch.tensor(prefix_ids))
    out = shared_prefix_attention(*tensors, groups, prefix_lens, scale=SCALE, window=window)
    copies = [x.detach().clone().requires_grad_() for x in tensors]
    expected = loop(copies, prefix_ids, lengths, window or 100)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        without_grad = shared_prefix_attention(
            *tensors, groups, prefix_lens, scale=SCALE, window=window
        )
    assert torch.equal(without_grad, out)
    grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
    (out * grad_out).sum().backward()
    (expected * grad_out).sum().backward()
    for ours, theirs in zip(tensors, copies, strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)


def test_autocast_does_not_narrow_the_keys_of_a_token_that_looks_back() -> None:
    tensors, groups = random_inputs([0, 0, 1], 1, 4, 2), PrefixGroups(torch.tensor([0, 0, 1]))
    expected = shared_prefix_attention(*tensors, groups, None, scale=SCALE)
    with torch.autocast("cpu", torch.bfloat16):
        out = shared_prefix_attention(*tensors, groups, None, scale=SCALE)
    assert out.dtype == torch.float32 and torch.equal(out, expected)
