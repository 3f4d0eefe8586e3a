"""The decode loop: sample a token of every response, read it, and go on until all have ended."""

from collections.abc import Callable
from contextlib import closing

import torch
from torch import Tensor

from rlhf.config.schema import SamplingConfig
from rlhf.generation.decode_graph import DecodeGraph
from rlhf.generation.token_sampling import sample_tokens, to_host
from rlhf.kernels.prepacked_gemm import output_logits
from rlhf.models.llava import Llava
from rlhf.models.packed.kv_cache import DecodeState
from rlhf.tracking.profiler import count
from rlhf.types import SampledTokens

COMPACT_BELOW = 0.75  # share of unfinished rows at which the finished ones leave the batch


class EagerDecoder:
    """Reads one more token of every sequence, kernel by kernel.

    Args:
        llava: the model; its active adapter is used.
        state: KV caches and positions of the sequences so far; it is used up.
    """

    def __init__(self, llava: Llava, state: DecodeState) -> None:
        self._llava, self._state = llava, state

    def __call__(self, tokens: Tensor) -> Tensor:
        """Hidden states [B, D] of the next tokens [B] int64."""
        hidden, self._state = self._llava.decode(tokens, self._state)
        return hidden

    def selection_pays(self, finished: int, steps: int) -> bool:
        """Whether it is worth while to drop finished rows: it always is."""
        return True

    def select(self, rows: Tensor) -> None:
        """Keep the sequences `rows` [K] only."""
        self._state = self._state.select(rows)

    def close(self) -> None:
        """Do nothing: there is no graph to free."""


class ResponseBuffer:
    """Responses that are being sampled, on the host; hidden states on their device.

    Args:
        rows: B responses.
        max_len: T, tokens of the longest response.
        eos_ids: token ids that end a response.
        hidden: [B, D], like the hidden states that are kept; None: none are.

    Attributes:
        rows: [K] int64, the responses that are still in the batch.
    """

    def __init__(
        self, rows: int, max_len: int, eos_ids: list[int], hidden: Tensor | None = None
    ) -> None:
        self.rows = torch.arange(rows)
        self._max_len, self._eos = max_len, torch.tensor(eos_ids)
        self._tokens = torch.zeros(rows, max_len, dtype=torch.int64)
        self._logprobs = torch.zeros(rows, max_len)
        self._lengths = torch.full((rows,), max_len)
        self._hidden: Tensor | None = None
        if hidden is not None:
            self._hidden = hidden.new_zeros(rows, max_len, hidden.shape[1])

    def write(self, position: int, tokens: Tensor, logprobs: Tensor, hidden: Tensor) -> Tensor:
        """Write what was sampled at a position of the responses in the batch.

        Args:
            position: from 0.
            tokens: [K] int64, on the host.
            logprobs: [K] float32, nats, on the host.
            hidden: [K, D], what the tokens were sampled from.

        Returns:
            [K] bool, the responses of the batch that have not ended.
        """
        rows = self.rows
        self._tokens[rows, position], self._logprobs[rows, position] = tokens, logprobs
        if self._hidden is not None:
            self._hidden[rows.to(hidden.device), position] = hidden
        running = self._lengths[rows] > position
        ended = rows[running & torch.isin(tokens, self._eos)]
        self._lengths[ended] = position + 1
        return self._lengths[rows] > position + 1

    def finished(self) -> tuple[list[Tensor], SampledTokens]:
        """Tokens [n] of each response, and log-probabilities and hidden states end to end."""
        lengths = self._lengths
        mask = torch.arange(self._max_len) < lengths[:, None]
        hidden = self._hidden
        if hidden is not None:
            index = mask.flatten().nonzero().squeeze(1)
            hidden = hidden.flatten(0, 1)[index.to(hidden.device)]
        flat = self._tokens[mask]
        return list(flat.split(lengths.tolist())), SampledTokens(self._logprobs[mask], hidden)


def decode_loop(
    llava: Llava,
    hidden: Tensor,
    state: DecodeState,
    sampling: SamplingConfig,
    uniforms: Tensor,
    *,
    return_hidden_states: bool = False,
    on_token: Callable[[], None] = lambda: None,
) -> tuple[list[Tensor], SampledTokens]:
    """Sample tokens until every response has ended or has reached the longest length.

    Finished rows leave the batch when at most `COMPACT_BELOW` of its rows are unfinished; with
    `sampling.cuda_graphs` only if that pays for another capture.

    Args:
        llava: the model.
        hidden: [B, D], the hidden states after the prompts.
        state: the KV cache after the prompts.
        sampling: temperature (0 is greedy), filters, longest response T, CUDA graphs.
        uniforms: [B, T] float64 in [0, 1), the number that picks each token.
        return_hidden_states: return the hidden states that the tokens were sampled from.
        on_token: called after each token of all responses.

    Returns:
        The tokens [n] of each response, and the log-probabilities [N] and (optional) hidden
        states [N, D] of all tokens, end to end.
    """
    kept_hidden = hidden if return_hidden_states else None
    max_len = sampling.max_new_tokens
    responses = ResponseBuffer(len(hidden), max_len, llava.eos_ids, kept_hidden)
    lm_head = output_logits(llava.output_weight, len(hidden), llava.precision)
    decoder = DecodeGraph if sampling.cuda_graphs else EagerDecoder
    with closing(decoder(llava, state)) as decode:
        for position in range(max_len):
            picks = uniforms[responses.rows, position]
            tokens, logprobs = sample_tokens(llava, lm_head(hidden), sampling, picks)
            running = responses.write(position, *to_host(tokens, logprobs), hidden)
            if not running.any():
                break
            steps = max_len - position - 1
            if _compacts(running) and decode.selection_pays(int((~running).sum()), steps):
                kept = running.nonzero().squeeze(1)
                responses.rows, tokens = responses.rows[kept], tokens[kept.to(tokens.device)]
                decode.select(kept)
            hidden = decode(tokens)
            count("decode_steps", 1)
            on_token()
    return responses.finished()


def _compacts(running: Tensor) -> bool:
    """Whether so few of the rows of a batch are running that the others may leave it."""
    return bool(running.float().mean() <= COMPACT_BELOW)
