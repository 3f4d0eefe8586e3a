"""kill -9 at random times, exits at every point of a save, damaged checkpoints."""

import os
import random
import shutil
import sys
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

from rlhf.errors import DataError
from rlhf.storage.checkpoint import NoCheckpointError, load_checkpoint
from rlhf.tracking.writer import MetricsWriter
from tests.reliability.harness import PPO, Child, PPOTrainer, fork, ppo, state_hash
from tests.reliability.outcome import Outcome

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "fsync"}


def train(run: PPOTrainer, directory: Path, connection: Connection) -> None:
    """Go on from the newest checkpoint; say when a save begins, and what was saved."""
    run.run_dir = run.checkpoints.directory = directory
    try:
        checkpoint = load_checkpoint(directory / "checkpoints")
    except NoCheckpointError:
        checkpoint = None
    run.writer = MetricsWriter(directory, checkpoint.step if checkpoint else None)
    if checkpoint:
        run.restore(checkpoint)
    run_acknowledged(run, connection)


def run_acknowledged(run: PPOTrainer, connection: Connection) -> None:
    """Train; say when a save begins, and what was saved."""
    save = run.checkpoints.save

    def acknowledged(done: int, *, healthy: bool = False) -> Path:
        connection.send((done, ""))
        path = save(done, healthy=healthy)
        connection.send((done, state_hash(run.state())))
        return path

    run.checkpoints.save = acknowledged  # type: ignore[method-assign]
    connection.send((run.iteration, ""))
    run.run()


def kills(trials: int, tiny: Path, directory: Path) -> Outcome:
    """A training killed after a random time; what it acknowledged is there, to the bit."""
    outcome, rng = Outcome(trials), random.Random(0)
    template = ppo(tiny, directory / "template")
    template.state()  # hashes what is frozen, once for all forks
    uninterrupted = fork(lambda connection: train(template, directory / "whole", connection))
    uninterrupted.wait()
    expected = dict(_saved(uninterrupted))
    assert len(expected) == PPO.iterations, "the uninterrupted run did not end"
    run = directory / "run-0"
    acknowledged = 0
    for trial in range(trials):
        child = fork(lambda connection, run=run: train(template, run, connection))
        if trial % 2:
            _await_save(child, rng.randrange(3))
            time.sleep(rng.uniform(0, 0.02))
        else:
            child.connection.poll(60)
            time.sleep(rng.uniform(0, 0.6))
        child.kill()
        outcome.note("killed while saving", bool(list(run.glob("checkpoints/.step-*"))))
        for step, digest in _saved(child):
            acknowledged = step
            outcome.note("iterations")
            outcome.check(digest == expected[step], f"kill {trial}: step {step} differs")
        newest = newest_step(run)
        outcome.check(newest >= acknowledged, f"kill {trial}: step {acknowledged} lost")
        if newest == PPO.iterations:
            shutil.rmtree(run)
            run, acknowledged = directory / f"run-{trial + 1}", 0
    return outcome


def _await_save(child: Child, skipped: int) -> None:
    """Return when a save begins, after so many others, or the child has ended."""
    while child.connection.poll(60):
        try:
            child.messages.append(child.connection.recv())
        except EOFError:
            return
        started = [
            message for message in child.messages[1:] if not message[1]
        ]  # the first: it has started
        if len(started) > skipped:
            return


def _saved(child: Child) -> list[tuple[int, str]]:
    return [(step, digest) for step, digest in child.received() if digest]


def newest_step(run: Path) -> int:
    """Step of the newest checkpoint of a run; 0 if there is none, -1 if all are damaged."""
    try:
        return load_checkpoint(run / "checkpoints").step
    except NoCheckpointError:
        return 0
    except DataError:
        return -1


def crash_points(rounds: int, tiny: Path, directory: Path) -> Outcome:
    """`os._exit` before each file operation of a save in turn: the first save, and a later one."""
    outcome, run = Outcome(), ppo(tiny, directory / "run")
    run.iteration = 2
    for start in range(rounds):
        before = directory / f"before-{start}"
        if start:  # else there is no checkpoint yet
            for step in (1, 2):
                run.checkpoints.directory = before
                run.checkpoints.save(step)
        counter = fork(
            lambda connection, before=before: _save(run, before, directory / "copy", 0, connection)
        )
        counter.wait()
        operations = counter.received()[0]
        for operation in range(1, operations + 1):
            outcome.trials += 1
            copy = directory / "copy"
            child = fork(
                lambda connection, b=before, p=operation: _save(
                    run, b, directory / "copy", p, connection
                )
            )
            exit_code = child.wait()
            newest, allowed = newest_step(copy), ((0, 3) if not start else (2, 3))
            outcome.check(
                exit_code == 9 and newest in allowed,
                f"operation {operation}: {newest}, {exit_code}",
            )
            run.checkpoints.directory = copy
            run.checkpoints.save(4)
            outcome.check(newest_step(copy) == 4, f"operation {operation}: no save afterwards")
            outcome.check(not list(copy.glob("checkpoints/.step-*")), f"{operation}: leftovers")
    return outcome


def _save(
    run: PPOTrainer, before: Path, copy: Path, operation: int, connection: Connection
) -> None:
    """Save in a copy of a directory, and exit with 9 before that operation; 0: count them."""
    shutil.rmtree(copy, ignore_errors=True)
    if before.exists():
        shutil.copytree(before, copy)
    run.checkpoints.directory, operations = copy, [0]

    def audit(event: str, *_: object) -> None:
        if event in OPERATIONS:
            operations[0] += 1
            if operations[0] == operation:
                os._exit(9)

    fsync = os.fsync
    os.fsync = lambda handle: (audit("fsync"), fsync(handle))[1]  # type: ignore[assignment]
    sys.addaudithook(audit)
    run.checkpoints.save(3)
    connection.send(operations[0])


def damage(trials: int, tiny: Path, directory: Path) -> Outcome:
    """The newest checkpoint flipped, cut, emptied or without a file: the one before is taken."""
    outcome, rng, run = Outcome(trials), random.Random(0), ppo(tiny, directory / "run")
    for step in (1, 2):
        run.checkpoints.save(step)
    for trial in range(trials):
        copy = directory / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(directory / "run" / "checkpoints", copy)
        file = rng.choice(sorted((copy / "step-000002").iterdir()))
        kind = rng.choice(["flipped", "cut", "emptied", "missing"])
        _damage(file, kind, rng)
        with warnings.catch_warnings(record=True) as recorded:
            warnings.simplefilter("always")
            loaded_step = load_checkpoint(copy).step
        outcome.note(kind)
        fell_back = loaded_step == 1 and any(
            "damaged" in str(warning.message) for warning in recorded
        )
        outcome.check(fell_back, f"trial {trial}: {file.name} {kind}, step {loaded_step}")
    return outcome


def _damage(file: Path, kind: str, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    if kind == "missing":
        file.unlink()
        return
    if kind == "flipped":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[rng.randrange(len(content)) :]
    else:
        content.clear()
    file.write_bytes(content)
