"""Prompts are cut into parts whole, and every minibatch takes from each part alike."""

import pytest
import torch
from torch import Tensor

from rlhf.ppo.prompt_parts import PromptParts

KEYS = torch.tensor([70, 70, 10, 10, 50, 50, 30, 30, 90, 90])  # five prompts, two samples each


def test_parts_are_consecutive_prompts_in_the_order_of_the_rows() -> None:
    assert PromptParts.split(KEYS, 2).of(KEYS).tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert PromptParts.split(KEYS, 5).of(KEYS).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert PromptParts.split(KEYS, 1).of(KEYS).tolist() == [0] * 10


def test_a_prompt_that_comes_again_stays_in_its_part() -> None:
    keys = torch.tensor([5, 6, 7, 8, 5])
    assert PromptParts.split(keys, 2).of(keys).tolist() == [0, 0, 1, 1, 0]


def test_each_row_is_in_one_part_and_a_part_may_be_empty() -> None:
    parts = PromptParts.split(KEYS, 8)
    rows = [parts.rows(KEYS, part).tolist() for part in range(8)]
    assert sorted(sum(rows, [])) == [*range(10)]
    assert [] in rows and parts.rows(KEYS, 7).dtype == torch.int64


def order(count: int, parts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ranks before and after, and the part of each prompt."""
    keys = torch.arange(count) * 7
    split = PromptParts.split(keys, parts)
    ranks = torch.randperm(count)
    return ranks, split.stratify(keys, ranks), split.of(keys)


def test_one_part_keeps_the_random_order() -> None:
    ranks, stratified, _ = order(100, 1)
    assert torch.equal(ranks, stratified)


@pytest.mark.parametrize(("count", "parts"), [(64, 4), (30, 4), (7, 3), (3, 8)])
def test_consecutive_prompts_are_of_all_parts_alike_and_of_one_part_in_order(
    count: int, parts: int
) -> None:
    ranks, stratified, part_ids = order(count, parts)
    assert sorted(stratified.tolist()) == [*range(count)]
    for part in range(parts):
        members = part_ids == part
        assert torch.equal(ranks[members].argsort(), stratified[members].argsort())
    in_order = part_ids[stratified.argsort()]
    for size in (parts, 2 * parts):
        for window in in_order.split(size)[:-1]:
            counts = window.bincount(minlength=parts)
            assert int(counts.max() - counts.min()) <= 2
    if count % parts == 0:
        assert all(sorted(w.tolist()) == [*range(parts)] for w in in_order.split(parts))
