"""Import a library that only one tracker needs."""

from importlib import import_module
from typing import Any

from rlhf.errors import UsageError


def import_extra(module: str, extra: str) -> Any:
    """Import a module that an extra of this package installs.

    Args:
        module: its name.
        extra: of `pip install 'rlhf-llava[EXTRA]'`.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{module} is not installed", module, f"pip install 'rlhf-llava[{extra}]'"
        ) from error
