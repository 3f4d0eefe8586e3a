"""A disk that fills up, and a long run that must not grow."""

import os
import resource
import statistics
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from rlhf.errors import ResourceError
from rlhf.storage.checkpoint import load_checkpoint
from rlhf.tracking.reader import read_metrics
from rlhf.training.checkpoint_manager import FAILED_SAVES
from tests.reliability.harness import PPOTrainer, fork, ppo, shorter
from tests.reliability.outcome import Outcome

LIMIT = 20_000  # bytes a file may have while the disk counts as full


def full_disk(trials: int, tiny: Path, directory: Path) -> Outcome:
    """No file may grow for some iterations: training goes on; for longer it ends with code 5."""
    outcome = Outcome()
    for number in range(trials):
        run_directory = directory / str(number)
        until = 5 if number % 2 else 99  # from iteration 4 on the disk is full, to before this one
        child = fork(
            lambda connection, p=run_directory, u=until: _fill(
                ppo(tiny, p, 0, shorter(10)), u, connection
            )
        )
        code, messages = child.wait(), child.received()
        outcome.trials += 1
        newest = load_checkpoint(run_directory / "checkpoints").step
        steps = [step for step, _ in read_metrics(run_directory)["objective/kl"]]
        if until == 99:
            stopped = code == ResourceError.exit_code and newest == 3
            outcome.check(
                stopped and messages[0] == 3 + FAILED_SAVES, f"{code}, {newest}, {messages}"
            )
        else:
            outcome.check(code == 0 and newest == 10, f"exit {code}, newest {newest}")
            outcome.check(steps[-1] == 9, f"the curves end at {steps[-1]}")
    return outcome


def _fill(run: PPOTrainer, until: int, connection: Connection) -> int:
    step = run.step

    def limited(iteration: int) -> dict[str, float]:
        full = 3 <= iteration < until
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT if full else most, most))
        return step(iteration)

    run.step = limited  # type: ignore[method-assign]
    try:
        run.run()
    except ResourceError as error:
        connection.send(run.iteration)
        return error.exit_code
    return 0


def soak(iterations: int, tiny: Path, directory: Path) -> Outcome:
    """A long run: memory of the last fifth within 2 % of that after the start; no file, no thread.

    A trial is an iteration.
    """
    outcome = Outcome(iterations)
    child = fork(lambda connection: _soak(ppo(tiny, directory, 0, shorter(iterations)), connection))
    outcome.check(child.wait() == 0, "the run did not end")
    metrics = child.received()
    fifth = iterations // 5
    early, late = metrics[fifth // 2 : fifth // 2 + fifth], metrics[-fifth:]
    before, after = (statistics.fmean(x[0] for x in part) for part in (early, late))
    outcome.note("growth of memory, parts in 10,000", round(1e4 * (after / before - 1)))
    outcome.check(after < 1.02 * before, f"{before / 2**20:.1f} MiB, then {after / 2**20:.1f}")
    for column, counted in ((1, "files"), (2, "threads")):
        outcome.check(metrics[-1][column] <= early[0][column], f"{counted}: {metrics[-1][column]}")
    return outcome


def _soak(run: PPOTrainer, connection: Connection) -> None:
    step, page = run.step, os.sysconf("SC_PAGE_SIZE")

    def measured(iteration: int) -> dict[str, float]:
        metrics = step(iteration)
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
        connection.send(
            (resident, sum(1 for _ in Path("/proc/self/fd").iterdir()), threading.active_count())
        )
        return metrics

    run.step = measured  # type: ignore[method-assign]
    run.run()
