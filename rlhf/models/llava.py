"""A LLaVA with its processor, image encoder and adapters: prompts in, hidden states out."""

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from rlhf.data.chat_prompts import PromptBuilder
from rlhf.models.encoding import check_positions, max_positions
from rlhf.models.loading import load_hf
from rlhf.models.lora import Adapters
from rlhf.models.packed.embedding import embed_packed
from rlhf.models.packed.forward import layout_of, run_language_model
from rlhf.models.packed.gradient_checkpointing import checkpointed_layers
from rlhf.models.packed.kv_cache import DecodeState, KVCache
from rlhf.models.packed.layouts import CacheTarget
from rlhf.models.packed.packing import PackedBatch, pack, pack_step
from rlhf.models.packed.prefill import pack_into_cache
from rlhf.models.packed.prefix_cache import PrefixCache
from rlhf.models.packed.prefix_sharing import Sharing, split_before_suffix
from rlhf.models.packed.prepacked_linear import prepacked_layers
from rlhf.models.packed.probe import check_supported
from rlhf.models.quantization import refuse_quantized
from rlhf.models.special_ids import banned_ids, eos_ids, ids_without_token
from rlhf.models.vision.families import image_tokens
from rlhf.models.vision.image_encoder import ImageEncoder
from rlhf.types import PromptBatch, Responses


class Llava:
    """A LLaVA-1.5, NeXT or OneVision: prompts and responses in, hidden states out.

    Tokens lie end to end inside it (`PackedBatch`); rows are padded for attention only.

    Args:
        model: the transformers model; its vision tower is never trained here.
        processor: the transformers processor.
        base: directory or hub id that the model was loaded from.

    Attributes:
        prefix_cache: keys and values of prompt prefixes, reused by later passes under aLoRA.
        max_prefill_tokens: most prompt tokens of one prefill pass.
        precision: dtype of the language model's matrix products.
        gradient_checkpointing: whether layers are recomputed in the backward to save memory.
        max_positions: tokens of the longest sequence.
        adapter_dir: directory of the adapter `policy` that was loaded with the model; None: none.
    """

    def __init__(self, model: Any, processor: Any, base: str) -> None:
        self.model, self.processor, self.base = model.eval(), processor, base
        check_supported(model)
        self.builder = PromptBuilder(processor, image_tokens(model.config, processor))
        self.adapters = Adapters(model, self.builder.invocation_ids())
        self.image_token_id = int(model.config.image_token_id)
        self.max_positions = max_positions(model.config.text_config)
        self.vision = ImageEncoder(model, processor.image_processor)
        self.prefix_cache = PrefixCache()
        self.max_prefill_tokens = 8192
        self.precision = model.lm_head.weight.dtype
        self.gradient_checkpointing = False
        self.adapter_dir: Path | None = None

    @classmethod
    def load(
        cls, base: str, *, device: torch.device, dtype: torch.dtype, quantization: str = "none"
    ) -> Self:
        """Load a LLaVA directory or hub id by the classes of transformers.

        Args:
            base: directory or hub id.
            device: where the model goes.
            dtype: dtype of its weights.
            quantization: none, int8 or nf4.

        Raises:
            UsageError: the files are not those of a LLaVA, not whole, or quantized otherwise.
        """
        model, processor = load_hf(base, device=device, dtype=dtype, quantization=quantization)
        return cls(model, processor, base)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.lm_head.weight.device  # type: ignore[no-any-return]

    @property
    def hidden_size(self) -> int:
        """D, width of the language model's hidden states."""
        return int(self.model.config.text_config.hidden_size)

    @property
    def output_weight(self) -> Tensor:
        """Output embedding, [V, D]."""
        return self.model.lm_head.weight  # type: ignore[no-any-return]

    @property
    def eos_ids(self) -> list[int]:
        """Token ids that end a response."""
        return eos_ids(self.model.generation_config, self.builder)

    @property
    def banned_ids(self) -> list[int]:
        """Token ids a response may not contain: image placeholder, pad, ids without a token."""
        return banned_ids(self.builder, self._unused_ids, self.eos_ids)

    @cached_property
    def _unused_ids(self) -> frozenset[int]:
        return ids_without_token(self.processor.tokenizer, len(self.output_weight))

    def train_language_model(self, *, embeddings: bool = False) -> None:
        """Make the language model trainable, with its weights in float32.

        Its matrix products stay in the dtype that it was loaded in.

        Args:
            embeddings: train input and output embeddings and the projector too.
        """
        refuse_quantized(self.model, self.base)
        self.model.model.language_model.float().requires_grad_(True)
        self.model.get_input_embeddings().requires_grad_(embeddings)
        self.model.lm_head.float()
        if embeddings:
            self.model.lm_head.requires_grad_(True)
            self.model.model.multi_modal_projector.float().requires_grad_(True)

    def frozen_copy(self) -> Self:
        """Copy the model and freeze the copy; only the cache of image features is shared."""
        frozen = copy.copy(self)
        frozen.model = copy.deepcopy(self.model).requires_grad_(False)
        frozen.adapters = Adapters(frozen.model, self.adapters.invocation)
        frozen.vision = self.vision.on(frozen.model)
        return frozen

    def save(self, directory: Path) -> None:
        """Write model and processor where the classes of transformers load them."""
        self.model.save_pretrained(directory)
        self.processor.save_pretrained(directory)

    def response_hidden_states(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """Hidden states [N, D] that predict the response tokens, each read at the token before it.

        Raises:
            ValueError: a response contains the placeholder of an image.
        """
        return self.forward(self._pack(prompts, responses, include_last=False))

    def final_hidden_states(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """Hidden state [B, D] of the last token of each of B responses."""
        return self.response_and_final_hidden_states(prompts, responses)[1]

    def response_and_final_hidden_states(
        self, prompts: PromptBatch, responses: Responses
    ) -> tuple[Tensor, Tensor]:
        """Compute `response_hidden_states` [N, D] and `final_hidden_states` [B, D] in one forward.

        Raises:
            ValueError: a response contains the placeholder of an image.
        """
        hidden = self.forward(self._pack(prompts, responses, include_last=True))
        count = responses.spans.num_tokens
        return hidden[:count], hidden[count:]

    def _pack(
        self, prompts: PromptBatch, responses: Responses, *, include_last: bool
    ) -> PackedBatch:
        """Pack prompts and responses as this model reads them."""
        lengths = prompts.spans.lengths + responses.spans.lengths
        check_positions(lengths, self.max_positions, self.base)
        sharing = Sharing(
            self.image_token_id,
            always=self.device.type == "cpu",  # on a GPU whole rows are faster, if none is shared
            cached_before=tuple(self.adapters.invocation) if self.uses_alora else None,
        )
        return pack(prompts, responses, sharing, include_last=include_last)

    @torch.no_grad()
    def prefill(self, prompts: PromptBatch, max_new_tokens: int) -> tuple[Tensor, DecodeState]:
        """Read prompts before sampling.

        Args:
            prompts: B prompts.
            max_new_tokens: tokens of the longest response; memory for them is allocated here.

        Returns:
            Hidden state [B, D] of the last token of each prompt, and the state that `decode`
            continues from.
        """
        suffix = self.adapters.invocation if self.uses_alora else None
        split = split_before_suffix(prompts, suffix, self.image_token_id)
        upcast = self.device.type == "cpu"
        prefix = self._prefill(split.prefixes, upcast=upcast)
        tokens = split.suffix_tokens.view(len(prompts), -1)  # suffixes are of one length
        size = tokens.shape[1] + max_new_tokens
        suffixes = KVCache(len(self.language_model.layers), len(prompts), size, upcast=upcast)
        positions = split.prefix_lens.to(self.device)
        return self._step(tokens, DecodeState(prefix, suffixes, split.groups, positions))

    def decode(self, tokens: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        """Read one more token of every sequence.

        Args:
            tokens: [B] int64.
            state: KV caches and positions of the sequences so far.

        Returns:
            Hidden state [B, D] of these tokens, and the state that includes them.
        """
        return self._step(tokens.unsqueeze(1), state)

    def _step(self, tokens: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        """Read `tokens` [B, T], the next T of every sequence; hidden state [B, D] of the last."""
        packed = pack_step(tokens, state.positions, state.groups)
        hidden = self.forward(packed, prefix=state.prefix, suffix=state.suffix)
        return hidden, replace(state, positions=state.positions + tokens.shape[1])

    @torch.no_grad()
    def _prefill(self, prefixes: PromptBatch, *, upcast: bool = False) -> KVCache:
        """KV cache of distinct prefixes; under aLoRA without the adapter and with prefix cache."""
        num_layers = len(self.language_model.layers)
        cache = KVCache.for_rows(num_layers, prefixes.spans, self.device, upcast=upcast)
        compute = partial(self._fill_cache, prefixes, cache)
        if self.uses_alora:
            with self.adapters.use(None):
                self.prefix_cache.fill(cache, prefixes, compute)
        else:
            compute(torch.arange(len(prefixes)))
        return cache

    def _fill_cache(self, prompts: PromptBatch, cache: KVCache, rows: Tensor) -> None:
        """Run the prompts at `rows` [b] and write their keys and values to those cache rows."""
        budget = self.max_prefill_tokens
        for packed, target in pack_into_cache(prompts, rows, cache, self.image_token_id, budget):
            self.forward(packed, target=target.to(self.device))

    def forward(
        self,
        packed: PackedBatch,
        *,
        prefix: KVCache | None = None,
        suffix: KVCache | None = None,
        target: CacheTarget | None = None,
    ) -> Tensor:
        """Hidden states [N, D] of the tokens `packed.output_idx`.

        Args:
            packed: S packed tokens.
            prefix: KV cache of the prefixes; None: if the batch needs one, it is computed first.
            suffix: KV cache of the tokens after the prefixes; the packed tokens are appended.
            target: KV cache that keys and values of the packed tokens are written to; None: none.
        """
        if packed.cached and prefix is None and packed.prefixes is not None:
            prefix = self._prefill(packed.prefixes)
        layout = layout_of(packed, prefix, suffix, target)
        checkpointing = self.gradient_checkpointing and torch.is_grad_enabled()
        embeds = embed_packed(packed, self.vision)
        with checkpointed_layers(self.model, self.adapters, checkpointing), self.autocast():
            return run_language_model(
                self.language_model,
                embeds,
                packed.positions,
                layout,
                packed.output_idx,
                every_token=checkpointing,
            )

    @property
    def language_model(self) -> Any:
        """The decoder, without the output embedding."""
        return self.model.model.language_model

    @property
    def uses_alora(self) -> bool:
        """Whether the adapters start with the invocation, so that prompts run without LoRA."""
        return self.adapters.lora_type == "alora"

    def prepacked(self, rows: int, calls: int) -> AbstractContextManager[None]:
        """Inside the block, without autograd, linear layers may use prepacked weights (CPU).

        Args:
            rows: rows of each matrix product.
            calls: expected calls of each layer.
        """
        dtype = self._autocast_dtype
        return prepacked_layers(self.language_model, rows=rows, calls=calls, dtype=dtype)

    def autocast(self) -> AbstractContextManager[None]:
        """Inside the block matrix products run in `precision`, also of float32 weights."""
        dtype = self._autocast_dtype
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()

    @property
    def _autocast_dtype(self) -> torch.dtype | None:
        needed = self.precision.itemsize < 4 and self.output_weight.dtype != self.precision
        return self.precision if needed else None
