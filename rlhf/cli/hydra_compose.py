"""Run a command as a Hydra application, or compose the options of one that another command calls.

Hydra is known in `rlhf.cli` only.
"""

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import hydra
import msgspec
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf.cli.call import Call
from rlhf.cli.composition_errors import usage_error
from rlhf.cli.directories import config_directory, root_config
from rlhf.cli.option_files import bound_option_files
from rlhf.cli.overrides import hydra_overrides, override_name, swept_names
from rlhf.cli.resolvers import RunDirectories, run_to_resume
from rlhf.cli.structured_config import structured_config
from rlhf.config.option_types import leaves, path_options
from rlhf.config.paths import expand_home
from rlhf.config.schema import Config
from rlhf.errors import UsageError
from rlhf.storage.run_directory import run_directory_of
from rlhf.storage.yaml_files import read_yaml

Task = Callable[[DictConfig], float | None]


def run_hydra(call: Call, task: Task) -> None:
    """Start a command as a Hydra application: run the task once, or sweep, or print options.

    Args:
        call: the command line; the root is `conf/COMMAND.yaml` if it exists, else
            `conf/files.yaml`.
        task: called with the composed options, in a sweep for each member.

    Raises:
        UsageError: an option does not exist, or Hydra refuses an override, a config or a flag.
    """
    command, words, flags = call.command, call.overrides, call.hydra_flags
    shows = any(flag.startswith(("--cfg=", "--info=")) for flag in flags)
    overrides = _job_overrides(command, words, flags)
    _prepare(command, call.sweep_words, reserves=not shows)
    application = hydra.main(
        version_base="1.3", config_path=str(config_directory()), config_name=root_config(command)
    )
    printed = io.StringIO()
    try:
        with _arguments([*flags, *overrides]), redirect_stderr(printed if shows else sys.stderr):
            application(task)()
    except (HydraException, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise usage_error(error, words) from None
    except SystemExit:
        if not shows:
            raise
        what = printed.getvalue().strip() or "Hydra refuses these flags"
        raise UsageError(what, " ".join(flags), "see `rlhf --help` for the flags") from None


def compose_options(command: str, words: list[str]) -> dict[str, Any]:
    """Compose every option of a command, without running it.

    Args:
        command: its name; the root is `conf/NAME.yaml` if it exists, else `conf/files.yaml`.
        words: overrides as typed.

    Returns:
        Options by name, nested by section.

    Raises:
        UsageError: an option does not exist, Hydra refuses an override, or the run to resume has no
            configuration.
    """
    overrides = hydra_overrides(command, words, [config_directory()], sweeps=False)
    _prepare(command, reserves=False)
    try:
        with _own_hydra(), initialize_config_dir(str(config_directory()), version_base="1.3"):
            return plain_options(compose(root_config(command), overrides), command, words)
    except (HydraException, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise usage_error(error, words) from None


def plain_options(composed: DictConfig, command: str, words: Sequence[str]) -> dict[str, Any]:
    """Convert composed options to plain values; a resumed run begins with its stored options.

    Args:
        composed: by Hydra, without its own section.
        command: the name of the command.
        words: overrides as typed; of a resumed run only the options that they name are changed.

    Raises:
        UsageError: an interpolation cannot be resolved, or the run to resume has no configuration.
    """
    try:
        options = _mapping(OmegaConf.to_container(composed, resolve=True, enum_to_str=True))
    except OmegaConfBaseException as error:
        raise usage_error(error, words) from None
    for name, value in leaves(options):
        if name in path_options() and isinstance(value, str):
            _set(options, name, expand_home(value, name))
    return _with_stored_options(options, command, words)


def to_yaml(config: Config) -> str:
    """Encode every option as YAML, for `config.yaml` of a run directory."""
    options = msgspec.to_builtins(config)
    return str(yaml.safe_dump(options, sort_keys=False, allow_unicode=True))


def _prepare(command: str, sweep_words: tuple[str, ...] = (), *, reserves: bool) -> None:
    bound_option_files()
    ConfigStore.instance().store(name="options", node=structured_config())
    RunDirectories(command, reserves, sweep_words).register()


def _job_overrides(command: str, words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Return the overrides for Hydra, after the job's name and what names members of a sweep."""
    overrides = hydra_overrides(
        command, words, _group_directories(words, flags), sweeps="--multirun" in flags
    )
    try:
        swept = swept_names(overrides)
    except HydraException as error:
        raise usage_error(error, words) from None
    fixed = ",".join(name for name in map(override_name, overrides) if name not in swept)
    names = f"hydra.job.config.override_dirname.exclude_keys=[{fixed}]"
    return [f"hydra.job.name={command}", names, *overrides]


def _group_directories(words: Sequence[str], flags: Sequence[str]) -> list[Path] | None:
    """Return where groups are; None if a search path, or a root config, may add to them."""
    named = [flag.partition("=") for flag in flags]
    if any(override_name(word) == "hydra.searchpath" for word in words):
        return None
    if any(name == "--config-name" for name, _, _ in named):
        return None
    return [config_directory(), *(Path(path) for name, _, path in named if name == "--config-dir")]


@contextmanager
def _arguments(words: list[str]) -> Iterator[None]:
    """Let Hydra read these words as the command line, and raise its errors instead of exiting."""
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level  # --info sets up logging
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = [argv[0], *words], "1"
    try:
        yield
    finally:
        sys.argv, root.handlers = argv, handlers
        root.setLevel(level)
        del os.environ["HYDRA_FULL_ERROR"]
        if full_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = full_error


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Set the Hydra that runs this command aside while the options of another are composed."""
    state = GlobalHydra.instance()
    running, state.hydra = state.hydra, None
    try:
        yield
    finally:
        state.hydra = running


def _with_stored_options(
    composed: dict[str, Any], command: str, words: Sequence[str]
) -> dict[str, Any]:
    """Return the stored options of the run to resume, changed by those of the command line.

    The composed options are returned as they are if no run is resumed, or if the command line
    chooses a group file. `resume=auto` is replaced by the newest unfinished run.
    """
    resume = composed.get("resume")
    if resume == "auto":
        run = run_to_resume(Path(composed["output_dir"]) / composed["name"], command)
        return {**composed, "resume": str(run or "")}
    values = dict(leaves(composed))
    names = [name for name in map(override_name, words) if not name.startswith("hydra")]
    if not resume or any(name not in values for name in names):
        return composed
    stored = _read_stored_options(resume)
    for name in names:
        _set(stored, name, values[name])
    return stored


def _read_stored_options(run: str) -> dict[str, Any]:
    """Read config.yaml of a run as data: nothing in it is resolved, imported or called."""
    path = run_directory_of(run) / "config.yaml"
    if not path.is_file():
        raise UsageError("there is no run to resume", run, "set resume=RUN")
    try:
        return _mapping(read_yaml(path))
    except (OSError, ValueError) as error:
        fix = "give the options anew, with a configuration group"
        raise UsageError("the stored options cannot be read", str(path), fix) from error


def _set(options: dict[str, Any], name: str, value: Any) -> None:
    """Set the option of a dotted name in nested options."""
    *sections, last = name.split(".")
    for section in sections:
        options = options.setdefault(section, {})
    options[last] = value


def _mapping(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"options: got {type(values).__name__}, wanted a mapping")
    return values
