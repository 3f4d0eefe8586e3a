"""Read YAML files as data, and refuse those that grow when they are read."""

from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from rlhf.errors import DataError
from rlhf.storage.bounded import read_bytes

MAX_YAML_BYTES = 200_000
_MAX_LINE = 20_000  # a number with as many parts, 1:1:1…, takes the time of their square
_MAX_NODES = 20_000  # of the document once every alias is replaced by what it stands for
_MAX_INTERPOLATIONS = 20  # ${…}; three on each of six lines already make a text 700 times as long
_FIX = "write it out in plain YAML: keys and values, without anchors, `*` or `${`"


def read_yaml(path: Path) -> Any:
    """Read a YAML file as data: nothing in it is resolved, imported or called.

    Raises:
        DataError: it is too large, grows when it is read, or is no YAML.
        OSError: it is not there, or cannot be read.
    """
    content = _checked(path)
    try:
        return yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise no_yaml(path, error) from error


def check_yaml(path: Path) -> None:
    """Refuse a YAML file that another library is going to read, if it grows when it is read.

    Raises:
        DataError: it is too large, or grows when it is read.
        OSError: it is not there, or cannot be read.
    """
    _checked(path)


def _checked(path: Path) -> bytes:
    content = read_bytes(path, MAX_YAML_BYTES)
    if max(map(len, content.splitlines()), default=0) > _MAX_LINE:
        raise DataError(f"a line has over {_MAX_LINE:,} bytes", str(path), _FIX)
    if content.count(b"${") > _MAX_INTERPOLATIONS:
        raise DataError(f"over {_MAX_INTERPOLATIONS} values are interpolated", str(path), _FIX)
    if b"*" in content and b"&" in content:
        _check_aliases(path, content)
    return content


def _check_aliases(path: Path, content: bytes) -> None:
    try:
        nodes = _count(yaml.compose(content, Loader=yaml.SafeLoader), {})
    except (yaml.YAMLError, RecursionError) as error:
        raise no_yaml(path, error) from error
    if nodes > _MAX_NODES:
        raise DataError(f"its aliases stand for over {_MAX_NODES:,} values", str(path), _FIX)


def _count(node: yaml.Node | None, counted: dict[int, int]) -> int:
    """Count the nodes below a node, with each alias as what it stands for; inside itself: many."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in counted:
        counted[id(node)] = _MAX_NODES + 1  # until it is known: an alias of what it stands in
        inner = chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
        counted[id(node)] = 1 + sum(_count(part, counted) for part in inner)
    return counted[id(node)]


def no_yaml(path: Path, error: Exception) -> DataError:
    """The error for a file that a YAML parser refuses.

    Args:
        path: the file.
        error: what the parser raised.
    """
    reason = " ".join(str(error).split())[:200]
    return DataError(f"the file is no YAML: {reason}", str(path), "correct it, or write it again")
