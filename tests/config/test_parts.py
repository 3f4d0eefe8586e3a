"""`parallel.parts` that can be shared, and those that cannot."""

import pytest

from rlhf.config.resolve import with_parts
from rlhf.config.schema import Config, ModelConfig, ParallelConfig, PPOConfig
from rlhf.errors import UsageError


@pytest.mark.parametrize(
    ("parts", "processes", "resolved"),
    [(0, 1, 1), (0, 3, 3), (4, 1, 4), (4, 2, 4), (4, 4, 4), (6, 1, 6), (6, 3, 6), (6, 6, 6)],
)
def test_zero_is_one_part_a_process(parts: int, processes: int, resolved: int) -> None:
    config = with_parts(Config(parallel=ParallelConfig(parts=parts)), processes)
    assert config.parallel.parts == resolved


@pytest.mark.parametrize(
    ("parts", "processes", "numbers"), [(1, 2, "1"), (4, 3, "1, 2, 4"), (6, 2, "1, 3, 6")]
)
def test_a_share_that_is_no_branch_of_the_tree_is_refused(
    parts: int, processes: int, numbers: str
) -> None:
    with pytest.raises(UsageError) as error:
        with_parts(Config(parallel=ParallelConfig(parts=parts)), processes)
    assert f"run on {numbers} processes" in error.value.fix
    assert error.value.where == f"parallel.parts={parts}"


def test_a_minibatch_has_a_prompt_of_each_part() -> None:
    options = PPOConfig(rollout_batch_size=32, minibatch_size=16, samples_per_prompt=4)
    with_parts(Config(ppo=options, parallel=ParallelConfig(parts=4)), 1)
    with pytest.raises(UsageError, match="fewer prompts than parts"):
        with_parts(Config(ppo=options, parallel=ParallelConfig(parts=5)), 1)


def test_int8_is_not_sharded_which_is_said_before_a_model_loads() -> None:
    model, shard = ModelConfig(quantization="int8"), ParallelConfig(shard=True)
    for command in ("ppo", "sft", "reward"):
        with pytest.raises(UsageError, match="cannot be sharded"):
            with_parts(Config(model=model, parallel=shard), 2, command)
    assert with_parts(Config(model=model), 2).parallel.parts == 2
