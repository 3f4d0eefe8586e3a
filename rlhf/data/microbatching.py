"""Split batches into microbatches of a bounded number of tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from rlhf.parallel.world import ALONE, World
from rlhf.tracking.activity import working
from rlhf.types import PolicyOutputs, PromptBatch, Responses

Output = TypeVar("Output", Tensor, PolicyOutputs)


def microbatches(prompts: PromptBatch, responses: Responses, max_tokens: int) -> list[Tensor]:
    """Split the rows of a batch into microbatches of bounded size.

    Responses to one prompt stay together, because the prompt is then read and counted once; they
    are split only where they exceed `max_tokens` by themselves. Prompts with the same image stay
    together where they fit.

    Args:
        prompts: B prompts.
        responses: B responses, one to each prompt.
        max_tokens: tokens of one microbatch; one with a single row may have more.

    Returns:
        The row indices [b] int64 of each microbatch; each of the B rows is in exactly one.
    """
    prompt_lens, response_lens = prompts.spans.lengths.tolist(), responses.spans.lengths.tolist()
    rows_by_prompt: dict[int, list[int]] = {}
    for row, key in enumerate(prompts.sampling_keys.tolist()):
        rows_by_prompt.setdefault(key, []).append(row)
    groups = [
        group
        for rows in rows_by_prompt.values()
        for group in split_group(rows, prompt_lens, response_lens, max_tokens)
    ]
    sizes = [prompt_lens[group[0]] + sum(response_lens[row] for row in group) for group in groups]
    images = [prompts.images[group[0]] for group in groups]
    return [
        torch.tensor([row for number in batch for row in groups[number]])
        for batch in pack_to_budget(sizes, max_tokens, images)
    ]


def map_microbatches(
    function: Callable[..., Output],
    prompts: PromptBatch,
    responses: Responses,
    max_tokens: int,
    *,
    world: World = ALONE,
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
        world: the processes that share out the microbatches, and all return all outputs.
        **per_token: tensors [N, ...], of which `function` gets the rows of its tokens.

    Returns:
        [B, ...] or the outputs of all N tokens, in the order of `responses`, on the CPU.
    """
    own = map_own_microbatches(function, prompts, responses, max_tokens, world=world, **per_token)
    return own.gather(world)


@dataclass(frozen=True)
class MicrobatchOutputs(Generic[Output]):
    """Outputs of the microbatches of one process.

    Attributes:
        outputs: of each microbatch; a process that has none keeps one for the kind of its tensors.
        is_empty: whether this process has no microbatch.
        groups: the rows of the microbatches of all processes.
        tokens: the tokens of these rows.
    """

    outputs: list[Output]
    is_empty: bool
    groups: list[Tensor]
    tokens: list[Tensor]

    def gather(self, world: World) -> Output:
        """Return the outputs of all processes, in the order of the responses."""
        if isinstance(self.outputs[0], Tensor):
            return self._in_order(world, self.outputs, self.groups)
        return PolicyOutputs(
            **{
                name: self._in_order(world, [getattr(x, name) for x in self.outputs], self.tokens)
                for name in _tensors(self.outputs[0])
            }
        )

    def _in_order(self, world: World, own: Sequence[Tensor], indices: Sequence[Tensor]) -> Tensor:
        computed = own[0][:0] if self.is_empty else torch.cat([*own])
        return world.gather(computed)[torch.cat([*indices]).argsort()]


def map_own_microbatches(
    function: Callable[..., Output],
    prompts: PromptBatch,
    responses: Responses,
    max_tokens: int,
    *,
    world: World = ALONE,
    **per_token: Tensor,
) -> MicrobatchOutputs[Output]:
    """Apply a function to this process's share of microbatches; exchange nothing.

    Args:
        function: see `map_microbatches`.
        prompts: B prompts.
        responses: B responses of N tokens in all, one to each prompt.
        max_tokens: tokens of one microbatch.
        world: the processes that share out the microbatches.
        **per_token: tensors [N, ...], of which `function` gets the rows of its tokens.
    """
    groups = microbatches(prompts, responses, max_tokens)
    tokens = [responses.spans.token_indices(rows) for rows in groups]
    own, outputs = world.share(len(groups)), []
    with working("micro-batches", len(own)) as part:
        for n in own or range(1):
            batch = prompts.select(groups[n]), responses.select(groups[n])
            rows = {name: value[tokens[n].to(value.device)] for name, value in per_token.items()}
            outputs.append(_to_cpu(function(*batch, **rows)))
            part.advance()
    return MicrobatchOutputs(outputs, not own, groups, tokens)


def _to_cpu(output: Output) -> Output:
    if isinstance(output, Tensor):
        return output.cpu()
    tensors = _tensors(output)
    if output.logprobs.device.type != "cpu":  # in one copy, so that the host waits once
        names = [name for name, value in tensors.items() if value.dim() == 1]
        rows = torch.stack([tensors[name] for name in names]).cpu()
        tensors |= dict(zip(names, rows, strict=True))
    return PolicyOutputs(**{name: value.cpu() for name, value in tensors.items()})


def _tensors(outputs: PolicyOutputs) -> dict[str, Tensor]:
    return {name: value for name, value in vars(outputs).items() if value is not None}


def pack_to_budget(
    sizes: Sequence[int], budget: int, groups: Sequence[object] | None = None
) -> list[list[int]]:
    """Pack items into batches by size, items of one group together where they fit.

    Args:
        sizes: the size of each item.
        budget: the largest total size of a batch; one with a single item may be larger.
        groups: the group of each item, e.g. its image; None: all items are one group.

    Returns:
        The item indices of each batch, items of similar size together; each index occurs once.
    """
    if groups is None:
        return fill(sizes, budget)
    members: dict[object, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    parts = [
        [indices[number] for number in batch]
        for indices in members.values()
        for batch in fill([sizes[index] for index in indices], budget)
    ]
    batches = fill([sum(sizes[index] for index in part) for part in parts], budget)
    return [[index for number in batch for index in parts[number]] for batch in batches]


def fill(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Pack item indices into batches in the order of their sizes, smallest first."""
    batches: list[list[int]] = []
    total = 0
    for index in sorted(range(len(sizes)), key=sizes.__getitem__):
        if batches and total + sizes[index] <= budget:
            batches[-1].append(index)
            total += sizes[index]
        else:
            batches.append([index])
            total = sizes[index]
    return batches


def split_group(
    rows: list[int], prompt_lens: Sequence[int], response_lens: Sequence[int], budget: int
) -> list[list[int]]:
    """Split the rows of one prompt; the prompt's tokens count once in each part.

    Args:
        rows: indices of rows with the same prompt.
        prompt_lens: tokens of each row's prompt.
        response_lens: tokens of each row's response.
        budget: the most tokens of a part; one with a single row may have more.
    """
    prompt_len = prompt_lens[rows[0]]
    if prompt_len + sum(response_lens[row] for row in rows) <= budget:
        return [rows]
    batches = pack_to_budget([response_lens[row] for row in rows], budget - prompt_len)
    return [[rows[number] for number in sorted(batch)] for batch in batches]
