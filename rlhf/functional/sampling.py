"""Keyed sampling: the sampled token depends on its keys and logits, not on the batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf.functional.checks import check_between, check_positive, check_same_shape
from rlhf.spans import check_rows


def _signed(word: Any) -> Any:
    """Wrap a Python integer to int64, like arithmetic on int64 tensors does."""
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

    The state s starts at 0. For each integer w in turn, s becomes the output number w of a
    splitmix64 generator with seed s.

    Args:
        seed: seed of the run.
        iteration: iteration of the run.
        keys: [B] int64, key of the prompt.
        samples: [B] int64, index of the response among the responses to its prompt.
        position: index of the token in its response. With keys and samples [B, 1] and positions
            [T] the result is [B, T].

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
        Tokens [B] int64, and their log-probabilities [B] float32, nats: NaN where a row has no
        distribution (NaN, +inf, all banned), which a check here would make the host wait for.

    Raises:
        ValueError: shapes disagree.
    """
    check_rows("uniforms", uniforms, len(logits))
    shifted = logits.float() - logits.amax(-1, keepdim=True).float()
    cdf = shifted.exp().cumsum(-1, dtype=torch.float64)  # not normalized
    total = cdf[:, -1]
    # u · total may round up to the total, which would select a token after the last allowed one.
    target = torch.minimum(uniforms * total, total.nextafter(torch.zeros_like(total)))
    tokens = torch.searchsorted(cdf, target[:, None], right=True).clamp(max=cdf.shape[1] - 1)
    return tokens.squeeze(-1), (shifted.gather(1, tokens).squeeze(-1) - total.log()).float()


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
        top_k: keep the k most probable tokens, and ties with the last of them; 0: keep all.
        top_p: in (0, 1]; then keep the smallest set of most probable tokens whose total
            probability is at least `top_p`.
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
