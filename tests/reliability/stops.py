"""Signals, resumes in a new process, a directory that several runs want."""

import os
import random
import signal
import time
from multiprocessing import Barrier
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import rlhf.commands.ppo  # noqa: F401 loaded once for all forks
from rlhf.cli.main import main
from rlhf.errors import DirectoryInUseError
from rlhf.storage.checkpoint import load_checkpoint
from rlhf.storage.run_directory import RunDirectory
from rlhf.tracking.reader import complete_lines
from rlhf.training.signals import EXIT_CODES
from tests.reliability.harness import BUILDS, Trainer, fork, state_hash
from tests.reliability.outcome import Outcome
from tests.support.tiny_models import timeless_curves

SMALL = [
    "ppo.iterations=200",
    "ppo.rollout_batch_size=4",
    "ppo.minibatch_size=4",
    "ppo.ppo_epochs=1",
    "ppo.save_every=5",
    "sampling.max_new_tokens=4",
    "model.lora_rank=4",
]


def signals(trials: int, tiny: Path, directory: Path) -> Outcome:
    """`rlhf ppo` told to stop at a random time: the promised exit code, and it goes on."""
    outcome, rng = Outcome(trials), random.Random(0)
    args = small_run(tiny, directory)
    for trial in range(trials):
        name = rng.choice(list(EXIT_CODES))
        run = [*args, f"name=trial-{trial}", "resume=auto"]
        trained = 0
        for _ in range(2):  # the second goes on where the first stopped
            child = fork(lambda connection, run=run: main(["ppo", *run]))
            wait_until_trained(directory / f"trial-{trial}", trained)
            time.sleep(rng.uniform(0, 1))
            os.kill(child.pid, getattr(signal, name))
            code = child.wait()
            outcome.check(code == EXIT_CODES[name], f"trial {trial}: {name} gave {code}")
            saved = _newest(directory / f"trial-{trial}")
            outcome.check(saved > trained, f"trial {trial}: {saved} after {trained}")
            trained = saved
        runs = list((directory / f"trial-{trial}").iterdir())
        outcome.check(len(runs) == 1, f"trial {trial}: {len(runs)} runs")
        outcome.note(name)
    return outcome


def small_run(tiny: Path, directory: Path) -> list[str]:
    """Options of `rlhf ppo` in a directory, whose judge and prompts are written there."""
    scorer, prompts = directory / "judge.py", directory / "prompts.jsonl"
    scorer.write_text("def score(images, asked, said):\n    return [float(len(x)) for x in said]\n")
    row = '{{"image_path": "pictures/{:05d}.png", "instruction": "What?"}}\n'
    prompts.write_text("".join(row.format(n) for n in range(8)))
    args = [f"model.path={tiny / 'model'}", f"data.prompts={prompts}", f"data.root={tiny}"]
    return [*args, f"output_dir={directory}", f"--scorer={scorer}:score", *SMALL]


def wait_until_trained(directory: Path, trained: int) -> None:
    """Wait for an iteration after those before."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if any(len(complete_lines(x)) > trained for x in directory.glob("*/metrics.jsonl")):
            return
        time.sleep(0.02)


def _newest(directory: Path) -> int:
    return max(load_checkpoint(run / "checkpoints").step for run in directory.iterdir())


def resumes(trials: int, tiny: Path, directory: Path) -> Outcome:
    """A run cut in two processes and more, against one that was not: curves and state to the bit.

    A trial is one seed, one place to cut and one of sft, reward and ppo.
    """
    outcome = Outcome()
    for number in range(trials):
        seed, command = number // 9, list(BUILDS)[number % 3]
        stops = [(5,), (1, 9), (3, 4, 11)][number // 3 % 3]
        name = f"{command}, seed {seed}, cut after {stops}"
        outcome.trials += 1
        states, curves = [], []
        for part in ("whole", "cut"):
            run_directory = directory / f"{number}-{part}"
            for stop in (*(stops if part == "cut" else ()), 0):
                child = fork(
                    lambda connection, b=BUILDS[command], p=run_directory, x=stop, s=seed: _train(
                        b(tiny, p, s), p, x, connection
                    )
                )
                outcome.check(child.wait() == 0, f"{name}: {part} did not end")
            states.append(child.received())
            curves.append(timeless_curves(run_directory / "metrics.jsonl"))
        outcome.check(states[0] == states[1] and len(states[0]) == 1, f"{name}: another state")
        outcome.check(curves[0] == curves[1] and len(curves[0]) >= 12, f"{name}: other curves")
    return outcome


def _train(run: Trainer, directory: Path, stop: int, connection: Connection) -> None:
    """Go on from the newest checkpoint to one after so many steps, or to the end."""
    if any((directory / "checkpoints").glob("step-*")):
        run.resume()
    maybe_save = run.checkpoints.maybe_save

    def save_and_exit(done: int, *, last: bool, healthy: bool = False) -> None:
        maybe_save(done, last=last, healthy=healthy)
        if done == stop:
            os._exit(0)

    run.checkpoints.maybe_save = save_and_exit  # type: ignore[method-assign]
    run.run()
    connection.send(state_hash(run.state()))


def starts(rounds: int, tiny: Path, directory: Path) -> Outcome:
    """Eight processes that want one run directory at the same time: one gets it."""
    outcome = Outcome()
    for number in range(rounds):
        gate, end = Barrier(8), Barrier(8)
        run_directory = directory / str(number)
        children = [
            fork(lambda connection, g=gate, e=end, p=run_directory: _start(p, g, e))
            for _ in range(8)
        ]
        codes = sorted(child.wait() for child in children)
        outcome.trials += 8
        outcome.check(
            codes == [0] + [DirectoryInUseError.exit_code] * 7, f"round {number}: {codes}"
        )
    return outcome


def _start(directory: Path, gate: Any, end: Any) -> int:
    gate.wait()
    try:
        run = RunDirectory(directory)
    except DirectoryInUseError as error:
        end.wait()
        return error.exit_code
    end.wait()
    run.close()
    return 0
