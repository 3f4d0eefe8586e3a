"""In which order rows are drawn: a function of the seed and the epoch only."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor


def shuffled_batches(count: int, size: int, *, seed: int, epochs: int) -> Iterator[Tensor]:
    """Row indices of each optimizer step: every epoch a new order, the last batch may be short."""
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        yield from torch.randperm(count, generator=generator).split(size)


def num_steps(count: int, size: int, epochs: int) -> int:
    """Optimizer steps that `shuffled_batches` yields."""
    return epochs * math.ceil(count / size)


def prompt_indices(
    count: int, batch: int, iteration: int, *, samples_per_prompt: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Of `count` prompts those of a PPO iteration, and which sample of its prompt each is, [batch].

    Each prompt comes `each` times in a row; each epoch draws every prompt once, in a new order.
    """
    size = batch // samples_per_prompt
    places = torch.arange(iteration * size, (iteration + 1) * size)
    epochs = places // count
    rows = torch.empty_like(places)
    for epoch in epochs.unique().tolist():
        generator = torch.Generator().manual_seed(seed * 7_368_787 + epoch)
        order, here = torch.randperm(count, generator=generator), epochs == epoch
        rows[here] = order[places[here] % count]
    samples = epochs.repeat_interleave(samples_per_prompt) * samples_per_prompt + torch.arange(
        samples_per_prompt
    ).repeat(size)
    return rows.repeat_interleave(samples_per_prompt), samples
