"""Run a few tokens when a model is loaded, to refuse text models that cannot run packed."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf.errors import as_usage_error
from rlhf.models.packed.forward import (
    call_language_model,
    packed_attention,
    use_attention,
    use_packed_attention,
)
from rlhf.models.packed.layouts import CausalRows
from rlhf.models.packed.supported import (
    AttentionCall,
    check_calls,
    check_structure,
    unsupported,
)
from rlhf.spans import Spans

PROBE_ATTENTION = "rlhf_probe"


@torch.no_grad()
def check_supported(model: Any) -> None:
    """Check that packed passes compute what the model's own class computes.

    Two rows of two tokens run; the first is NaN, which must not reach the second. The model builds
    the masks of its layers, which must be those of the packed attention.

    Args:
        model: a transformers LLaVA with its weights.

    Raises:
        UsageError: they do not; the message names the architecture and what it has.
    """
    check_structure(model)
    language_model = model.model.language_model
    weight = model.get_input_embeddings().weight
    embeds = torch.ones(4, weight.shape[1], dtype=weight.dtype, device=weight.device)
    embeds[:2] = torch.nan
    use_attention(language_model, PROBE_ATTENTION, probe_attention, visible_keys)
    config = language_model.config
    what = f"{config.model_type} cannot run over packed tokens"
    fix = "use a LLaVA whose text model the documentation of families lists"
    with as_usage_error(what, "model.path", fix):
        hidden_states, calls = call_language_model(
            language_model,
            embeds,
            torch.arange(4),  # consecutive: transformers sees one sequence and builds its masks
            CausalRows(Spans.from_lengths([2, 2])),
            needed=torch.tensor([3]),
            attention_mask=None,
        )
    use_packed_attention(language_model)
    check_calls(language_model, calls)
    for call in calls:
        _check_mask(config, call)
    _check_sizes(config, calls)
    if not bool(hidden_states[3].isfinite().all()):
        raise unsupported(config, "mixes tokens of different sequences outside of its attention")


def probe_attention(module: Any, *tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor | None]:
    """Packed attention that refuses calls without a layout.

    Args:
        module: the attention module.
        tensors: query, key, value and mask, as `packed_attention` takes them.
        options: of `packed_attention`.

    Raises:
        UsageError: the layer did not pass on the layout, or an option is not computed.
    """
    if "layout" not in options:
        what = f"cannot run over packed tokens: {type(module).__name__} gets no layout"
        raise unsupported(module.config, what)
    return packed_attention(module, *tensors, **options)


def visible_keys(*, mask_function: Callable[..., Tensor], config: Any, **options: Any) -> Tensor:
    """Which of L tokens the second to last of them attends to, [1, 1, 1, L] bool.

    Transformers calls it in place of `sdpa_mask`. L is `max_position_embeddings`: enough tokens to
    tell a window or chunks from a causal mask, however few are run.

    Args:
        mask_function: whether a query attends to a key, by row, head and their positions.
        config: configuration of the text model.
        options: `device`, and others that have no effect.
    """
    keys = torch.arange(config.max_position_embeddings, device=options["device"])
    zero = keys[:1] * 0
    return mask_function(zero, zero, keys[-2:-1], keys).view(1, 1, 1, -1)


def _check_mask(config: Any, call: AttentionCall) -> None:
    """Refuse a layer whose mask is not causal with the window that it passes to its attention."""
    if call.mask is None:
        return
    keys = torch.arange(call.mask.shape[-1], device=call.mask.device)
    query = len(keys) - 2
    first = -1 if call.window is None else query - call.window
    if not torch.equal(call.mask.flatten(), (keys > first) & (keys <= query)):
        raise unsupported(
            config,
            f"has a mask in layer {call.layer} that is neither causal nor its sliding window",
        )


def _check_sizes(config: Any, calls: Sequence[AttentionCall]) -> None:
    """Refuse keys and values of several sizes, which a KV cache does not hold."""
    sizes = {call.sizes for call in calls}
    key_heads, value_heads, key_size, value_size = calls[0].sizes
    if len(sizes) > 1 or key_heads != value_heads or key_size != value_size:
        seen = ", ".join(f"{k} x {kd} and {v} x {vd}" for k, v, kd, vd in sorted(sizes))
        raise unsupported(config, f"has keys and values of several sizes: {seen}")
