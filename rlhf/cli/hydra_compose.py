"""Compose the options of a command line with Hydra, from `conf/`, the schema and overrides.

This is the only module that imports hydra and omegaconf.
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf.config.option_types import defaults, leaves, path_options, text_options
from rlhf.config.paths import expand_home
from rlhf.config.schema import Config
from rlhf.config.validation import suggest_name
from rlhf.errors import UsageError
from rlhf.storage.run_directory import run_directory_of, unfinished_run


def compose_options(command: str, overrides: list[str]) -> dict[str, Any]:
    """Compose every option of a command; a resumed run begins with its stored options.

    Args:
        command: its name; the root is `conf/NAME.yaml` if it exists, else `conf/files.yaml`.
        overrides: `option=value` and `group=file` words of the command line.

    Returns:
        Options by name, nested by section.

    Raises:
        UsageError: an option does not exist, Hydra refuses an override, or the run to resume has no
            configuration.
    """
    _check_names(overrides)
    texts = [word for word in overrides if _name(word) in text_options()]
    OmegaConf.clear_resolver("oc.env")  # no environment variable, maybe a secret, may be stored
    ConfigStore.instance().store(name="options", node=defaults())
    try:
        with initialize_config_dir(str(config_directory()), version_base="1.3"):
            composed = compose(_root(command), [word for word in overrides if word not in texts])
        options = _mapping(OmegaConf.to_container(composed, resolve=True))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UsageError(str(error).split("\n")[0], " ".join(overrides), "see --help") from None
    for word in texts:  # Hydra would parse special characters in them
        _set(options, _name(word), _without_quotes(word.partition("=")[2]))
    for name, value in leaves(options):
        if name in path_options() and isinstance(value, str):
            _set(options, name, expand_home(value, name))
    return _with_stored_options(options, command, overrides)


def expand_sweep(overrides: list[str]) -> Iterator[list[str]]:
    """Yield the overrides of every combination of comma-separated values.

    Raises:
        UsageError: an override cannot be parsed.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        fix = "put values with special characters in quotes: option=\"'…'\""
        raise UsageError(str(error).split("\n")[0], " ".join(overrides), fix) from None
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.input_line or ""]
        for override in parsed
    ]
    for combination in itertools.product(*choices):
        yield list(combination)


def to_yaml(config: Config) -> str:
    """Encode every option as YAML, for `config.yaml` of a run directory."""
    options = msgspec.to_builtins(config)
    return str(yaml.safe_dump(options, sort_keys=False, allow_unicode=True))


def config_directory() -> Path:
    """Return the path of `conf/`: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(path for path in (package / "conf", package.parent / "conf") if path.is_dir())


def _root(command: str) -> str:
    return command if (config_directory() / f"{command}.yaml").is_file() else "files"


def _with_stored_options(
    composed: dict[str, Any], command: str, overrides: list[str]
) -> dict[str, Any]:
    """Return the stored options of the run to resume, changed by those of the command line.

    The composed options are returned as they are if no run is resumed, or if the command line
    chooses a group file. `resume=auto` is replaced by the newest unfinished run.
    """
    resume = composed.get("resume")
    if resume == "auto":
        run = unfinished_run(Path(composed["output_dir"]) / composed["name"], command)
        return {**composed, "resume": str(run or "")}
    if not resume or any(_is_group(word) for word in overrides):
        return composed
    stored, values = _read_stored_options(resume), dict(leaves(composed))
    for name in map(_name, overrides):
        _set(stored, name, values[name])
    return stored


def _read_stored_options(run: str) -> dict[str, Any]:
    path = run_directory_of(run) / "config.yaml"
    if not path.is_file():
        raise UsageError("there is no run to resume", run, "set resume=RUN")
    try:
        return _mapping(yaml.safe_load(path.read_bytes()))
    except (yaml.YAMLError, OSError, ValueError) as error:
        fix = "give the options anew, with a configuration group"
        raise UsageError("the stored options cannot be read", str(path), fix) from error


def _set(options: dict[str, Any], name: str, value: Any) -> None:
    """Set the option of a dotted name in nested options."""
    *sections, last = name.split(".")
    for section in sections:
        options = options.setdefault(section, {})
    options[last] = value


def _check_names(overrides: list[str]) -> None:
    """Refuse an option that does not exist; Hydra would accept one after `+`."""
    known = [name for name, _ in leaves(defaults())]
    for word in overrides:
        name = _name(word)
        if name not in known and not _is_group(word):
            advice = suggest_name(name, known) + ("; no file has this name" if "/" in word else "")
            raise UsageError(f"unknown option {name}", word, advice)
        if name in known and word.startswith("~"):
            fix = "give the value that it shall have"
            raise UsageError("~ drops a group file, an option always has a value", word, fix)


def _name(word: str) -> str:
    """Return the option or group that an override names."""
    return word.partition("=")[0].lstrip("+~")


def _without_quotes(text: str) -> str:
    """Remove the quotes around a whole text, which protect commas in a sweep."""
    quoted = re.fullmatch(r"(['\"])((?:(?!\1)[^\\]|\\.)*)\1", text, re.DOTALL)
    return re.sub(r"\\(['\"])", r"\1", quoted[2]) if quoted else text


def _is_group(word: str) -> bool:
    """Whether an override chooses a file of a configuration group."""
    return (config_directory() / _name(word)).is_dir()


def _mapping(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"options: got {type(values).__name__}, wanted a mapping")
    return values
