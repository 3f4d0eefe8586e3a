"""One run on several processes: kill -9 of any of them, signals to any, clean exits."""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from socket import socket

import torch
from torch.distributed.rendezvous import rendezvous

from rlhf.cli.main import main
from rlhf.errors import LostProcessError
from rlhf.parallel.launcher import launch
from rlhf.parallel.world import World
from rlhf.storage.checkpoint import load_checkpoint
from rlhf.training.signals import EXIT_CODES
from tests.ppo import test_processes
from tests.reliability.harness import Child, fork
from tests.reliability.kills import newest_step, run_acknowledged
from tests.reliability.outcome import Outcome
from tests.reliability.stops import small_run, wait_until_trained
from tests.support.tiny_models import timeless_curves

SIZES = (1, 2, 4)
PATIENCE = 20.0  # seconds
EXCHANGE = """
import torch
from rlhf.parallel.world import join_processes

with join_processes(60) as world:
    world.sum(torch.ones(100_000))
"""
PPO = replace(test_processes.PPO, iterations=8, ppo_epochs=1)


def process_kills(trials: int, tiny: Path, directory: Path) -> Outcome:
    """A run on 1, 2 or 4 processes, one of which is killed: the others end, and any number resumes.

    Every state that was saved is that of one process that nobody disturbed.
    """
    outcome, rng = Outcome(trials), random.Random(0)
    (whole,) = start(1, lambda world, out: train(world, tiny, directory / "whole", out))
    end([whole], Outcome(), "the undisturbed run")
    expected = saved(whole)
    assert len(expected) == PPO.iterations, "the undisturbed run did not end"
    run, acknowledged = directory / "run-0", 0
    for trial in range(trials):
        size = rng.choice(SIZES)
        children = start(size, lambda world, out, run=run: train(world, tiny, run, out))
        wait_for_save(children[0], rng.randrange(4))
        time.sleep(rng.uniform(0, 0.3))
        victim = rng.randrange(size)
        os.kill(children[victim].pid, signal.SIGKILL)
        codes = end(children, outcome, f"kill {trial}")
        survivors = {code for rank, code in enumerate(codes) if rank != victim}
        allowed = {0, LostProcessError.exit_code}
        outcome.check(survivors <= allowed, f"kill {trial}: the others ended with {codes}")
        outcome.note(f"on {size}")
        outcome.note("killed while saving", bool(list(run.glob("checkpoints/.step-*"))))
        for step, digest in saved(children[0]).items():
            acknowledged = step
            outcome.check(digest == expected[step], f"kill {trial}: step {step} differs")
        newest = newest_step(run)
        outcome.check(newest >= acknowledged, f"kill {trial}: step {acknowledged} lost")
        if newest == PPO.iterations:
            outcome.note("runs to their end")
            shutil.rmtree(run)
            run, acknowledged = directory / f"run-{trial + 1}", 0
    return outcome


def start(size: int, function: Callable[[World, Connection], None]) -> list[Child]:
    """Fork the processes of a run, which meet at a file."""
    store = tempfile.mktemp()

    def enter(rank: int, connection: Connection) -> int:
        torch.set_num_threads(1)
        world = World(rank, size)
        try:
            if size > 1:
                met, *_ = next(rendezvous(f"file://{store}", rank, size))
                world = World.connect(met, rank, size, PATIENCE)
            function(world, connection)
            world.leave(together=True)
        except LostProcessError as error:
            world.leave(together=False)
            return error.exit_code
        return 0

    return [fork(lambda connection, rank=rank: enter(rank, connection)) for rank in range(size)]


def train(world: World, tiny: Path, directory: Path, connection: Connection) -> None:
    """Go on from the newest checkpoint; say when a save begins, and what was saved."""
    run = test_processes.trainer(world, tiny, directory, PPO)
    if newest_step(directory):
        run.resume()
    run_acknowledged(run, connection)


def wait_for_save(child: Child, skipped: int) -> None:
    """Return when so many saves have begun, or the process has ended."""
    begun = -1  # the first message says that training begins
    while begun < skipped and child.connection.poll(PATIENCE):
        try:
            child.messages.append(child.connection.recv())
        except EOFError:
            return
        begun += not child.messages[-1][1]


def saved(child: Child) -> dict[int, str]:
    """The hashes of the states that a process has saved, by step."""
    return {step: digest for step, digest in child.messages if digest}


def end(children: list[Child], outcome: Outcome, what: str) -> list[int]:
    """Return the exit codes of processes; one that does not end in time is a loss, and killed."""
    started = time.monotonic()
    waiting = {child.connection: child for child in children}
    while waiting and time.monotonic() < started + 2 * PATIENCE:
        for connection in wait([*waiting], 1.0):
            try:
                waiting[connection].messages.append(connection.recv())  # type: ignore
            except EOFError:
                del waiting[connection]  # type: ignore
    for child in waiting.values():
        os.kill(child.pid, signal.SIGKILL)
    outcome.check(not waiting, f"{what}: {len(waiting)} of {len(children)} hang")
    milliseconds = round(1000 * (time.monotonic() - started))
    outcome.notes["slowest end, ms"] = max(outcome.notes.get("slowest end, ms", 0), milliseconds)
    return [child.wait() for child in children]


def process_signals(trials: int, tiny: Path, directory: Path) -> Outcome:
    """`rlhf ppo` on 2 or 4 processes, told to stop at a random time: one checkpoint, the code.

    The signal goes to one of the processes; each fifth time to the launcher of real ones.
    """
    outcome, rng = Outcome(trials), random.Random(0)
    options = small_run(tiny, directory)
    for trial in range(trials):
        name, size = rng.choice(list(EXIT_CODES)), rng.choice((2, 4))
        words = ["ppo", *options, f"name=trial-{trial}", "ppo.save_every=0", "parallel.parts=4"]
        if trial % 5 == 4:
            words = [*words, f"parallel.processes={size}"]
            children = [fork(lambda connection, words=words: main(words))]
            outcome.note("to the launcher")
        else:
            children = start_main(size, words)
        wait_until_trained(directory / f"trial-{trial}", 0)
        time.sleep(rng.uniform(0, 1))
        os.kill(rng.choice(children).pid, getattr(signal, name))
        codes = end(children, outcome, f"trial {trial}")
        outcome.check({*codes} == {EXIT_CODES[name]}, f"trial {trial}: {name} gave {codes}")
        (run,) = (directory / f"trial-{trial}").iterdir()
        trained = len(timeless_curves(run / "metrics.jsonl"))
        steps = [path.name for path in (run / "checkpoints").iterdir()]
        outcome.check(steps == [f"step-{trained:06}"], f"trial {trial}: {trained}, {steps}")
        outcome.check(load_checkpoint(run / "checkpoints").step == trained, f"trial {trial}")
        outcome.note(name)
    return outcome


def start_main(size: int, words: list[str]) -> list[Child]:
    """Fork processes that run a command line as if torchrun had started them."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def enter(rank: int) -> int:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {**address, "RANK": str(rank), "WORLD_SIZE": str(size)}
        torch.set_num_threads(1)
        return main(words)

    return [fork(lambda _, rank=rank: enter(rank)) for rank in range(size)]


def process_exits(trials: int, tiny: Path, directory: Path) -> Outcome:
    """Two processes that exchange something and leave together, as the launcher starts them."""
    outcome = Outcome(trials)
    for trial in range(trials):
        codes = launch([sys.executable, "-c", EXCHANGE], 2, PATIENCE)
        outcome.check(codes == {}, f"trial {trial}: {codes}")
    return outcome
