"""Contenders as child processes: their worlds, their order, what they report."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from baselines.environments import missing, python_of
from baselines.pairing import there_and_back
from baselines.parity import LIMIT, differing, gaps, parity_case
from baselines.spec import Case, World
from baselines.world import build_world

BENCHMARKS = Path(__file__).parents[1]
# contender: its module and what follows the directory.
MODULES = {"transformers": ("decode", "transformers"), "decode": ("decode", "ours")}


class Differs(Exception):
    """What both sides compute of the same tokens is not the same."""


@dataclass(frozen=True)
class Entrant:
    """A contender with a case."""

    contender: str
    case: Case


@dataclass
class Runs:
    """Runs entrants, and keeps what each reported.

    Args:
        scratch: a directory for worlds.
        environments: where other trainers are installed.
        say: told what goes on.
    """

    scratch: Path
    environments: Path
    say: Any
    reports: dict[Entrant, list[dict[str, Any]]] = field(default_factory=dict)
    bases: dict[tuple[Any, ...], int] = field(default_factory=dict)
    proven: dict[Case, dict[str, float]] = field(default_factory=dict)

    def can_run(self, entrant: Entrant) -> bool:
        """Whether its environment is there."""
        return self._python(entrant.contender) is not None

    def absent(self, entrant: Entrant) -> str:
        return missing(_module(entrant.contender), self.environments)

    def compare(self, entrants: Sequence[Entrant], rounds: int) -> None:
        """Each of them twice in each round, there and back, in fresh processes."""
        for _ in range(rounds):
            for entrant in there_and_back(entrants):
                self.say(f"{entrant.contender}: {entrant.case}")
                self.reports.setdefault(entrant, []).append(self.once(entrant))
        for entrant in entrants:
            if _base(entrant) not in self.bases:
                self.bases[_base(entrant)] = int(self._loaded(entrant)["peak_bytes"])

    def iterations(self, entrant: Entrant, clock: str) -> list[dict[str, float]]:
        """Parts of every timed iteration of all its runs; clock is wall or cpu."""
        return [one for report in self.reports[entrant] for one in report[clock]]

    def memory(self, entrant: Entrant) -> int:
        """Bytes above libraries and one model, of the run that took most."""
        peak = max(int(report["peak_bytes"]) for report in self.reports[entrant])
        return peak - self.bases[_base(entrant)]

    def prove(self, case: Case) -> None:
        """One rollout through both.

        Raises:
            Differs: by more than LIMIT, or not comparable.
        """
        case = parity_case(case)
        if case in self.proven:
            return
        self.say(f"parity: {case}")
        directory = self._world(case).directory
        for contender in ("parity_ours", "parity_trl"):
            self._run(contender, [contender, str(directory)])
        ours, theirs = (load_file(directory / f"{side}.safetensors") for side in ("ours", "theirs"))
        found = gaps(ours, theirs)
        if over := differing(found):
            listed = ", ".join(f"{name} by {found[name]:.2g}" for name in over)
            raise Differs(f"no timing counts: over {LIMIT:g} apart are {listed}")
        self.proven[case] = found

    def once(self, entrant: Entrant) -> dict[str, Any]:
        """What one run reports."""
        module, *words = MODULES.get(entrant.contender, (entrant.contender,))
        directory = str(self._world(entrant.case).directory)
        return self._report(self._run(entrant.contender, [module, directory, *words]))

    def _loaded(self, entrant: Entrant) -> dict[str, Any]:
        words = ["loaded", _module(entrant.contender), str(self._world(entrant.case).directory)]
        return self._report(self._run(entrant.contender, words))

    def _report(self, output: str) -> dict[str, Any]:
        return dict(json.loads(output.splitlines()[-1]))

    def _python(self, contender: str) -> Path | None:
        return python_of(_module(contender), self.environments)

    def _run(self, contender: str, words: list[str]) -> str:
        """What the module printed.

        Raises:
            RuntimeError: with the end of what it said, if it failed.
        """
        one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
        environment = {**os.environ, **one, "PYTHONPATH": str(BENCHMARKS), "HF_HUB_OFFLINE": "1"}
        command = [str(self._python(contender)), "-m", f"baselines.{words[0]}", *words[1:]]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr[-4000:]
            raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}\n{said}")
        return done.stdout

    def _world(self, case: Case) -> World:
        directory = self.scratch / f"{abs(hash(case)):x}"
        if not directory.exists():
            directory.mkdir(parents=True)
            build_world(directory, case)
        return World(directory)


def _module(contender: str) -> str:
    return MODULES.get(contender, (contender,))[0]


def _base(entrant: Entrant) -> tuple[Any, ...]:
    """What the memory of libraries and one model depends on."""
    return _module(entrant.contender), entrant.case.model
