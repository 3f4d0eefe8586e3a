"""Keyed sampling: the published generator, known distributions, no banned token."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from rlhf.functional import (
    filtered_logits,
    inverse_cdf_tokens,
    keyed_uniforms,
)
from tests.support import oracles
from tests.support.float64 import exact, quick


def test_splitmix64_known_responses() -> None:
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
    state = zero[:1]
    steps = range(1_000)
    return {
        "keys": keyed_uniforms(0, 0, index, zero, 0),
        "samples": keyed_uniforms(0, 0, zero, index, 0),
        "sparse keys": keyed_uniforms(0, 0, index << 40, zero, 0),
        "seeds": torch.cat([keyed_uniforms(i, 0, state, state, 0) for i in steps]),
        "iterations": torch.cat([keyed_uniforms(0, i, state, state, 0) for i in steps]),
        "positions": torch.cat([keyed_uniforms(0, 0, state, state, i) for i in steps]),
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
    assert inverse_cdf_tokens(logits, uniforms)[0].tolist() == [0, 0, 1, 1, 2]


def test_inverse_cdf_keeps_float64_precision() -> None:
    """Equal odds: a hair under or over the border of two tokens decides between them."""
    hair = 1e-12
    thirds, _ = inverse_cdf_tokens(torch.zeros(2, 3), exact([2 / 3 - hair, 2 / 3 + hair]))
    assert thirds.tolist() == [1, 2]
    halves, _ = inverse_cdf_tokens(torch.zeros(2, 2), exact([1 / 2 - hair, 1 / 2 + hair]))
    assert halves.tolist() == [0, 1]


@quick
@given(st.integers(2, 3000), st.floats(0, 1 - 1e-9), st.integers(0, 99))
def test_inverse_cdf_agrees_with_a_loop(vocabulary: int, uniform: float, seed: int) -> None:
    logits = torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3
    p = logits.softmax(-1).double()[0]
    (token,), (logprob,) = inverse_cdf_tokens(logits, exact([uniform]))
    assert logprob.item() == pytest.approx(math.log(p[token]), abs=1e-5)
    assert token == oracles.inverse_cdf((p / p.sum()).tolist(), uniform)


@pytest.mark.parametrize("uniform", [0.0, 2.0**-53, 0.5, 1 - 2.0**-53, 1.0])
def test_a_banned_token_is_never_drawn(uniform: float) -> None:
    logits = torch.randn(500, 1000) * 4
    logits[:, :300] = logits[:, 600:] = -math.inf
    logits[:, 450] = -math.inf
    tokens, _ = inverse_cdf_tokens(logits, torch.full((500,), uniform, dtype=torch.float64))
    assert bool(logits.gather(1, tokens[:, None]).isfinite().all())


def test_sampled_frequencies_match_the_probabilities() -> None:
    count = 40_000
    logits = exact([0.3, -1.0, 1.2, 0.0, 5.0, 0.7])
    logits_left = filtered_logits(logits.expand(count, 6), temperature=0.7, banned_ids=[4])
    keys = torch.arange(count)
    tokens, _ = inverse_cdf_tokens(logits_left, keyed_uniforms(1, 2, keys, keys * 0, 3))
    weights = [0.0 if i == 4 else math.exp(x / 0.7) for i, x in enumerate(logits.tolist())]
    expected = [count * w / sum(weights) for w in weights]
    observed = torch.bincount(tokens, minlength=6).tolist()
    assert observed[4] == 0
    allowed = [0, 1, 2, 3, 5]
    test = stats.chisquare([observed[i] for i in allowed], [expected[i] for i in allowed])
    assert test.pvalue > 1e-3


@pytest.mark.parametrize("row", [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_a_row_without_a_distribution_has_no_logprob(row: list[float]) -> None:
    logits, uniforms = torch.tensor([[0.0, 0.0], row]), torch.tensor([0.5, 0.5])
    tokens, logprobs = inverse_cdf_tokens(logits, uniforms)
    assert logprobs.isnan().tolist() == [False, True]
    assert all(token in (0, 1) for token in tokens.tolist())


def test_filtered_logits_literals() -> None:
    logits = exact([0.2, 0.5, 0.3]).log()[None].clone()

    def left(**options: Any) -> list[bool]:
        return filtered_logits(logits, temperature=1.0, **options).isfinite()[0].tolist()

    assert left() == [True, True, True]
    assert left(top_k=1) == [False, True, False]
    assert left(top_k=2) == [False, True, True]
    assert left(top_k=9) == [True, True, True]
    assert left(top_p=0.45) == [False, True, False]
    assert left(top_p=0.55) == [False, True, True]
    assert left(top_p=0.85) == [True, True, True]
    assert left(top_p=1e-6) == [False, True, False]
    assert left(banned_ids=[1]) == [True, False, True]
    assert left(banned_ids=[1], top_k=1) == [False, False, True]
    assert left(banned_ids=[1], top_p=0.55) == [False, False, True]  # 0.3 / 0.5 reaches it alone
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
