"""The options of a command line, composed by Hydra from `conf/`, the schema and overrides.

The only module that imports hydra and omegaconf.
"""

import itertools
from collections.abc import Iterator
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

from rlhf.config.schema import Config, defaults, leaves
from rlhf.config.validation import nearest
from rlhf.errors import UsageError
from rlhf.storage.run_directory import run_directory_of, unfinished_run


def compose_options(command: str, overrides: list[str]) -> dict[str, Any]:
    """Every option of a command as a nested mapping; those of a continued run are its stored ones.

    Args:
        command: its name; `conf/NAME.yaml` is the root, if there is one, else `conf/files.yaml`.
        overrides: `option=value` and `group=file` words of the command line.

    Raises:
        UsageError: an option does not exist, Hydra refuses an override, or the run to continue has
            no configuration.
    """
    _check_names(overrides)
    OmegaConf.clear_resolver("oc.env")  # so that no secret gets into a stored configuration
    ConfigStore.instance().store(name="options", node=defaults())
    try:
        with initialize_config_dir(str(config_directory()), version_base="1.3"):
            composed = compose(_root(command), [_quoted(word) for word in overrides])
        return _to_mapping(_with_stored_options(composed, command, overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(str(error).split("\n")[0], " ".join(overrides), "see --help") from None


def expand_sweep(overrides: list[str]) -> Iterator[list[str]]:
    """Yield the overrides of every combination of comma-separated values."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.input_line or ""]
        for override in parsed
    ]
    for combination in itertools.product(*choices):
        yield list(combination)


def to_yaml(config: Config) -> str:
    """Every option as YAML, as `config.yaml` of a run directory holds them."""
    return OmegaConf.to_yaml(msgspec.to_builtins(config))


def config_directory() -> Path:
    """`conf/`: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(f for f in (package / "conf", package.parent / "conf") if f.is_dir())


def _root(command: str) -> str:
    return command if (config_directory() / f"{command}.yaml").is_file() else "files"


def _with_stored_options(composed: DictConfig, command: str, overrides: list[str]) -> DictConfig:
    """The options that a run to continue stored, changed by those of the command line.

    The composed options stay where no run is continued, where a group file is chosen on the command
    line, and with `resume=auto`, which becomes the newest unfinished run.
    """
    resume = composed.get("resume")
    if resume == "auto":
        run = unfinished_run(Path(composed["output_dir"]) / composed["name"], command)
        composed["resume"] = str(run or "")
        return composed
    if not resume or any(_is_group(word) for word in overrides):
        return composed
    stored = _read_stored_options(resume)
    merged = OmegaConf.merge(stored, _overridden(composed, overrides))
    assert isinstance(merged, DictConfig)
    return merged


def _read_stored_options(run: str) -> Any:
    path = run_directory_of(run) / "config.yaml"
    if not path.is_file():
        raise UsageError("there is no run to continue", run, "set resume=RUN")
    try:
        return OmegaConf.load(path)
    except (YAMLError, OSError, ValueError) as error:
        fix = "give the options anew, with a configuration group"
        raise UsageError("the stored options cannot be read", str(path), fix) from error


def _overridden(composed: DictConfig, overrides: list[str]) -> DictConfig:
    """The composed options that the command line names, and no others."""
    chosen = OmegaConf.create()
    for word in overrides:
        name = _name(word)
        OmegaConf.update(chosen, name, OmegaConf.select(composed, name))
    return chosen


def _check_names(overrides: list[str]) -> None:
    """Refuse an option that does not exist, also after `+`, before Hydra drops or guesses."""
    known = [name for name, _ in leaves(defaults())]
    sections = {name.partition(".")[0] for name in known}
    for word in overrides:
        name = _name(word)
        if name not in known and name not in sections and not _is_group(word):
            raise UsageError(f"unknown option {name}", word, nearest(name, known))


def _name(word: str) -> str:
    """The option or group that an override names."""
    return word.partition("=")[0].lstrip("+~")


def _quoted(word: str) -> str:
    """The override with a text value in quotes, so that Hydra reads no sign in it."""
    name, _, value = word.partition("=")
    texts = {key for key, default in leaves(defaults()) if isinstance(default, str)}
    if name.lstrip("+") not in texts or value[:1] in ("'", '"'):
        return word
    escaped = value.replace("'", "\\'")
    return f"{name}='{escaped}'"


def _is_group(word: str) -> bool:
    """Whether an override chooses a file of a configuration group."""
    return (config_directory() / _name(word)).is_dir()


def _to_mapping(config: DictConfig) -> dict[str, Any]:
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
