"""Where the configs are: `conf/`, and the root config of each command."""

from pathlib import Path


def config_directory() -> Path:
    """Return the path of `conf/`: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(path for path in (package / "conf", package.parent / "conf") if path.is_dir())


def root_config(command: str) -> str:
    """Return the name of the config that a command begins with."""
    return command if (config_directory() / f"{command}.yaml").is_file() else "files"
