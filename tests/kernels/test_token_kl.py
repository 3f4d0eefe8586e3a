"""token_kl against plain logarithms, literals and numerical gradients."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.kernels import token_logprobs
from rlhf.kernels.token_kl import token_kl
from tests.support.float64 import EXACT, LargestTensor, exact, random_float64

SINGLE: dict[str, Any] = {
    "rtol": 1e-4,
    "atol": 5e-6,
}  # float32: rounding of two logits and their log-softmaxes


def distribution(row: list, weight: list, temperature: float, banned: list[int]) -> list[float]:
    """Float64 loop: the probability of every id."""
    odds = [
        math.exp(math.fsum(h * w for h, w in zip(row, column, strict=True)) / temperature)
        for column in weight
    ]
    odds = [0.0 if index in banned else odd for index, odd in enumerate(odds)]
    return [odd / math.fsum(odds) for odd in odds]


def looped_kl(
    hidden: Tensor,
    ref_hidden: Tensor,
    weight: Tensor,
    ref_weight: Tensor,
    temperature: float = 1.0,
    banned: Any = (),
) -> Tensor:
    """KL of every token by plain exp and log."""
    result = []
    for row, ref_row in zip(hidden.tolist(), ref_hidden.tolist(), strict=True):
        p = distribution(row, weight.tolist(), temperature, banned)
        q = distribution(ref_row, ref_weight.tolist(), temperature, banned)
        pairs = zip(p, q, strict=True)
        result.append(math.fsum(x * (math.log(x) - math.log(y)) for x, y in pairs if x > 0))
    return exact(result)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("banned", [[], [1, 4]])
@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_agrees_with_plain_logarithms(
    temperature: float, banned: list[int], chunk: int | None
) -> None:
    hidden, weight, ref_hidden, ref_weight = (
        random_float64(*n) for n in ((7, 3), (6, 3), (7, 2), (6, 2))
    )
    options: dict[str, Any] = {
        "temperature": temperature,
        "banned_ids": banned,
        "chunk_tokens": chunk,
    }
    got = token_kl(hidden, ref_hidden, weight, ref_weight=ref_weight, **options)
    expected = looped_kl(hidden, ref_hidden, weight, ref_weight, temperature, banned)
    torch.testing.assert_close(got, expected, **EXACT)
    shared = token_kl(hidden, hidden.flip(0), weight, **options)
    expected = looped_kl(hidden, hidden.flip(0), weight, weight, temperature, banned)
    torch.testing.assert_close(shared, expected, **EXACT)


def test_literal() -> None:
    """Policy 1 : 2 : 5, reference 1 : 4 : 25; then without the middle id."""
    weight, hidden = torch.tensor([[1.0], [2.0], [5.0]]).log(), torch.tensor([[1.0]])
    expected_kl = math.log(30 / 8) - 2 / 8 * math.log(2) - 5 / 8 * math.log(5)
    assert token_kl(hidden, 2 * hidden, weight).item() == pytest.approx(expected_kl, abs=1e-6)
    expected_kl = math.log(26 / 6) - 5 / 6 * math.log(5)
    banned = token_kl(hidden, 2 * hidden, weight, banned_ids=(1,))
    assert banned.item() == pytest.approx(expected_kl, abs=1e-6)
    assert token_kl(hidden, 2 * hidden, weight, banned_ids=[0, 1]).item() == 0


def test_gradient_literal() -> None:
    """Two ids: p = σ(x), q = ½, so ∂KL/∂x = x·σ'(x), here over a temperature of 2."""
    hidden = torch.tensor([[2 * math.log(3)]], requires_grad=True)
    weight = torch.tensor([[1.0], [0.0]])
    kl = token_kl(hidden, torch.zeros(1, 1), weight, temperature=2.0)
    assert kl.item() == pytest.approx(math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    (4 * kl).backward()
    assert hidden.grad is not None
    assert hidden.grad.item() == pytest.approx(4 * math.log(3) * 0.75 * 0.25 / 2, rel=1e-5)


def test_is_the_mean_of_k1_over_the_policy() -> None:
    """Σ over ids of p · (logprob - ref_logprob), each from token_logprobs."""
    hidden, ref_hidden, weight = random_float64(1, 3), random_float64(1, 3), random_float64(6, 3)
    every = torch.tensor([0, 2, 3, 4, 5])
    options: dict[str, Any] = {"temperature": 0.7, "banned_ids": [1]}
    logprobs, ref_logprobs = (
        token_logprobs(side.expand(5, 3), weight, every, **options)[0]
        for side in (hidden, ref_hidden)
    )
    mean = (logprobs.exp() * (logprobs - ref_logprobs)).sum()
    torch.testing.assert_close(token_kl(hidden, ref_hidden, weight, **options)[0], mean, **EXACT)


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("banned", [None, [1, 4]])
def test_gradients(chunk: int | None, banned: list[int] | None) -> None:
    ref_hidden, ref_weight = random_float64(5, 3), random_float64(6, 3)

    def kl(hidden: Tensor, weight: Tensor) -> Tensor:
        return token_kl(
            hidden,
            ref_hidden,
            weight,
            ref_weight=ref_weight,
            temperature=0.7,
            banned_ids=banned,
            chunk_tokens=chunk,
        )

    hidden, weight = random_float64(5, 3, grad=True), random_float64(6, 3, grad=True)
    assert torch.autograd.gradcheck(kl, (hidden, weight))
    assert torch.autograd.gradcheck(lambda h: kl(h, weight.detach()), hidden)
    assert torch.autograd.gradcheck(lambda w: kl(hidden.detach(), w), weight)


def test_the_reference_is_a_constant() -> None:
    """A shared trainable weight has the gradient that it has beside a detached copy of itself."""
    hidden, ref_hidden = random_float64(5, 3, grad=True), random_float64(5, 3, grad=True)
    weight, ref_weight = random_float64(6, 3, grad=True), random_float64(6, 3, grad=True)
    shared = torch.autograd.grad(
        token_kl(hidden, ref_hidden, weight).sum(), (weight, ref_hidden), allow_unused=True
    )
    copy = token_kl(hidden, ref_hidden, weight, ref_weight=weight.detach().clone()).sum()
    torch.testing.assert_close(shared[0], torch.autograd.grad(copy, weight)[0], **EXACT)
    expected_kl = token_kl(hidden, ref_hidden, weight, ref_weight=ref_weight).sum()
    unused = torch.autograd.grad(expected_kl, (ref_hidden, ref_weight), allow_unused=True)
    assert (shared[1], *unused) == (None, None, None)  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("trainable", [False, True])
def test_no_distance_from_itself(trainable: bool) -> None:
    hidden = torch.randn(9, 16, requires_grad=True)
    weight = torch.randn(50, 16, requires_grad=trainable)
    kl = token_kl(hidden, hidden.detach(), weight, temperature=0.7, banned_ids=[3])
    kl.sum().backward()
    assert kl.tolist() == [0.0] * 9
    assert hidden.grad is not None
    assert not hidden.grad.any()
    assert not trainable or not weight.grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("trainable", [False, True])
def test_chunks_and_kept_gradients_change_nothing(trainable: bool) -> None:
    ref_hidden, weight, up = (
        random_float64(64, 4),
        random_float64(100, 4, grad=trainable),
        random_float64(64),
    )
    results = []
    for chunk in (1, 7, 64, None):
        leaf = torch.linspace(-1, 1, 256, dtype=torch.float64).view(64, 4).requires_grad_()
        kl = token_kl(leaf, ref_hidden, weight, chunk_tokens=chunk, banned_ids=[0, 99])
        results.append((kl, torch.autograd.grad(kl, leaf, up)[0]))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], **EXACT)


@pytest.mark.parametrize("trainable", [False, True])
def test_banned_ids_and_bad_rows_give_no_nan_elsewhere(trainable: bool) -> None:
    hidden, ref_hidden = torch.randn(5, 3), torch.randn(5, 3)
    hidden[2] = math.nan
    ref_hidden[4] = math.nan
    hidden.requires_grad_()
    weight = torch.randn(6, 3, requires_grad=trainable)
    kl = token_kl(hidden, ref_hidden, weight, banned_ids=[0, 5])
    kl.sum().backward()
    assert hidden.grad is not None
    for tensor in (kl, hidden.grad.sum(1)):
        assert tensor.isnan().tolist() == [False, False, True, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("trainable", [False, True])
def test_in_float32_whatever_the_inputs(dtype: torch.dtype, trainable: bool) -> None:
    hidden, ref_hidden, weight = (torch.randn(n, 16).to(dtype) for n in (9, 9, 50))
    leaf = hidden.clone().requires_grad_()
    kl = token_kl(leaf, ref_hidden, weight.requires_grad_(trainable), chunk_tokens=4)
    assert kl.dtype == torch.float32
    torch.testing.assert_close(kl, looped_kl(hidden, ref_hidden, weight, weight).float(), **SINGLE)
    kl.sum().backward()
    gradients = [leaf.grad, weight.grad] if trainable else [leaf.grad]
    assert all(gradient is not None and gradient.dtype == dtype for gradient in gradients)


def test_autocast_changes_nothing() -> None:
    hidden, ref_hidden, weight = (torch.randn(n, 16, requires_grad=True) for n in (9, 9, 50))
    without_autocast = token_kl(hidden, ref_hidden, weight)
    expected = torch.autograd.grad(without_autocast.sum(), (hidden, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = token_kl(hidden, ref_hidden, weight)
        gradients = torch.autograd.grad(inside.sum(), (hidden, weight))
    assert torch.equal(inside, without_autocast)
    assert all(map(torch.equal, gradients, expected))


@pytest.mark.parametrize("trainable", [False, True])
def test_the_full_logits_never_exist(trainable: bool) -> None:
    hidden, weight = torch.randn(64, 4, requires_grad=True), torch.randn(100, 4)
    weight.requires_grad_(trainable)
    with LargestTensor() as largest:
        token_kl(hidden, torch.randn(64, 4), weight, chunk_tokens=8).sum().backward()
    assert largest.largest == 8 * 100


def test_no_tokens() -> None:
    hidden, weight = torch.randn(0, 3, requires_grad=True), torch.randn(6, 3, requires_grad=True)
    kl = token_kl(hidden, torch.zeros(0, 3), weight)
    kl.sum().backward()
    assert kl.shape == (0,)
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": torch.zeros(2, 4)}, r"hidden, weight: got \[\[2, 4\], \[6, 3\]\]"),
        ({"ref_hidden": torch.zeros(1, 3)}, r"ref_hidden, ref_weight: got \[\[1, 3\], \[6, 3\]\]"),
        ({"ref_weight": torch.zeros(5, 3)}, r"ref_hidden, ref_weight: got \[\[2, 3\], \[5, 3\]\]"),
        ({"ref_weight": torch.zeros(6, 2)}, r"ref_hidden, ref_weight: got \[\[2, 3\], \[6, 2\]\]"),
        ({"banned_ids": [6]}, "banned_ids: got .6., wanted some of the 6 ids"),
        ({"banned_ids": [-1]}, "banned_ids: got .-1., wanted some of the 6 ids"),
        ({"banned_ids": range(6)}, "banned_ids: got .* not all"),
        ({"temperature": math.nan}, "temperature"),
        ({"chunk_tokens": 0}, "chunk_tokens"),
    ],
)
def test_invalid_arguments_are_refused(changes: dict[str, Any], message: str) -> None:
    rows = {"hidden": torch.zeros(2, 3), "ref_hidden": torch.zeros(2, 3)}
    with pytest.raises(ValueError, match=message):
        token_kl(**(rows | {"weight": torch.zeros(6, 3)} | changes))
