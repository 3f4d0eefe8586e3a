"""A LLaVA with all that belongs to it: files, processor, vision features, adapters."""

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoConfig

from rlhf.data.chat_prompts import PromptBuilder
from rlhf.data.microbatching import pack_to_budget
from rlhf.models.loading import fingerprints, load_hf
from rlhf.models.lora import Adapters
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
from rlhf.models.packed.kv_cache import DecodeState, KVCache, PrefixCache
from rlhf.models.packed.prefix_sharing import PrefixSplit, image_prefix_lens, split_before_suffix
from rlhf.models.packed.prepacked_linear import prepacked_layers
from rlhf.models.vision.families import image_tokens
from rlhf.models.vision.image_encoder import ImageEncoder
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
        self.builder = PromptBuilder(processor, image_tokens(model.config, processor))
        self.adapters = Adapters(model, self.builder.invocation_ids())
        self.image_token_id = int(model.config.image_token_id)
        self.vision = ImageEncoder(model, processor.image_processor)
        self.prefix_cache = PrefixCache()  # of adapters that start after the prompt
        self.max_prefill_tokens = 8192  # tokens of prompts read at once
        self.precision = model.lm_head.weight.dtype  # of the language model's products
        self.checkpoints_layers = False  # in forwards with autograd: recompute in the backward

    @classmethod
    def load(
        cls, base: str, *, device: torch.device, dtype: torch.dtype, quantization: str = "none"
    ) -> Self:
        """A LLaVA directory or hub id, by the stock classes.

        Raises:
            UsageError: the files are not those of a LLaVA.
        """
        model, processor = load_hf(base, device=device, dtype=dtype, quantization=quantization)
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
        """Ids a response may not contain: image placeholder and pad."""
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

    def frozen_copy(self) -> Self:
        """A copy of the weights that later training does not touch; features are shared."""
        twin = copy.copy(self)
        twin.model = copy.deepcopy(self.model).requires_grad_(False)
        twin.adapters = Adapters(twin.model, self.adapters.invocation)
        twin.vision = ImageEncoder(twin.model, self.processor.image_processor, self.vision.cache)
        return twin

    def save(self, directory: Path) -> None:
        """Write model and processor where the stock classes load them."""
        self.model.save_pretrained(directory)
        self.processor.save_pretrained(directory)

    def input_fingerprint(self) -> dict[str, str]:
        """Fingerprints of how text and image become the trunk's input."""
        return fingerprints(self.processor, self.builder.image_tokens.rule)

    def prepacked(self, rows: int, calls: int) -> AbstractContextManager[None]:
        """Inside the block, without autograd, the language model may multiply by copies of its
        weights: so many products of so many rows."""
        language = self.model.model.language_model
        dtype = self.precision if self._needs_autocast else None
        return prepacked_layers(language, rows=rows, calls=calls, dtype=dtype)

    def autocast(self) -> AbstractContextManager[None]:
        """Inside the block weights that are wider than `precision` multiply in it."""
        if self._needs_autocast:
            return torch.autocast(self.device.type, self.precision)
        return nullcontext()

    @property
    def _needs_autocast(self) -> bool:
        return bool(self.precision.itemsize < 4 and self.output_weight.dtype != self.precision)

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
