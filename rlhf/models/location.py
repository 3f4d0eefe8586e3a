"""Where a model's files are: a LLaVA directory, an adapter on one, a run directory, or a hub id."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from rlhf.errors import UsageError
from rlhf.storage.run_directory import run_directories


@dataclass(frozen=True)
class ModelLocation:
    """A LLaVA and, when the path named one, the adapter trained on it."""

    base: str
    adapter: Path | None = None


def locate_model(path: str) -> ModelLocation:
    """The files behind `model.path`; of a directory of runs those of the newest that has a model.

    Raises:
        UsageError: nothing there that could be a model.
    """
    if not path:
        raise UsageError("no model is given", "model.path", "set model.path=DIRECTORY_OR_HUB_ID")
    directory = Path(path).expanduser()
    runs = run_directories(directory)
    for place in (run / part for run in runs for part in ("", "model", "adapter")):
        if (place / "adapter_config.json").is_file():
            config = json.loads((place / "adapter_config.json").read_text())
            return ModelLocation(_existing(config["base_model_name_or_path"], place), place)
        if (place / "config.json").is_file():
            return ModelLocation(str(place.resolve()))
    return ModelLocation(_existing(path, directory))


def _existing(path: str, where: Path) -> str:
    """The path of a model directory, or a name that looks like a hub id."""
    if (Path(path) / "config.json").is_file():
        return str(Path(path).resolve())
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path) and not where.exists():
        return path
    raise UsageError(
        f"no model at {path}",
        str(where),
        "give a directory with config.json, a run folder of `rlhf sft` or `rlhf ppo`, a hub id, "
        "or build a model: `rlhf smol output=FOLDER`",
    )
