"""LLaVA-1.5, NeXT or OneVision behind one door: flat spans come in, flat hidden states go out.

Padding exists only inside it. Rows are padded on the right for scoring, where causal attention
alone keeps real tokens from seeing pads, and on the left for decoding, with a mask.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoProcessor
from transformers.cache_utils import Cache

from rlhf.data.pieces import microbatches
from rlhf.data.prompts import PromptBuilder
from rlhf.errors import UsageError
from rlhf.kernels import gather_spans
from rlhf.models.adapters import Adapters
from rlhf.models.bits import keep_gradients, quantization_config
from rlhf.models.cache import DecodeState, Prefixes, PromptCache
from rlhf.models.checkpointing import recomputed_layers
from rlhf.models.families import picture_tokens, stock_class
from rlhf.models.fingerprints import text_hash, tokenizer_hash
from rlhf.models.vision import Vision
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
        self.prefill_tokens = 8192  # padded tokens of prompts read at once
        self.checkpoints_layers = False  # in forwards with autograd: recompute in the backward

    @classmethod
    def load(
        cls, base: str, *, device: torch.device, dtype: torch.dtype, quantization: str = "none"
    ) -> "Llava":
        """A LLaVA directory or hub id, by the stock classes.

        Raises:
            UsageError: the files are not those of a LLaVA.
        """
        transformers.utils.logging.disable_progress_bar()  # it breaks our own progress lines
        try:
            processor = AutoProcessor.from_pretrained(base, trust_remote_code=False)
            model = stock_class(base).from_pretrained(
                base,
                dtype=dtype,
                quantization_config=quantization_config(quantization, dtype),
                device_map={"": device} if quantization != "none" else None,
            )
        except (OSError, ValueError, ImportError) as error:
            missing = isinstance(error, ImportError)  # OneVision's processor needs torchvision
            raise UsageError(
                f"{base} does not load as a LLaVA",
                str(error).strip().split("\n")[0],
                "install the package that it names" if missing else "check model.path",
            ) from error
        keep_gradients(model)
        model.requires_grad_(False)
        placed = model if quantization != "none" else model.to(device)
        return cls(placed, processor, base, quantization)

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
        template = str(self.processor.chat_template)
        pictures = str(self.processor.image_processor.to_json_string())
        return {
            "template": text_hash(template),
            "tokenizer": tokenizer_hash(self.processor.tokenizer),
            "pictures": text_hash(f"{self.builder.picture_tokens.rule} {pictures}"),
        }

    def response_hidden(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """[N, D], the state before each response token: positions P-1 … P-1+T-1 of its row."""
        return self.response_states(prompts, responses)[0]

    def final_hidden(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """[B, D], the state at the last token of each response."""
        return self.response_states(prompts, responses)[1]

    def response_states(self, prompts: PromptBatch, responses: Responses) -> tuple[Tensor, Tensor]:
        """`response_hidden` and `final_hidden`, of one forward."""
        hidden, starts = self._hidden(prompts, responses)
        last = starts + responses.spans.lengths.to(hidden.device)
        before = gather_spans(hidden, starts, responses.spans.to(hidden.device))
        return before, hidden[torch.arange(len(prompts), device=hidden.device), last]

    @torch.no_grad()
    def prefill(self, prompts: PromptBatch, room: int) -> tuple[Tensor, DecodeState]:
        """Hidden state [B, D] after each prompt, and what `decode` continues from.

        Args:
            prompts: B prompts.
            room: tokens of the longest response, for which memory is taken at once.
        """
        if self.adapters.scope == "response":
            embeds = self._words(self._invocation(len(prompts)))
            return self._decode(embeds, self._prefix(prompts, embeds.shape[1] + room))
        cache, mask = self._empty_cache(prompts, room)
        return self._read(prompts, torch.arange(len(prompts)), cache), DecodeState(cache, mask)

    @torch.no_grad()
    def _prefix(self, prompts: PromptBatch, room: int = 0) -> DecodeState:
        """The prompts without their invocation, as read by the bare trunk.

        Raises:
            ValueError: a prompt does not end with the invocation.
        """
        length = len(self.adapters.invocation)
        ends = prompts.spans.offsets[1:, None] + torch.arange(-length, 0)
        if not (prompts.tokens[ends] == self._invocation(len(prompts))).all():
            raise ValueError(f"prompts: wanted each to end with {self.adapters.invocation}")
        prompts = prompts.without_last(length)
        cache, mask = self._empty_cache(prompts, room)
        with self.adapters.use(None):
            self.prefixes.fill(cache, prompts, lambda rows: self._read(prompts, rows, cache))
        return DecodeState(cache, mask)

    def _invocation(self, rows: int) -> Tensor:
        return torch.tensor(self.adapters.invocation).expand(rows, -1)

    def _empty_cache(self, prompts: PromptBatch, room: int) -> tuple[PromptCache, Tensor]:
        """For these prompts and `room` tokens after them; the mask [B, P] tells them from pads."""
        lengths = prompts.spans.lengths
        layers, width = len(self.model.model.language_model.layers), int(lengths.max())
        mask = torch.arange(width) >= (width - lengths).unsqueeze(1)
        cache = PromptCache(layers, len(prompts), width, room)
        return cache, mask.long().to(self.device)

    def _read(self, prompts: PromptBatch, rows: Tensor, cache: PromptCache) -> Tensor:
        """States [b, D] after the prompts of `rows` [b], rising, which go into `cache`."""
        groups = microbatches(prompts.spans.lengths[rows], self.prefill_tokens)
        states = [self._read_piece(prompts.select(rows[g]), cache.piece(rows[g])) for g in groups]
        return torch.cat(states)[torch.cat(groups).argsort()]

    def _read_piece(self, prompts: PromptBatch, cache: Cache) -> Tensor:
        """States [b, D] after these prompts, by the active adapter; their keys go into `cache`."""
        spans, width = prompts.spans, prompts.spans.longest
        columns = width - spans.lengths[spans.owner] + spans.positions
        tokens = torch.zeros(len(prompts), width, dtype=torch.int64)
        mask = torch.zeros_like(tokens)
        tokens[spans.owner, columns], mask[spans.owner, columns] = prompts.tokens, 1
        embeds = self._embed(tokens, prompts.images)
        return self._continue(embeds, cache, mask.to(self.device))[:, -1]

    def decode(self, tokens: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        """Hidden state [B, D] after one more token [B] of every row."""
        return self._decode(self._words(tokens.unsqueeze(1)), state)

    def _decode(self, embeds: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        """State [B, D] after the last of `embeds` [B, S, D], which follow what is in the cache."""
        mask = torch.cat([state.mask, state.mask.new_ones(embeds.shape[:2])], dim=1)
        hidden = self._continue(embeds, state.cache, mask)
        return hidden[:, -1], DecodeState(state.cache, mask)

    def _continue(self, embeds: Tensor, cache: Cache, mask: Tensor) -> Tensor:
        """States [B, S, D] after each of `embeds`; `mask` is of what is in the cache and them."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -embeds.shape[1] :]
        output = self.model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _hidden(self, prompts: PromptBatch, responses: Responses) -> tuple[Tensor, Tensor]:
        """States [B, S, D], padded on the right, and where the one before the response is, [B]."""
        if self.adapters.scope == "response":
            return self._late_hidden(prompts, responses)
        first, second = prompts.spans, responses.spans
        width = int((first.lengths + second.lengths).max())
        tokens = torch.zeros(len(prompts), width, dtype=torch.int64)
        tokens[first.owner, first.positions] = prompts.tokens
        columns = first.lengths[second.owner] + second.positions
        tokens[second.owner, columns] = responses.tokens.cpu()
        embeds = self._embed(tokens, prompts.images)
        with recomputed_layers(self.model, self.adapters, self.checkpoints_layers):
            output = self.model.model.language_model(inputs_embeds=embeds, use_cache=False)
        return output.last_hidden_state, (first.lengths - 1).to(self.device)

    def _late_hidden(self, prompts: PromptBatch, responses: Responses) -> tuple[Tensor, Tensor]:
        """The same, of invocation and response only: the adapter starts there."""
        spans, head = responses.spans, self._invocation(len(prompts))
        tokens = torch.zeros(len(prompts), head.shape[1] + spans.longest, dtype=torch.int64)
        tokens[:, : head.shape[1]] = head
        tokens[spans.owner, head.shape[1] + spans.positions] = responses.tokens.cpu()
        prefix, embeds = self._prefix(prompts), self._words(tokens)
        mask = torch.cat([prefix.mask, prefix.mask.new_ones(tokens.shape)], dim=1)
        with recomputed_layers(self.model, self.adapters, self.checkpoints_layers):
            hidden = self._continue(embeds, prefix.cache.fixed(), mask)
        return hidden, torch.full((len(prompts),), head.shape[1] - 1, device=self.device)

    def _words(self, tokens: Tensor) -> Tensor:
        """[B, S, D] of tokens among which is no picture."""
        embeds: Tensor = self.model.get_input_embeddings()(tokens.to(self.device))
        return embeds

    def _embed(self, tokens: Tensor, images: Sequence[Sequence[Path]]) -> Tensor:
        """[B, S, D], with each picture's features in its own row's placeholders."""
        embeds, placeholder = self._words(tokens), tokens == self.image_token_id
        shown = self.vision.embeddings(images)
        for row, (found, features) in enumerate(zip(placeholder.sum(1), shown, strict=True)):
            if found != len(features):
                raise ValueError(
                    f"row {row} has {found} picture placeholders for {len(images[row])} pictures "
                    f"of {len(features)} features in all"
                )
        mask = placeholder.to(self.device).unsqueeze(-1)
        return embeds.masked_scatter(mask, torch.cat(shown).to(embeds.dtype))
