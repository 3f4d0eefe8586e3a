"""The command line: `rlhf COMMAND [FILE…] [option=value…] [flags]`.

The only file that knows hydra.
"""

import itertools
import logging
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rlhf.cli.commands import RESUMABLE, WITHOUT_DIRECTORY, command_function
from rlhf.cli.help import COMMANDS, FLAGS, command_help, overview
from rlhf.commands.job import Job
from rlhf.config.schema import Config, defaults, leaves
from rlhf.config.validation import load_config, nearest
from rlhf.errors import RlhfError, UsageError, is_out_of_memory, out_of_memory
from rlhf.storage.atomic import replaced_file
from rlhf.storage.run_directory import RunDirectory, json_text, run_directory_of, unfinished_run
from rlhf.tracking.console import console, print_error, say, stage, table
from rlhf.training.signals import stops_at_once

WITHOUT_FILES = frozenset({"demo", "sft", "collect", "reward", "ppo", "doctor", "plan"})
WITH_SCORER = frozenset({"ppo", "evaluate", "score"})


@dataclass(frozen=True)
class Call:
    """A parsed command line."""

    command: str
    files: list[str]
    overrides: list[str]
    flags: set[str]

    @property
    def scorer(self) -> str:
        """What `--scorer=` names; never an option, so that no saved configuration can name code."""
        found = [flag.partition("=")[2] for flag in self.flags if flag.startswith("--scorer=")]
        return found[0] if found else ""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code (0 done, 1 a bug, 2 usage, 3 data, 4 diverged, …)."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        with stops_at_once():
            return _run(parse(given))
    except RlhfError as error:
        if "--debug" in given:
            traceback.print_exc()
        print_error(error)
        if "--json" in given and (metrics := getattr(error, "metrics", None)):
            print(json_text(metrics))
        return error.exit_code
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print_error(short := out_of_memory(error))
        return short.exit_code
    except KeyboardInterrupt:
        return 130
    finally:
        console().quiet = False


def parse(arguments: list[str]) -> Call:
    """Split a command line into command, files, overrides and flags.

    Raises:
        UsageError: an unknown command or flag, or one that the command does not take.
    """
    flags = [word for word in arguments if word.startswith("-")]
    words = [word for word in arguments if not word.startswith("-")]
    for flag in flags:
        if flag not in {*FLAGS, "-h"} and flag.partition("=")[0] != "--scorer":
            raise UsageError(f"unknown flag {flag}", flag, f"flags are {' '.join(FLAGS)}")
    command = words[0] if words else ""
    if command and command not in COMMANDS:
        raise UsageError(
            f"unknown command {command}", f"rlhf {command}", nearest(command, COMMANDS)
        )
    overrides = [word for word in words[1:] if re.match(r"[+~]{0,2}[A-Za-z_][\w./@]*=", word)]
    files = [word for word in words[1:] if word not in overrides]
    _check_scorer(command, [flag for flag in flags if flag.startswith("--scorer")])
    if files and command in WITHOUT_FILES:
        where, fix = f"rlhf {command} {files[0]}", "write options as name=value"
        raise UsageError(f"{command} takes options only, not the word {files[0]}", where, fix)
    return Call(command, files, overrides, set(flags))


def _check_scorer(command: str, flags: list[str]) -> None:
    """Refuse a scorer that is not named in the one word, or that the command would not ask."""
    where, fix = " ".join(["rlhf", command, *flags]), "write --scorer=FILE.py:NAME once"
    if flags and command not in WITH_SCORER:
        fix = f"--scorer=FILE.py:NAME is for {', '.join(sorted(WITH_SCORER))}"
        raise UsageError(f"{command} asks no scorer", where, fix)
    if len(flags) > 1:
        raise UsageError("more than one scorer is given", where, fix)
    if flags and not flags[0].partition("=")[2]:
        raise UsageError("no scorer is named", where, fix)


def _run(call: Call) -> int:
    if not call.command:
        print(overview(), end="")
        return 0
    if call.flags & {"--help", "-h"}:
        print(command_help(call.command, _composed(call.command, [])), end="")
        return 0
    console().quiet = "--json" in call.flags
    for overrides in _sweep(call.overrides) if "--multirun" in call.flags else [call.overrides]:
        _, summary = run_command(call.command, call.files, overrides, call.scorer)
        if "--json" in call.flags:
            print(json_text(summary))
    return 0


def run_command(
    command: str, files: list[str], overrides: list[str], scorer: str = ""
) -> tuple[Path, dict[str, Any]]:
    """Run a command in a directory of its own; the directory and the metrics."""
    config = load_config(_composed(command, overrides))
    stage(" ".join(["rlhf", command, *files, *overrides]))
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # says at import what it lacks
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    function, paths = command_function(command), [Path(file) for file in files]
    if command in WITHOUT_DIRECTORY:
        return Path(), function(Job(config, Path(), paths, overrides, run_command, scorer))
    new = RunDirectory.create(Path(config.output_dir), config.name) if not config.resume else None
    run = new or RunDirectory(run_directory_of(config.resume))
    try:
        keep = partial(_keep_options, config, run.path)
        if new or command not in RESUMABLE:
            keep()
        say(f"run folder {run.path}")
        summary = function(Job(config, run.path, paths, overrides, run_command, scorer, keep))
        run.write_summary({"command": command, **summary})
        if command != "demo":  # its last words are the comparison and where to look
            _show(summary)
    finally:
        run.close()
    return run.path, summary


def _keep_options(config: Config, directory: Path) -> None:
    with replaced_file(directory / "config.yaml") as file:
        file.write(OmegaConf.to_yaml(msgspec.to_builtins(config)).encode())


def _show(summary: dict[str, Any]) -> None:
    """The single metrics of a run."""
    rows = [(name, value) for name, value in summary.items() if not isinstance(value, list | dict)]
    table("metrics", ("metric", "value"), rows)


def _composed(command: str, overrides: list[str]) -> dict[str, Any]:
    """The options of a command as Hydra composes them; those of a run that is continued.

    Raises:
        UsageError: Hydra refuses an override, or the run to continue has no configuration.
    """
    _check_names(overrides)
    OmegaConf.clear_resolver("oc.env")  # so that no secret gets into a stored configuration
    ConfigStore.instance().store(name="options", node=defaults())
    try:
        with initialize_config_dir(str(_config_directory()), version_base="1.3"):
            composed = compose(_root(command), [_quoted(word) for word in overrides])
        return _plain(_continued(composed, command, overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(str(error).split("\n")[0], " ".join(overrides), "see --help") from None


def _root(command: str) -> str:
    """The file in `conf/` a command starts from; commands on files share one."""
    return command if (_config_directory() / f"{command}.yaml").is_file() else "files"


def _continued(composed: DictConfig, command: str, overrides: list[str]) -> DictConfig:
    """The options of a run to continue: those it stored, changed by the command line's.

    With a file of a configuration group on the command line, or `resume=auto`, the command line
    says them all.
    """
    resume = composed.get("resume")
    if resume == "auto":
        found = unfinished_run(Path(composed["output_dir"]) / composed["name"], command)
        composed["resume"] = str(found or "")
        return composed
    if not resume or any(_is_group(word) for word in overrides):
        return composed
    stored = run_directory_of(resume) / "config.yaml"
    if not stored.is_file():
        raise UsageError("there is no run to continue", resume, "set resume=RUN_FOLDER")
    try:
        options = OmegaConf.load(stored)
    except (YAMLError, OSError, ValueError) as error:
        fix = "give the options anew, with a configuration group"
        raise UsageError("the stored options cannot be read", str(stored), fix) from error
    merged = OmegaConf.merge(options, _named(composed, overrides))
    assert isinstance(merged, DictConfig)
    return merged


def _named(composed: DictConfig, overrides: list[str]) -> DictConfig:
    """Of the composed options those that the command line names."""
    chosen = OmegaConf.create()
    for word in overrides:
        name = word.partition("=")[0].lstrip("+~")
        OmegaConf.update(chosen, name, OmegaConf.select(composed, name))
    return chosen


def _check_names(overrides: list[str]) -> None:
    """Refuse an option that does not exist, also after `+`, before Hydra drops or guesses."""
    known = [name for name, _ in leaves(defaults())]
    sections = {name.partition(".")[0] for name in known}
    for word in overrides:
        name = word.partition("=")[0].lstrip("+~")
        if name not in known and name not in sections and not _is_group(word):
            raise UsageError(f"unknown option {name}", word, nearest(name, known))


def _quoted(word: str) -> str:
    """The override with a text value in quotes, so that no sign in it means anything to Hydra."""
    name, _, value = word.partition("=")
    texts = {key for key, default in leaves(defaults()) if isinstance(default, str)}
    if name.lstrip("+") not in texts or value[:1] in ("'", '"'):
        return word
    escaped = value.replace("'", "\\'")
    return f"{name}='{escaped}'"


def _is_group(word: str) -> bool:
    """Whether an override chooses a file of a configuration group."""
    name = word.partition("=")[0].lstrip("+~")
    return (_config_directory() / name).is_dir()


def _sweep(overrides: list[str]) -> Iterator[list[str]]:
    """Every combination of comma-separated values."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.input_line or ""]
        for override in parsed
    ]
    for combination in itertools.product(*choices):
        yield list(combination)


def _config_directory() -> Path:
    """`conf/`: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(f for f in (package / "conf", package.parent / "conf") if f.is_dir())


def _plain(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
