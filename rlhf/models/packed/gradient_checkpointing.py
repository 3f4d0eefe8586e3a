"""Gradient checkpointing of decoder layers, whatever adapter each of them ran under."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from rlhf.models.lora import Adapters


@contextmanager
def checkpointed_layers(model: Any, adapters: Adapters, enabled: bool) -> Iterator[None]:
    """Inside the block decoder layers keep only their input and run again in the backward.

    A layer runs again under the adapter of its first time, though by then another may be active.
    transformers' own switch is not used: it works in training mode only and takes the cache away.

    Args:
        model: a LLaVA of transformers.
        adapters: its adapters.
        enabled: whether to checkpoint; without autograd nothing is.
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
