"""Sweeps on disk as a command leaves them, with made-up metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf.storage.sweep import Member, Status, Sweep, finish_sweep, write_member, write_sweep
from rlhf.tracking.writer import MetricsWriter

OBJECTIVE = "objective/scores"


def write_metrics(directory: Path, scores: Sequence[float]) -> None:
    """Log scores, one an iteration, of 8 responses and 2 seconds."""
    with MetricsWriter(directory) as writer:
        for step, score in enumerate(scores):
            metrics = {OBJECTIVE: score, "time/rollout": 1.5, "time/update": 0.5}
            writer.scalars(metrics | {"episode": 8 * (step + 1)}, step)


def add_member(
    sweep: Path,
    number: int,
    overrides: Mapping[str, str],
    scores: Sequence[float],
    *,
    status: Status = "done",
    error: tuple[str, str, str] | None = None,
) -> Path:
    """Write a member of a sweep, whose last score is its objective if it is done."""
    directory = sweep / ",".join(f"{name}={value}" for name, value in overrides.items())
    directory.mkdir(parents=True)
    if scores:
        write_metrics(directory, scores)
    done = status == "done"
    member = Member(
        number,
        overrides,
        status,
        exit_code=0 if done else 5,
        objective=scores[-1] if done else None,
        metrics={"win_rate": 0.5} if done else {},
        error=error,
    )
    write_member(directory, member)
    return directory


def write_kl_sweep(path: Path, *, direction: str = "maximize") -> Path:
    """Write a sweep over three KL coefficients and three seeds, of which one ran out of memory.

    The last scores are 0.05: 1, 2, 6; 0.1: 4, 4 and a failure; 0.2: 0, 0.5, 1.
    """
    path.mkdir(parents=True)
    write_sweep(path, Sweep("ppo", OBJECTIVE, direction, ("seed", "ppo.kl_coef"), 9))  # type: ignore[arg-type]
    last_scores = {"0.05": (1.0, 2.0, 6.0), "0.1": (4.0, 4.0, None), "0.2": (0.0, 0.5, 1.0)}
    number = 0
    for seed in range(3):
        for value, scores in last_scores.items():
            overrides = {"seed": str(seed), "ppo.kl_coef": value}
            score = scores[seed]
            if score is None:
                error = ("memory ran out", "ppo.rollout_batch_size", "lower it")
                add_member(path, number, overrides, [], status="failed", error=error)
            else:
                add_member(path, number, overrides, [0.0, score / 2, score])
            number += 1
    finish_sweep(path)
    return path
