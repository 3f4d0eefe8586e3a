"""Find the files of a model: a LLaVA, or an adapter and the base model that it was trained on."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.errors import UsageError
from rlhf.models.file_sizes import check_model_files
from rlhf.storage.atomic import replaced_file
from rlhf.storage.json_files import JsonObject, read_json
from rlhf.storage.run_directory import REWARD_CARD, run_directories

ADAPTER_CONFIG, RELATIVE_BASE = "adapter_config.json", "base_model.json"
_MERGE = "merge it first: rlhf export RUN export.merge=true"


@dataclass(frozen=True)
class ModelLocation:
    """Where a LLaVA and, if the path named one, an adapter on it are stored.

    Attributes:
        base: directory or hub id of the LLaVA.
        adapter: directory of the adapter; None: no adapter.
    """

    base: str
    adapter: Path | None = None


def locate_model(path: str, base: str = "") -> ModelLocation:
    """Find the model that `model.path` names.

    Args:
        path: a LLaVA directory, an adapter's directory, a run's directory, a directory of runs (the
            newest run with a model is taken), or a hub id.
        base: directory or hub id of an adapter's base model, `model.base`; empty: the base model
            that the adapter names.

    Raises:
        UsageError: no model there, a reward model or critic, or an adapter without base model.
        DataError: a file is larger than any honest one.
    """
    if not path:
        raise UsageError("no model is given", "model.path", "set model.path=DIRECTORY_OR_HUB_ID")
    directory = Path(path).expanduser()
    for candidate in _candidates(directory):
        _check_role(candidate)
        if (candidate / ADAPTER_CONFIG).is_file():
            check_model_files(candidate)
            return ModelLocation(_adapter_base(candidate, base), candidate)
        if (candidate / "config.json").is_file():
            check_model_files(candidate)
            return ModelLocation(str(candidate.resolve()))
    return ModelLocation(_model_path_or_hub_id(path))


def locate_base(stored: str, relative: str, directory: Path, override: str = "") -> str:
    """Find the base model that a file names, also if the whole project has been moved.

    Args:
        stored: directory or hub id of the base model when the file was written.
        relative: path from `directory` to it; empty: unknown.
        directory: where the file is.
        override: directory or hub id given by the user, `model.base`; empty: none.

    Raises:
        UsageError: there is no model at any of them.
        DataError: a file of the model is larger than any honest one.
    """
    moved = str(directory / relative) if relative else ""
    for path in (override, stored, moved):
        if path and (Path(path) / "config.json").is_file():
            check_model_files(Path(path))
            return str(Path(path).resolve())
    named = override or stored
    if _is_hub_id(named):
        return named
    raise UsageError(
        f"the base model is not at {named}" if named else "no base model is named",
        str(directory),
        "set model.base=DIRECTORY_OR_HUB_ID to where it is now",
    )


def relative_path(base: str, directory: Path) -> str:
    """Path from `directory` to a base model, stored beside the absolute one; empty for a hub id."""
    return os.path.relpath(base, directory.resolve()) if Path(base).is_dir() else ""


def write_relative_base(base: str, directory: Path) -> None:
    """Write base_model.json beside an adapter, by which `locate_model` finds a moved base model."""
    if relative := relative_path(base, directory):
        with replaced_file(directory / RELATIVE_BASE) as file:
            file.write(json.dumps({"relative_path": relative}).encode() + b"\n")


def read_json_object(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object; empty if there is no such file.

    Raises:
        UsageError: it holds something else.
    """
    if not file.exists():
        return {}
    return read_json(file, JsonObject, "save the model again", UsageError)


def _candidates(directory: Path) -> Iterator[Path]:
    """Yield the directories in which a model may be, of the newest run first."""
    for run in run_directories(directory):
        yield run
        yield run / "model"
        yield run / "adapter"
        if (run / "reward" / REWARD_CARD).is_file():
            yield run / "reward"


def _check_role(directory: Path) -> None:
    """Refuse a reward model or a critic, whose layers could be loaded as a policy's."""
    if any((place / REWARD_CARD).is_file() for place in (directory, directory.parent)):
        fix = "name it as reward.path, and a LLaVA or an adapter as model.path"
        raise UsageError("this is a reward model", str(directory), fix)
    if directory.name == "critic" and (directory.parent / "value_head.safetensors").is_file():
        raise UsageError("this is the critic of a run", str(directory), "name the run itself")


def _adapter_base(adapter: Path, override: str) -> str:
    """Find the base model of an adapter's directory."""
    stored = read_json_object(adapter / ADAPTER_CONFIG).get("base_model_name_or_path")
    relative = read_json_object(adapter / RELATIVE_BASE).get("relative_path")
    base = locate_base(str(stored or ""), str(relative or ""), adapter, override)
    if (Path(base) / ADAPTER_CONFIG).is_file():
        raise UsageError("the base model of an adapter is itself an adapter", base, _MERGE)
    return base


def _model_path_or_hub_id(path: str) -> str:
    """Return `path` if it looks like a hub id."""
    if _is_hub_id(path):
        return path
    raise UsageError(
        f"no model at {path}",
        "model.path",
        "give a directory with config.json, a run directory of `rlhf sft` or `rlhf ppo`, a hub id, "
        "or build a model: `rlhf smol output=DIRECTORY`",
    )


def _is_hub_id(path: str) -> bool:
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path)) and not Path(path).exists()
