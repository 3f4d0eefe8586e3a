"""token_logprobs against plain logarithms, identities and numerical gradients."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.kernels import token_logprobs
from tests.support import oracles
from tests.support.float64 import EXACT, LargestTensor, exact, random_float64

SINGLE: dict[str, Any] = {
    "rtol": 1e-5,
    "atol": 2e-6,
}  # float32: rounding of one logit and its log-softmax


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("banned", [[], [1, 4]])
@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_token_logprobs_agree_with_plain_logarithms(
    temperature: float, banned: list[int], chunk: int | None
) -> None:
    hidden, weight = random_float64(7, 3), random_float64(6, 3)
    tokens = torch.tensor([0, 2, 3, 5, 0, 2, 5])
    got = token_logprobs(
        hidden, weight, tokens, temperature=temperature, banned_ids=banned, chunk_tokens=chunk
    )
    expected = oracles.token_logprobs(
        hidden.tolist(), weight.tolist(), tokens.tolist(), temperature, banned
    )
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, exact(theirs), **EXACT)


def test_token_logprobs_literal() -> None:
    """Odds 1 : 2 : 5, then 1 : 5 once the middle token is banned."""
    weight = torch.tensor([[1.0], [2.0], [5.0]]).log()
    hidden, tokens = torch.ones(1, 1), torch.tensor([2])
    logprob, entropy = token_logprobs(hidden, weight, tokens)
    assert logprob.item() == pytest.approx(math.log(5 / 8), abs=1e-6)
    halves = math.log(8) / 8 + math.log(4) / 4 + 5 / 8 * math.log(8 / 5)
    assert entropy.item() == pytest.approx(halves, abs=1e-6)
    logprob, entropy = token_logprobs(hidden, weight, tokens, banned_ids=(1,))
    assert logprob.item() == pytest.approx(math.log(5 / 6), abs=1e-6)
    only, certain = token_logprobs(hidden, weight, tokens, banned_ids=[0, 1])
    assert (only.item(), certain.item()) == (0, 0)


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("banned", [None, [1, 4]])
def test_token_logprobs_gradients(chunk: int | None, banned: list[int] | None) -> None:
    tokens = torch.tensor([0, 2, 3, 5, 0])

    def logprobs_and_entropy(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return token_logprobs(
            hidden, weight, tokens, temperature=0.7, banned_ids=banned, chunk_tokens=chunk
        )

    hidden, weight = random_float64(5, 3, grad=True), random_float64(6, 3, grad=True)
    assert torch.autograd.gradcheck(logprobs_and_entropy, (hidden, weight))
    for output in range(2):
        assert torch.autograd.gradcheck(
            lambda h, w, o=output: logprobs_and_entropy(h, w)[o], (hidden, weight)
        )

    def summed(h: Tensor, w: Tensor) -> Tensor:
        logprobs, entropy = logprobs_and_entropy(h, w)
        return 2 * logprobs - 3 * entropy

    assert torch.autograd.gradcheck(summed, (hidden, weight))
    frozen = weight.detach()
    assert torch.autograd.gradcheck(lambda h: logprobs_and_entropy(h, frozen), hidden)
    still = hidden.detach()
    assert torch.autograd.gradcheck(lambda w: logprobs_and_entropy(still, w), weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("trainable", [False, True])
def test_token_logprobs_in_float32_whatever_the_inputs(dtype: torch.dtype, trainable: bool) -> None:
    hidden, weight = torch.randn(9, 16).to(dtype), torch.randn(50, 16).to(dtype)
    tokens, leaf = torch.randint(50, (9,)), hidden.clone().requires_grad_()
    weight.requires_grad_(trainable)
    logprobs, entropy = token_logprobs(leaf, weight, tokens, chunk_tokens=4)
    expected = oracles.token_logprobs(hidden.tolist(), weight.tolist(), tokens.tolist(), 1.0, [])
    for ours, theirs in zip((logprobs, entropy), expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, torch.tensor(theirs), **SINGLE)
    for loss in (logprobs.sum(), entropy.sum()):
        loss.backward(retain_graph=True)
    for gradient in [leaf.grad, weight.grad] if trainable else [leaf.grad]:
        assert gradient is not None
        assert gradient.dtype == dtype


@pytest.mark.parametrize("trainable", [False, True])
def test_autocast_changes_nothing(trainable: bool) -> None:
    hidden, weight = torch.randn(9, 16, requires_grad=True), torch.randn(50, 16)
    weight.requires_grad_(trainable)
    tokens, leaves = torch.randint(50, (9,)), [hidden, weight][: 1 + trainable]
    without_autocast = token_logprobs(hidden, weight, tokens)[0]
    expected = torch.autograd.grad(without_autocast.sum(), leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = token_logprobs(hidden, weight, tokens)[0]
        gradients = torch.autograd.grad(inside.sum(), leaves)
    assert torch.equal(inside, without_autocast)
    assert all(map(torch.equal, gradients, expected))


@pytest.mark.parametrize("entropy_weight", [0, 1])
def test_a_frozen_weight_leaves_the_gradient_as_it_is(entropy_weight: int) -> None:
    """It takes another path, which must not show: in no chunking, temperature or banned id."""
    weight, tokens, up = random_float64(100, 4), torch.arange(1, 65), random_float64(64)
    results = []
    for frozen, chunk in ((False, 64), (True, 64), (True, 7), (True, None)):
        leaf = torch.linspace(-1, 1, 256, dtype=torch.float64).view(64, 4).requires_grad_()
        logprobs, entropy = token_logprobs(
            leaf,
            weight.detach().requires_grad_(not frozen),
            tokens,
            temperature=0.7,
            banned_ids=[0, 99],
            chunk_tokens=chunk,
        )
        loss = logprobs + entropy if entropy_weight else logprobs
        results.append(torch.autograd.grad(loss, leaf, up)[0])
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], **EXACT)


@pytest.mark.parametrize("trainable", [False, True])
def test_the_full_logits_never_exist(trainable: bool) -> None:
    hidden, weight = torch.randn(64, 4, requires_grad=True), torch.randn(100, 4)
    weight.requires_grad_(trainable)
    with LargestTensor() as largest:
        logprobs, entropy = token_logprobs(
            hidden, weight, torch.randint(100, (64,)), chunk_tokens=8
        )
        logprobs.sum().backward(retain_graph=True)
        entropy.sum().backward()
    assert largest.largest == 8 * 100


def test_one_bad_row_spoils_no_other() -> None:
    hidden = torch.randn(5, 3)
    hidden[2] = math.nan
    hidden.requires_grad_()
    logprobs, entropy = token_logprobs(hidden, torch.randn(6, 3), torch.zeros(5).long())
    (logprobs.sum() + entropy.sum()).backward()
    assert hidden.grad is not None
    for tensor in (logprobs, entropy, hidden.grad.sum(1)):
        assert tensor.isnan().tolist() == [False, False, True, False, False]


def test_no_tokens() -> None:
    hidden, weight = torch.randn(0, 3, requires_grad=True), torch.randn(6, 3, requires_grad=True)
    logprobs, entropy = token_logprobs(hidden, weight, torch.zeros(0).long())
    assert logprobs.shape == entropy.shape == (0,)
    (logprobs.sum() + entropy.sum()).backward()
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        ([0, 1], {"banned_ids": [1]}, "tokens: got a banned id"),
        ([0, 6], {}, "tokens: got .* outside the 6 ids"),
        ([0, -1], {}, "tokens: got .* outside the 6 ids"),
        ([0, 1], {"banned_ids": [6]}, "banned_ids: got .6., wanted some of the 6 ids"),
        ([0, 1], {"banned_ids": range(6)}, "banned_ids: got .* not all"),
        ([0, 1], {"temperature": 0.0}, "temperature"),
        ([0, 1], {"temperature": math.inf}, "temperature"),
        ([0.0, 1.0], {}, "tokens: got torch.float32"),
        ([0, 1], {"banned_ids": torch.tensor([1, 2])}, "tokens: got a banned id"),
        ([0, 1], {"chunk_tokens": 0}, "chunk_tokens"),
        ([0, 1, 2], {}, r"tokens: got shape \[3\], wanted \[2\]"),
    ],
)
def test_token_logprobs_refuses(tokens: list[int], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_logprobs(torch.zeros(2, 3), torch.zeros(6, 3), torch.tensor(tokens), **options)


@pytest.mark.parametrize("trainable", [False, True])
def test_half_states_round_factors_and_no_sums(trainable: bool) -> None:
    numbers = torch.Generator().manual_seed(1)
    hidden = torch.randn(9, 64, generator=numbers).bfloat16().requires_grad_()
    weight = torch.randn(50, 64, generator=numbers).bfloat16().float().requires_grad_(trainable)
    tokens = torch.arange(9)
    logprobs, entropy = token_logprobs(hidden, weight, tokens)
    (slope,) = torch.autograd.grad(logprobs.sum(), hidden)
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"  # type: ignore[attr-defined]
    hidden_float64 = hidden.detach().double().requires_grad_()
    log_p = (hidden_float64 @ weight.detach().double().T).log_softmax(1)
    expected = log_p[torch.arange(9), tokens]
    torch.testing.assert_close(logprobs.double(), expected, rtol=0, atol=1e-5)
    entropy_terms = -(log_p.exp() * log_p).sum(1)
    torch.testing.assert_close(entropy.double(), entropy_terms, rtol=0, atol=1e-5)
    (exact,) = torch.autograd.grad(expected.sum(), hidden_float64)
    torch.testing.assert_close(slope.double(), exact, rtol=0.02, atol=0.02)
