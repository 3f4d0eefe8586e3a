"""Gradient checkpointing of decoder layers, whatever adapter each of them ran under."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from rlhf.models.lora import Adapters


@contextmanager
def recomputed_layers(model: Any, adapters: Adapters, wanted: bool) -> Iterator[None]:
    """Inside the block a decoder layer keeps its input only, if `wanted`, and runs again in the
    backward.

    It runs again under the adapter of its first time: by then another role may be active. The
    layers' own switch is not used: it works in training mode only and takes the cache away.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), adapters.use(adapters.current)

    layers = model.model.language_model.layers if wanted and torch.is_grad_enabled() else []
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, context_fn=contexts)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
