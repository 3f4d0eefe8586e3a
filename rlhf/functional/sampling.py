"""Keyed sampling: a token follows from its keys and its logits, whatever else is in the batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf.functional.checks import check_between, check_positive, check_same_shape
from rlhf.spans import check_rows


def _signed(word: Any) -> Any:
    """The int64 that has the low 64 bits of a Python integer; an int64 tensor wraps by itself."""
    return word if isinstance(word, Tensor) else (word + 2**63) % 2**64 - 2**63


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_ROUNDS = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)), (31, 1))


def _mix(state: Any) -> Any:
    """splitmix64's finalizer; the mask makes the right shift a logical one."""
    for shift, factor in _ROUNDS:
        state = _signed(state)
        state = (state ^ ((state >> shift) & (2 ** (64 - shift) - 1))) * factor
    return state


def keyed_uniforms(
    seed: int, iteration: int, keys: Tensor, samples: Tensor, position: int | Tensor
) -> Tensor:
    """Compute uniform numbers in [0, 1) as a pure function of five integers.

    Each integer w in turn replaces the state s by output w of splitmix64 seeded with s.

    Args:
        seed: of the run.
        iteration: of the run.
        keys: [B] int64, which prompt.
        samples: [B] int64, which of the prompt's responses.
        position: index of the token in its response. Keys and samples [B, 1] with positions [T]
            give all [B, T] numbers.

    Returns:
        [B] float64, 53 random bits each.

    Raises:
        ValueError: keys and samples differ in shape.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    """
    check_same_shape(keys=keys, samples=samples)
    state: Any = 0
    for word in (seed, iteration, position, keys.long(), samples.long()):
        state = _mix(state + (word + 1) * _GOLDEN)
    bits: Tensor = (state >> 11) & (2**53 - 1)
    return bits.double() * 2.0**-53


def inverse_cdf_tokens(logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Sample the first token of each row whose cumulative probability exceeds a uniform number.

    Args:
        logits: [B, V], -inf where a token is banned: it is never returned.
        uniforms: [B] in [0, 1).

    Returns:
        The tokens [B] int64, and their log-probabilities [B] float32, nats.

    Raises:
        ValueError: shapes disagree, or a row has no distribution (NaN, +inf, all banned).
    """
    check_rows("uniforms", uniforms, len(logits))
    shifted = logits.float() - logits.amax(-1, keepdim=True).float()
    cdf = shifted.exp().cumsum(-1, dtype=torch.float64)  # not normalised: its end is the mass
    mass = cdf[:, -1]
    if not bool(mass.isfinite().all()):
        raise ValueError("logits: got a row without a distribution, wanted finite values or -inf")
    # u · mass may round up to the mass itself, which would name a token past the last allowed one.
    target = torch.minimum(uniforms * mass, mass.nextafter(torch.zeros_like(mass)))
    tokens = torch.searchsorted(cdf, target[:, None], right=True)
    return tokens.squeeze(-1), (shifted.gather(1, tokens).squeeze(-1) - mass.log()).float()


def filtered_logits(
    logits: Tensor,
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    banned_ids: Sequence[int] = (),
) -> Tensor:
    """Divide logits by the temperature and set those that may not be sampled to -inf.

    Args:
        logits: [B, V].
        temperature: above 0.
        top_k: keeps the k likeliest tokens and those that tie with the last; 0 keeps all.
        top_p: in (0, 1]; of those it keeps the fewest likeliest whose probabilities reach it.
        banned_ids: tokens that are never sampled.

    Returns:
        [B, V] float32.

    Raises:
        ValueError: an option is out of range.
    """
    check_positive("temperature", temperature)
    check_between("top_k", top_k, 0)
    check_between("top_p", top_p, 1e-9, 1)
    banned = torch.tensor([*banned_ids], dtype=torch.int64, device=logits.device)
    scaled = logits.float() if temperature == 1 else logits.float() / temperature
    filtered = scaled.index_fill(-1, banned, -torch.inf)
    if 0 < top_k < filtered.shape[-1]:
        smallest = filtered.topk(top_k).values[:, -1:]
        filtered = filtered.masked_fill(filtered < smallest, -torch.inf)
    if top_p < 1:
        p, order = filtered.double().softmax(-1).sort(stable=True, dim=-1, descending=True)
        excess = p.cumsum(-1) - p >= top_p
        filtered = filtered.masked_fill(excess.scatter(-1, order, excess), -torch.inf)
    return filtered
