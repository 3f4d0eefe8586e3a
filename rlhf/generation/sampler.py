"""Sampling responses token by token, each from its own keyed uniform number."""

from collections.abc import Callable

import torch
from torch import Tensor

from rlhf.config.schema import SamplingConfig
from rlhf.functional import filtered_logits, inverse_cdf_tokens, keyed_uniforms
from rlhf.kernels.prepacked_gemm import prepacked_gemm
from rlhf.models.llava import Llava
from rlhf.models.packed.kv_cache import DecodeState
from rlhf.spans import Spans
from rlhf.tracking.profiler import count, phase
from rlhf.types import PromptBatch, Responses, SampledTokens

COMPACT_BELOW = 0.75  # share of rows at which the finished ones leave; each leaving is a copy


@torch.no_grad()
def generate(
    llava: Llava,
    prompts: PromptBatch,
    sampling: SamplingConfig,
    *,
    seed: int = 0,
    iteration: int = 0,
    samples: Tensor | None = None,
    return_hidden_states: bool = False,
    on_chunk: Callable[[int], None] = lambda rows: None,
) -> tuple[Responses, SampledTokens]:
    """One response to each prompt, by the active adapter.

    The number that picks a token is a function of (seed, iteration, prompt key, sample index,
    position) only, so that neither batching nor order changes what is sampled.

    Args:
        llava: the model.
        prompts: B prompts.
        sampling: temperature (0 is greedy), filters, longest response, rows at a time.
        seed, iteration: of the run.
        samples: [B] int64, index of the sample of its prompt; default 0.
        return_hidden_states: return the states that the tokens were drawn from.
        on_chunk: called with the number of rows just finished.
    """
    samples = torch.zeros(len(prompts), dtype=torch.int64) if samples is None else samples
    rows: list[Tensor] = []
    drawn: list[SampledTokens] = []
    for chunk in torch.arange(len(prompts)).split(sampling.batch_size):
        keys = prompts.sampling_keys[chunk, None], samples[chunk, None]
        uniforms = keyed_uniforms(seed, iteration, *keys, torch.arange(sampling.max_new_tokens))
        with llava.autocast():  # which narrows each weight once
            some, found = generate_batch(
                llava, prompts.select(chunk), sampling, uniforms, return_hidden_states
            )
        rows += some
        drawn.append(found)
        on_chunk(len(chunk))
    kept = [one.hidden_states for one in drawn if one.hidden_states is not None]
    logprobs = torch.cat([one.logprobs for one in drawn])
    return to_responses(llava, rows), SampledTokens(logprobs, torch.cat(kept) if kept else None)


def to_responses(llava: Llava, rows: list[Tensor]) -> Responses:
    """The responses of these tokens each; one that ends in an end is finished."""
    flat, spans = torch.cat(rows), Spans.from_lengths([len(row) for row in rows])
    ends = torch.tensor(llava.eos_ids)
    return Responses(flat, spans, torch.isin(flat[spans.offsets[1:] - 1], ends))


def generate_batch(
    llava: Llava,
    prompts: PromptBatch,
    sampling: SamplingConfig,
    uniforms: Tensor,
    return_hidden_states: bool,
) -> tuple[list[Tensor], SampledTokens]:
    """The tokens of each row, and what is known of all of them."""
    with phase("prefill"):
        hidden, state = llava.prefill(prompts, sampling.max_new_tokens)
    with phase("decode"), llava.prepacked(len(prompts), sampling.max_new_tokens):
        return decode_loop(llava, hidden, state, sampling, uniforms, return_hidden_states)


def decode_loop(
    llava: Llava,
    hidden: Tensor,
    state: DecodeState,
    sampling: SamplingConfig,
    uniforms: Tensor,
    return_hidden_states: bool,
) -> tuple[list[Tensor], SampledTokens]:
    """The same, from the states [B, D] after the prompts on; `uniforms` [B, T] pick the tokens."""
    eos, longest = torch.tensor(llava.eos_ids), sampling.max_new_tokens
    tokens = torch.zeros(uniforms.shape, dtype=torch.int64)
    scores = torch.zeros(uniforms.shape)
    states = hidden.new_zeros(*uniforms.shape, hidden.shape[1]) if return_hidden_states else None
    lengths = torch.full((len(hidden),), longest)
    rows = torch.arange(len(hidden))  # those that the model still computes
    logits_of = prepacked_gemm(llava.output_weight, len(rows), llava.precision)
    for position in range(longest):
        logits = logits_of(hidden)
        chosen, chosen_scores = sample_tokens(llava, logits, sampling, uniforms[rows, position])
        tokens[rows, position], scores[rows, position] = chosen.cpu(), chosen_scores.cpu()
        if states is not None:
            states[rows.to(states.device), position] = hidden
        running = lengths[rows] > position
        ended = rows[running & torch.isin(chosen.cpu(), eos)]
        lengths[ended] = position + 1
        running = lengths[rows] > position + 1
        if not running.any():
            break
        if running.float().mean() <= COMPACT_BELOW:
            rows, chosen = rows[running], chosen[running.to(chosen.device)]
            state = state.select(running.nonzero().squeeze(1))
        hidden, state = llava.decode(chosen, state)
        count("decode_steps", 1)
    said = torch.arange(longest) < lengths[:, None]
    kept = None if states is None else states[said.to(states.device)]
    return list(tokens[said].split(lengths.tolist())), SampledTokens(scores[said], kept)


def sample_tokens(
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
