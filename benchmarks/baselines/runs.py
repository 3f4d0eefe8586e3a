"""Runs baselines as child processes and keeps what they report."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from baselines.case_files import write_case_files
from baselines.environments import install_hint, interpreter_of
from baselines.parity import LIMIT, metrics_over_limit, parity_case, relative_diffs
from baselines.spec import Case, CaseFiles
from baselines.timing_statistics import mirrored_order

BENCHMARKS = Path(__file__).parents[1]
# Baseline: its module, and arguments after the directory.
MODULES = {"transformers": ("decode", "transformers"), "decode": ("decode", "ours")}


class ParityError(Exception):
    """Both sides compute different numbers from the same tokens."""


@dataclass(frozen=True)
class Job:
    """A baseline and the case that it runs."""

    baseline: str
    case: Case


@dataclass
class Runner:
    """Runs jobs, and keeps what each reported.

    Args:
        scratch: directory for the files of cases.
        environments: directory of the virtual environments.
        log: function that prints a line.
    """

    scratch: Path
    environments: Path
    log: Any
    reports: dict[Job, list[dict[str, Any]]] = field(default_factory=dict)
    base_bytes: dict[tuple[Any, ...], int] = field(default_factory=dict)
    parity: dict[Case, dict[str, float]] = field(default_factory=dict)

    def can_run(self, job: Job) -> bool:
        """Return whether the environment of a job exists."""
        return self._python(job.baseline) is not None

    def install_hint(self, job: Job) -> str:
        return install_hint(_module(job.baseline), self.environments)

    def compare(self, jobs: Sequence[Job], rounds: int) -> None:
        """Run each job twice a round, in mirrored order, in fresh processes."""
        for _ in range(rounds):
            for job in mirrored_order(jobs):
                self.log(f"{job.baseline}: {job.case}")
                self.reports.setdefault(job, []).append(self.run(job))
        for job in jobs:
            if _base_key(job) not in self.base_bytes:
                self.base_bytes[_base_key(job)] = int(self._measure_base(job)["peak_bytes"])

    def iterations(self, job: Job, clock: str) -> list[dict[str, float]]:
        """Return the parts of every timed iteration of a job; clock is wall or cpu."""
        return [parts for report in self.reports[job] for parts in report[clock]]

    def memory(self, job: Job) -> int:
        """Return the peak bytes above libraries and one model, of the run that took most."""
        peak = max(int(report["peak_bytes"]) for report in self.reports[job])
        return peak - self.base_bytes[_base_key(job)]

    def check_parity(self, case: Case) -> None:
        """Compare both sides on one rollout.

        Raises:
            ParityError: a metric differs by more than LIMIT.
        """
        case = parity_case(case)
        if case in self.parity:
            return
        self.log(f"parity: {case}")
        directory = self._case_files(case).directory
        for baseline in ("parity_ours", "parity_trl"):
            self._run(baseline, [baseline, str(directory)])
        ours, theirs = (load_file(directory / f"{side}.safetensors") for side in ("ours", "theirs"))
        diffs = relative_diffs(ours, theirs)
        if over := metrics_over_limit(diffs):
            listed = ", ".join(f"{name} by {diffs[name]:.2g}" for name in over)
            raise ParityError(
                f"no times are taken, since these differ by more than {LIMIT:g}: {listed}"
            )
        self.parity[case] = diffs

    def run(self, job: Job) -> dict[str, Any]:
        """Run a job once and return its report."""
        module, *arguments = MODULES.get(job.baseline, (job.baseline,))
        directory = str(self._case_files(job.case).directory)
        return self._report(self._run(job.baseline, [module, directory, *arguments]))

    def _measure_base(self, job: Job) -> dict[str, Any]:
        arguments = [
            "base_memory",
            _module(job.baseline),
            str(self._case_files(job.case).directory),
        ]
        return self._report(self._run(job.baseline, arguments))

    def _report(self, output: str) -> dict[str, Any]:
        return dict(json.loads(output.splitlines()[-1]))

    def _python(self, baseline: str) -> Path | None:
        return interpreter_of(_module(baseline), self.environments)

    def _run(self, baseline: str, arguments: list[str]) -> str:
        """Run a module and return what it printed.

        Raises:
            RuntimeError: it failed; the message holds the end of its output.
        """
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
        environment = {
            **os.environ,
            **threads,
            "PYTHONPATH": str(BENCHMARKS),
            "HF_HUB_OFFLINE": "1",
        }
        command = [str(self._python(baseline)), "-m", f"baselines.{arguments[0]}", *arguments[1:]]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            errors = done.stderr[-4000:]
            raise RuntimeError(f"{' '.join(arguments)}: exit code {done.returncode}\n{errors}")
        return done.stdout

    def _case_files(self, case: Case) -> CaseFiles:
        directory = self.scratch / f"{abs(hash(case)):x}"
        if not directory.exists():
            directory.mkdir(parents=True)
            write_case_files(directory, case)
        return CaseFiles(directory)


def _module(baseline: str) -> str:
    return MODULES.get(baseline, (baseline,))[0]


def _base_key(job: Job) -> tuple[Any, ...]:
    """Return what the memory of libraries and one model depends on."""
    return _module(job.baseline), job.case.model
