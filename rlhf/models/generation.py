"""Sampling responses token by token, each from its own keyed uniform number."""

from collections.abc import Callable

import torch
from torch import Tensor

from rlhf.config import SamplingConfig
from rlhf.functional import filtered_logits, inverse_cdf_tokens, keyed_uniforms
from rlhf.models.cache import DecodeState
from rlhf.models.llava import Llava
from rlhf.profiling import count, phase
from rlhf.spans import Spans
from rlhf.types import PromptBatch, Responses

STILL_RUNNING = 0.75  # share of rows at which the finished ones leave; each leaving is a copy


@torch.no_grad()
def generate(
    llava: Llava,
    prompts: PromptBatch,
    sampling: SamplingConfig,
    *,
    seed: int = 0,
    iteration: int = 0,
    samples: Tensor | None = None,
    on_chunk: Callable[[int], None] = lambda rows: None,
) -> tuple[Responses, Tensor]:
    """One response to each prompt, by the active adapter.

    The number that picks a token is a function of (seed, iteration, prompt key, sample index,
    position) only, so that neither batching nor order changes what is sampled.

    Args:
        llava: the model.
        prompts: B prompts.
        sampling: temperature (0 is greedy), filters, longest response, rows at a time.
        seed, iteration: of the run.
        samples: [B] int64, index of the sample of its prompt; default 0.
        on_chunk: called with the number of rows just finished.

    Returns:
        the responses, and [N] float32 the log-probability of each token when it was drawn.
    """
    samples = torch.zeros(len(prompts), dtype=torch.int64) if samples is None else samples
    rows: list[Tensor] = []
    logprobs: list[Tensor] = []
    for chunk in torch.arange(len(prompts)).split(sampling.batch_size):
        keys = (seed, iteration, prompts.keys[chunk], samples[chunk])
        with llava.products():  # which narrows each weight once
            tokens, scores, lengths = _decode(llava, prompts.select(chunk), sampling, keys)
        rows += [row[:length] for row, length in zip(tokens, lengths.tolist(), strict=True)]
        logprobs += [row[:length] for row, length in zip(scores, lengths.tolist(), strict=True)]
        on_chunk(len(chunk))
    return joined(llava, rows), torch.cat(logprobs)


def joined(llava: Llava, rows: list[Tensor]) -> Responses:
    """The responses of these tokens each; one that ends in an end is finished."""
    flat, spans = torch.cat(rows), Spans.from_lengths([len(row) for row in rows])
    ends = torch.tensor(llava.eos_ids)
    return Responses(flat, spans, torch.isin(flat[spans.offsets[1:] - 1], ends))


def _decode(
    llava: Llava,
    prompts: PromptBatch,
    sampling: SamplingConfig,
    keys: tuple[int, int, Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [B, T], their log-probabilities [B, T] and the true lengths [B], on the CPU."""
    with phase("prefill"):
        hidden, state = llava.prefill(prompts, sampling.max_new_tokens)
    with phase("decode"):
        return _continued(llava, hidden, state, sampling, keys)


def _continued(
    llava: Llava,
    hidden: Tensor,
    state: DecodeState,
    sampling: SamplingConfig,
    keys: tuple[int, int, Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, from the states [B, D] after the prompts on."""
    eos, longest = torch.tensor(llava.eos_ids), sampling.max_new_tokens
    seed, iteration, prompt_keys, samples = keys
    tokens = torch.zeros(len(hidden), longest, dtype=torch.int64)
    scores = torch.zeros(len(hidden), longest)
    lengths = torch.full((len(hidden),), longest)
    rows = torch.arange(len(hidden))  # those that the model still computes
    for position in range(longest):
        uniforms = keyed_uniforms(seed, iteration, prompt_keys[rows], samples[rows], position)
        logits = hidden @ llava.output_weight.T
        chosen, chosen_scores = draw(llava, logits, sampling, uniforms)
        tokens[rows, position], scores[rows, position] = chosen.cpu(), chosen_scores.cpu()
        running = lengths[rows] > position
        ended = rows[running & torch.isin(chosen.cpu(), eos)]
        lengths[ended] = position + 1
        running = lengths[rows] > position + 1
        if not running.any():
            break
        if running.float().mean() <= STILL_RUNNING:
            rows, chosen = rows[running], chosen[running.to(chosen.device)]
            state = state.select(running.nonzero().squeeze(1))
        hidden, state = llava.decode(chosen, state)
        count("decode_steps", 1)
    return tokens, scores, lengths


def draw(
    llava: Llava, logits: Tensor, sampling: SamplingConfig, uniforms: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens [B] of logits [B, V] by uniform numbers [B], and their log-probabilities."""
    kept = filtered_logits(
        logits,
        temperature=sampling.temperature or 1.0,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        banned_ids=llava.banned_ids,
    )
    if kept.device.type == "mps":  # has no float64, which the inverse CDF sums in
        kept = kept.cpu()
    if sampling.temperature == 0:
        best = kept.max(-1)
        return best.indices, best.values - kept.logsumexp(-1)
    return inverse_cdf_tokens(kept, uniforms.to(kept.device))
