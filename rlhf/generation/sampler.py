"""Sample responses batch by batch; a keyed uniform number picks each token."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from rlhf.config.schema import SamplingConfig
from rlhf.functional import keyed_uniforms
from rlhf.generation.checkpoint_options import say_unused_options
from rlhf.generation.decode_graph import check_cuda_graphs
from rlhf.generation.decode_loop import decode_loop
from rlhf.models.encoding import check_positions
from rlhf.models.llava import Llava
from rlhf.parallel.world import World
from rlhf.spans import Spans
from rlhf.tracking.activity import working
from rlhf.tracking.profiler import phase
from rlhf.types import PromptBatch, Responses, SampledTokens


class BatchGenerator(Protocol):
    """Samples one response to each prompt of a batch."""

    def __call__(
        self,
        llava: Llava,
        prompts: PromptBatch,
        sampling: SamplingConfig,
        uniforms: Tensor,
        *,
        return_hidden_states: bool = False,
    ) -> tuple[list[Tensor], SampledTokens]:
        """Sample a batch; see `generate_batch`."""


@torch.no_grad()
def generate_batch(
    llava: Llava,
    prompts: PromptBatch,
    sampling: SamplingConfig,
    uniforms: Tensor,
    *,
    return_hidden_states: bool = False,
) -> tuple[list[Tensor], SampledTokens]:
    """Sample one response to each prompt by the decode loop of this package.

    Args:
        llava: the model; its active adapter is used.
        prompts: B prompts.
        sampling: temperature (0 is greedy), filters, longest response.
        uniforms: [B, T] float64 in [0, 1), the number that picks each token.
        return_hidden_states: return the hidden states that the tokens were sampled from.

    Returns:
        The tokens [n] of each response, and the log-probabilities [N] and (optional) hidden
        states [N, D] of all tokens, end to end.

    Raises:
        UsageError: `sampling.cuda_graphs` asks for what this model or its device cannot do.
    """
    check_cuda_graphs(sampling, llava)
    with llava.autocast():  # around all steps, so that each weight is cast once
        with phase("prefill"):
            hidden, state = llava.prefill(prompts, sampling.max_new_tokens)
        steps = sampling.max_new_tokens
        with (
            phase("decode"),
            working("tokens", steps) as progress,
            llava.prepacked(len(prompts), steps),
        ):
            return decode_loop(
                llava,
                hidden,
                state,
                sampling,
                uniforms,
                return_hidden_states=return_hidden_states,
                on_token=progress.advance,
            )


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
    batch_generator: BatchGenerator = generate_batch,
) -> tuple[Responses, SampledTokens]:
    """Sample one response to each prompt, `sampling.batch_size` rows at a time.

    The number that picks a token is a function of (seed, iteration, prompt key, sample index,
    position) only: neither the batch size nor the order of the prompts changes what is sampled.

    Args:
        llava: the model; its active adapter is used.
        prompts: B prompts.
        sampling: temperature (0 is greedy), filters, longest response, rows at a time.
        seed: of the run.
        iteration: of the run.
        samples: [B] int64, index of the response among those to its prompt; None: 0.
        return_hidden_states: return the hidden states that the tokens were sampled from.
        on_chunk: called with the number of rows after each batch.
        batch_generator: samples the responses of one batch.

    Returns:
        B responses of N tokens in all, and log-probabilities and hidden states of the tokens.
    """
    say_unused_options(llava)
    lengths = prompts.spans.lengths + sampling.max_new_tokens
    check_positions(lengths, llava.max_positions, llava.base)
    samples = torch.zeros(len(prompts), dtype=torch.int64) if samples is None else samples
    rows: list[Tensor] = []
    sampled: list[SampledTokens] = []
    with working("responses", len(prompts)) as progress:
        for chunk in torch.arange(len(prompts)).split(sampling.batch_size):
            keys = prompts.sampling_keys[chunk, None], samples[chunk, None]
            uniforms = keyed_uniforms(seed, iteration, *keys, torch.arange(sampling.max_new_tokens))
            tokens, batch_sampled = batch_generator(
                llava,
                prompts.select(chunk),
                sampling,
                uniforms,
                return_hidden_states=return_hidden_states,
            )
            rows += tokens
            sampled.append(batch_sampled)
            progress.advance(len(chunk))
            on_chunk(len(chunk))
    return to_responses(llava, rows), _concatenate(sampled)


def generate_shared(
    llava: Llava,
    prompts: PromptBatch,
    sampling: SamplingConfig,
    world: World,
    *,
    seed: int = 0,
    samples: Tensor | None = None,
    on_chunk: Callable[[int], None] = lambda rows: None,
) -> Responses:
    """Sample what `generate` samples, each of its batches on one process of a run.

    Args:
        llava: the model, on every process the same; its active adapter is used.
        prompts: B prompts.
        sampling: temperature (0 is greedy), filters, longest response, rows at a time.
        world: this process among those of the run.
        seed: of the run.
        samples: [B] int64, index of the response among those to its prompt; None: 0.
        on_chunk: called with the number of rows after each batch.

    Returns:
        B responses, on every process.
    """

    def sample(chunk: Tensor) -> list[list[int]]:
        indices = None if samples is None else samples[chunk]
        batch = prompts.select(chunk)
        return generate(llava, batch, sampling, seed=seed, samples=indices)[0].rows()

    chunks = torch.arange(len(prompts)).split(sampling.batch_size)
    rows: list[Tensor] = []
    for chunk, sampled in zip(chunks, world.map(sample, chunks), strict=True):
        rows += map(torch.tensor, sampled)
        on_chunk(len(chunk))
    return to_responses(llava, rows)


def to_responses(llava: Llava, rows: list[Tensor]) -> Responses:
    """Build responses from token rows; a row that ends with an end-of-sequence token is finished.

    Args:
        llava: the model that sampled them.
        rows: the tokens [n] of each response, n ≥ 1.
    """
    flat, spans = torch.cat(rows), Spans.from_lengths([len(row) for row in rows])
    eos = torch.tensor(llava.eos_ids)
    return Responses(flat, spans, torch.isin(flat[spans.offsets[1:] - 1], eos))


def _concatenate(parts: list[SampledTokens]) -> SampledTokens:
    logprobs = torch.cat([part.logprobs for part in parts])
    hidden = [part.hidden_states for part in parts if part.hidden_states is not None]
    return SampledTokens(logprobs, torch.cat(hidden) if hidden else None)
