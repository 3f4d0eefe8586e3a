"""The processes of one run and what they exchange."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from rlhf.errors import DataError, OtherProcessError, RlhfError, expected_error
from rlhf.parallel.environment import (
    local_rank,
    num_local_processes,
    num_processes,
    process_rank,
)
from rlhf.parallel.failures import FailureRecord, launcher_store, stop_with_launcher
from rlhf.parallel.tree_sum import tree_sum
from rlhf.tracking.console import console

Unit = TypeVar("Unit")


class World:
    """This process among those of one run; alone, every method is the identity.

    All processes call the methods that exchange something in the same order. Tensors are exchanged
    on the CPU by gloo. If each process has a GPU of its own, NCCL sums those on GPUs, and exchanges
    what FSDP does.

    Args:
        rank: number of this process, from 0. Process 0 owns the files and the console.
        size: number of processes.
        patience: seconds until a process that does not answer is given up.
    """

    def __init__(self, rank: int = 0, size: int = 1, patience: float = 0) -> None:
        self.rank, self.size = rank, size
        self._has_gpu = torch.cuda.is_available() and (
            num_local_processes() <= torch.cuda.device_count()
        )
        self._failures = FailureRecord(rank, size, patience)

    @staticmethod
    def join(patience: float) -> "World":
        """Meet the other processes that a launcher has started, if there are any.

        Args:
            patience: seconds until a process that does not answer is given up.

        Raises:
            LostProcessError: the others did not come.
        """
        if num_processes() == 1:
            return World()
        stop_with_launcher()
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank() % torch.cuda.device_count())
        world = World(process_rank(), num_processes())
        with world.exchange():
            store = launcher_store(patience)
        return World.connect(store, world.rank, world.size, patience)

    @staticmethod
    def connect(store: Store, rank: int, size: int, patience: float) -> "World":
        """Meet the other processes of a run at a store.

        Args:
            store: where they find each other.
            rank: number of this process, from 0.
            size: number of processes.
            patience: seconds until a process that does not answer is given up.

        Raises:
            LostProcessError: the others did not come, or left at once.
        """
        world, limit = World(rank, size, patience), timedelta(seconds=patience)
        world._failures.store = store
        with world.exchange():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if world._has_gpu else "gloo",
                store=store,
                rank=rank,
                world_size=size,
                timeout=limit,
            )
        return world

    @property
    def is_first(self) -> bool:
        """Whether this is process 0, which owns the files and the console."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Return which of `count` things in order belong to this process; each to exactly one."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def gather(self, own: Tensor) -> Tensor:
        """Return the tensors of all processes, one after the other by rank.

        Args:
            own: [n, ...] of any dtype, on the CPU; n may differ between processes, the rest not.

        Returns:
            [Σ n, ...], on every process bit for bit what each of them gave.
        """
        if self.size == 1:
            return own
        data = own.contiguous().flatten().view(torch.uint8)
        with self.exchange():
            lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(lengths, torch.tensor([len(data)]))
            longest = max(int(length) for length in lengths)
            padded = torch.cat([data, data.new_zeros(longest - len(data))])
            parts = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(parts, padded)
        whole = torch.cat([part[: int(n)] for part, n in zip(parts, lengths, strict=True)])
        return whole.view(own.dtype).reshape(-1, *own.shape[1:])

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes in the order of a binary tree.

            ((0 + 1) + (2 + 3)) + …

        If each process adds 2^k values of its own in the same order first, the sum of all values
        is equal to the last bit on any such number of processes.

        Args:
            values: [n], float; the same n and dtype on every process.
        """
        if self.size == 1:
            return values
        own = values.detach() if self._has_gpu else values.detach().cpu()
        with self.exchange():
            return tree_sum(own, self.rank, self.size).to(values.device)

    def most(self, value: float) -> float:
        """Return the largest value of all processes; none may be NaN."""
        if self.size == 1:
            return value
        values = torch.tensor([value], dtype=torch.float64)
        with self.exchange():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return float(values)

    def tell(self, value: Any) -> Any:
        """Return the value of process 0, JSON; what the others give is ignored."""
        return self._gather_json([value] if self.is_first else [])[0]

    def map(self, function: Callable[[Unit], Any], units: Sequence[Unit]) -> Iterator[Any]:
        """Call a function with each unit on one process, and yield the results in order on all.

        Results are exchanged after one unit of each process, so that no process waits for long.

        Args:
            function: returns JSON.
            units: on every process the same.
        """
        for start in range(0, len(units), self.size):
            turn = units[start : start + self.size]
            own = [function(turn[n]) for n in self.share(len(turn))]
            yield from self._gather_json(own)

    def _gather_json(self, own: list[Any]) -> list[Any]:
        """Return the values of all processes, JSON, one after the other by rank."""
        if self.size == 1:
            return own
        lines = "".join(json.dumps(value) + "\n" for value in own)
        data = torch.tensor([*lines.encode()], dtype=torch.uint8)
        return [*map(json.loads, bytes(self.gather(data).tolist()).splitlines())]

    def first(self, work: Callable[[], Any]) -> Any:
        """Call `work` on process 0, and return its result, JSON, on every process.

        Raises:
            RlhfError: what `work` raised, in three lines; on the other processes an
                OtherProcessError.
        """
        if self.size == 1:
            return work()
        error, result = None, None
        try:
            result = work() if self.is_first else None
        except Exception as raised:
            if not (error := expected_error(raised)):
                raise
        lines = error and [error.what, error.where, error.fix, error.exit_code]
        result, lines = self.tell([result, lines])
        if error:
            error.on_every_process = True
            raise error
        if lines:
            raise OtherProcessError(*lines)
        return result

    def agreed(self, error: RlhfError) -> RlhfError:
        """Return an error that every process raises at this point, marked so that one prints it."""
        error.on_every_process = self.size > 1
        return error

    def owned(self, path: Path | None) -> Path | None:
        """Return the path on process 0, which writes there; None on the others."""
        return path if self.is_first else None

    def same(self, what: str, value: Callable[[], str]) -> None:
        """Refuse a run whose processes do not have the same value, such as a hash of weights.

        Args:
            what: names the value in the message.
            value: returns that of this process; not called if it is alone.

        Raises:
            DataError: the value of a process differs from that of process 0.
        """
        if self.size == 1:
            return
        digest = torch.tensor([*sha256(value().encode()).digest()], dtype=torch.uint8)
        digests = self.gather(digest.unsqueeze(0))
        differing = (digests != digests[0]).any(1).nonzero().squeeze(1).tolist()
        if differing:
            where = f"process {', '.join(map(str, differing))} of {self.size}, against process 0"
            fix = "give every process the same files: copy them, or use one shared file system"
            raise DataError(f"{what}: not the same on every process", where, fix)

    def leave(self, *, together: bool) -> None:
        """End the exchange, at the end of a run.

        Args:
            together: wait until every process leaves; False after an error of this process alone,
                so that the others learn of it at once.
        """
        try:
            if together and dist.is_initialized():
                self.most(0.0)
        finally:
            self._failures.leave()

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """Convert what torch.distributed raises inside the block to an error in three lines.

        Raises:
            LostProcessError: another process ended, or did not answer in time.
        """
        start = monotonic()
        try:
            yield
        except (RuntimeError, ValueError) as error:
            timed_out = monotonic() - start >= 0.9 * self._failures.patience
            raise self._failures.lost_process(error, timed_out=timed_out) from error

    @contextmanager
    def collectives(self) -> Iterator[None]:
        """Convert an error of what other libraries exchange, amid errors of other kinds.

        Raises:
            LostProcessError: another process ended, or did not answer in time.
        """
        try:
            yield
        except RuntimeError as error:
            if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            timed_out = any(words in str(error).lower() for words in ("timed out", "timeout"))
            raise self._failures.lost_process(error, timed_out=timed_out) from error


ALONE = World()  # one process


@contextmanager
def join_processes(patience: float = 600.0) -> Iterator[World]:
    """Meet the other processes of the run, and leave together at the end of the block.

    After an error of this process alone it leaves at once, so that the others do not wait. Only
    process 0 prints more than errors.

    Args:
        patience: seconds until a process that does not answer is given up.

    Yields:
        This process among those of the run.
    """
    world, together = World.join(patience), True
    console().quiet |= not world.is_first
    try:
        yield world
    except BaseException as error:
        together = getattr(error, "on_every_process", False)
        raise
    finally:
        world.leave(together=together)
