"""The models of a training run, sharded over its processes if `parallel.shard` says so."""

from collections.abc import Sequence

from rlhf.config.schema import Config, OptimizerKind
from rlhf.errors import UsageError, told_once
from rlhf.models.llava import Llava
from rlhf.models.scalar_head import MLPHead, ScalarHead
from rlhf.models.sharding import ShardedModels
from rlhf.parallel.world import World
from rlhf.tracking.console import say


def shard_models(
    config: Config,
    optimizer: OptimizerKind,
    llavas: Sequence[Llava],
    heads: Sequence[ScalarHead | MLPHead],
    world: World,
) -> ShardedModels:
    """Shard the models of a run if `parallel.shard` says so; one process keeps them whole.

    Args:
        config: the options of the run.
        optimizer: that of the run.
        llavas: changed in place; some may be the same.
        heads: trained with a language model in full.
        world: the processes, whose models have the same weights.

    Raises:
        UsageError: a model cannot be sharded, or the optimizer cannot train it then.
    """
    if not config.parallel.shard:
        return ShardedModels(world=world)
    if optimizer != "adamw" and any(map(_trains_layers, llavas)):
        what = "the 8-bit optimizers of bitsandbytes cannot train sharded layers"
        fix = "use adamw, or train a LoRA"
        raise told_once(UsageError(what, f"optimizer {optimizer}, parallel.shard=true", fix))
    if world.size == 1:
        say("parallel.shard=true: there is one process, which holds the models whole")
    return ShardedModels(llavas, heads, world)


def check_shardable_kind(config: Config, kind: str) -> None:
    """Refuse to shard a reward model whose base model is a text model.

    Args:
        config: the options of the run.
        kind: of the reward model, as in `reward.kind`.

    Raises:
        UsageError: `parallel.shard` is set, and the kind is not `llava_head`.
    """
    if config.parallel.shard and kind != "llava_head":
        what = "a reward model that reads captions cannot be sharded"
        fix = "use reward.kind=llava_head, or parallel.shard=false"
        raise told_once(UsageError(what, f"parallel.shard=true reward.kind={kind}", fix))


def _trains_layers(llava: Llava) -> bool:
    """Whether weights of the language model train, not an adapter only."""
    named = llava.language_model.named_parameters()
    return any(value.requires_grad for name, value in named if "lora_" not in name)
