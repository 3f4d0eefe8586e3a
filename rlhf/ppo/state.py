"""The state of a PPO run: what a checkpoint holds, and how it comes back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from rlhf.errors import UsageError
from rlhf.functional import ScoreScaler
from rlhf.models.policy import Policy
from rlhf.models.saving import save_trained
from rlhf.models.sharding import ShardedModels, is_sharded
from rlhf.ppo.health import HealthMonitor
from rlhf.ppo.updater import Updater
from rlhf.ppo.value_function import ValueFunction
from rlhf.rewards.base import Scorer
from rlhf.rewards.combined import reward_parts
from rlhf.storage.checkpoint import Checkpoint
from rlhf.storage.hashing import hash_tensors, text_hash
from rlhf.training.checkpoint_manager import CheckpointManager, State, restore_parameters


class PPORun(Protocol):
    """What of a trainer belongs to its state; for the attributes see `PPOTrainer`."""

    policy: Policy
    judge: Scorer | None
    updater: Updater
    health: HealthMonitor
    scaler: ScoreScaler | None
    value_function: ValueFunction | None
    iteration: int
    metrics: dict[str, float]
    warnings: list[tuple[int, str]]
    checkpoints: CheckpointManager
    sharding: ShardedModels


def capture_state(run: PPORun, frozen: str) -> State:
    """Return everything that training changes, on process 0; all call it together.

    Args:
        run: the trainer.
        frozen: `frozen_hash` at the start of the run.
    """
    optimizer, updater_state = run.updater.state()
    tensors: dict[str, Mapping[str, Tensor]] = {
        "policy": run.sharding.gather_all(run.policy.trainable_parameters()),
        "critic": run.sharding.gather_all(run.policy.critic_parameters()),
        "optimizer": optimizer,
        "value_function": run.value_function.tensors() if run.value_function else {},
    }
    values = {
        "iteration": run.iteration,
        "updater": updater_state,
        "health": run.health.state_dict(),
        "scaler": run.scaler.state_dict() if run.scaler else None,
        "value_function": run.value_function.state_dict() if run.value_function else None,
        "frozen": frozen,
        "judge": run.judge.name if run.judge else "",
        "metrics": run.metrics,
        "warnings": run.warnings,
    }
    return State(tensors, values)


def restore_state(run: PPORun, checkpoint: Checkpoint, frozen: str) -> None:
    """Set everything that training changes to what a checkpoint holds.

    Args:
        run: the trainer, changed in place.
        checkpoint: of a run with the same policy, reward and options.
        frozen: `frozen_hash` of the trainer.

    Raises:
        UsageError: frozen weights have changed since the run began, or the judge is another one.
        DataError: the trained parameters in the checkpoint have other names or shapes.
    """
    state: dict[str, Any] = checkpoint.state
    if state["frozen"] != frozen:
        what = "the reference, the reward model or the judge is not the one this run began with"
        fix = "restore the original model.path, reward.path and reward.judge_path"
        raise UsageError(what, str(checkpoint.path), fix)
    _check_judge(run.judge, state["judge"], checkpoint)
    restore_parameters(run.policy.trainable_parameters(), checkpoint, "policy")
    restore_parameters(run.policy.critic_parameters(), checkpoint, "critic")
    run.updater.restore(checkpoint.tensors["optimizer"], state["updater"])
    run.health.load_state_dict(state["health"])
    if run.scaler and state["scaler"]:
        run.scaler.load_state_dict(state["scaler"])
    if run.value_function and state["value_function"]:
        tensors = checkpoint.tensors["value_function"]
        run.value_function.load_state_dict(state["value_function"], tensors)
    run.iteration, run.metrics = state["iteration"], state["metrics"]
    run.warnings = [(step, name) for step, name in state["warnings"]]


def _check_judge(judge: Scorer | None, stored: str, checkpoint: Checkpoint) -> None:
    """Refuse another judge than that of the run, whose scores would go on the same curve."""
    if (judge.name if judge else "") != stored:
        what = f"the run began with {f'the judge {stored}' if stored else 'no judge'}"
        where = f"{checkpoint.path}; now: {judge.name if judge else 'no judge'}"
        raise UsageError(what, where, "name the same with --judge= or reward.judge_path, or none")


def run_hash(run: PPORun, frozen: str) -> str:
    """Hash of whole weights and prompts, which every process of a run must have alike.

    Args:
        run: the trainer.
        frozen: `frozen_hash` of the trainer.
    """
    trained = {**run.policy.trainable_parameters(), **run.policy.critic_parameters()}
    whole = ((name, value) for name, value in trained.items() if not is_sharded(value))
    return text_hash(f"{frozen} {hash_tensors(whole)} {run.checkpoints.data}")


def save_policy(policy: Policy, directory: Path, metrics: Mapping[str, Any]) -> None:
    """Write the policy to adapter/ or model/ of a directory, and its critic beside it.

    Args:
        policy: with its critic.
        directory: where to.
        metrics: for the model card.
    """
    save_trained(policy.llava, directory, command="ppo", metrics=metrics)
    policy.critic.save(directory)


def frozen_hash(policy: Policy, scorers: Sequence[Scorer]) -> str:
    """Hash of the weights that must not change: frozen parameters and heads of reward models."""
    heads = (getattr(part, "head", None) for part in reward_parts(*scorers))
    named = [
        (f"head.{name}", value)
        for head in heads
        if head is not None
        for name, value in head.named_parameters()
    ]
    return hash_tensors([*policy.frozen_parameters(), *named])
