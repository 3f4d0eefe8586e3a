"""Damaged files of records, damaged images, prompts full of special tokens."""

from pathlib import Path

from tests.reliability.outcome import Outcome
from tests.support import fuzzed_records, hostile_prompts, mutated_images
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
