"""Responses put side by side with those of their prefix, and back."""

import pytest
import torch

from rlhf.kernels.prefix_groups import PrefixGroups

PREFIX_IDS = ([0, 0, 1, 1], [0, 1, 2], [1, 0, 0, 1, 0], [0, 0, 0])


@pytest.mark.parametrize("prefix_ids", PREFIX_IDS)
def test_groups_put_responses_beside_those_of_their_prompt_and_back(prefix_ids: list[int]) -> None:
    groups = PrefixGroups(torch.tensor(prefix_ids))
    rows = torch.arange(len(prefix_ids) * 2 * 3 * 1.0).view(len(prefix_ids), 2, 3, 1) + 1
    grouped = groups.group(rows)
    assert grouped.shape == (max(prefix_ids) + 1, 2, 3 * groups.max_size, 1)
    for prompt in range(max(prefix_ids) + 1):
        members = [row for row, prefix in enumerate(prefix_ids) if prefix == prompt]
        expected = torch.cat([rows[row] for row in members], dim=1)
        assert torch.equal(grouped[prompt, :, : expected.shape[1]], expected)
        assert not grouped[prompt, :, expected.shape[1] :].any()
    assert torch.equal(groups.ungroup(grouped), rows)


def test_groups_of_some_responses() -> None:
    groups = PrefixGroups(torch.tensor([0, 0, 1, 2, 2]))
    selected, prefixes = groups.select(torch.tensor([4, 0, 3]))
    assert prefixes.tolist() == [0, 2] and selected.prefix_ids.tolist() == [1, 0, 1]
