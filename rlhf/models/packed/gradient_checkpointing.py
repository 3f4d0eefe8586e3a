"""Gradient checkpointing of decoder layers that recomputes each layer under the same adapter."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from rlhf.models.lora import Adapters


@contextmanager
def checkpointed_layers(model: Any, adapters: Adapters, enabled: bool) -> Iterator[None]:
    """Inside the block decoder layers save only their input and are recomputed in the backward.

    A layer is recomputed under the adapter of its forward, though another may be active by then.
    transformers' own option is not used: it needs training mode and disables the KV cache.

    Args:
        model: a transformers LLaVA.
        adapters: its adapters.
        enabled: whether to checkpoint; without autograd it has no effect.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), adapters.use(adapters.current)

    layers = model.model.language_model.layers if enabled and torch.is_grad_enabled() else []
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, context_fn=contexts)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
