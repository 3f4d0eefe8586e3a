"""Hashes of what decides a model's answers: files, tokenizer, prompts, weights."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.storage.hashing import hash_tensors, text_hash


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of all a tokenizer does, in hex; the last call's padding and cutting left out."""
    backend = deepcopy(getattr(tokenizer, "backend_tokenizer", None))
    if backend is None:
        return text_hash(str(sorted(tokenizer.get_vocab().items())))
    backend.no_padding()
    backend.no_truncation()
    return text_hash(backend.to_str())


def same_encoding(one: Any, other: Any) -> bool:
    """Whether two encoders of LLaVAs give every text the same ids."""
    if one is other:
        return True
    if not (hasattr(one, "processor") and hasattr(other, "processor")):
        return False
    told = [
        (tokenizer_hash(x.tokenizer), x.processor.chat_template, x.image_tokens.rule)
        for x in (one, other)
    ]
    return told[0] == told[1]


def stored_weights(model: nn.Module, quantization: str) -> dict[str, str]:
    """How a trunk's weights are stored, and their hashes without adapters."""
    dtypes = sorted({str(value.dtype) for _, value in bare_parameters(model)})
    rounded = (
        (name, value.to(torch.bfloat16) if value.is_floating_point() else value)
        for name, value in bare_parameters(model)
    )
    return {
        "quantization": quantization,
        "dtype": " ".join(dtypes),
        "weights": hash_tensors(bare_parameters(model)),
        "weights_rounded": hash_tensors(rounded),
    }


def bare_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and parameters of a trunk as they were before adapters were put on."""
    for name, value in model.named_parameters():
        if "lora_" not in name:
            yield name.replace(".base_layer", ""), value
