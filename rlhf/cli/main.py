"""The command line: `rlhf COMMAND [FILE…] [option=value…] [flags]`."""

import logging
import re
import sys
import traceback
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rlhf import __version__
from rlhf.cli.commands import COMMANDS, load_function
from rlhf.cli.help import FLAGS, command_help, overview
from rlhf.cli.hydra_compose import compose_options, expand_sweep, to_yaml
from rlhf.commands.job import Job
from rlhf.config.paths import expand_home
from rlhf.config.schema import Config
from rlhf.config.validation import load_config, suggest_name
from rlhf.errors import (
    RlhfError,
    UsageError,
    is_out_of_memory,
    out_of_memory,
    refused_by_system,
)
from rlhf.storage.atomic import replaced_file
from rlhf.storage.run_directory import RunDirectory, json_text, run_directory_of
from rlhf.tracking.console import console, print_error, say, stage, table
from rlhf.training.signals import raise_on_signal


@dataclass(frozen=True)
class Call:
    """A parsed command line.

    Attributes:
        command: its name; empty if there is none.
        files: words without `=`, and words that are the name of an existing file.
        overrides: words `option=value` or `group=file`.
        flags: words that begin with `-`.
    """

    command: str
    files: list[str]
    overrides: list[str]
    flags: set[str]

    @property
    def scorer(self) -> str:
        """What `--scorer=` names; a flag, so that no stored configuration can name code to run."""
        values = [flag.partition("=")[2] for flag in self.flags if flag.startswith("--scorer=")]
        return values[0] if values else ""


def main(arguments: list[str] | None = None) -> int:
    """Run one command line.

    Args:
        arguments: its words; None: the arguments of this process.

    Returns:
        The exit code: 0 done, 1 a bug, 2 usage, 3 data, 4 diverged, 5 resources, 6 the run
        directory is in use, 75, 130 and 143 stopped by a signal.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        with raise_on_signal():
            return _run(parse(words))
    except RlhfError as error:
        return _report(error, words)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _report(out_of_memory(error), words)
    except OSError as error:
        return _report(refused_by_system(error), words)
    except KeyboardInterrupt:
        return 130
    finally:
        console().quiet = False


def _report(error: RlhfError, words: list[str]) -> int:
    """Print an error, called where it was caught, and return its exit code."""
    if "--debug" in words:
        traceback.print_exc()
    print_error(error)
    if "--json" in words and (metrics := getattr(error, "metrics", None)):
        print(json_text(metrics))
    return error.exit_code


def parse(arguments: list[str]) -> Call:
    """Split a command line into command, files, overrides and flags.

    Raises:
        UsageError: an unknown command or flag, or one that the command does not take.
    """
    _check_encoding(arguments)
    flags = [word for word in arguments if word.startswith("-")]
    words = [word for word in arguments if not word.startswith("-")]
    for flag in flags:
        if flag not in {*FLAGS, "-h"} and flag.partition("=")[0] != "--scorer":
            raise UsageError(f"unknown flag {flag}", flag, f"flags are {' '.join(FLAGS)}")
    command = words[0] if words else ""
    if command and command not in COMMANDS:
        raise UsageError(
            f"unknown command {command}", f"rlhf {command}", suggest_name(command, COMMANDS)
        )
    takes_files = bool(command) and COMMANDS[command].takes_files
    overrides = [
        word
        for word in words[1:]
        if re.match(r"[+~]{0,2}[A-Za-z_][\w./@]*=", word) and not (takes_files and _exists(word))
    ]
    files = [word for word in words[1:] if word not in overrides]
    _check_scorer(command, [flag for flag in flags if flag.startswith("--scorer")])
    if files and not takes_files:
        where, fix = f"rlhf {command} {files[0]}", "write options as name=value"
        raise UsageError(f"{command} takes options only, not the word {files[0]}", where, fix)
    return Call(command, files, overrides, set(flags))


def _exists(word: str) -> bool:
    """Whether a word is the name of a file or directory, also one with `=` in it."""
    try:
        return Path(word).exists()
    except (OSError, ValueError):  # too long for a name, or a NUL
        return False


def _check_encoding(arguments: list[str]) -> None:
    """Refuse words that are not UTF-8: they can be neither printed nor stored."""
    for word in arguments:
        if (shown := word.encode(errors="backslashreplace").decode()) != word:
            fix = "rename the file, or type the text anew in a UTF-8 terminal"
            raise UsageError("a word of the command line is not UTF-8", shown, fix)


def _check_scorer(command: str, flags: list[str]) -> None:
    """Refuse `--scorer` without a name, given twice, or for a command that takes none."""
    where, fix = " ".join(["rlhf", command, *flags]), "write --scorer=FILE.py:NAME once"
    commands = sorted(name for name, row in COMMANDS.items() if row.takes_scorer)
    if flags and command not in commands:
        fix = f"--scorer=FILE.py:NAME is for {', '.join(commands)}"
        raise UsageError(f"{command} takes no scorer", where, fix)
    if len(flags) > 1:
        raise UsageError("more than one scorer is named", where, fix)
    if flags and not flags[0].partition("=")[2]:
        raise UsageError("no scorer is named", where, fix)


def _run(call: Call) -> int:
    if "--version" in call.flags:
        print(f"rlhf {__version__}")
        return 0
    if not call.command:
        print(overview(), end="")
        return 0
    if call.flags & {"--help", "-h"}:
        print(command_help(call.command, compose_options(call.command, [])), end="")
        return 0
    console().quiet = "--json" in call.flags
    sweeps = "--multirun" in call.flags
    for overrides in expand_sweep(call.overrides) if sweeps else [call.overrides]:
        _, summary = run_command(call.command, call.files, overrides, call.scorer)
        if "--json" in call.flags:
            print(json_text(summary))
    return 0


def run_command(
    command: str, files: list[str], overrides: list[str], scorer: str = ""
) -> tuple[Path, dict[str, Any]]:
    """Run a command; make its run directory and write its options and summary there.

    Args:
        command: its name.
        files: its words without `=`.
        overrides: its words `option=value`.
        scorer: what `--scorer=` names.

    Returns:
        The run directory (`.` for a command without one) and the metrics.
    """
    config = load_config(compose_options(command, overrides))
    _check_output(command, config)
    stage(" ".join(["rlhf", command, *files, *overrides]))
    logging.getLogger("bitsandbytes").setLevel(
        logging.ERROR
    )  # warns at import about missing libraries
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    scorer, paths = expand_home(scorer, "--scorer"), [Path(expand_home(x, "FILE")) for x in files]
    function = load_function(command)
    row = COMMANDS[command]
    if not row.has_run_dir:
        return Path(), function(Job(config, Path(), paths, overrides, run_command, scorer))
    new = RunDirectory.create(Path(config.output_dir), config.name) if not config.resume else None
    run = new or RunDirectory(run_directory_of(config.resume))
    try:
        write_options = partial(_write_options, config, run.path)
        if new or not row.has_checkpoints:
            write_options()
        say(f"run directory {run.path}")
        job = Job(config, run.path, paths, overrides, run_command, scorer, write_options)
        summary = function(job)
        run.write_summary({"command": command, **summary})
        if command != "demo":  # it prints its own comparison
            _print_summary(summary)
    finally:
        run.close()
    return run.path, summary


def _check_output(command: str, config: Config) -> None:
    """Refuse an output of a command that writes to its run directory, or nothing, instead."""
    if config.output and not COMMANDS[command].writes_output:
        commands = ", ".join(sorted(name for name, row in COMMANDS.items() if row.writes_output))
        what, fix = f"{command} writes no output", f"leave it out; output= is for {commands}"
        raise UsageError(what, f"output={config.output}", fix)


def _write_options(config: Config, directory: Path) -> None:
    with replaced_file(directory / "config.yaml") as file:
        file.write(to_yaml(config).encode())


def _print_summary(summary: dict[str, Any]) -> None:
    """Print the metrics of a run, without lists and nested ones."""
    rows = [(name, value) for name, value in summary.items() if not isinstance(value, list | dict)]
    table("metrics", ("metric", "value"), rows)
