"""Attention over tokens that lie end to end, [1, S, D] for a whole batch, without padding.

transformers' own attention modules call it by the name `SPANS`; a layout, handed through the
model's forward, says which tokens see which.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from rlhf.kernels.flash_cpu import causal_attention
from rlhf.kernels.shared_prefix_attention import (
    PrefixGroups,
    shared_prefix_attention,
    sliding_window_mask,
)
from rlhf.models.packed.kv_cache import KVCache
from rlhf.spans import Spans

SPANS = "rlhf_spans"


class AttentionParams(NamedTuple):
    """How a layer looks back.

    Attributes:
        scale: of the products before the softmax.
        window: tokens that one sees of its row, itself the last; None: all.
        final: no later layer needs what tokens see that are only read for others to see.
    """

    scale: float
    window: int | None
    last_layer: bool = False


class Layout(Protocol):
    """Which tokens of a flat batch see which."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, look: AttentionParams
    ) -> Tensor:
        """[S, H, Dh] of query [S, H, Dh], key and value [S, K, Dh], K dividing H."""


def run(
    language_model: Any,
    embeds: Tensor,
    positions: Tensor,
    layout: Layout,
    wanted: Tensor | None = None,
) -> Tensor:
    """States [S, D] of tokens `embeds` [S, D] at these positions [S] of their rows.

    Args:
        wanted: indices of tokens; the states of others need not be right. None: all are wanted.
    """
    if language_model.config._attn_implementation != SPANS:
        AttentionInterface.register(SPANS, _attention)
        AttentionMaskInterface.register(SPANS, sdpa_mask)  # of calls without a layout
        language_model.set_attn_implementation(SPANS)
    with _last_layer_for(language_model, wanted):
        output = language_model(
            inputs_embeds=embeds.unsqueeze(0),
            position_ids=positions.to(embeds.device).unsqueeze(0),
            attention_mask=embeds.new_empty(1, 1, 1, 1),  # of this shape it is left as it is
            use_cache=False,
            layout=layout,
            some=wanted is not None,
        )
    states: Tensor = output.last_hidden_state
    return states.squeeze(0)


@contextmanager
def _last_layer_for(language_model: Any, wanted: Tensor | None) -> Iterator[None]:
    """Inside the block the last layer, of which other tokens need keys and values only, computes
    the rest for these only.

    Prompts are most of the tokens, and of their last states at most the end's is read.
    """
    if wanted is None:
        yield
        return
    last = language_model.layers[-1]
    attention = (getattr(last.self_attn, name, None) for name in ("q_proj", "o_proj"))
    modules = [last.mlp, *(x for x in attention if x is not None)]
    before = [vars(module).get("forward") for module in modules]  # of its own, not its class's
    for module in modules:
        module.forward = partial(_rows_only, module.forward, wanted)
    try:
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            del module.forward
            if forward is not None:
                module.forward = forward


def _rows_only(whole: Callable[[Tensor], Tensor], wanted: Tensor, states: Tensor) -> Tensor:
    """[1, S, ·] of states [1, S, ·], zeros where it is not wanted."""
    index = wanted.to(states.device)
    done = whole(states[:, index])
    blank = done.new_zeros(*states.shape[:-1], done.shape[-1])
    return blank.index_copy(1, index, done)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: Layout | None = None,
    some: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    if layout is None:
        given = (module, query, key, value, attention_mask)
        return sdpa_attention_forward(*given, scaling=scaling, **options)  # type: ignore[no-any-return]
    query, key, value = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    query, key = query.to(value.dtype), key.to(value.dtype)  # autocast: rotations are wider
    last = some and module.layer_idx + 1 == module.config.num_hidden_layers
    look = AttentionParams(scaling, options.get("sliding_window"), last)
    return layout.attend(module.layer_idx, query, key, value, look).unsqueeze(0), None


class CausalRows:
    """Rows that do not see one another; a token sees what is not after it in its row.

    Args:
        spans: where each row lies in the S tokens.
    """

    def __init__(self, spans: Spans) -> None:
        self.spans = spans
        self.even = spans.num_tokens == len(spans) * spans.max_len
        self._places: Tensor | None = None

    @property
    def lengths(self) -> Tensor | None:
        """[B] tokens of each row; None: all are of the same."""
        return None if self.even else self.spans.lengths

    def places(self, device: torch.device) -> Tensor:
        """[S] where each token stands among the padded ones."""
        if self._places is None:
            spans = self.spans
            self._places = (spans.segment_ids * spans.max_len + spans.positions).to(device)
        return self._places

    def pad(self, flat: Tensor) -> Tensor:
        """[B, H, T, Dh] of [S, H, Dh], zeros past each row's end."""
        count, width = len(self.spans), self.spans.max_len
        if not self.even:
            blank = flat.new_zeros(count * width, *flat.shape[1:])
            flat = blank.index_copy(0, self.places(flat.device), flat)
        rows: Tensor = flat.unflatten(0, (count, width))
        return rows.transpose(1, 2)

    def flatten(self, padded: Tensor) -> Tensor:
        """[S, H, Dh] of [B, H, T, Dh]."""
        flat = padded.transpose(1, 2).flatten(0, 1)
        return flat if self.even else flat.index_select(0, self.places(flat.device))

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, look: AttentionParams
    ) -> Tensor:
        q, k, v = (self.pad(x) for x in (query, key, value))
        return self.flatten(_causal(q, k, v, look))


@dataclass(frozen=True, eq=False)
class CacheFill:
    """Another layout, whose tokens are read only for their keys and values.

    Attributes:
        layout: what sees what of S tokens.
        into: is given those at `places` [M] of them, for its `rows` [M] and `columns` [M].
    """

    layout: Layout
    into: KVCache
    places: Tensor
    rows: Tensor
    columns: Tensor

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, look: AttentionParams
    ) -> Tensor:
        own = key[self.places], value[self.places]
        self.into.write(layer, *own, self.rows, self.columns)
        if look.last_layer:
            return torch.zeros_like(query)
        return self.layout.attend(layer, query, key, value, look)


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """All openings of prompts, each once, then all rows that go on from them, which see theirs."""

    prompts: CausalRows
    responses: CausalRows
    groups: PrefixGroups

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, look: AttentionParams
    ) -> Tensor:
        sizes = self.prompts.spans.num_tokens, self.responses.spans.num_tokens
        parts = [x.split(sizes) for x in (query, key, value)]  # two slices cost two fills backwards
        q, k, v = (self.prompts.pad(x) for x, _ in parts)
        query, key, value = (self.responses.pad(x) for _, x in parts)
        given = (query, key, value, k, v, self.groups, self.prompts.lengths)
        later = shared_prefix_attention(*given, scale=look.scale, window=look.window)
        if look.last_layer:
            earlier = torch.zeros_like(parts[0][0])
        else:
            earlier = self.prompts.flatten(_causal(q, k, v, look))
        return torch.cat([earlier, self.responses.flatten(later)])


@dataclass(frozen=True, eq=False)
class CachedPrefix:
    """Rows that follow prompts read before; with `own` also what was read of the rows."""

    rows: CausalRows
    prompts: KVCache
    groups: PrefixGroups
    own: KVCache | None = None

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, look: AttentionParams
    ) -> Tensor:
        q, k, v = (self.rows.pad(x) for x in (query, key, value))
        if self.own is not None:
            k, v = self.own.append(layer, k, v)
        keys, values = self.prompts.layer(layer)
        given = (q.to(keys.dtype), k, v, keys, values, self.groups, self.prompts.lengths)
        seen = shared_prefix_attention(*given, scale=look.scale, window=look.window)
        return self.rows.flatten(seen.to(query.dtype))


def _causal(query: Tensor, key: Tensor, value: Tensor, look: AttentionParams) -> Tensor:
    width, times = query.shape[2], query.shape[1] // key.shape[1]
    if times > 1:
        key, value = (x.repeat_interleave(times, dim=1) for x in (key, value))
    if look.window is None or look.window >= width:
        return causal_attention(query, key, value, look.scale)
    mask = sliding_window_mask(width, width, look.window, query.device)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=look.scale)
