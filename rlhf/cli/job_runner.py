"""Run a command with its composed options: its run directory, config.yaml and summary.json."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.cli.commands import COMMANDS, CommandFunction
from rlhf.cli.hydra_compose import compose_options, to_yaml
from rlhf.cli.input_checks import load_function
from rlhf.cli.notes import is_read, next_step, option_changes
from rlhf.cli.output_checks import check_outputs
from rlhf.cli.processes import takes_processes
from rlhf.commands.command_line import command_line
from rlhf.commands.job import Job
from rlhf.config.paths import expand_home
from rlhf.config.resolve import with_parts
from rlhf.config.schema import Config
from rlhf.config.validation import load_config
from rlhf.errors import UsageError
from rlhf.parallel.environment import num_processes
from rlhf.storage.atomic import replace_text
from rlhf.storage.run_directory import (
    CONFIG_TITLE,
    RunDirectory,
    new_run_directory,
    run_directory_of,
)
from rlhf.tracking.activity import working
from rlhf.tracking.console import say, stage, table
from rlhf.tracking.heartbeat import heartbeat

if TYPE_CHECKING:  # imports torch
    from rlhf.parallel.world import World

LoadFunction = Callable[[str], CommandFunction]


def run_command(
    command: str, files: Sequence[str], overrides: Sequence[str], scorer: str = ""
) -> tuple[Path, dict[str, Any]]:
    """Run a command in this process, without a command line of its own.

    Args:
        command: its name.
        files: its words without `=`.
        overrides: its words `option=value`, as typed.
        scorer: what `--scorer=` names.

    Returns:
        The run directory (`.` for a command without one) and the metrics.
    """
    config = load_config(compose_options(command, list(overrides)))
    stage(command_line(command, [*files, *overrides], scorer=scorer))
    directory = run_directory_of(config.resume) if config.resume else None
    if not directory and COMMANDS[command].has_run_dir:
        directory = new_run_directory(Path(config.output_dir), config.name)
    return run_job(command, config, files, overrides, directory or Path(), scorer=scorer)


def run_job(
    command: str,
    config: Config,
    files: Sequence[str],
    overrides: Sequence[str],
    directory: Path,
    *,
    scorer: str = "",
    judge: str = "",
    load: LoadFunction = load_function,
) -> tuple[Path, dict[str, Any]]:
    """Run a command with checked options.

    Args:
        command: its name.
        config: its options.
        files: its words without `=`.
        overrides: its words `option=value`, as typed.
        directory: where it writes, if it has a run directory.
        scorer: what `--scorer=` names.
        judge: what `--judge=` names.
        load: imports the command's function.

    Returns:
        The run directory (`.` for a command without one) and the metrics.
    """
    check_outputs(command, config, files, scorer, judge)
    _silence_libraries()
    option_changes(command, config)
    if takes_processes(command) and is_read(command, "parallel.parts"):
        config = _with_parts(command, config)
    paths = [Path(expand_home(word, "FILE")) for word in files]
    job = partial(
        Job,
        config,
        files=paths,
        overrides=overrides,
        run_command=run_command,
        scorer=expand_home(scorer, "--scorer"),
        judge=expand_home(judge, "--judge"),
    )
    with heartbeat(), working(f"rlhf {command}"):
        directory, summary = _run(command, config, directory, job, load)
    next_step(command, directory, config, summary, scorer)
    return directory, summary


def _run(
    command: str, config: Config, directory: Path, job: Any, load: LoadFunction
) -> tuple[Path, dict[str, Any]]:
    """Load the function of a command and run it, in its run directory if it has one."""
    function = load(command)
    if not COMMANDS[command].has_run_dir:
        return Path(), function(job(run_dir=Path()))
    with _world(config) as world:
        if world:
            directory = Path(world.tell(str(directory)))
        job = partial(job, run_dir=directory, world=world)
        with _locked(directory, is_new=not config.resume, world=world) as run:
            if run:
                summary = _run_in_directory(command, function, job, config, run)
            else:
                summary = function(job())
    return directory, summary


def _with_parts(command: str, config: Config) -> Config:
    """Return the options with the number of parts, and say what a number by default means."""
    processes = num_processes()
    checked = with_parts(config, processes, command)
    if processes > 1 and not config.parallel.parts:
        text = "with another number of processes the result is the same up to rounding only"
        say(f"parallel.parts={processes}, one a process: {text}", "yellow")
    return checked


@contextmanager
def _world(config: Config) -> Iterator["World | None"]:
    """Meet the other processes of the run; None if there are none."""
    if num_processes() == 1:
        yield None
        return
    from rlhf.parallel.world import join_processes  # imports torch

    with join_processes(config.parallel.patience) as world:
        yield world


def _run_in_directory(
    command: str, function: CommandFunction, job: Any, config: Config, run: RunDirectory
) -> dict[str, Any]:
    """Run a command, and write its options and its summary to its run directory."""
    write_options = partial(_write_options, command, config, run.path)
    if not config.resume or not COMMANDS[command].has_checkpoints:
        write_options()
    say(f"run directory {run.path}")
    summary = function(job(write_options=write_options))
    run.write_summary({"command": command, **summary})
    if COMMANDS[command].deletes_checkpoints:  # not before: without a summary the run goes on
        run.delete_checkpoints()
    if command != "demo":  # it prints its own comparison
        _print_summary(summary)
    return summary


@contextmanager
def _locked(
    directory: Path, *, is_new: bool, world: "World | None"
) -> Iterator[RunDirectory | None]:
    """Lock a run directory; on other processes than the first wait for that, and yield None."""
    locked: list[RunDirectory] = []
    if world:
        world.first(lambda: locked.append(_lock(directory, is_new=is_new)))
    else:
        locked.append(_lock(directory, is_new=is_new))
    try:
        yield locked[0] if locked else None
    finally:
        for run in locked:
            run.close()


def _lock(directory: Path, *, is_new: bool) -> RunDirectory:
    """Lock a run directory; a new run takes none that holds a run already."""
    if is_new and (directory / "config.yaml").exists():
        fix = "set resume= to continue it, or choose another hydra.run.dir or hydra.sweep.dir"
        raise UsageError("this directory holds a run already", str(directory), fix)
    return RunDirectory(directory)


def _silence_libraries() -> None:
    """Drop warnings that no user can act on: bitsandbytes warns of libraries at its import."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def _write_options(command: str, config: Config, directory: Path) -> None:
    replace_text(directory / "config.yaml", f"{CONFIG_TITLE}{command}\n{to_yaml(config)}")


def _print_summary(summary: Mapping[str, Any]) -> None:
    """Print the metrics of a run, without lists and nested ones."""
    rows = [(name, value) for name, value in summary.items() if not isinstance(value, list | dict)]
    table("metrics", ("metric", "value"), rows)
