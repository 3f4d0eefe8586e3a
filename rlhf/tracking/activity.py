"""What the program is doing at this moment, for whoever watches it."""

from collections.abc import Iterator
from contextlib import contextmanager

_PARTS: list["Part"] = []  # in progress, the outermost first


class Part:
    """A part of the work.

    Args:
        title: what it does.
        total: its steps; 0: they are not counted.
    """

    def __init__(self, title: str, total: int = 0) -> None:
        self.title, self.total, self.done = title, total, 0

    def advance(self, steps: int = 1) -> None:
        """Count steps as done."""
        self.done += steps

    def __str__(self) -> str:
        return f"{self.title} {self.done}/{self.total}" if self.total else self.title


@contextmanager
def working(title: str, total: int = 0) -> Iterator[Part]:
    """Name what the block does, inside what encloses it.

    Args:
        title: what it does.
        total: its steps; 0: they are not counted.

    Yields:
        The part; call its `advance` after each step.
    """
    part = Part(title, total)
    _PARTS.append(part)
    try:
        yield part
    finally:
        _PARTS.remove(part)


def activity(skip: int = 0) -> str:
    """Return what is in progress, such as `scores, micro-batches 3/8`; empty: nothing is named.

    Args:
        skip: outermost parts that are left out, see `depth`.
    """
    return ", ".join(map(str, _PARTS[skip:]))


def depth() -> int:
    """Number of parts in progress, one inside another."""
    return len(_PARTS)
