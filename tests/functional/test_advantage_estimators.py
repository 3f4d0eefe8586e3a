"""The table of advantage estimators: its rows, and that nothing else names one."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.config.schema import PPOConfig
from rlhf.functional import (
    ADVANTAGE_ESTIMATORS,
    AdvantageInputs,
    advantage_estimator,
    generalized_advantages,
    grpo_advantages,
    rloo_advantages,
)
from rlhf.spans import Spans
from tests.support.float64 import exact, random_float64

ROOT = Path(__file__).parents[2] / "rlhf"
# The table, the default, what stands in for a critic that is of no use, and the notice that GRPO
# beside a KL in the loss changes its unit.
NAMED_IN = {
    "functional/advantage_estimators.py",
    "config/ppo_schema.py",
    "ppo/buffer.py",
    "ppo/options.py",
}


def inputs() -> AdvantageInputs:
    spans = Spans.from_lengths([2, 1, 3])
    return AdvantageInputs(
        rewards=random_float64(6),
        values=random_float64(6),
        spans=spans,
        groups=torch.tensor([4, 9, 4]),
        final_values=random_float64(3),
        gamma=0.9,
        gae_lambda=0.8,
        eps=0.1,
    )


def discounted_loop(rewards: Tensor, gamma: float) -> Tensor:
    """Each token's discounted sum of the rewards from it on."""
    sums, later = [], 0.0
    for reward in reversed(rewards.tolist()):
        later = reward + gamma * later
        sums.append(later)
    return rewards.new_tensor(sums[::-1])


def test_reinforce_literal() -> None:
    """Rewards 1, 2, 4 at γ = ½: 1 + 1 + 1, 2 + 2 and 4; the values and λ are of no account."""
    x = replace(inputs(), rewards=exact([8.0, 16.0, 3.0, 1.0, 2.0, 4.0]), gamma=0.5)
    got = ADVANTAGE_ESTIMATORS["reinforce"].function(x)
    assert got.tolist() == [16.0, 16.0, 3.0, 3.0, 4.0, 4.0]


def test_each_row_is_its_formula() -> None:
    x = inputs()
    options: dict[str, Any] = {"gamma": 0.9, "gae_lambda": 0.8, "final_values": x.final_values}
    sums = torch.stack([part.sum() for part in x.rewards.split([2, 1, 3])])
    expected = {
        "gae": generalized_advantages(x.rewards, x.values, x.spans, **options)[0],
        "reinforce": torch.cat([discounted_loop(part, 0.9) for part in x.rewards.split([2, 1, 3])]),
        "rloo": rloo_advantages(sums, x.groups)[x.spans.segment_ids],
        "grpo": grpo_advantages(sums, x.groups, eps=0.1)[x.spans.segment_ids],
    }
    assert expected.keys() == ADVANTAGE_ESTIMATORS.keys()
    for name, advantages in expected.items():
        torch.testing.assert_close(ADVANTAGE_ESTIMATORS[name].function(x), advantages)


def test_what_each_row_needs() -> None:
    needs = {
        name: (row.needs_critic, row.needs_groups) for name, row in ADVANTAGE_ESTIMATORS.items()
    }
    assert needs == {
        "gae": (True, False),
        "reinforce": (False, False),
        "rloo": (False, True),
        "grpo": (False, True),
    }


def test_the_default_suits_every_option() -> None:
    """Validation looks the table up for other estimators only."""
    default = ADVANTAGE_ESTIMATORS[PPOConfig().advantage_estimator]
    assert (default.needs_critic, default.needs_groups) == (True, False)


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="'gae' is registered already"):
        advantage_estimator("gae", needs_critic=True, needs_groups=False)(lambda x: x.rewards)


def test_a_new_estimator_touches_two_files_because_only_the_table_names_them() -> None:
    """Its formula in functional/advantages.py and its row in functional/advantage_estimators.py."""
    names = re.compile("|".join(f'"{name}"' for name in ADVANTAGE_ESTIMATORS))
    named_in = {
        str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if names.search(path.read_text())
    }
    assert named_in == NAMED_IN
