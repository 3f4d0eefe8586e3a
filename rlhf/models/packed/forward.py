"""Run a transformers language model over packed tokens, [1, S, D] for a whole batch.

The attention modules of transformers call `packed_attention`, registered as `PACKED_ATTENTION`. A
layout, passed through the model's forward as a keyword argument, says which tokens attend to which.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
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
from rlhf.models.packed.supported import (
    AttentionCall,
    check_calls,
    check_options,
)

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
        output_idx: [N] int64 on the host, the tokens whose hidden states are returned.
        every_token: compute the last layer for all tokens, not only for `output_idx`. Gradient
            checkpointing needs it, since it runs the last layer again outside of this call.

    Returns:
        [N, D], in the dtype of the language model.
    """
    use_packed_attention(language_model)
    every_token = every_token or len(output_idx) == len(embeds)
    hidden_states, calls = call_language_model(
        language_model,
        embeds,
        positions,
        layout,
        needed=None if every_token else output_idx.unique(),
        attention_mask=embeds.new_empty(1, 1, 1, 1),  # 4-D: transformers builds no mask
    )
    check_calls(language_model, calls)
    if torch.equal(output_idx, torch.arange(len(embeds))):  # as in decoding: nothing is copied
        return hidden_states
    return hidden_states[output_idx.to(embeds.device)]


def call_language_model(
    language_model: Any,
    embeds: Tensor,
    positions: Tensor,
    layout: Layout,
    *,
    needed: Tensor | None,
    attention_mask: Tensor | None,
) -> tuple[Tensor, list[AttentionCall]]:
    """Hidden states [S, D] of packed tokens, and the calls of the attention.

    Args:
        language_model: the decoder of a transformers model.
        embeds: [S, D], input embeddings.
        positions: [S] int64, position of each token in its own sequence.
        layout: which tokens attend to which.
        needed: [N] int64, the tokens that the last layer is computed for; None: all.
        attention_mask: passed to the model, not read by the packed attention; None: transformers
            builds its masks.
    """
    calls: list[AttentionCall] = []
    with _last_layer_for(language_model, needed):
        output = language_model(
            inputs_embeds=embeds.unsqueeze(0),
            position_ids=positions.to(embeds.device).unsqueeze(0),
            attention_mask=attention_mask,
            use_cache=False,
            layout=layout,
            calls=calls,
            skips_prefixes=needed is not None,
        )
    return output.last_hidden_state.squeeze(0), calls


def use_packed_attention(language_model: Any) -> None:
    """Make the layers of a language model call `packed_attention`."""
    use_attention(language_model, PACKED_ATTENTION, packed_attention, sdpa_mask)


def use_attention(
    language_model: Any,
    name: str,
    attention: Callable[..., tuple[Tensor, Tensor | None]],
    build_mask: Callable[..., Tensor | None],
) -> None:
    """Make the layers of a language model call an attention function.

    Args:
        language_model: the decoder of a transformers model.
        name: under which transformers registers both functions.
        attention: with the arguments of `packed_attention`.
        build_mask: builds the masks of calls without one, as `sdpa_mask` does.
    """
    if language_model.config._attn_implementation == name:
        return
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, build_mask)
    language_model.set_attn_implementation(name)


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


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    sliding_window: int | None = None,
    layout: Layout | None = None,
    calls: list[AttentionCall] | None = None,
    skips_prefixes: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of a transformers layer: by the layout, or SDPA without a layout.

    Args:
        module: the attention module.
        query: [1, H, S, Dh].
        key: [1, K, S, Dh], K dividing H.
        value: [1, K, S, Dh].
        attention_mask: read without a layout only.
        scaling: factor of the logits before the softmax.
        sliding_window: tokens that a query attends to, itself included; None: no limit.
        layout: which tokens attend to which.
        calls: the call is appended to it.
        skips_prefixes: the last layer need not compute the outputs of prefix tokens.
        options: others of the layer; with a layout they may not change the result.

    Returns:
        [1, S, H, Dh], and None for the attention weights.

    Raises:
        UsageError: an option is not computed.
    """
    if layout is None or calls is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    check_options(module, options)
    sizes = key.shape[1], value.shape[1], key.shape[3], value.shape[3]
    calls.append(AttentionCall(module.layer_idx, sliding_window, attention_mask, sizes))
    query, key, value = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    query, key = query.to(value.dtype), key.to(value.dtype)  # autocast: RoPE gives float32
    is_last = module.layer_idx + 1 == module.config.num_hidden_layers
    params = AttentionParams(scaling, sliding_window, last_layer=skips_prefixes and is_last)
    output = layout.attend(module.layer_idx, query, key, value, params)
    return output.unsqueeze(0), None
