"""Attention to shared prompts equals a softmax over what each token may see."""

import pytest
import torch
from torch import Tensor

from rlhf.kernels import shared_prefix_attention as module
from rlhf.kernels.shared_prefix_attention import PrefixGroups, shared_prefix_attention

SCALE = 0.3
OWNERS = ([0, 0, 1, 1], [0, 1, 2], [1, 0, 0, 1, 0], [0, 0, 0])


def loop(tensors: list[Tensor], owner: list[int], lengths: list[int], window: int) -> Tensor:
    """The definition, token by token in float64."""
    query, key, value, prefix_key, prefix_value = (x.double() for x in tensors)
    key, value, prefix_key, prefix_value = (
        x.repeat_interleave(2 // x.shape[1], dim=1) for x in (key, value, prefix_key, prefix_value)
    )
    out = torch.zeros_like(query)
    late = key.shape[2] - query.shape[2]
    for row, prompt in enumerate(owner):
        for head in range(query.shape[1]):
            for place in range(query.shape[2]):
                seen, end = lengths[prompt], place + late + 1
                keys = torch.cat([prefix_key[prompt, head, :seen], key[row, head, :end]])[-window:]
                values = torch.cat([prefix_value[prompt, head, :seen], value[row, head, :end]])
                values = values[-window:]
                weights = [(SCALE * query[row, head, place] @ one).exp() for one in keys]
                mixed = sum(w * one for w, one in zip(weights, values, strict=True))
                out[row, head, place] = mixed / sum(weights)
    return out


def given(owner: list[int], rows: int, width: int, kept: int) -> list[Tensor]:
    """With two heads, and `kept` of keys."""
    generator = torch.Generator().manual_seed(len(owner))
    depth, prompts = 8, max(owner) + 1
    shapes = [(len(owner), 2, rows, depth), *[(len(owner), kept, width, depth)] * 2]
    shapes += [(prompts, kept, 5, depth)] * 2
    return [2 * torch.randn(*shape, generator=generator) for shape in shapes]


@pytest.fixture(params=["cpu", "any device"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "any device":
        monkeypatch.setattr(module, "has_flash", lambda query: False)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize(("rows", "width"), [(3, 3), (1, 4), (1, 1)])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("window", [None, 1, 3, 6])
@pytest.mark.parametrize("kept", [1, 2])
def test_it_is_the_softmax_over_what_is_seen(
    owner: list[int], rows: int, width: int, ragged: bool, window: int | None, kept: int
) -> None:
    tensors = [x.requires_grad_() for x in given(owner, rows, width, kept)]
    lengths = [2, 5, 3][: max(owner) + 1] if ragged else [5] * (max(owner) + 1)
    told = torch.tensor(lengths) if ragged else None
    groups = PrefixGroups(torch.tensor(owner))
    found = shared_prefix_attention(*tensors, groups, told, scale=SCALE, window=window)
    wanted = [x.detach().clone().requires_grad_() for x in tensors]
    expected = loop(wanted, owner, lengths, window or 100)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        again = shared_prefix_attention(*tensors, groups, told, scale=SCALE, window=window)
    assert torch.equal(again, found)
    pull = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    (found * pull).sum().backward()
    (expected * pull).sum().backward()
    for one, two in zip(tensors, wanted, strict=True):
        assert one.grad is not None and two.grad is not None
        torch.testing.assert_close(one.grad, two.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("owner", OWNERS)
def test_groups_put_responses_beside_those_of_their_prompt_and_back(owner: list[int]) -> None:
    groups = PrefixGroups(torch.tensor(owner))
    rows = torch.arange(len(owner) * 2 * 3 * 1.0).view(len(owner), 2, 3, 1) + 1
    spread = groups.group(rows)
    assert spread.shape == (max(owner) + 1, 2, 3 * groups.max_size, 1)
    for prompt in range(max(owner) + 1):
        members = [row for row, own in enumerate(owner) if own == prompt]
        own = torch.cat([rows[row] for row in members], dim=1)
        assert torch.equal(spread[prompt, :, : own.shape[1]], own)
        assert not spread[prompt, :, own.shape[1] :].any()
    assert torch.equal(groups.ungroup(spread), rows)


def test_autocast_does_not_narrow_the_keys_of_a_token_that_looks_back() -> None:
    tensors, groups = given([0, 0, 1], 1, 4, 2), PrefixGroups(torch.tensor([0, 0, 1]))
    wanted = shared_prefix_attention(*tensors, groups, None, scale=SCALE)
    with torch.autocast("cpu", torch.bfloat16):
        found = shared_prefix_attention(*tensors, groups, None, scale=SCALE)
    assert found.dtype == torch.float32 and torch.equal(found, wanted)


def test_groups_of_some_responses() -> None:
    groups = PrefixGroups(torch.tensor([0, 0, 1, 2, 2]))
    some, prompts = groups.select(torch.tensor([4, 0, 3]))
    assert prompts.tolist() == [0, 2] and some.prefix_ids.tolist() == [1, 0, 1]
