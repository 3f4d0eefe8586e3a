"""Read JSON files as values of a type, or say in three lines why they are none."""

from pathlib import Path
from typing import Any, TypeVar

from rlhf.errors import DataError, RlhfError
from rlhf.storage.bounded import read_bytes

T = TypeVar("T")
JsonObject = dict[str, Any]
MAX_JSON_BYTES = 32_000_000


def read_json(
    path: Path,
    kind: type[T],
    fix: str = "put the file back as it was written",
    error: type[RlhfError] = DataError,
) -> T:
    """Read a JSON file as a value of a type.

    Args:
        path: the file.
        kind: a type that msgspec checks, such as a dataclass.
        fix: what to do about a file that is damaged.
        error: what is raised.

    Raises:
        RlhfError: of the class `error`: the file cannot be read, is no JSON, is nested too deeply,
            or holds something else.
        DataError: it is over `MAX_JSON_BYTES`, or no regular file.
    """
    import msgspec  # a bare GPU machine runs the benchmarks of models without it

    try:
        return msgspec.json.decode(read_bytes(path, MAX_JSON_BYTES), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError) as cause:
        raise error(f"the file cannot be read: {cause}", str(path), fix) from cause


def read_json_or(path: Path, default: T) -> T:
    """Read a JSON file as a value of the default's type; the default if there is no such value."""
    try:
        return read_json(path, type(default))
    except DataError:
        return default
