"""A sweep: run its members, go on when one fails, and print a table of all at the end."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from rlhf.cli.commands import COMMANDS
from rlhf.cli.overrides import override_name, quote
from rlhf.cli.resolvers import swept_overrides
from rlhf.commands.command_line import command_line
from rlhf.errors import RlhfError, StoppedError, UsageError, expected_error
from rlhf.storage.directories import empty_directory
from rlhf.storage.run_directory import (
    SWEEP_FILE,
    has_checkpoint,
    lock_directory,
    remove_if_empty,
)
from rlhf.storage.sweep import (
    Member,
    Sweep,
    finish_sweep,
    is_sweep,
    read_member,
    read_sweep_file,
    summary_numbers,
    sweep_table,
    write_member,
    write_sweep,
)
from rlhf.tracking.console import say, stage, table
from rlhf.training.signals import EXIT_CODES, SignalInterrupt

Run = Callable[[Sequence[str]], dict[str, Any]]


class SweepStart(Callback):
    """Writes sweep.json when Hydra starts a sweep; conf/base.yaml names it as a callback.

    Attributes:
        words: of the command line, by which the sweep is found again.
        directory: of the sweep that this process started; None before.
        lock: of that directory, kept while the sweep runs.
        error: why the sweep cannot start.
    """

    words: tuple[str, ...] = ()
    directory: Path | None = None
    lock: FileLock | None = None
    error: RlhfError | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Lock the directory, and write what the sweep is: its command, objective, planned members.

        Raises:
            SystemExit: the sweep cannot start; of another exception Hydra would only warn.
        """
        try:
            self._start(config)
        except RlhfError as error:
            SweepStart.error = error
            raise SystemExit(error.exit_code) from error

    def _start(self, config: DictConfig) -> None:
        directory = Path(config.hydra.sweep.dir)
        if config.resume == "auto" and is_sweep(directory):
            _check_words(directory, self.words)
        SweepStart.lock = lock_directory(directory)
        SweepStart.directory = directory
        with read_write(config), open_dict(config):  # members, elsewhere too, take this very one
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quote(str(directory))}")
        command = str(config.hydra.job.name)
        name, direction = objective(command, config)
        planned, words = planned_members(config), self.words
        write_sweep(directory, Sweep(command, name, direction, planned=planned, words=words))


def _check_words(directory: Path, words: tuple[str, ...]) -> None:
    if read_sweep_file(directory).words != words:
        fix = "choose another hydra.sweep.dir, or give the words that the sweep began with"
        raise UsageError("this directory holds a sweep of other options", str(directory), fix)


def objective(command: str, config: DictConfig) -> tuple[str, Any]:
    """Return the metric that members are compared by, and whether it is maximized or minimized."""
    name = str(config.sweep.objective) or COMMANDS[command].objective
    direction = config.sweep.direction.name
    if direction == "auto":
        direction = "minimize" if "loss" in name else "maximize"
    return name, direction


def planned_members(config: DictConfig) -> int | None:
    """Return the number of members, if the sweeper tells it beforehand."""
    sweeper = config.hydra.sweeper
    if "n_trials" in sweeper:
        return int(sweeper.n_trials)
    words = [f"{name}={value}" for name, value in dict(sweeper.get("params") or {}).items()]
    words += _plain(config.hydra.overrides.task)
    loader = GlobalHydra.instance().config_loader()
    parsed = OverridesParser.create(loader).parse_overrides(words)
    sweeps = {x.key_or_group: x for x in parsed if x.is_sweep_override()}
    if not all(override.is_discrete_sweep() for override in sweeps.values()):
        return None
    return prod(len(list(override.sweep_string_iterator())) for override in sweeps.values())


def _plain(words: Any) -> list[str]:
    """Return overrides as they are; reading them one by one would resolve `${…}` in them."""
    return [str(word) for word in OmegaConf.to_container(words, resolve=False) or ()]


def run_member(
    settings: DictConfig,
    sweep_dir: Path,
    typed: Sequence[str],
    run: Run,
    report: Callable[[Exception], int],
) -> float | None:
    """Run one member of a sweep and record how it ended; a failure does not end the sweep.

    Args:
        settings: Hydra's own section.
        sweep_dir: the directory of the sweep.
        typed: the words of the command line.
        run: runs the command in the member's directory with these words.
        report: prints an error and returns its exit code.

    Returns:
        The value of the objective; None if the member failed or has none.

    Raises:
        SystemExit: a signal ended the member, and with it the sweep.
    """
    sweep = read_sweep_file(sweep_dir)
    swept = swept_overrides(settings)
    directory = sweep_dir / settings.sweep.subdir
    _check_is_inside(sweep_dir, directory)
    stage(f"{settings.job.num + 1} of {sweep.planned or '?'}: {directory.name}")
    started = Member(int(settings.job.num), swept)
    write_member(directory, started)
    try:
        fixed = [word for word in typed if override_name(word) not in swept]
        summary = run([*fixed, *(f"{name}={value}" for name, value in swept.items())])
    except (KeyboardInterrupt, SignalInterrupt) as stop:
        code = EXIT_CODES[getattr(stop, "name", "SIGINT")]
        write_member(directory, replace(started, status="interrupted", exit_code=code))
        raise
    except StoppedError as error:
        code = report(error)
        write_member(directory, replace(started, status="interrupted", exit_code=code))
        raise SystemExit(code) from None
    except Exception as error:
        write_member(directory, _failed(started, error, report(error)))
        return None
    done = _done(started, summary, sweep.objective)
    write_member(directory, done)
    return done.objective


def _check_is_inside(sweep_dir: Path, directory: Path) -> None:
    if directory.parent != sweep_dir:
        fix = "set hydra.sweep.subdir to a name without /"
        raise UsageError("a run lies directly in the directory of its sweep", str(directory), fix)


def update_member(directory: Path, summary: Mapping[str, Any]) -> None:
    """Record that a run, resumed after its sweep had ended, is done; do nothing for other runs.

    Args:
        directory: of the run.
        summary: its metrics.
    """
    if is_sweep(directory.parent) and (member := read_member(directory)):
        sweep = read_sweep_file(directory.parent)
        write_member(directory, _done(member, summary, sweep.objective))


def _done(member: Member, summary: Mapping[str, Any], objective: str) -> Member:
    metrics = summary_numbers(summary)
    if objective and objective not in metrics:
        say(f"there is no metric {objective} to compare members by; {', '.join(metrics)}", "yellow")
    value = metrics.get(objective)
    return replace(member, status="done", exit_code=0, objective=value, metrics=metrics, error=None)


def done_member(directory: Path, swept: Mapping[str, str]) -> Member | None:
    """Return the member of a sweep that a directory holds, if it has these options and is done."""
    member = read_member(directory)
    return member if member and (member.status, member.overrides) == ("done", swept) else None


def resumable_run(directory: Path, command: str) -> str:
    """Return the directory if the run in it can go on, else an empty text.

    A member that was stopped before its first checkpoint begins anew: its directory is emptied.
    """
    if COMMANDS[command].has_checkpoints and not has_checkpoint(directory, command):
        empty_directory(directory)
    return str(directory) if (directory / "config.yaml").is_file() else ""


def end_sweep(again: str) -> int:
    """Write sweep.json and print a table of all members, if this process started a sweep.

    Args:
        again: the command line that continues it.

    Returns:
        The exit code of the first member that failed; 0 if none did.
    """
    directory, SweepStart.directory = SweepStart.directory, None
    if directory is None:
        return 0
    sweep = finish_sweep(directory)
    assert SweepStart.lock
    SweepStart.lock.release()
    if not sweep.members:
        _remove(directory)
        return 0
    columns, rows = sweep_table(sweep)
    table(f"{len(sweep.members)} runs in {directory}", columns, rows)
    curves = shlex.join(["tensorboard", "--logdir", str(directory)])
    say(f"next: {command_line('compare', [directory])} · {curves}")
    if not sweep.done:
        say(f"continue with: {again}")
    return next((x.exit_code for x in sweep.members if x.exit_code), 0)


def _failed(member: Member, error: Exception, exit_code: int) -> Member:
    known = expected_error(error)
    texts = (known.what, known.where, known.fix) if known else (f"a bug: {error!r}", "", "")
    return replace(member, status="failed", exit_code=exit_code, error=texts)


def _remove(directory: Path) -> None:
    """Remove the directory of a sweep that was refused before any member began."""
    for name in (SWEEP_FILE, "multirun.yaml", ".lock"):
        (directory / name).unlink(missing_ok=True)
    remove_if_empty(directory)
