"""Hashes of what determines a model's responses: tokenizer, prompts, weights."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.models.quantization import model_quantization
from rlhf.storage.hashing import hash_tensors, text_hash


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 (hex) of a tokenizer's behaviour; padding and truncation settings are left out."""
    backend = deepcopy(getattr(tokenizer, "backend_tokenizer", None))
    if backend is None:
        return text_hash(str(sorted(tokenizer.get_vocab().items())))
    backend.no_padding()
    backend.no_truncation()
    return text_hash(backend.to_str())


def same_encoding(first: Any, second: Any) -> bool:
    """Whether two prompt builders of LLaVAs encode every text to the same token ids."""
    if first is second:
        return True
    if not (hasattr(first, "processor") and hasattr(second, "processor")):
        return False
    keys = [
        (
            tokenizer_hash(builder.tokenizer),
            builder.processor.chat_template,
            builder.image_tokens.rule,
            builder.end_of_turn_id,
        )
        for builder in (first, second)
    ]
    return keys[0] == keys[1]


def stored_weights(model: nn.Module) -> dict[str, str]:
    """Quantization, dtype and hashes of a base model's weights, without adapters.

    Args:
        model: a transformers model.

    Returns:
        `quantization`, `dtype`, the hash `weights` of the weights as stored, and the hash
        `weights_rounded` of the weights in bfloat16.
    """
    dtypes = sorted({str(value.dtype) for _, value in bare_parameters(model)})
    rounded = (
        (name, value.to(torch.bfloat16) if value.is_floating_point() else value)
        for name, value in bare_parameters(model)
    )
    return {
        "quantization": model_quantization(model),
        "dtype": " ".join(dtypes),
        "weights": hash_tensors(bare_parameters(model)),
        "weights_rounded": hash_tensors(rounded),
    }


def bare_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters of a base model, by the names they had before adapters were added."""
    for name, value in model.named_parameters():
        if "lora_" not in name:
            yield name.replace(".base_layer", ""), value
