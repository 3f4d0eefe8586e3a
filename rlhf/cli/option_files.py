"""Let Hydra read option files of bounded size only, as any directory of them can be named."""

from pathlib import Path

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult

from rlhf.storage.yaml_files import check_yaml, no_yaml


class BoundedConfigSource(FileConfigSource):
    """Hydra's own reader of `file://`, which checks a file before it reads it."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file of options.

        Args:
            config_path: below the directory of the source.

        Raises:
            DataError: it is too large, grows when it is read, or is no YAML.
        """
        path = Path(self.path, self._normalize_file_name(config_path))
        if path.exists():  # Hydra says it where a file is not there
            check_yaml(path)
        try:
            return super().load_config(config_path)
        except (yaml.YAMLError, RecursionError) as error:
            raise no_yaml(path, error) from error


def bound_option_files() -> None:
    """Let Hydra read files by `BoundedConfigSource` from now on."""
    Plugins.instance()  # registers Hydra's own reader, which it would refuse to do after this one
    SourcesRegistry.instance().types["file"] = BoundedConfigSource
