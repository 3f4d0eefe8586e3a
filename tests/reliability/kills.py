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


def train(run: PPOTrainer, directory: Path, says: Connection) -> None:
    """Go on from the newest checkpoint; say when a save begins, and what was saved."""
    run.directory = run.checkpoints.directory = directory
    try:
        checkpoint = load_checkpoint(directory / "checkpoints")
    except NoCheckpointError:
        checkpoint = None
    run.writer = MetricsWriter(directory, checkpoint.step if checkpoint else None)
    if checkpoint:
        run.restore(checkpoint)
    save = run.checkpoints.save

    def acknowledged(done: int) -> Path:
        says.send((done, ""))
        path = save(done)
        says.send((done, state_hash(run.state())))
        return path

    run.checkpoints.save = acknowledged  # type: ignore[method-assign]
    says.send((run.iteration, ""))
    run.run()


def kills(trials: int, tiny: Path, directory: Path) -> Outcome:
    """A training killed after a random time; what it acknowledged is there, to the bit."""
    outcome, rng = Outcome(trials), random.Random(0)
    template = ppo(tiny, directory / "template")
    template.state()  # hashes what is frozen, once for all forks
    whole = fork(lambda says: train(template, directory / "whole", says))
    whole.wait()
    expected = dict(_saved(whole))
    assert len(expected) == PPO.iterations, "the uninterrupted run did not end"
    run = directory / "run-0"
    acknowledged = 0
    for trial in range(trials):
        child = fork(lambda says, run=run: train(template, run, says))
        if trial % 2:
            _await_save(child, rng.randrange(3))
            time.sleep(rng.uniform(0, 0.02))
        else:
            child.says.poll(60)
            time.sleep(rng.uniform(0, 0.6))
        child.kill()
        outcome.note("killed while saving", bool(list(run.glob("checkpoints/.step-*"))))
        for done, found in _saved(child):
            acknowledged = done
            outcome.note("iterations")
            outcome.check(found == expected[done], f"kill {trial}: step {done} differs")
        newest = _newest(run)
        outcome.check(newest >= acknowledged, f"kill {trial}: step {acknowledged} lost")
        if newest == PPO.iterations:
            shutil.rmtree(run)
            run, acknowledged = directory / f"run-{trial + 1}", 0
    return outcome


def _await_save(child: Child, skipped: int) -> None:
    """Return when a save begins, after so many others, or the child has ended."""
    while child.says.poll(60):
        try:
            child.words.append(child.says.recv())
        except EOFError:
            return
        begun = [word for word in child.words[1:] if not word[1]]  # the first: it has started
        if len(begun) > skipped:
            return


def _saved(child: Child) -> list[tuple[int, str]]:
    return [(done, found) for done, found in child.heard() if found]


def _newest(run: Path) -> int:
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
        count = fork(lambda says, before=before: _save(run, before, directory / "copy", 0, says))
        count.wait()
        operations = count.heard()[0]
        for place in range(1, operations + 1):
            outcome.trials += 1
            copy = directory / "copy"
            child = fork(lambda says, b=before, p=place: _save(run, b, directory / "copy", p, says))
            ended = child.wait()
            found, wanted = _newest(copy), ((0, 3) if not start else (2, 3))
            outcome.check(ended == 9 and found in wanted, f"operation {place}: {found}, {ended}")
            run.checkpoints.directory = copy
            run.checkpoints.save(4)
            outcome.check(_newest(copy) == 4, f"operation {place}: no save afterwards")
            outcome.check(not list(copy.glob("checkpoints/.step-*")), f"{place}: leftovers")
    return outcome


def _save(run: PPOTrainer, before: Path, copy: Path, place: int, says: Connection) -> None:
    """Save in a copy of a directory, and exit with 9 before that operation; 0: count them."""
    shutil.rmtree(copy, ignore_errors=True)
    if before.exists():
        shutil.copytree(before, copy)
    run.checkpoints.directory, done = copy, [0]

    def happens(event: str, *_: object) -> None:
        if event in OPERATIONS:
            done[0] += 1
            if done[0] == place:
                os._exit(9)

    fsync = os.fsync
    os.fsync = lambda handle: (happens("fsync"), fsync(handle))[1]  # type: ignore[assignment]
    sys.addaudithook(happens)
    run.checkpoints.save(3)
    says.send(done[0])


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
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = load_checkpoint(copy).step
        outcome.note(kind)
        good = found == 1 and any("damaged" in str(word.message) for word in said)
        outcome.check(good, f"trial {trial}: {file.name} {kind}, step {found}")
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
