"""Batches in pieces that fit into memory."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from rlhf.types import PolicyOutputs, PromptBatch, Responses

Output = TypeVar("Output", Tensor, PolicyOutputs)


def microbatches(prompts: PromptBatch, responses: Responses, max_tokens: int) -> list[Tensor]:
    """Rows [b] of each piece, of at most `max_tokens` tokens (one row at the least).

    Responses to one prompt stay together, for then it is read once and counts once; they are
    parted where they alone are more. Prompts with one image stay together where they fit.
    """
    own, first = responses.spans.lengths.tolist(), prompts.spans.lengths.tolist()
    prompt_groups: dict[int, list[int]] = {}
    for row, key in enumerate(prompts.sampling_keys.tolist()):
        prompt_groups.setdefault(key, []).append(row)
    parts = [
        part
        for rows in prompt_groups.values()
        for part in split_group(rows, first, own, max_tokens)
    ]
    sizes = [first[part[0]] + sum(own[row] for row in part) for part in parts]
    images = [prompts.images[part[0]] for part in parts]
    return [
        torch.tensor([row for number in piece for row in parts[number]])
        for piece in pack_to_budget(sizes, max_tokens, images)
    ]


def map_microbatches(
    function: Callable[..., Output],
    prompts: PromptBatch,
    responses: Responses,
    max_tokens: int,
    **per_token: Tensor,
) -> Output:
    """Apply a function of prompts and responses to microbatches of bounded size.

    Args:
        function: called with the prompts and responses of a microbatch and its share of
            `per_token`; returns a tensor [b, ...], a row for each response, or the outputs of
            its tokens.
        prompts: B prompts.
        responses: B responses of N tokens in all, one to each prompt.
        max_tokens: tokens of one microbatch, see `microbatches`.
        **per_token: tensors [N, ...], of which `function` gets the rows of its tokens.

    Returns:
        [B, ...] or the outputs of all N tokens, in the order of `responses`, on the CPU.
    """
    groups = microbatches(prompts, responses, max_tokens)
    tokens = [responses.spans.token_indices(rows) for rows in groups]
    outputs = [
        _to_cpu(
            function(
                prompts.select(rows),
                responses.select(rows),
                **{name: value[where.to(value.device)] for name, value in per_token.items()},
            )
        )
        for rows, where in zip(groups, tokens, strict=True)
    ]
    if isinstance(outputs[0], Tensor):
        return torch.cat(outputs)[torch.cat(groups).argsort()]
    order = torch.cat(tokens).argsort()
    return PolicyOutputs(
        **{
            name: torch.cat([getattr(output, name) for output in outputs])[order]
            for name in _tensors(outputs[0])
        }
    )


def _to_cpu(output: Output) -> Output:
    if isinstance(output, Tensor):
        return output.cpu()
    return PolicyOutputs(**{name: value.cpu() for name, value in _tensors(output).items()})


def _tensors(outputs: PolicyOutputs) -> dict[str, Tensor]:
    return {name: value for name, value in vars(outputs).items() if value is not None}


def pack_to_budget(
    sizes: Sequence[int], budget: int, groups: Sequence[object] | None = None
) -> list[list[int]]:
    """Indices of things in pieces whose sizes sum to at most `most` (one at the least).

    Those of like size go together, and before that those of the same of `images`; each appears
    once.
    """
    if groups is None:
        return fill(sizes, budget)
    alike: dict[object, list[int]] = {}
    for index, image in enumerate(groups):
        alike.setdefault(image, []).append(index)
    parts = [
        [own[number] for number in piece]
        for own in alike.values()
        for piece in fill([sizes[index] for index in own], budget)
    ]
    pieces = fill([sum(sizes[index] for index in part) for part in parts], budget)
    return [[index for number in piece for index in parts[number]] for piece in pieces]


def fill(sizes: Sequence[int], budget: int) -> list[list[int]]:
    pieces: list[list[int]] = []
    filled = 0
    for index in sorted(range(len(sizes)), key=sizes.__getitem__):
        if pieces and filled + sizes[index] <= budget:
            pieces[-1].append(index)
            filled += sizes[index]
        else:
            pieces.append([index])
            filled = sizes[index]
    return pieces


def split_group(
    rows: list[int], prompt_lens: Sequence[int], response_lens: Sequence[int], budget: int
) -> list[list[int]]:
    """Rows of one prompt, whose tokens count in each part."""
    if prompt_lens[rows[0]] + sum(response_lens[row] for row in rows) <= budget:
        return [rows]
    pieces = pack_to_budget([response_lens[row] for row in rows], budget - prompt_lens[rows[0]])
    return [[rows[number] for number in sorted(piece)] for piece in pieces]
