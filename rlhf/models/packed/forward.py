"""Run a transformers language model over packed tokens, [1, S, D] for a whole batch.

The attention modules of transformers call `_attention`, registered as `PACKED_ATTENTION`. A layout,
passed through the model's forward as a keyword argument, says which tokens attend to which.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from rlhf.models.packed.kv_cache import KVCache
from rlhf.models.packed.layouts import (
    AttentionParams,
    CachedPrefix,
    CacheFill,
    CacheTarget,
    CausalRows,
    Layout,
    SharedPrefix,
)
from rlhf.models.packed.packing import PackedBatch

PACKED_ATTENTION = "rlhf_packed"


def layout_of(
    packed: PackedBatch,
    prefix: KVCache | None = None,
    suffix: KVCache | None = None,
    target: CacheTarget | None = None,
) -> Layout:
    """Attention pattern of a packed batch.

    Args:
        packed: the batch.
        prefix: KV cache of the prefixes that the rows continue; None: prefixes are not cached.
        suffix: KV cache of the earlier tokens of the rows after their prefixes; None: no such.
        target: KV cache that keys and values of packed tokens are written to; None: none.
    """
    rows = CausalRows(packed.rows)
    layout: Layout = rows
    if packed.groups is not None and prefix is not None:
        layout = CachedPrefix(rows, prefix, packed.groups, suffix)
    elif packed.groups is not None and packed.prefixes is not None:
        layout = SharedPrefix(CausalRows(packed.prefixes.spans), rows, packed.groups)
    return layout if target is None else CacheFill(layout, target)


def run_language_model(
    language_model: Any,
    embeds: Tensor,
    positions: Tensor,
    layout: Layout,
    output_idx: Tensor,
    *,
    every_token: bool = False,
) -> Tensor:
    """Hidden states of packed tokens after the last layer.

    Args:
        language_model: the decoder of a transformers model.
        embeds: [S, D], input embeddings.
        positions: [S] int64, position of each token in its own sequence.
        layout: which tokens attend to which.
        output_idx: [N] int64, the tokens whose hidden states are returned.
        every_token: compute the last layer for all tokens, not only for `output_idx`. Gradient
            checkpointing needs it, since it runs the last layer again outside of this call.

    Returns:
        [N, D], in the dtype of the language model.
    """
    _register(language_model)
    every_token = every_token or len(output_idx) == len(embeds)
    needed = None if every_token else output_idx.unique()
    with _last_layer_for(language_model, needed):
        output = language_model(
            inputs_embeds=embeds.unsqueeze(0),
            position_ids=positions.to(embeds.device).unsqueeze(0),
            attention_mask=embeds.new_empty(1, 1, 1, 1),  # 4-D: transformers builds no mask
            use_cache=False,
            layout=layout,
            skips_prefixes=not every_token,
        )
    hidden_states: Tensor = output.last_hidden_state
    return hidden_states.squeeze(0)[output_idx.to(embeds.device)]


def _register(language_model: Any) -> None:
    if language_model.config._attn_implementation == PACKED_ATTENTION:
        return
    AttentionInterface.register(PACKED_ATTENTION, _attention)
    AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)  # for calls without a layout
    language_model.set_attn_implementation(PACKED_ATTENTION)


@contextmanager
def _last_layer_for(language_model: Any, needed: Tensor | None) -> Iterator[None]:
    """Inside the block the last layer computes queries and MLP only for the tokens `needed`.

    Of the other tokens, which are most of the prompts, it computes only keys and values.
    """
    if needed is None:
        yield
        return
    layer = language_model.layers[-1]
    projections = (getattr(layer.self_attn, name, None) for name in ("q_proj", "o_proj"))
    modules = [layer.mlp, *(module for module in projections if module is not None)]
    replaced = [vars(module).get("forward") for module in modules]  # set on the instance
    for module in modules:
        module.forward = partial(_for_rows, module.forward, needed)
    try:
        yield
    finally:
        for module, forward in zip(modules, replaced, strict=True):
            del module.forward
            if forward is not None:
                module.forward = forward


def _for_rows(forward: Callable[[Tensor], Tensor], needed: Tensor, inputs: Tensor) -> Tensor:
    """Outputs [1, S, ·] of a module that runs for the `needed` tokens only; zeros elsewhere."""
    index = needed.to(inputs.device)
    outputs = forward(inputs[:, index])
    zeros = outputs.new_zeros(*inputs.shape[:-1], outputs.shape[-1])
    return zeros.index_copy(1, index, outputs)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: Layout | None = None,
    skips_prefixes: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention function of a transformers layer: by the layout, or SDPA without a layout."""
    if layout is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    query, key, value = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    query, key = query.to(value.dtype), key.to(value.dtype)  # autocast: RoPE gives float32
    is_last = module.layer_idx + 1 == module.config.num_hidden_layers
    params = AttentionParams(
        scaling, options.get("sliding_window"), last_layer=skips_prefixes and is_last
    )
    output = layout.attend(module.layer_idx, query, key, value, params)
    return output.unsqueeze(0), None
