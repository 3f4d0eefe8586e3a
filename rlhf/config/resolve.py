"""Resolve options that may be left open (empty or "auto") to the values they stand for."""

from dataclasses import replace

from rlhf.config.schema import Config, PPOConfig
from rlhf.errors import UsageError

MANY_PROCESSES = 8  # that a run may later have


def kl_choice(ppo: PPOConfig) -> tuple[str, str]:
    """Return placement and estimator of the KL penalty; an empty estimator becomes a valid one.

    `rlhf.functional.kl` says which estimators are valid where, and why.
    """
    return ppo.kl_placement, ppo.kl_estimator or {"reward": "k1", "loss": "k2"}[ppo.kl_placement]


def weights_dtype(config: Config, device: str, *, trains_fully: bool) -> str:
    """Return the name of the dtype of the frozen weights: `dtype`, or by the device if "auto".

    Args:
        config: the options of the run.
        device: kind of device: cpu, cuda or mps.
        trains_fully: all layers of the language model train.

    Returns:
        With "auto": float32 on a CPU and in full training, else bfloat16.
    """
    if config.dtype != "auto":
        return config.dtype
    return "float32" if device == "cpu" or trains_fully else "bfloat16"


def with_parts(config: Config, processes: int, command: str = "ppo") -> Config:
    """Return the options of a run on several processes, with the number of its parts.

    Args:
        config: the options; `parallel.parts=0` becomes the number of processes.
        processes: number of processes.
        command: ppo, sft or reward, which trains.

    Raises:
        UsageError: the sum over the parts would not be the same on this number of processes, a
            batch has fewer members than parts, or the model cannot be sharded.
    """
    if config.parallel.shard and config.model.quantization == "int8":
        where = "model.quantization=int8 parallel.shard=true"
        raise UsageError("int8 weights cannot be sharded", where, "leave parallel.shard out")
    parts = config.parallel.parts or processes
    batch, members, size, option = _batch(config, command)
    if parts > max(size, 1):
        raise UsageError(
            f"a {batch} has fewer {members} than parts",
            f"parallel.parts={parts}, {members} of a {batch}: {size}",
            f"lower parallel.parts, or raise {option}",
        )
    if not _shares(parts, processes):
        numbers = [n for n in range(1, parts + 1) if _shares(parts, n)]
        raise UsageError(
            f"{parts} parts cannot be shared by {processes} processes with equal results",
            f"parallel.parts={parts}",
            f"run on {', '.join(map(str, numbers))} processes, or begin a run with other parts",
        )
    return replace(config, parallel=replace(config.parallel, parts=parts))


def recommended_parts(config: Config, processes: int, command: str = "ppo") -> int:
    """Return parts for a run that suit up to 8 processes, if a batch has so many members.

    Args:
        config: the options.
        processes: number of processes that is certain.
        command: ppo, sft or reward, which trains.
    """
    parts, (_, _, members, _) = processes, _batch(config, command)
    while 2 * parts <= min(members, MANY_PROCESSES):
        parts *= 2
    return parts


def _batch(config: Config, command: str) -> tuple[str, str, int, str]:
    """Name, members and size of the batch of an optimizer step, and the option that sets it."""
    if command == "sft":
        return "batch", "demonstrations", config.sft.batch_size, "sft.batch_size"
    if command == "reward":
        return "batch", "pairs", config.reward.batch_size, "reward.batch_size"
    prompts = config.ppo.minibatch_size // config.ppo.samples_per_prompt
    return "minibatch", "prompts", prompts, "ppo.minibatch_size"


def _shares(parts: int, processes: int) -> bool:
    """Whether the parts of each process are a branch of the binary tree over all parts."""
    each, rest = divmod(parts, processes)
    return processes == 1 or (rest == 0 and each & (each - 1) == 0)
