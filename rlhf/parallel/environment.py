"""What a launcher such as torchrun tells each process that it starts, in environment variables."""

import os

RESTARTS = "RLHF_RESTART_COUNT"  # set by `rlhf` for the processes that it starts


def num_processes() -> int:
    """Number of processes of this run: WORLD_SIZE; 1 if no launcher has set it."""
    return max(1, _number("WORLD_SIZE"))


def process_rank() -> int:
    """Number of this process among those of the run, from 0: RANK."""
    return _number("RANK") if num_processes() > 1 else 0


def local_rank() -> int:
    """Number of this process among those on its machine, from 0: LOCAL_RANK."""
    return _number("LOCAL_RANK") if num_processes() > 1 else 0


def num_local_processes() -> int:
    """Number of processes of this run on this machine: LOCAL_WORLD_SIZE."""
    return max(1, _number("LOCAL_WORLD_SIZE")) if num_processes() > 1 else 1


def num_restarts() -> int | None:
    """How often `rlhf` has started this run again; None if it has not started its processes."""
    return _number(RESTARTS) if RESTARTS in os.environ else None


def _number(name: str) -> int:
    """Value of an environment variable; 0 if it is unset or no natural number."""
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() else 0
