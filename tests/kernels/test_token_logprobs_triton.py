"""token_logprobs in Triton against that in PyTorch, plain logarithms and numerical gradients."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.kernels.token_logprobs import token_logprobs as expected_logprobs
from tests.support import oracles
from tests.support.float64 import LargestTensor, random_float64

pytest.importorskip("triton")
from rlhf.kernels import token_logprobs_triton  # noqa: E402
from rlhf.kernels.token_logprobs_triton import token_logprobs  # noqa: E402

# The interpreter computes what `where` then drops: -inf less -inf.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered")

# Logits, logprobs and entropies are float32 whatever the inputs: some roundings of numbers near 10.
VALUES: dict[str, Any] = {"rtol": 1e-5, "atol": 2e-5}
# |error| of a gradient against the largest: float32 sums over the vocabulary; for half inputs the
# rounding of the result, for bfloat16 also that of the logits' gradient.
GRADIENTS = {torch.float32: 4e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}
FEATURES = 16


def case(tokens: int, vocabulary: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    hidden = torch.randn(tokens, FEATURES).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, FEATURES).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (tokens,))


def compare(hidden: Tensor, weight: Tensor, tokens: Tensor, **options: Any) -> None:
    """Results, and gradients of a random combination of them, equal those in PyTorch."""
    ups = torch.randn(2, len(tokens))
    results, gradients = [], []
    for function in (token_logprobs, expected_logprobs):
        results.append(function(hidden, weight, tokens, **options))
        gradients.append(torch.autograd.grad(results[-1], (hidden, weight), list(ups)))
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, **VALUES)
    for ours, theirs in zip(*gradients, strict=True):
        assert ours.dtype == theirs.dtype == hidden.dtype
        bound = GRADIENTS[hidden.dtype] * max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=bound)


@pytest.mark.parametrize(
    ("tokens", "vocabulary", "dtype"),
    [
        (1, 1, torch.bfloat16),
        (1, 257, torch.float16),
        (1, 1271, torch.float32),
        (41, 1, torch.float16),
        (41, 257, torch.float32),
        (41, 1271, torch.bfloat16),
        pytest.param(401, 1, torch.float32, marks=pytest.mark.slow),
        (401, 257, torch.bfloat16),
        pytest.param(401, 1271, torch.float16, marks=pytest.mark.slow),
    ],
)
def test_agrees_with_pytorch(device: str, tokens: int, vocabulary: int, dtype: torch.dtype) -> None:
    compare(*case(tokens, vocabulary, dtype), temperature=0.7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_chunks_and_tiles(
    device: str, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Ten tiles of 128 columns, the first all banned, and three blocks of columns in each."""
    monkeypatch.setattr(token_logprobs_triton, "CHUNK_LOGITS", 1)
    monkeypatch.setattr(token_logprobs_triton, "BLOCK", 64)
    hidden, weight, _ = case(5, 1271, dtype)
    tokens = torch.tensor([128, 255, 256, 1270, 700])  # at the edges of tiles
    banned = [*range(128), 600, 1269]
    compare(hidden, weight, tokens, temperature=1.3, banned_ids=banned, chunk_tokens=2)


def test_a_large_vocabulary(device: str) -> None:
    hidden, weight, tokens = case(2, 32_001, torch.float32)
    tokens[0] = 32_000
    compare(hidden, weight, tokens, banned_ids=[0, 31_999])


def test_agrees_with_plain_logarithms(device: str) -> None:
    hidden, weight, _ = case(4, 6, torch.float32)
    tokens = torch.tensor([0, 2, 3, 5])
    got = token_logprobs(hidden, weight, tokens, temperature=0.7, banned_ids=[1, 4])
    lists = hidden.tolist(), weight.tolist(), tokens.tolist()
    for ours, theirs in zip(got, oracles.token_logprobs(*lists, 0.7, [1, 4]), strict=True):
        torch.testing.assert_close(ours, torch.tensor(theirs), **VALUES)


def test_literal(device: str) -> None:
    """Odds 1 : 2 : 5, then 1 : 5 once the middle token is banned."""
    weight = torch.tensor([[1.0], [2.0], [5.0]]).log()
    hidden, tokens = torch.ones(1, 1), torch.tensor([2])
    logprob, entropy = token_logprobs(hidden, weight, tokens)
    assert logprob.item() == pytest.approx(math.log(5 / 8), abs=1e-6)
    halves = math.log(8) / 8 + math.log(4) / 4 + 5 / 8 * math.log(8 / 5)
    assert entropy.item() == pytest.approx(halves, abs=1e-6)
    assert token_logprobs(hidden, weight, tokens, banned_ids=[1])[0].item() == pytest.approx(
        math.log(5 / 6), abs=1e-6
    )


def test_far_logits_lose_no_digits(device: str) -> None:
    """A constant 10,000 on every logit changes neither result."""
    hidden, weight, tokens = case(3, 9, torch.float32)
    shifted = torch.cat([hidden, torch.full((3, 1), 100.0)], 1).detach()
    rows = torch.cat([weight, torch.full((9, 1), 100.0)], 1).detach()
    logprobs, entropy = token_logprobs(shifted, rows, tokens)
    expected = token_logprobs(hidden, weight, tokens)
    torch.testing.assert_close(logprobs, expected[0], rtol=0, atol=4e-3)  # 1e4 has steps of 1e-3
    torch.testing.assert_close(entropy, expected[1], rtol=0, atol=4e-3)


def test_numerical_gradients(device: str) -> None:
    tokens = torch.tensor([0, 2, 3])

    def logprobs_and_entropy(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return token_logprobs(
            hidden, weight, tokens, temperature=0.5, banned_ids=[1, 4], chunk_tokens=2
        )

    hidden, weight = random_float64(3, 2, grad=True), random_float64(6, 2, grad=True)
    assert torch.autograd.gradcheck(logprobs_and_entropy, (hidden, weight), fast_mode=True)
    for output in range(2):
        assert torch.autograd.gradcheck(
            lambda h, w, o=output: logprobs_and_entropy(h, w)[o], (hidden, weight), fast_mode=True
        )


@pytest.mark.parametrize("leaf", [0, 1])
def test_one_gradient_alone(device: str, leaf: int) -> None:
    inputs, gradients = case(3, 7, torch.float32), []
    up = torch.randn(3)
    for function in (token_logprobs, expected_logprobs):
        copies = [tensor.detach() for tensor in inputs]
        copies[leaf].requires_grad_()
        gradients.append(torch.autograd.grad(function(*copies)[0], copies[leaf], up)[0])
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_mixed_precision_inputs(device: str) -> None:
    hidden, weight, tokens = case(3, 40, torch.float32)
    half = weight.detach().bfloat16()
    got, expected = (f(hidden, half, tokens) for f in (token_logprobs, expected_logprobs))
    torch.testing.assert_close(got, expected, **VALUES)


def test_autocast_changes_nothing(device: str) -> None:
    hidden, weight, tokens = case(3, 40, torch.float32)
    without_autocast = token_logprobs(hidden, weight, tokens)[0]
    expected = torch.autograd.grad(without_autocast.sum(), (hidden, weight))
    with torch.autocast(device, dtype=torch.bfloat16):
        inside = token_logprobs(hidden, weight, tokens)[0]
        gradients = torch.autograd.grad(inside.sum(), (hidden, weight))
    assert torch.equal(inside, without_autocast)
    assert all(map(torch.equal, gradients, expected))


def test_only_one_tile_of_logits_exists(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_logprobs_triton, "CHUNK_TOKENS", 4)
    monkeypatch.setattr(token_logprobs_triton, "CHUNK_LOGITS", 4 * 128)
    hidden = torch.randn(8, 1, requires_grad=True)
    weight = torch.randn(1000, 1, requires_grad=True)
    with LargestTensor() as largest:
        logprobs, entropy = token_logprobs(hidden, weight, torch.randint(1000, (8,)))
        (logprobs.sum() + entropy.sum()).backward()
    assert largest.largest <= 4 * 128 * 4  # the interpreter holds a tile as bytes


def test_one_bad_row_spoils_no_other(device: str) -> None:
    hidden, weight, tokens = case(5, 6, torch.float32)
    hidden = hidden.detach()
    hidden[2] = math.nan
    logprobs, entropy = token_logprobs(hidden.requires_grad_(), weight.detach(), tokens)
    (logprobs.sum() + entropy.sum()).backward()
    assert hidden.grad is not None
    for tensor in (logprobs, entropy, hidden.grad.sum(1)):
        assert tensor.isnan().tolist() == [False, False, True, False, False]


def test_no_tokens(device: str) -> None:
    hidden, weight, tokens = case(0, 6, torch.float32)
    logprobs, entropy = token_logprobs(hidden, weight, tokens)
    assert logprobs.shape == entropy.shape == (0,)
    (logprobs.sum() + entropy.sum()).backward()
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.parametrize(
    ("tokens", "options"),
    [
        ([0, 1], {"banned_ids": [1]}),
        ([0, 6], {}),
        ([0, 1], {"banned_ids": [6]}),
        ([0, 1], {"temperature": 0.0}),
        ([0, 1], {"chunk_tokens": 0}),
        ([0, 1, 2], {}),
    ],
)
def test_refuses_as_pytorch_does(device: str, tokens: list[int], options: dict[str, Any]) -> None:
    arguments = torch.zeros(2, 3), torch.zeros(6, 3), torch.tensor(tokens)
    with pytest.raises(ValueError, match="got") as expected:
        expected_logprobs(*arguments, **options)
    with pytest.raises(ValueError, match="got") as got:
        token_logprobs(*arguments, **options)
    assert str(got.value) == str(expected.value)
