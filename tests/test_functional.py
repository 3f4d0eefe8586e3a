"""Sampling, KL, rewards, advantages, losses and statistics: hand literals, loops, identities."""

import math

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.signal import lfilter
from torch import Tensor

from rlhf.functional import (
    clipped_policy_loss,
    clipped_value_loss,
    explained_variance,
    filtered_logits,
    generalized_advantages,
    inverse_cdf_tokens,
    keyed_uniforms,
    kl_estimate,
    missing_eos_scores,
    preference_loss,
    shape_rewards,
    whiten,
)
from rlhf.spans import Spans

ragged = st.lists(st.integers(1, 512), min_size=1, max_size=6)
unit = st.floats(0, 1)
quick = settings(deadline=None, max_examples=25, derandomize=True, database=None)
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64: rounding of a few hundred sums


def doubles(*shape: int, grad: bool = False) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


def exact(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# --- sampling


def test_splitmix64_known_answers() -> None:
    """The first outputs of the published generator seeded with 0 and with 1234567."""
    assert [oracles.splitmix64(0, i) for i in range(2)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert oracles.splitmix64(1234567, 0) == 6457827717110365317


@quick
@given(*[st.integers(-(2**63), 2**63 - 1)] * 5)
def test_keyed_uniforms_chain_splitmix64(
    seed: int, iteration: int, key: int, sample: int, position: int
) -> None:
    state = 0
    for word in (seed, iteration, position, key, sample):
        # output w of the generator seeded with s is output 0 of the one seeded with s + w·γ
        state = oracles.splitmix64(state + word * oracles.GOLDEN, 0)
    got = keyed_uniforms(seed, iteration, torch.tensor([key]), torch.tensor([sample]), position)
    assert got.tolist() == [(state >> 11) / 2**53]
    assert got.dtype == torch.float64


def test_a_uniform_number_depends_on_each_word_and_on_nothing_else() -> None:
    keys, samples = torch.arange(40) // 4, torch.arange(40) % 4
    base = keyed_uniforms(3, 5, keys, samples, 7)
    order = torch.randperm(40)
    assert torch.equal(keyed_uniforms(3, 5, keys[order], samples[order], 7), base[order])
    assert torch.equal(keyed_uniforms(3 + 2**64, 5, keys, samples, 7), base)
    others = [
        keyed_uniforms(4, 5, keys, samples, 7),
        keyed_uniforms(5, 3, keys, samples, 7),
        keyed_uniforms(3, 6, keys, samples, 7),
        keyed_uniforms(3, 5, keys, samples, 8),
        keyed_uniforms(3, 5, keys + 10, samples, 7),
        keyed_uniforms(3, 5, keys, samples + 4, 7),
    ]
    assert len(torch.cat([base, *others]).unique()) == 7 * 40


def neighbours(count: int = 20_000) -> dict[str, Tensor]:
    """Sequences in which one word counts up and the others stand still."""
    index, zero = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    one = zero[:1]
    steps = range(1_000)
    return {
        "keys": keyed_uniforms(0, 0, index, zero, 0),
        "samples": keyed_uniforms(0, 0, zero, index, 0),
        "sparse keys": keyed_uniforms(0, 0, index << 40, zero, 0),
        "seeds": torch.cat([keyed_uniforms(i, 0, one, one, 0) for i in steps]),
        "iterations": torch.cat([keyed_uniforms(0, i, one, one, 0) for i in steps]),
        "positions": torch.cat([keyed_uniforms(0, 0, one, one, i) for i in steps]),
    }


def test_keyed_uniforms_are_uniform_and_neighbours_uncorrelated() -> None:
    for name, u in neighbours().items():
        assert float(u.min()) >= 0
        assert float(u.max()) < 1
        counts = torch.histc(u.float(), bins=64, min=0, max=1)
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3, name
        assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3, name
        for lag in (1, 2, 16):
            correlation = torch.corrcoef(torch.stack([u[:-lag], u[lag:]]))[0, 1]
            assert abs(float(correlation)) < 4 / math.sqrt(len(u)), (name, lag)


def test_streams_of_neighbouring_words_are_uncorrelated() -> None:
    keys, samples = torch.arange(20_000), torch.zeros(20_000, dtype=torch.int64)
    streams = torch.stack(
        [
            keyed_uniforms(0, 0, keys, samples, 0),
            keyed_uniforms(1, 0, keys, samples, 0),
            keyed_uniforms(0, 1, keys, samples, 0),
            keyed_uniforms(0, 0, keys, samples, 1),
            keyed_uniforms(0, 0, keys, samples + 1, 0),
        ]
    )
    correlations = torch.corrcoef(streams) - torch.eye(len(streams))
    assert float(correlations.abs().max()) < 4 / math.sqrt(len(keys))


def test_inverse_cdf_literal() -> None:
    logits = exact([0.1, 0.2, 0.7]).log().expand(5, 3)
    uniforms = exact([0.0, 0.09, 0.11, 0.29, 0.31])
    assert inverse_cdf_tokens(logits, uniforms).tolist() == [0, 0, 1, 1, 2]


def test_inverse_cdf_keeps_float64_precision() -> None:
    """Equal odds: a hair under or over the border of two tokens decides between them."""
    hair = 1e-12
    thirds = inverse_cdf_tokens(torch.zeros(2, 3), exact([2 / 3 - hair, 2 / 3 + hair]))
    assert thirds.tolist() == [1, 2]
    halves = inverse_cdf_tokens(torch.zeros(2, 2), exact([1 / 2 - hair, 1 / 2 + hair]))
    assert halves.tolist() == [0, 1]


@quick
@given(st.integers(2, 3000), st.floats(0, 1 - 1e-9), st.integers(0, 99))
def test_inverse_cdf_agrees_with_a_loop(vocabulary: int, uniform: float, seed: int) -> None:
    logits = torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3
    p = logits.softmax(-1).double()[0]
    token = inverse_cdf_tokens(logits, exact([uniform])).item()
    assert token == oracles.inverse_cdf((p / p.sum()).tolist(), uniform)


@pytest.mark.parametrize("uniform", [0.0, 2.0**-53, 0.5, 1 - 2.0**-53, 1.0])
def test_a_banned_token_is_never_drawn(uniform: float) -> None:
    logits = torch.randn(500, 1000) * 4
    logits[:, :300] = logits[:, 600:] = -math.inf
    logits[:, 450] = -math.inf
    tokens = inverse_cdf_tokens(logits, torch.full((500,), uniform, dtype=torch.float64))
    assert bool(logits.gather(1, tokens[:, None]).isfinite().all())


def test_sampled_frequencies_match_the_probabilities() -> None:
    count = 40_000
    logits = exact([0.3, -1.0, 1.2, 0.0, 5.0, 0.7])
    kept = filtered_logits(logits.expand(count, 6), temperature=0.7, banned_ids=[4])
    keys = torch.arange(count)
    tokens = inverse_cdf_tokens(kept, keyed_uniforms(1, 2, keys, keys * 0, 3))
    weights = [0.0 if i == 4 else math.exp(x / 0.7) for i, x in enumerate(logits.tolist())]
    expected = [count * w / sum(weights) for w in weights]
    observed = torch.bincount(tokens, minlength=6).tolist()
    assert observed[4] == 0
    allowed = [0, 1, 2, 3, 5]
    found = stats.chisquare([observed[i] for i in allowed], [expected[i] for i in allowed])
    assert found.pvalue > 1e-3


@pytest.mark.parametrize("row", [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_inverse_cdf_refuses_rows_without_a_distribution(row: list[float]) -> None:
    with pytest.raises(ValueError, match="logits: got a row without a distribution"):
        inverse_cdf_tokens(torch.tensor([[0.0, 0.0], row]), torch.tensor([0.5, 0.5]))


def test_filtered_logits_literals() -> None:
    logits = exact([0.2, 0.5, 0.3]).log()[None].clone()

    def kept(**options: float) -> list[bool]:
        return filtered_logits(logits, temperature=1.0, **options).isfinite()[0].tolist()

    assert kept() == [True, True, True]
    assert kept(top_k=1) == [False, True, False]
    assert kept(top_k=2) == [False, True, True]
    assert kept(top_k=9) == [True, True, True]
    assert kept(top_p=0.45) == [False, True, False]
    assert kept(top_p=0.55) == [False, True, True]
    assert kept(top_p=0.85) == [True, True, True]
    assert kept(top_p=1e-6) == [False, True, False]
    assert kept(banned_ids=[1]) == [True, False, True]
    assert kept(banned_ids=[1], top_k=1) == [False, False, True]
    assert kept(banned_ids=[1], top_p=0.55) == [False, False, True]  # 0.3 / 0.5 reaches it alone
    assert bool(logits.isfinite().all())


def test_temperature_divides_the_logits() -> None:
    got = filtered_logits(torch.tensor([[1.0, -3.0]]).bfloat16(), temperature=0.5)
    assert got.tolist() == [[2.0, -6.0]]
    assert got.dtype == torch.float32


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": math.nan},
        {"temperature": 1.0, "top_k": -1},
        {"temperature": 1.0, "top_p": 0.0},
        {"temperature": 1.0, "top_p": 1.1},
    ],
)
def test_filtered_logits_refuses(options: dict) -> None:
    with pytest.raises(ValueError, match="(temperature|top_k|top_p): got"):
        filtered_logits(torch.zeros(1, 3), **options)


# --- kl and rewards


def test_kl_literals() -> None:
    logprobs, reference = exact([0.5, 0.25]).log(), exact([0.25, 0.5]).log()
    k1 = kl_estimate(logprobs, reference)
    torch.testing.assert_close(k1, exact([math.log(2), -math.log(2)]), **EXACT)
    k2 = kl_estimate(logprobs, reference, "k2")
    torch.testing.assert_close(k2, exact([math.log(2) ** 2 / 2] * 2), **EXACT)
    k3 = kl_estimate(logprobs, reference, "k3")
    torch.testing.assert_close(k3, exact([math.log(2) - 0.5, 1 - math.log(2)]), **EXACT)
    with pytest.raises(ValueError, match="kind: got 'k4'"):
        kl_estimate(logprobs, reference, "k4")
    with pytest.raises(ValueError, match="ref_logprobs"):
        kl_estimate(logprobs, reference[:1])


def test_k1_and_k3_have_the_kl_for_their_mean() -> None:
    p, q = exact([0.5, 0.3, 0.2]), exact([0.2, 0.3, 0.5])
    divergence = 0.3 * math.log(2.5)
    for kind in ("k1", "k3"):
        mean = (p * kl_estimate(p.log(), q.log(), kind)).sum().item()
        assert mean == pytest.approx(divergence, abs=1e-12)


def test_shape_rewards_literal() -> None:
    spans = Spans.from_lengths([2, 1])
    kl = torch.tensor([1.0, -2.0, 4.0])
    got = shape_rewards(torch.tensor([10.0, 20.0]), kl, spans, kl_coef=0.5)
    assert got.tolist() == [-0.5, 11.0, 18.0]
    assert kl.tolist() == [1.0, -2.0, 4.0]
    with pytest.raises(ValueError, match="kl_coef: got -1"):
        shape_rewards(torch.zeros(2), kl, spans, kl_coef=-1.0)
    with pytest.raises(ValueError, match=r"scores: got shape \[3\], wanted \[2\]"):
        shape_rewards(kl, kl, spans, kl_coef=0.1)
    with pytest.raises(ValueError, match=r"kl: got shape \[2\], wanted \[3\]"):
        shape_rewards(kl[:2], kl[:2], spans, kl_coef=0.1)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("none", [3.0, 4.0]), ("penalty", [3.0, 2.5]), ("replace", [3.0, -1.5])],
)
def test_missing_eos_literals(mode: str, expected: list[float]) -> None:
    scores, finished = torch.tensor([3.0, 4.0]), torch.tensor([True, False])
    assert missing_eos_scores(scores, finished, mode=mode, penalty=1.5).tolist() == expected
    assert scores.tolist() == [3.0, 4.0]


def test_missing_eos_refuses() -> None:
    scores, finished = torch.zeros(2), torch.tensor([True, False])
    with pytest.raises(ValueError, match="mode: got 'bootstrap'"):
        missing_eos_scores(scores, finished, mode="bootstrap", penalty=1.0)
    with pytest.raises(ValueError, match="penalty: got -1"):
        missing_eos_scores(scores, finished, mode="penalty", penalty=-1.0)
    with pytest.raises(ValueError, match="finished"):
        missing_eos_scores(scores, finished[:1], mode="none", penalty=1.0)


# --- advantages


def test_advantages_literal() -> None:
    spans = Spans.from_lengths([2, 1])
    rewards, values = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 2.0])
    got, returns = generalized_advantages(rewards, values, spans, gamma=0.5, gae_lambda=0.5)
    assert got.tolist() == [1.25, 1.0, 1.0]
    assert returns.tolist() == [1.75, 2.0, 3.0]


@quick
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), unit, unit)
def test_advantages_are_the_mixture_of_k_step_ones(
    lengths: list[int], gamma: float, gae_lambda: float
) -> None:
    spans = Spans.from_lengths(lengths)
    rewards, values = doubles(spans.total), doubles(spans.total)
    pairs = zip(
        oracles.split(rewards.tolist(), lengths),
        oracles.split(values.tolist(), lengths),
        strict=True,
    )
    expected = exact([a for r, v in pairs for a in oracles.advantages(r, v, gamma, gae_lambda)])
    got, returns = generalized_advantages(
        rewards, values, spans, gamma=gamma, gae_lambda=gae_lambda
    )
    torch.testing.assert_close(got, expected, **EXACT)
    torch.testing.assert_close(returns - values, expected, **EXACT)


@quick
@given(ragged, unit, unit)
def test_advantages_agree_with_scipy(lengths: list[int], gamma: float, gae_lambda: float) -> None:
    spans = Spans.from_lengths(lengths)
    rewards, values = doubles(spans.total), doubles(spans.total)
    got, _ = generalized_advantages(rewards, values, spans, gamma=gamma, gae_lambda=gae_lambda)
    for b in range(len(spans)):
        where = spans.token_indices([b])
        r, v = rewards[where].numpy(), values[where].numpy()
        errors = r - v
        errors[:-1] += gamma * v[1:]
        expected = lfilter([1], [1, -gamma * gae_lambda], errors[::-1])[::-1]
        torch.testing.assert_close(got[where], torch.from_numpy(expected.copy()), **EXACT)


def test_advantage_identities() -> None:
    spans = Spans.from_lengths([3, 1, 2])
    rewards, values = doubles(6), doubles(6, grad=True)
    _, returns = generalized_advantages(rewards, values, spans, gamma=1.0, gae_lambda=1.0)
    tails = [
        sum(piece[i:])
        for piece in oracles.split(rewards.tolist(), [3, 1, 2])
        for i in range(len(piece))
    ]
    torch.testing.assert_close(returns, exact(tails), **EXACT)
    assert not returns.requires_grad
    half, _ = generalized_advantages(
        rewards.bfloat16(), values.bfloat16(), spans, gamma=1.0, gae_lambda=0.9
    )
    assert half.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [({"gamma": 1.1}, "gamma: got 1.1"), ({"gae_lambda": -0.1}, "gae_lambda: got -0.1")],
)
def test_advantages_refuse(options: dict, message: str) -> None:
    spans, zeros = Spans.from_lengths([2]), torch.zeros(2)
    with pytest.raises(ValueError, match=message):
        generalized_advantages(zeros, zeros, spans, **{"gamma": 1.0, "gae_lambda": 1.0} | options)
    for rewards, values in ((zeros[:1], zeros), (zeros, zeros[:, None])):
        with pytest.raises(ValueError, match="(rewards|values): got shape"):
            generalized_advantages(rewards, values, spans, gamma=1.0, gae_lambda=1.0)


# --- statistics


def test_whiten_literals() -> None:
    values = torch.tensor([2.0, 6.0])
    assert whiten(values).tolist() == [-1.0, 1.0]
    assert whiten(values, shift_mean=False).tolist() == [3.0, 5.0]
    assert whiten(values, floor=4.0).tolist() == [-0.5, 0.5]
    assert whiten(values, floor=1.0).tolist() == [-1.0, 1.0]
    assert whiten(torch.tensor([7.0])).tolist() == [0.0]
    assert whiten(torch.tensor([7.0]), shift_mean=False).tolist() == [7.0]
    assert whiten(torch.full((1001,), 5.3)).tolist() == [0.0] * 1001
    assert whiten(values.bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match="floor: got 0"):
        whiten(values, floor=0.0)


def test_explained_variance_literals() -> None:
    returns = torch.tensor([1.0, 3.0])
    assert explained_variance(returns, returns).item() == 1.0
    assert explained_variance(returns + 5, returns).item() == 1.0
    assert explained_variance(torch.tensor([2.0, 2.0]), returns).item() == 0.0
    assert explained_variance(torch.tensor([3.0, 1.0]), returns).item() == -3.0
    assert explained_variance(returns, torch.tensor([0.1, 0.1])).item() == 0.0
    constant = torch.full((3,), 0.1, dtype=torch.float64)
    assert explained_variance(doubles(3), constant).item() == 0.0
    with pytest.raises(ValueError, match="returns"):
        explained_variance(returns, returns[:1])


# --- losses


def test_policy_loss_literal() -> None:
    """Ratios 2 and ½ with A = 1 and -1 at ε = 0.2: -1.2 and -0.5, then 2 and 0.8."""
    ratios, advantages = exact([2.0, 0.5, 2.0, 0.5]), exact([1.0, 1.0, -1.0, -1.0])
    logprobs = ratios.log().requires_grad_()
    got = clipped_policy_loss(logprobs, torch.zeros_like(ratios), advantages, clip_range=0.2)
    assert got.loss.item() == pytest.approx((-1.2 - 0.5 + 2 + 0.8) / 4, abs=1e-12)
    assert got.clipped_sum.item() == 2
    assert got.approx_kl_sum.item() == pytest.approx(2 * math.log(2) ** 2, abs=1e-12)
    assert got.ratio_sum.item() == pytest.approx(5, abs=1e-12)
    assert got.ratio_sq_sum.item() == pytest.approx(8.5, abs=1e-12)
    assert not any(field.requires_grad for field in got[1:])
    got.loss.backward()
    torch.testing.assert_close(logprobs.grad, exact([0, -0.5, 2, 0]) / 4, **EXACT)


def test_clip_higher_and_dual_clip_literals() -> None:
    zero = torch.zeros(1, dtype=torch.float64)

    def loss(ratio: float, advantage: float, **options: float) -> tuple[float, int, float]:
        logprobs = exact([ratio]).log().requires_grad_()
        got = clipped_policy_loss(logprobs, zero, exact([advantage]), clip_range=0.2, **options)
        got.loss.backward()
        assert logprobs.grad is not None
        return round(got.loss.item(), 9), int(got.clipped_sum), round(logprobs.grad.item(), 9)

    assert loss(2.0, 1.0, clip_range_high=0.5) == (-1.5, 1, 0)
    assert loss(1.4, 1.0, clip_range_high=0.5) == (-1.4, 0, -1.4)
    assert loss(0.5, -1.0, clip_range_high=0.5) == (0.8, 1, 0)
    assert loss(10.0, -1.0) == (10.0, 0, 10.0)
    assert loss(10.0, -1.0, dual_clip=3.0) == (3.0, 1, 0)
    assert loss(2.0, -1.0, dual_clip=3.0) == (2.0, 0, 2.0)
    assert loss(0.1, 2.0, dual_clip=3.0) == (-0.2, 0, -0.2)


def test_an_unchanged_policy() -> None:
    """Ratio 1 everywhere: nothing clipped, no KL, and the gradient is the policy gradient's."""
    advantages, logprobs = doubles(9), doubles(9, grad=True)
    got = clipped_policy_loss(logprobs, logprobs.detach(), advantages, clip_range=0.2)
    assert [field.item() for field in got[1:]] == [0, 0, 9, 9]
    got.loss.backward()
    torch.testing.assert_close(logprobs.grad, -advantages / 9, **EXACT)


def test_value_loss_literals() -> None:
    """PPO2's larger error: 2² over 1² keeps its gradient, 1² under 2² has none."""
    values = exact([2.0, 2.0]).requires_grad_()
    old_values, returns = exact([0.0, 0.0]), exact([0.0, 3.0])
    plain = clipped_value_loss(values, old_values, returns)
    assert plain.loss.item() == (2 + 0.5) / 2
    assert plain.clipped_sum.item() == 0
    clipped = clipped_value_loss(values, old_values, returns, clip_range_value=1.0)
    assert clipped.loss.item() == (2 + 2) / 2
    assert clipped.clipped_sum.item() == 1
    clipped.loss.backward()
    assert values.grad is not None
    assert (values.grad * 2).tolist() == [2.0, 0.0]


@pytest.mark.parametrize("lengths", [[1, 2, 40, 7, 3, 90], [5, 64, 1, 1, 33, 2]])
def test_micro_batches_add_up_to_the_whole_step(lengths: list[int]) -> None:
    spans = Spans.from_lengths(lengths)
    old, advantages, returns = (doubles(spans.total) for _ in range(3))
    start = old + doubles(spans.total) / 4
    share = torch.linspace(-2, 2, spans.total, dtype=torch.float64)

    def gradient(size: int, token_count: int | None) -> tuple[float, Tensor, Tensor]:
        """One shared parameter moves every token, as in a network."""
        weight = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        total, sums = 0.0, torch.zeros(5, dtype=torch.float64)
        batches = range(0, len(lengths), size)
        for first in batches:
            at = spans.token_indices(list(range(first, min(first + size, len(lengths)))))
            now = start[at] + weight[0] * share[at] + weight[1]
            policy = clipped_policy_loss(
                now, old[at], advantages[at], clip_range=0.2, token_count=token_count
            )
            value = clipped_value_loss(
                now, old[at], returns[at], clip_range_value=0.3, token_count=token_count
            )
            loss = policy.loss + value.loss
            loss = loss if token_count else loss / len(batches)
            loss.backward()
            total += loss.item()
            sums += torch.stack([*policy[1:], value.clipped_sum])
        assert weight.grad is not None
        return total, weight.grad, sums

    whole = gradient(len(lengths), None)
    for size in (1, 2, 3, len(lengths)):
        for ours, theirs in zip(gradient(size, spans.total), whole, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    means = gradient(1, None)[1]
    assert float((means - whole[1]).norm() / whole[1].norm()) > 0.05


def test_losses_are_float32_for_half_inputs() -> None:
    half = torch.zeros(3).bfloat16()
    assert clipped_policy_loss(half, half, half, clip_range=0.2).loss.dtype == torch.float32
    assert clipped_value_loss(half, half, half).loss.dtype == torch.float32
    assert preference_loss(half, half).dtype == torch.float32


def test_losses_refuse() -> None:
    x, none = torch.zeros(3), torch.zeros(0)
    for options, name in (
        ({"clip_range": -0.1}, "clip_range"),
        ({"clip_range": 0.2, "clip_range_high": -1.0}, "clip_range_high"),
        ({"clip_range": 0.2, "dual_clip": 0.5}, "dual_clip"),
        ({"clip_range": 0.2, "token_count": 0}, "token_count"),
    ):
        with pytest.raises(ValueError, match=f"{name}: got"):
            clipped_policy_loss(x, x, x, **options)
    with pytest.raises(ValueError, match="advantages"):
        clipped_policy_loss(x, x, x[:, None], clip_range=0.2)
    with pytest.raises(ValueError, match="token_count: got 0"):
        clipped_policy_loss(none, none, none, clip_range=0.2)
    assert clipped_policy_loss(none, none, none, clip_range=0.2, token_count=4).loss.item() == 0
    with pytest.raises(ValueError, match="clip_range_value: got 0"):
        clipped_value_loss(x, x, x, clip_range_value=0.0)
    with pytest.raises(ValueError, match="returns"):
        clipped_value_loss(x, x, x[:2])


def test_preference_literals() -> None:
    """Scores apart by log 3: the chosen answer has probability 3/4."""
    chosen, rejected = exact([math.log(3), 1.0]), exact([0.0, 1.0])
    assert preference_loss(chosen, rejected).item() == pytest.approx(
        (math.log(4 / 3) + math.log(2)) / 2, abs=1e-12
    )
    margin = exact([math.log(3), 0.0])
    assert preference_loss(chosen, rejected, margin=margin).item() == pytest.approx(
        math.log(2), abs=1e-12
    )
    smoothed = preference_loss(chosen[:1], rejected[:1], label_smoothing=0.1).item()
    assert smoothed == pytest.approx(0.9 * math.log(4 / 3) + 0.1 * math.log(4), abs=1e-12)
    assert preference_loss(exact([-1000.0]), exact([0.0])).item() == 1000
    assert preference_loss(chosen, rejected, margin=0.5) > preference_loss(chosen, rejected)


def test_preference_refuses() -> None:
    x = torch.zeros(3)
    with pytest.raises(ValueError, match="rejected_scores"):
        preference_loss(x, x[:1])
    with pytest.raises(ValueError, match="margin"):
        preference_loss(x, x, margin=x[:, None])
    with pytest.raises(ValueError, match="label_smoothing: got 0.6"):
        preference_loss(x, x, label_smoothing=0.6)
