"""What is remembered of each prompt: literals, and a state that survives a checkpoint."""

import pytest
import torch

from rlhf.functional import PromptReturns
from tests.support.float64 import exact


def test_literals() -> None:
    """Above the mean 3 lie -2 and 1 of prompt 7, and 1 of prompt 5; later 0.5 and -0.5."""
    memory = PromptReturns(decay=0.5)
    assert memory.means(torch.tensor([7, 5])).isnan().all()
    memory.add(exact([1.0, 4.0, 4.0]), torch.tensor([7, 5, 7]))
    assert memory.means(torch.tensor([5, 7, 5, 9])).nan_to_num(33.0).tolist() == [1, -0.5, 1, 33]
    memory.add(exact([2.5, 1.5]), torch.tensor([7, 9]))
    assert memory.means(torch.tensor([7])).tolist() == [(0.5 * -1 + 0.5) / (0.5 * 2 + 1)]
    assert memory.means(torch.tensor([5, 9])).tolist() == [1, -0.5]


def test_a_policy_that_improves_everywhere_changes_nothing() -> None:
    returns, groups = exact([1.0, 2.0, 6.0]), torch.tensor([0, 1, 0])
    memories = PromptReturns(), PromptReturns()
    memories[0].add(returns, groups)
    memories[1].add(returns + 8, groups)
    assert torch.equal(*(memory.means(groups) for memory in memories))


def test_the_state_is_restored_to_the_bit() -> None:
    saved, restored, groups = PromptReturns(), PromptReturns(), torch.tensor([3, -1, 2**62])
    restored.load_state_dict(saved.state_dict())
    assert restored.means(groups).isnan().all()
    saved.add(exact([0.1, 0.7, 0.3]), groups)
    restored.load_state_dict(saved.state_dict())
    for memory in (saved, restored):
        memory.add(exact([0.2, 0.9, 0.1]), groups)
    assert torch.equal(saved.means(groups), restored.means(groups))


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="decay: got 2"):
        PromptReturns(decay=2)
    with pytest.raises(ValueError, match="returns: got shape"):
        PromptReturns().add(torch.zeros(2), torch.tensor([0]))
