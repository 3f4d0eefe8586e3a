"""LLaVA-1.5, NeXT or OneVision behind one door: flat spans come in, flat hidden states go out.

Inside it too tokens lie end to end; rows are padded for attention only.
"""

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from rlhf.data.pieces import fitting
from rlhf.data.prompts import PromptBuilder
from rlhf.kernels.prefix_attention import Groups
from rlhf.models.adapters import Adapters
from rlhf.models.attention import AfterPrompts, Layout, PromptsThenResponses, Rows, run
from rlhf.models.cache import DecodeState, KeysValues, Prefixes, without_repetition
from rlhf.models.checkpointing import recomputed_layers
from rlhf.models.continuations import Continuations
from rlhf.models.families import picture_tokens
from rlhf.models.stock import fingerprints, load_stock
from rlhf.models.vision import Vision
from rlhf.spans import Spans
from rlhf.types import PromptBatch, Responses


class Llava:
    """A LLaVA with its processor, its cached vision features and its adapters.

    Args:
        model: the stock model, in eval mode; its vision tower is never trained here.
        processor: the stock processor.
        base: where the model was loaded from.
        quantization: how its linear layers are stored, as in `model.quantization`.
    """

    def __init__(self, model: Any, processor: Any, base: str, quantization: str = "none") -> None:
        self.model, self.processor, self.base = model.eval(), processor, base
        self.quantization = quantization
        self.builder = PromptBuilder(processor, picture_tokens(model.config, processor))
        self.adapters = Adapters(model, self.builder.invocation_ids())
        self.image_token_id = int(model.config.image_token_id)
        self.vision = Vision(model, processor.image_processor)
        self.prefixes = Prefixes()  # of adapters that start after the prompt
        self.prefill_tokens = 8192  # tokens of prompts read at once
        self.precision = model.lm_head.weight.dtype  # of the language model's products
        self.checkpoints_layers = False  # in forwards with autograd: recompute in the backward

    @classmethod
    def load(
        cls, base: str, *, device: torch.device, dtype: torch.dtype, quantization: str = "none"
    ) -> "Llava":
        """A LLaVA directory or hub id, by the stock classes.

        Raises:
            UsageError: the files are not those of a LLaVA.
        """
        model, processor = load_stock(base, device=device, dtype=dtype, quantization=quantization)
        return cls(model, processor, base, quantization)

    @property
    def device(self) -> torch.device:
        return self.model.lm_head.weight.device  # type: ignore[no-any-return]

    @property
    def stored_dtype(self) -> torch.dtype:
        """Of the weights in the files it was loaded from; float32 if they do not tell."""
        return AutoConfig.from_pretrained(self.base).dtype or torch.float32

    @property
    def hidden_size(self) -> int:
        return int(self.model.config.text_config.hidden_size)

    @property
    def output_weight(self) -> Tensor:
        """[V, D], the output embedding."""
        return self.model.lm_head.weight  # type: ignore[no-any-return]

    @property
    def eos_ids(self) -> list[int]:
        """Ids that end a response."""
        ids = self.model.generation_config.eos_token_id or []
        listed = [ids] if isinstance(ids, int) else list(ids)
        return sorted({self.processor.tokenizer.eos_token_id, *listed})

    @property
    def banned_ids(self) -> list[int]:
        """Ids a response may not contain: picture placeholder and pad."""
        pad = self.processor.tokenizer.pad_token_id
        ids = {self.image_token_id, self.image_token_id if pad is None else pad}
        return sorted(ids - set(self.eos_ids))

    def train_language_model(self, *, embeddings: bool = False) -> None:
        """Make the language model trainable, in float32 as what reads its states.

        It still multiplies in the precision that it was loaded in.

        Args:
            embeddings: train input and output embeddings and the projector too (supervised
                training of a model that is still being built).
        """
        self.model.model.language_model.float().requires_grad_(True)
        self.model.get_input_embeddings().requires_grad_(embeddings)
        self.model.lm_head.float()
        if embeddings:
            self.model.lm_head.requires_grad_(True)
            self.model.model.multi_modal_projector.float().requires_grad_(True)

    def frozen_copy(self) -> "Llava":
        """A copy of the weights that later training does not touch; features are shared."""
        twin = copy.copy(self)
        twin.model = copy.deepcopy(self.model).requires_grad_(False)
        twin.adapters = Adapters(twin.model, self.adapters.invocation)
        twin.vision = Vision(twin.model, self.processor.image_processor, self.vision.cache)
        return twin

    def save(self, folder: Path) -> None:
        """Write model and processor where the stock classes load them."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def contract(self) -> dict[str, str]:
        """Fingerprints of how text and picture become the trunk's input."""
        return fingerprints(self.processor, self.builder.picture_tokens.rule)

    def response_hidden(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """[N, D], the state before each response token."""
        return self.response_states(prompts, responses)[0]

    def final_hidden(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """[B, D], the state at the last token of each response."""
        return self.response_states(prompts, responses)[1]

    def response_states(self, prompts: PromptBatch, responses: Responses) -> tuple[Tensor, Tensor]:
        """`response_hidden` and `final_hidden`, of one forward.

        A prompt that several responses continue is read once.

        Raises:
            ValueError: a response contains a picture's placeholder.
        """
        if bool((responses.tokens == self.image_token_id).any()):
            raise ValueError(f"responses: got {self.image_token_id}, the placeholder of a picture")
        with recomputed_layers(self.model, self.adapters, self.checkpoints_layers):
            if self._late:
                return self._late_states(prompts, responses)
            repeated = len(without_repetition(prompts)[0]) < len(prompts)
            if repeated or self.device.type == "cpu":
                return self._shared_states(prompts, responses)
            return self._row_states(prompts, responses)

    def _row_states(self, prompts: PromptBatch, responses: Responses) -> tuple[Tensor, Tensor]:
        """The tokens are prompt and response of each row."""
        all_of = Continuations.of(prompts.spans.lengths, responses.spans)
        embeds = all_of.joined(self._embed(prompts), self._words(responses.tokens))
        rows = all_of.rows
        return self._before_and_last(embeds, rows.positions, Rows(rows), all_of.before, all_of.last)

    def _shared_states(self, prompts: PromptBatch, responses: Responses) -> tuple[Tensor, Tensor]:
        """The tokens are those of all prompts but the last, then that and the response of each row.

        So no state of the first part is read, and the last layer leaves it out.
        """
        opening, ends = self._parted(prompts)
        distinct, groups = without_repetition(opening)
        rest, tokens = _continued(ends, responses)
        first, rows = distinct.spans, rest.rows
        later = opening.spans.lengths[rows.owner] + rows.positions
        layout = PromptsThenResponses(Rows(first), Rows(rows), groups)
        embeds = torch.cat([self._embed(distinct), self._words(tokens)])
        positions = torch.cat([first.positions, later])
        before, last = rest.before + first.total, rest.last + first.total
        return self._before_and_last(embeds, positions, layout, before, last)

    def _late_states(self, prompts: PromptBatch, responses: Responses) -> tuple[Tensor, Tensor]:
        """The tokens are invocation and response of each row: the adapter starts there."""
        kept, groups, lengths = self._prefix(prompts)
        ends = self._parted(prompts)[1]
        rest, tokens = _continued(ends, responses)
        positions = lengths[rest.rows.owner] + rest.rows.positions
        layout = AfterPrompts(Rows(rest.rows), kept, groups)
        embeds = self._words(tokens)
        return self._before_and_last(embeds, positions, layout, rest.before, rest.last)

    @torch.no_grad()
    def prefill(self, prompts: PromptBatch, room: int) -> tuple[Tensor, DecodeState]:
        """Hidden state [B, D] after each prompt, and what `decode` continues from.

        Args:
            prompts: B prompts.
            room: tokens of the longest response, for which memory is taken at once.
        """
        wide = self.device.type == "cpu"
        kept, groups, lengths = self._prefix(prompts, wide=wide)
        ends = self._parted(prompts)[1]
        own = KeysValues(self._layers, len(ends), ends.shape[1] + room, wide=wide)
        return self._next(ends, DecodeState(kept, own, groups, lengths.to(self.device)))

    @torch.no_grad()
    def _prefix(
        self, prompts: PromptBatch, *, wide: bool = False
    ) -> tuple[KeysValues, Groups, Tensor]:
        """The prompts without their ends, each read once; under LoRA on responses by the bare
        trunk, once for all passes.

        Returns:
            what was read, whose prompt each row continues, and [B] its tokens.
        """
        opening, _ = self._parted(prompts)
        distinct, groups = without_repetition(opening)
        kept = self._empty(distinct, wide=wide)
        if self._late:
            with self.adapters.use(None):
                self.prefixes.fill(kept, distinct, lambda rows: self._read(distinct, rows, kept))
        else:
            self._read(distinct, torch.arange(len(distinct)), kept)
        return kept, groups, opening.spans.lengths

    @property
    def _late(self) -> bool:
        return self.adapters.scope == "response"

    def _parted(self, prompts: PromptBatch) -> tuple[PromptBatch, Tensor]:
        """The prompts without their ends, and those [B, n]: the invocation, where the adapter
        starts with it, else the last token.

        Raises:
            ValueError: a prompt does not end with the invocation, or ends with a picture.
        """
        length = len(self.adapters.invocation) if self._late else 1
        ends = prompts.tokens[prompts.spans.offsets[1:, None] + torch.arange(-length, 0)]
        if self._late and not (ends == torch.tensor(self.adapters.invocation)).all():
            raise ValueError(f"prompts: wanted each to end with {self.adapters.invocation}")
        if bool((ends == self.image_token_id).any()):
            raise ValueError("prompts: wanted text at the end of each, got a picture")
        return prompts.without_last(length), ends

    def _empty(self, prompts: PromptBatch, *, wide: bool) -> KeysValues:
        """Room for the keys and values of these prompts."""
        spans = prompts.spans
        even = spans.total == len(spans) * spans.longest
        lengths = None if even else spans.lengths.to(self.device)
        return KeysValues(self._layers, len(spans), spans.longest, lengths, wide=wide)

    def _read(self, prompts: PromptBatch, rows: Tensor, kept: KeysValues) -> None:
        """The prompts of `rows` [b], rising, go into `kept`, by the active adapter."""
        sizes = prompts.spans.lengths[rows].tolist()
        for piece in fitting(sizes, self.prefill_tokens):
            some = rows[torch.tensor(piece)]
            chosen = prompts.select(some)
            layout = Rows(chosen.spans, partial(kept.write, rows=some))
            self._run(self._embed(chosen), chosen.spans.positions, layout, torch.tensor([0]))

    def decode(self, tokens: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        """Hidden state [B, D] after one more token [B] of every row."""
        return self._next(tokens.unsqueeze(1), state)

    def _next(self, tokens: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        """State [B, D] after the last of `tokens` [B, t], the next of every row."""
        count = tokens.shape[1]
        positions = state.positions.unsqueeze(1) + torch.arange(count, device=self.device)
        layout = AfterPrompts(
            Rows(Spans.from_lengths([count] * len(tokens))), state.prompts, state.groups, state.own
        )
        ends = torch.arange(1, len(tokens) + 1) * count - 1
        hidden = self._run(self._words(tokens.flatten()), positions.flatten(), layout, ends)
        return hidden, replace(state, positions=state.positions + count)

    def _before_and_last(
        self, embeds: Tensor, positions: Tensor, layout: Layout, before: Tensor, last: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`response_states`, of the tokens that stand at `before` [N] and at `last` [B]."""
        states = self._run(embeds, positions, layout, torch.cat([before, last]))
        return states[: len(before)], states[len(before) :]

    def _run(self, embeds: Tensor, positions: Tensor, layout: Layout, wanted: Tensor) -> Tensor:
        """States [n, D] of the tokens `wanted` [n] among `embeds` [S, D].

        Args:
            positions: [S] of each token in its row.
        """
        again = self.checkpoints_layers and torch.is_grad_enabled()  # a layer runs by itself then
        needed = None if again or len(wanted) == len(embeds) else wanted.unique()
        with self.products():
            states = run(self._language, embeds, positions, layout, needed)
        return states[wanted.to(self.device)]

    def products(self) -> AbstractContextManager[None]:
        """Inside the block weights that are wider than `precision` multiply in it."""
        if self.precision.itemsize >= 4 or self.output_weight.dtype == self.precision:
            return nullcontext()
        return torch.autocast(self.device.type, self.precision)

    @property
    def _language(self) -> Any:
        return self.model.model.language_model

    @property
    def _layers(self) -> int:
        return len(self._language.layers)

    def _words(self, tokens: Tensor) -> Tensor:
        """[S, D] of tokens [S], a picture's placeholders among them as they are."""
        embeds: Tensor = self.model.get_input_embeddings()(tokens.to(self.device))
        return embeds

    def _embed(self, prompts: PromptBatch) -> Tensor:
        """[M, D], with each picture's features in its own prompt's placeholders."""
        words, wanted = self._words(prompts.tokens), prompts.tokens == self.image_token_id
        return self.vision.put_into(words, wanted, prompts)


def _continued(ends: Tensor, responses: Responses) -> tuple[Continuations, Tensor]:
    """Rows of the end of a prompt, of `ends` [B, n], and a response each, and their tokens."""
    rest = Continuations.of(torch.full((len(ends),), ends.shape[1]), responses.spans)
    return rest, rest.joined(ends.flatten(), responses.tokens.cpu())
