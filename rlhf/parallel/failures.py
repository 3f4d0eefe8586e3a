"""What the processes of a run tell each other, in their store, when one of them fails."""

import os
import re
from contextlib import suppress
from datetime import timedelta
from signal import SIG_IGN, SIGHUP, SIGTERM, signal
from socket import create_connection
from time import monotonic, sleep

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]

from rlhf.errors import LostProcessError
from rlhf.parallel.environment import num_processes, process_rank

GRACE = 5.0  # seconds that the others have to say that they fail too


def launcher_store(seconds: float) -> Store:
    """Connect to the store of the launcher, under a prefix of this attempt.

    The store of torchrun outlives a restart and keeps the addresses of the attempt before.

    Args:
        seconds: until the connection is given up.

    Raises:
        RuntimeError: the store does not answer.
        ValueError: the environment names none.
    """
    limit = timedelta(seconds=seconds)
    store, *_ = next(rendezvous("env://", process_rank(), num_processes(), timeout=limit))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"rlhf-{attempt}", store)


class FailureRecord:
    """Which processes of a run have failed, and why, in the store where they met.

    Args:
        rank: number of this process.
        size: number of processes.
        patience: seconds until a process that does not answer is given up.
        store: of the run; None: they have not met, and nothing is recorded.
    """

    def __init__(
        self, rank: int, size: int, patience: float = 0, store: Store | None = None
    ) -> None:
        self.rank, self.size, self.patience, self.store = rank, size, patience, store

    def leave(self, *, timed_out: bool = False) -> None:
        """End the exchange with the other processes, which they notice at once.

        Args:
            timed_out: because another one has not answered in time.
        """
        if self.store:
            with suppress(RuntimeError):  # the store is lost
                if timed_out:
                    self.store.set("timeout", "")
                self.store.set(_left(self.rank), "")
        if dist.is_initialized():
            dist.destroy_process_group()

    def lost_process(self, error: Exception, *, timed_out: bool) -> LostProcessError:
        """Leave after an error of torch.distributed, and convert it to one in three lines.

        Args:
            error: its first sentence is shown, without the source file that it names.
            timed_out: because another process has not answered in time.
        """
        self.leave(timed_out=timed_out)
        silent = ", ".join(map(str, self.silent_processes()))
        who = f"process {silent}" if silent else "another process"
        first_line = (str(error).strip() or type(error).__name__).split("\n")[0]
        reason = re.sub(r"^\[\S+\] ", "", first_line).split(". ")[0]
        where = f"process {self.rank} of {self.size}: {reason}"
        fix = "see the error of that process; parallel.patience is the time it may be silent"
        return LostProcessError(f"{who} of this run does not answer", where, fix)

    def silent_processes(self) -> list[int]:
        """Return the ranks that do not leave soon after one has not answered in time.

        Returns:
            The ranks; none if all have left, or if nobody had to wait too long.
        """
        ranks = range(self.size)
        if self.store:
            with suppress(RuntimeError):  # the store is lost
                if self.store.check(["timeout"]):
                    _wait(self.store, [_left(rank) for rank in ranks])
                    return [rank for rank in ranks if not self.store.check([_left(rank)])]
        return []

    def is_printed_elsewhere(self, what: str, *, follows: bool) -> bool:
        """Record why this process fails, and tell whether another one prints that.

        Process 0 prints what several processes found.

        Args:
            what: what is wrong.
            follows: whether this may follow from the failure of another process, which is printed
                in its stead.
        """
        if not self.store:
            return False
        if follows and self.store.check(["cause"]):
            return True
        if not follows:
            self.store.set("cause", what)
        self.store.set(f"error-{self.rank}", what)
        if self.rank == 0:
            return False
        found = _wait(self.store, ["error-0"])
        return found and bool(self.store.get("error-0") == what.encode())


def stop_with_launcher() -> None:
    """Let the death of the launcher be a SIGTERM to this process, which is then saved and ends.

    Linux may report the death several times, and a second SIGTERM would stop at once.
    """

    def stop(*_: object) -> None:
        signal(SIGHUP, SIG_IGN)
        os.kill(os.getpid(), SIGTERM)

    with suppress(ValueError):  # not the main thread
        signal(SIGHUP, stop)
        _prctl_pr_set_pdeathsig(SIGHUP)


def is_printed_elsewhere(what: str, *, follows: bool) -> bool:
    """Record at the launcher's store why this process fails, and tell whether another prints that.

    A SIGTERM is ignored from here on: the launcher ends the other processes after a failure.

    Args:
        what: what is wrong.
        follows: whether this may follow from the failure of another process.
    """
    with suppress(RuntimeError, ValueError, LookupError, OSError):  # no store, or no main thread
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        create_connection(address, GRACE).close()  # torch prints pages if there is none
        store = launcher_store(GRACE)
        signal(SIGTERM, SIG_IGN)
        record = FailureRecord(process_rank(), num_processes(), store=store)
        return record.is_printed_elsewhere(what, follows=follows)
    return False


def _left(rank: int) -> str:
    return f"left-{rank}"


def _wait(store: Store, keys: list[str]) -> bool:
    """Whether all keys come soon; `Store.wait` would print a warning if not."""
    end = monotonic() + GRACE
    while not (found := store.check(keys)) and monotonic() < end:
        sleep(0.1)
    return bool(found)
