"""NaN and infinity in eight places of an iteration; memory that runs out in each phase."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from torch import Tensor

import rlhf.ppo.iteration
import rlhf.ppo.rollout
from rlhf.errors import DivergedError
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.ppo.updater import Updater
from rlhf.storage.checkpoint import optimizer_tensors
from rlhf.storage.hashing import hash_tensors
from rlhf.training.gradient_accumulation import GradientAccumulator
from rlhf.types import Minibatch
from tests.reliability.faults import fail_at, poisoned, with_nan
from tests.reliability.harness import PPO, PPOTrainer, fork, ppo, state_hash
from tests.reliability.outcome import Outcome

VALUES = (float("nan"), float("inf"), -float("inf"))
UPDATE = ("advantage", "loss", "policy gradient", "critic gradient")
PLACES = ("score", "log-probability", "value", "reference log-probability", *UPDATE)
PHASES = (
    "vision",
    "prefill",
    "decode",
    "old_logprobs",
    "ref_logprobs",
    "scores",
    "forward",
    "backward",
)


def not_finite(trials: int, tiny: Path, directory: Path) -> Outcome:
    """NaN or infinity in one place at one step: refused by name or skipped, no weight moved."""
    outcome = Outcome()
    for number in range(trials):
        place, step = PLACES[number % 8], number // 8 + 1
        options = replace(PPO, critic_warmup_iterations=0, critic_fit="gradient")
        build = partial(ppo, tiny, directory / str(number), 0, options)
        child = fork(lambda connection, b=build, p=place, s=step: _poisoned(b(), p, s, connection))
        code, messages = child.wait(), child.received()
        outcome.trials += 1
        expected = ["skipped", "ended"] if place in UPDATE else ["refused"]
        outcome.check(code == 0 and messages == expected, f"{place} at step {step}: {messages}")
        outcome.note(expected[0])
    return outcome


def _poisoned(run: PPOTrainer, place: str, step: int, connection: Connection) -> None:
    """Say `refused` or `skipped` where the weights stayed, and whether the run went on."""
    value, take = VALUES[step % 3], Updater.step
    before = [_weights(run)]

    def checked(self: Updater, minibatch: Minibatch, **options: Any) -> Any:
        result = take(self, minibatch, **options)
        weights = _weights(run)
        if result.outcome == "skipped":
            connection.send("skipped" if weights == before[0] else "skipped, and yet moved")
        before[0] = weights
        return result

    Updater.step = checked  # type: ignore[assignment, method-assign]
    with poisoned(*_target(run, place, step, value)):
        try:
            run.run()
            finite = all(
                bool(x.isfinite().all()) for x in run.policy.trainable_parameters().values()
            )
            connection.send("ended" if finite else "not finite")
        except DivergedError:
            connection.send("refused" if _weights(run) == before[0] else "refused, and yet moved")


def _target(run: PPOTrainer, place: str, step: int, value: float) -> tuple[Any, ...]:
    """Arguments of `poisoned`: owner and name of a function, which call, how its result changes."""

    def field(name: str) -> Callable[[Any], Any]:
        return lambda result: replace(result, **{name: with_nan(getattr(result, name), value)})

    def gradient(parameters: list[Any]) -> Callable[[Any], Any]:
        return lambda result: (parameters[0].grad.fill_(value), result)[1]

    updater = run.updater
    return {
        "score": (rlhf.ppo.iteration, "collect_rollout", step, field("scores")),
        "log-probability": (rlhf.ppo.rollout, "map_microbatches", 2 * step - 1, field("logprobs")),
        "value": (rlhf.ppo.rollout, "map_microbatches", 2 * step - 1, field("values")),
        "reference log-probability": (
            rlhf.ppo.rollout,
            "map_microbatches",
            2 * step,
            field("logprobs"),
        ),
        "advantage": (RolloutBuffer, "_advantages", step, lambda x: with_nan(x, value)),
        "loss": (Updater, "_policy_loss", step, lambda x: (x[0] * value, x[1])),
        "policy gradient": (
            GradientAccumulator,
            "_accumulate",
            step,
            gradient(updater.policy_parameters),
        ),
        "critic gradient": (
            GradientAccumulator,
            "_accumulate",
            step,
            gradient(updater.critic_parameters),
        ),
    }[place]


def _weights(run: PPOTrainer) -> str:
    """A hash of policy, critic and optimizer."""
    named: dict[str, Tensor] = {
        **run.policy.trainable_parameters(),
        **run.policy.critic_parameters(),
    }
    moments = optimizer_tensors(run.updater.optimizer)[0]
    return hash_tensors([*named.items(), *moments.items()])


def memory(trials: int, tiny: Path, directory: Path) -> Outcome:
    """Memory runs out once in a phase: the same answers, and metrics as if sizes had been half.

    In the first phase of a run the state is even bit-equal to one with half the sizes.
    """
    outcome, expected = Outcome(), {}
    for number in range(-1, trials):
        phase = PHASES[number % 8] if number >= 0 else ""
        step = 1 if phase == "vision" else number // 8 + 1
        build = partial(_sized, tiny, directory / str(number))
        child = fork(
            lambda connection, b=build, p=phase, s=step: _short_of_memory(b(), p, s, connection)
        )
        code, messages = child.wait(), child.received()
        if number < 0:
            expected = messages[0]
            continue
        outcome.trials += 1
        name = f"{phase}, entry {step}"
        outcome.check(code == 0, f"{name}: did not end")
        if code:
            continue
        state = messages[0]
        outcome.check(state["pieces"] == 2, f"{name}: {state['pieces']} pieces")
        outcome.check(state["answers"] == expected["answers"], f"{name}: other answers")
        gap = max(float(abs(state["weights"][k] - x).max()) for k, x in expected["weights"].items())
        outcome.check(gap < 1e-5, f"{name}: weights {gap:.1g} apart")
        if step == 1 and phase not in ("forward", "backward"):
            outcome.check(state["hash"] == expected["hash"], f"{name}: not bit-equal")
    return outcome


def _sized(tiny: Path, directory: Path) -> PPOTrainer:
    """Three iterations in which half the sizes mean more pieces."""
    options = replace(PPO, iterations=3, microbatch_tokens=120)
    run = ppo(tiny, directory, 0, options)
    run.sampling = replace(run.sampling, batch_size=4)
    return run


def _short_of_memory(run: PPOTrainer, phase: str, step: int, connection: Connection) -> None:
    """Run to the end; without a phase in two pieces from the start."""
    responses, collect = [], run.rollout

    def listened(iteration: int) -> Any:
        rollout = collect(iteration)
        responses.append(rollout.responses.tokens.tolist())
        return rollout

    run.rollout = listened  # type: ignore[method-assign]
    if phase:
        with fail_at(phase, step, "oom"):
            run.run()
    else:
        run.updater.oom_retry.num_splits = 2
        run.run()
    weights = {name: x.detach() for name, x in run.policy.trainable_parameters().items()}
    metrics = {"answers": responses, "weights": {k: x.numpy() for k, x in weights.items()}}
    connection.send(
        {**metrics, "hash": state_hash(run.state()), "pieces": run.updater.oom_retry.num_splits}
    )
