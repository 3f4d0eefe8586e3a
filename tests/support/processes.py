"""A function on several processes of one run, forked from this one."""

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.distributed.rendezvous import rendezvous

from rlhf.parallel.world import World

PATIENCE = 60.0  # seconds


def on_processes(
    size: int, function: Callable[..., Any], *arguments: Any, patience: float = PATIENCE
) -> list[Any]:
    """Return what `function(world, *arguments)` returns on each process, by rank.

    An error that it raises is returned in its place, as text for one that no user can act on. A
    function that returns has left the world together with the others.
    """
    if size == 1:
        return [function(World(), *arguments)]
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as directory:
        store = str(Path(directory, "store"))
        pipes = [fork.Pipe(duplex=False) for _ in range(size)]
        processes = [
            fork.Process(
                target=_child, args=(store, rank, size, patience, sender, function, arguments)
            )
            for rank, (_, sender) in enumerate(pipes)
        ]
        for process in processes:
            process.start()
        try:
            return [_received(receiver) for receiver, _ in pipes]
        finally:
            for process in processes:
                process.join(5)
                process.kill()


def _received(receiver: Connection) -> Any:
    assert receiver.poll(PATIENCE), "a process does not answer"
    return receiver.recv()


def _child(
    store: str,
    rank: int,
    size: int,
    patience: float,
    sender: Connection,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    world, together = World(rank, size), True
    try:
        met, *_ = next(rendezvous(f"file://{store}", rank, size))
        result = function(World.connect(met, rank, size, patience), *arguments)
    except Exception as error:
        result, together = "".join(traceback.format_exception(error)), False
    sender.send(result)
    world.leave(together=together)
