"""A LLaVA with all that belongs to it: files, processor, vision features, adapters."""

import copy
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoConfig

from rlhf.data.chat_prompts import PromptBuilder
from rlhf.models.loading import fingerprints, load_hf
from rlhf.models.lora import Adapters
from rlhf.models.packed.kv_cache import PrefixCache
from rlhf.models.packed.prepacked_linear import prepacked_layers
from rlhf.models.vision.families import image_tokens
from rlhf.models.vision.image_encoder import ImageEncoder


class LlavaBase:
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
