"""Damaged files of records, damaged images, prompts full of special tokens, files that swell."""

import shutil
from pathlib import Path

from tests.reliability.outcome import Outcome
from tests.support import fuzzed_records, hostile_prompts, mutated_images
from tests.support.hostile.attack import HOSTILE, attack, run
from tests.support.hostile.place import GENERATE, Place
from tests.support.processors import HAS_SMOL, PROCESSORS


def records(trials: int, tiny: Path, directory: Path) -> Outcome:
    """Files of fuzzed lines."""
    metrics = fuzzed_records.run(trials, 0, directory)
    outcome = Outcome(trials, list(metrics.crashes))
    outcome.note("lines refused", metrics.lines_refused)
    outcome.note("lines accepted", metrics.lines_accepted)
    return outcome


def images(trials: int, tiny: Path, directory: Path) -> Outcome:
    """Flipped, cut and joined files of every format."""
    counts, slowest = mutated_images.attack(trials, directory)
    outcome = Outcome(trials)
    outcome.check(not counts["crashes"], f"{counts['crashes']} crashes")
    outcome.check(slowest < 2, f"the slowest took {slowest:.1f} s")
    outcome.note("loaded", counts["loaded"])
    outcome.note("slowest, ms", round(1000 * slowest))
    return outcome


def prompts(trials: int, tiny: Path, directory: Path) -> Outcome:
    """Texts of special tokens, look-alikes and parts of them, for each kind of tokenizer."""
    names = [name for name in PROCESSORS if HAS_SMOL or name != "smollm2"]
    outcome = Outcome()
    for name in names:
        counts = hostile_prompts.attack(PROCESSORS[name](), trials // len(names))
        outcome.trials += counts.pop("trials")
        failures = {failure: count for failure, count in counts.items() if count}
        outcome.check(not failures, f"{name}: {failures}")
    outcome.note("tokenizers", len(names))
    return outcome


def hostile_files(trials: int, tiny: Path, directory: Path) -> Outcome:
    """Files that hang a reader or swell in memory, each read by a command in a process of its own.

    Commands that load torch and transformers get the time that they take with honest files on top.
    """
    outcome, honest = Outcome(), directory / "honest"
    honest.mkdir()
    Place(honest, tiny).model()
    loaded = run(GENERATE, honest)
    outcome.check(loaded.code == 0, f"honest files: {loaded.error}")
    slowest, largest = 0.0, 0.0
    for name in [*HOSTILE][:trials]:
        ending = attack(name, tiny, directory / name)
        start = loaded.seconds if ending.command in ("generate", "score") else 0.0
        outcome.trials += 1
        outcome.check(not ending.fault(start), f"{name}: {ending.fault(start)}")
        slowest, largest = max(slowest, ending.seconds - start), max(largest, ending.mb)
        shutil.rmtree(directory / name)
    outcome.note("slowest, ms", round(1000 * slowest))
    outcome.note("largest, MB", round(largest))
    return outcome
