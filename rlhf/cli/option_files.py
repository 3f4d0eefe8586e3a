"""Let Hydra read option files of bounded size only, as any directory of them can be named."""

from functools import wraps
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins

from rlhf.storage.yaml_files import check_yaml, no_yaml


def bound_option_files() -> None:
    """Let Hydra's reader of directories check a file before it reads it, from now on.

    The class is changed and not replaced: Hydra keeps its readers by class, and compares them in
    the processes that a launcher starts.
    """
    Plugins.instance()  # registers the reader
    reader: Any = SourcesRegistry.instance().types["file"]
    if not hasattr(reader.load_config, "__wrapped__"):
        reader.load_config = _bounded(reader.load_config)


def _bounded(load: Any) -> Any:
    """Return a method that checks a file and then loads it.

    The method raises a DataError if the file is too large, grows when it is read, or is no YAML.
    """

    @wraps(load)
    def load_config(source: Any, config_path: str) -> Any:
        path = Path(source.path, source._normalize_file_name(config_path))
        if path.exists():  # Hydra says it where a file is not there
            check_yaml(path)
        try:
            return load(source, config_path)
        except (yaml.YAMLError, RecursionError) as error:
            raise no_yaml(path, error) from error

    return load_config
