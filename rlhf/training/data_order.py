"""The order of training rows, a function of seed and epoch only."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor


def shuffled_batches(count: int, size: int, *, seed: int, epochs: int) -> Iterator[Tensor]:
    """Yield the row indices [size] int64 of each optimizer step, reshuffled each epoch.

    Args:
        count: rows of the training set.
        size: rows of a batch; the last of an epoch may be smaller.
        seed: seed of the order.
        epochs: passes over all rows.
    """
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        yield from torch.randperm(count, generator=generator).split(size)


def num_steps(count: int, size: int, epochs: int) -> int:
    """Number of batches that `shuffled_batches` yields.

    Args:
        count: rows of the training set.
        size: rows of a batch.
        epochs: passes over all rows.
    """
    return epochs * math.ceil(count / size)


def prompt_indices(
    count: int, batch: int, iteration: int, *, samples_per_prompt: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Prompt indices and sample indices of a PPO iteration, each [batch] int64.

    Each epoch visits every prompt once, reshuffled. A prompt is repeated `samples_per_prompt` times
    consecutively; its sample index counts the repetitions over all epochs.

    Args:
        count: prompts of the training set.
        batch: responses of an iteration.
        iteration: number of the iteration, from 0.
        samples_per_prompt: responses to each prompt of an iteration.
        seed: seed of the order.
    """
    num_prompts = batch // samples_per_prompt
    positions = torch.arange(iteration * num_prompts, (iteration + 1) * num_prompts)
    epochs = positions // count
    rows = torch.empty_like(positions)
    for epoch in epochs.unique().tolist():
        generator = torch.Generator().manual_seed(seed * 7_368_787 + epoch)
        order, in_epoch = torch.randperm(count, generator=generator), epochs == epoch
        rows[in_epoch] = order[positions[in_epoch] % count]
    repeats = torch.arange(samples_per_prompt).repeat(num_prompts)
    samples = epochs.repeat_interleave(samples_per_prompt) * samples_per_prompt + repeats
    return rows.repeat_interleave(samples_per_prompt), samples
