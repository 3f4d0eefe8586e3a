"""The models of a PPO run, sharded over its processes."""

from typing import Protocol

from rlhf.config.schema import Config
from rlhf.errors import UsageError, told_once
from rlhf.models.policy import Policy
from rlhf.models.sharding import UNSHARDED, ShardedModels
from rlhf.parallel.world import World
from rlhf.ppo.batch_sizes import llavas_of
from rlhf.rewards.base import Scorer
from rlhf.tracking.console import say


class PPOModels(Protocol):
    """What of a trainer is sharded; for the attributes see `PPOTrainer`."""

    policy: Policy
    reward: Scorer
    run_config: Config
    world: World


def shard_models(run: PPOModels) -> ShardedModels:
    """Shard the models of a run if `parallel.shard` says so; one process keeps them whole.

    Args:
        run: the trainer; its models are changed in place.

    Raises:
        UsageError: a model cannot be sharded, or the optimizer cannot train it then.
    """
    if not run.run_config.parallel.shard:
        return UNSHARDED
    trains_fully = not run.policy.base_is_frozen
    if trains_fully and run.run_config.ppo.optimizer != "adamw":
        what = "the 8-bit optimizers of bitsandbytes cannot train sharded layers"
        where = f"ppo.optimizer={run.run_config.ppo.optimizer} parallel.shard=true"
        fix = "use ppo.optimizer=adamw, or model.train=lora"
        raise told_once(UsageError(what, where, fix))
    if run.world.size == 1:
        say("parallel.shard=true: there is one process, which holds the models whole")
    heads = [run.policy.critic.head] if trains_fully else []
    return ShardedModels(llavas_of(run.policy, run.reward), heads, run.world)
