"""The result of a scenario: trials, losses, and what was counted on the way."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Outcome:
    """Trials, and what went wrong in them.

    Attributes:
        notes: counts of what happened on the way, such as kills in the middle of a save.
    """

    trials: int = 0
    losses: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)

    def check(self, held: bool, what: str) -> None:
        """Count a loss unless the promise held."""
        if not held:
            self.losses.append(what)

    def note(self, what: str, amount: int = 1) -> None:
        """Count something that happened."""
        self.notes[what] = self.notes.get(what, 0) + amount


@dataclass(frozen=True)
class Scenario:
    """A promise and the experiment that could break it.

    Attributes:
        run: makes so many trials with a tiny model in one directory, in another that is empty.
        full, reduced: trials of `make reliability`, and of the tests; 0: it counts itself, and is
            itself a test.
    """

    promise: str
    run: Callable[[int, Path, Path], Outcome]
    full: int = 0
    reduced: int = 0
