"""The task that Hydra runs: once for a run, or once for each member of a sweep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from rlhf.cli.call import Call
from rlhf.cli.hydra_compose import plain_options, run_hydra
from rlhf.cli.job_runner import LoadFunction, run_job
from rlhf.cli.launch import check_restarts, run_on_processes, starts_processes
from rlhf.cli.notes import unused_options
from rlhf.cli.overrides import override_name
from rlhf.cli.processes import is_quiet
from rlhf.cli.resolvers import swept_overrides
from rlhf.cli.sweep import (
    SweepStart,
    done_member,
    end_sweep,
    resumable_run,
    run_member,
    update_member,
)
from rlhf.commands.command_line import command_line, without_resume
from rlhf.config.schema import Config
from rlhf.config.validation import load_config
from rlhf.errors import UsageError
from rlhf.parallel.environment import process_rank
from rlhf.storage.run_directory import json_text, remove_if_empty
from rlhf.tracking.console import console, say, stage

Report = Callable[[Exception], int]


def run_call(call: Call, load: LoadFunction, report: Report) -> int:
    """Run a command line through Hydra and return its exit code.

    Args:
        call: the command line.
        load: imports the function of a command.
        report: prints an error and returns its exit code.

    Raises:
        Exception: what the command raised; a member of a sweep is reported instead.
    """
    _check_sweep(call)
    task, code = HydraTask(call, load, report), 0
    try:
        SweepStart.words, SweepStart.error = call.sweep_words, None
        run_hydra(call, task)
    except SystemExit as stopped:  # by a signal, in a sweep
        code = int(stopped.code or 0)
    finally:
        code = end_sweep(_resume_line(call)) or code
    if error := task.error or SweepStart.error:
        raise error
    return code


def _check_sweep(call: Call) -> None:
    """Refuse to resume one run in a sweep: its members would all write to one directory."""
    resumed = [word for word in call.overrides if override_name(word) == "resume"]
    if "--multirun" in call.flags and resumed not in ([], ["resume=auto"]):
        words = [*call.files, "resume=SWEEP/MEMBER"]
        again = command_line(call.command, words, scorer=call.scorer, judge=call.judge)
        fix = f"resume=auto goes on with the whole sweep; with one member: {again}"
        raise UsageError("a sweep resumes no single run", " ".join(resumed), fix)


def _resume_line(call: Call) -> str:
    """Return the command line that goes on with a sweep."""
    flags = ["--multirun", *map("=".join, call.values.items())]
    words = [*call.files, *without_resume(call.overrides), "resume=auto", *flags]
    return command_line(call.command, words, scorer=call.scorer, judge=call.judge)


def absolute_if_moved(settings: Any, directory: str) -> Path:
    """Return a directory that holds also if hydra.job.chdir has moved the working directory."""
    return Path(settings.runtime.cwd if settings.job.chdir else "", directory)


@dataclass
class HydraTask:
    """Runs a command with the options that Hydra composed; a launcher may run it elsewhere.

    Attributes:
        call: the command line.
        load: imports the function of a command.
        report: prints an error and returns its exit code.
        error: what the command raised, kept from Hydra, which would print it.
    """

    call: Call
    load: LoadFunction
    report: Report
    error: Exception | None = field(default=None, init=False)

    def __call__(self, composed: DictConfig) -> float | None:
        """Run the command; return the value of the objective for a sweeper."""
        settings: Any = HydraConfig.get()
        console().quiet = is_quiet(self.call)
        if settings.mode == RunMode.MULTIRUN:
            return self._run_member(composed, settings)
        try:
            directory = absolute_if_moved(settings, settings.run.dir)
            update_member(directory, self._runner(composed, directory)(self.call.overrides))
        except Exception as error:
            self.error = error
        return None

    def _run_member(self, composed: DictConfig, settings: Any) -> float | None:
        """Run a member of a sweep; one that is done already gives its value again."""
        sweep, words = absolute_if_moved(settings, settings.sweep.dir), self.call.overrides
        directory = sweep / settings.sweep.subdir
        if composed.resume == "auto":
            if done := done_member(directory, swept_overrides(settings)):
                say(f"{directory.name} is done")
                return done.objective
            composed.resume = resumable_run(directory, self.call.command)
            words = without_resume(words)
            words += [f"resume={composed.resume}"] if composed.resume else []
        run_in = self._runner(composed, directory)
        return run_member(settings, sweep, words, run_in, self.report)

    def _runner(
        self, composed: DictConfig, directory: Path
    ) -> Callable[[Sequence[str]], dict[str, Any]]:
        """Return a function that runs the command in a directory, given its words."""

        def run(words: Sequence[str]) -> dict[str, Any]:
            try:
                return self._run(composed, directory, words)
            finally:
                remove_if_empty(directory)

        return run

    def _launch(self, config: Config, directory: Path) -> dict[str, Any]:
        """Run the command on several processes, which print what it prints."""
        settings: Any = HydraConfig.get()
        if settings.mode == RunMode.MULTIRUN:
            where = f"parallel.processes={config.parallel.processes}"
            fix = "leave it out, or start the members one by one"
            raise UsageError("a sweep runs on one process", where, fix)
        return run_on_processes(self.call, config, directory, settings.runtime.cwd)

    def _run(self, composed: DictConfig, directory: Path, words: Sequence[str]) -> dict[str, Any]:
        call = self.call
        words = [word for word in words if not override_name(word).startswith("hydra")]
        config = load_config(plain_options(composed, call.command, words))
        check_restarts(call.command, config)
        if starts_processes(call.command, config):
            return self._launch(config, directory)
        typed = [*call.files, *words]
        stage(command_line(call.command, typed, scorer=call.scorer, judge=call.judge))
        unused_options(call.command, words)
        _, summary = run_job(
            call.command,
            config,
            call.files,
            words,
            directory,
            scorer=call.scorer,
            judge=call.judge,
            load=self.load,
        )
        if "--json" in call.flags and not process_rank():
            print(json_text(summary))
        return summary
