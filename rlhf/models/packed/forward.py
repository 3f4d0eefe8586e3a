"""What LLaVA-1.5, NeXT or OneVision computes of prompts and responses, behind one door."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlhf.data.microbatching import pack_to_budget
from rlhf.models.llava import LlavaBase
from rlhf.models.packed.attention import (
    CachedPrefix,
    CacheFill,
    CausalRows,
    Layout,
    SharedPrefix,
    run,
)
from rlhf.models.packed.continuations import PackedSequences
from rlhf.models.packed.gradient_checkpointing import recomputed_layers
from rlhf.models.packed.kv_cache import DecodeState, KVCache
from rlhf.models.packed.prefix_sharing import PrefixSplit, image_prefix_lens, split_before_suffix
from rlhf.spans import Spans
from rlhf.types import PromptBatch, Responses


class Llava(LlavaBase):
    """What a LLaVA computes of prompts and responses, flat spans in and flat hidden states out.

    Inside it too tokens lie end to end; rows are padded for attention only.
    """

    def response_hidden(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """[N, D], the state before each response token."""
        return self._states(prompts, responses, whole=False)[0]

    def final_hidden(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """[B, D], the state at the last token of each response."""
        return self._states(prompts, responses, whole=True)[1]

    def response_states(self, prompts: PromptBatch, responses: Responses) -> tuple[Tensor, Tensor]:
        """`response_hidden` and `final_hidden`, of one forward."""
        return self._states(prompts, responses, whole=True)

    def _states(
        self, prompts: PromptBatch, responses: Responses, *, whole: bool
    ) -> tuple[Tensor, Tensor]:
        """The same, without the latter where responses are not read `whole`.

        A prompt that several responses continue is read once, and so is an image of which several
        prompts ask.

        Raises:
            ValueError: a response contains an image's placeholder.
        """
        if bool((responses.tokens == self.image_token_id).any()):
            raise ValueError(f"responses: got {self.image_token_id}, the placeholder of an image")
        with recomputed_layers(self.model, self.adapters, self.checkpoints_layers):
            if self._late:
                return self._late_states(prompts, responses, whole)
            cuts = image_prefix_lens(prompts, self.image_token_id)
            parted = self._ends_off(prompts) if cuts is None else PrefixSplit.at(prompts, cuts)
            if len(parted.prefixes) < len(prompts) or self.device.type == "cpu":
                return self._shared_states(parted, responses, whole)
            return self._row_states(prompts, responses, whole)

    def _row_states(
        self, prompts: PromptBatch, responses: Responses, whole: bool
    ) -> tuple[Tensor, Tensor]:
        """The tokens are prompt and response of each row."""
        all_of = PackedSequences.of(prompts.spans.lengths, responses, include_last=whole)
        embeds = all_of.interleave(
            self.embed_prompts(prompts), self.embed_tokens(all_of.response_tokens)
        )
        rows = all_of.rows
        return self._before_and_last(
            embeds, rows.positions, CausalRows(rows), all_of.predicting_idx, all_of.last_idx
        )

    def _shared_states(
        self, parted: PrefixSplit, responses: Responses, whole: bool
    ) -> tuple[Tensor, Tensor]:
        """The tokens are those of all openings, then the end of its prompt and the response of
        each row: no state of the first part is read, and the last layer leaves it out."""
        rest, tokens = parted.continued(responses, whole=whole)
        given, first = self._once(parted, rest.rows, tokens), parted.prefixes.spans.num_tokens
        return self._before_and_last(*given, rest.predicting_idx + first, rest.last_idx + first)

    def _late_states(
        self, prompts: PromptBatch, responses: Responses, whole: bool
    ) -> tuple[Tensor, Tensor]:
        """The tokens are invocation and response of each row: the adapter starts there."""
        kept, parted = self._prefix(prompts)
        rest, tokens = parted.continued(responses, whole=whole)
        positions = parted.prefix_lens[rest.rows.segment_ids] + rest.rows.positions
        layout = CachedPrefix(CausalRows(rest.rows), kept, parted.groups)
        embeds = self.embed_tokens(tokens)
        return self._before_and_last(embeds, positions, layout, rest.predicting_idx, rest.last_idx)

    @torch.no_grad()
    def prefill(self, prompts: PromptBatch, room: int) -> tuple[Tensor, DecodeState]:
        """Hidden state [B, D] after each prompt, and what `decode` continues from.

        Args:
            prompts: B prompts.
            room: tokens of the longest response, for which memory is taken at once.
        """
        wide = self.device.type == "cpu"
        kept, parted = self._prefix(prompts, wide=wide)
        ends = parted.suffix_tokens.unflatten(0, (len(prompts), -1))
        own = KVCache(self._layers, len(ends), ends.shape[1] + room, upcast=wide)
        return self._next(
            ends, DecodeState(kept, own, parted.groups, parted.prefix_lens.to(self.device))
        )

    @torch.no_grad()
    def _prefix(self, prompts: PromptBatch, *, wide: bool = False) -> tuple[KVCache, PrefixSplit]:
        """What was read of the prompts without their ends, each once; under LoRA on responses by
        the bare trunk, once for all passes."""
        parted = self._ends_off(prompts)
        distinct = parted.prefixes
        kept = KVCache.for_rows(self._layers, distinct.spans, self.device, upcast=wide)
        if self._late:
            with self.adapters.use(None):
                self.prefix_cache.fill(
                    kept, distinct, lambda rows: self._read(distinct, rows, kept)
                )
        else:
            self._read(distinct, torch.arange(len(distinct)), kept)
        return kept, parted

    @property
    def _late(self) -> bool:
        return self.adapters.lora_type == "alora"

    def _ends_off(self, prompts: PromptBatch) -> PrefixSplit:
        """The prompts parted before the invocation, where the adapter starts with it, else before
        their last token."""
        end = self.adapters.invocation if self._late else None
        return split_before_suffix(prompts, end, self.image_token_id)

    def _read(self, prompts: PromptBatch, rows: Tensor, kept: KVCache) -> None:
        """The prompts of `rows` [b], rising, go into `kept`, by the active adapter."""
        sizes = prompts.spans.lengths[rows].tolist()
        images = [prompts.images[row] for row in rows.tolist()]
        for piece in pack_to_budget(sizes, self.max_prefill_tokens, images):
            some = rows[torch.tensor(piece)]
            self._read_piece(prompts.select(some), some, kept)

    def _read_piece(self, prompts: PromptBatch, rows: Tensor, kept: KVCache) -> None:
        spans, cuts = prompts.spans, image_prefix_lens(prompts, self.image_token_id)
        given: tuple[Tensor, Tensor, Layout]
        if cuts is None:
            places = torch.arange(spans.num_tokens)
            given = self.embed_prompts(prompts), spans.positions, CausalRows(spans)
        else:
            parted = PrefixSplit.at(prompts, cuts)
            places = parted.places(prompts)
            given = self._once(parted, Spans.from_lengths(parted.suffix_lens), parted.suffix_tokens)
        where = [x.to(self.device) for x in (places, rows[spans.segment_ids], spans.positions)]
        self._run(*given[:2], CacheFill(given[2], kept, *where), torch.tensor([0]))

    def _once(
        self, parted: PrefixSplit, rows: Spans, tokens: Tensor
    ) -> tuple[Tensor, Tensor, SharedPrefix]:
        """All openings and then `rows` of these tokens, which go on from them: what is put in, at
        which positions, and what sees what."""
        first = parted.prefixes.spans
        later = parted.prefix_lens[rows.segment_ids] + rows.positions
        embeds = torch.cat([self.embed_prompts(parted.prefixes), self.embed_tokens(tokens)])
        layout = SharedPrefix(CausalRows(first), CausalRows(rows), parted.groups)
        return embeds, torch.cat([first.positions, later]), layout

    def decode(self, tokens: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        """Hidden state [B, D] after one more token [B] of every row."""
        return self._next(tokens.unsqueeze(1), state)

    def _next(self, tokens: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        """State [B, D] after the last of `tokens` [B, t], the next of every row."""
        count = tokens.shape[1]
        positions = state.positions.unsqueeze(1) + torch.arange(count, device=self.device)
        layout = CachedPrefix(
            CausalRows(Spans.from_lengths([count] * len(tokens))),
            state.prefix,
            state.groups,
            state.suffix,
        )
        ends = torch.arange(1, len(tokens) + 1) * count - 1
        hidden = self._run(self.embed_tokens(tokens.flatten()), positions.flatten(), layout, ends)
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
        with self.autocast():
            states = run(self._language, embeds, positions, layout, needed)
        return states[wanted.to(self.device)]

    @property
    def _language(self) -> Any:
        return self.model.model.language_model

    @property
    def _layers(self) -> int:
        return len(self._language.layers)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """[S, D] of tokens [S], an image's placeholders among them as they are."""
        embeds: Tensor = self.model.get_input_embeddings()(tokens.to(self.device))
        return embeds

    def embed_prompts(self, prompts: PromptBatch) -> Tensor:
        """[M, D], with each image's features in its own prompt's placeholders."""
        words, wanted = self.embed_tokens(prompts.tokens), prompts.tokens == self.image_token_id
        return self.vision.merge_image_features(words, wanted, prompts)
