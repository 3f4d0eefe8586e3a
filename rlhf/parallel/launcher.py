"""Start a command on several processes of this machine, with the elastic agent of torch."""

import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from signal import SIGINT, SIGKILL, SIGTERM, SIGUSR1
from uuid import uuid4

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from rlhf.parallel.environment import RESTARTS

SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1")  # passed on to the processes
BUG, RESOURCES, TERMINATED = 1, 5, 143  # exit codes; 5 also of a process that was left alone
STOPPED = (-SIGTERM, -SIGINT, -SIGUSR1)  # by a signal that asks a run to end
KILLED_AFTER = 30  # seconds that the agent gives the others to end after a failure


def launch(
    command: Sequence[str], processes: int, patience: float, restarts: int = 0
) -> Mapping[int, int] | str:
    """Run a command on several processes and wait for them.

    A signal to this process is passed on to all, which then have time to save.

    Args:
        command: program and arguments.
        processes: how many.
        patience: seconds that they have to save after a signal.
        restarts: how often the run was started before, told to the processes.

    Returns:
        Exit codes of the processes that failed, by rank, negative for those that a signal killed:
        -SIGTERM for those that were ended because another one had failed. Or the name of the
        signal that ended all.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle=",".join(_handled()),
        shutdown_timeout=int(patience),
        logs_specs=DefaultLogsSpecs(),
    )
    try:
        with _kept_handlers(), _environment(RESTARTS, str(restarts)):
            elastic_launch(config, command[0])(*command[1:])
    except SignalException as error:
        return error.sigval.name
    except ChildFailedError as error:
        return _exit_codes(error.failures)
    return {}


def run_exit_code(codes: Mapping[int, int]) -> int:
    """Return the exit code of a run from those of its processes.

    What ended one process ends the others too: with 5, because it does not answer, or with the
    SIGTERM of the launcher. Such a code stands behind one that says what happened.

    Args:
        codes: of the processes that failed, by rank.
    """
    ended = [code for _, code in sorted(codes.items())]
    last = (TERMINATED, BUG, RESOURCES, -SIGTERM)
    told = [code for code in ended if code > 0 and code not in last]
    killed = [code for code in ended if code < 0 and code not in last]
    rest = sorted((code for code in ended if code in last), key=last.index)
    return [*told, *killed, *rest][0]


def is_crash(code: int) -> bool:
    """Whether a run that ended with this code may end otherwise if it is started again.

    Args:
        code: of `run_exit_code`.
    """
    return code in (BUG, RESOURCES) or (code < 0 and code not in STOPPED)


def _exit_codes(failures: Mapping[int, ProcessFailure]) -> dict[int, int]:
    """Return the exit codes by rank; a kill by the agent, after it had waited, counts as ended."""
    first = min(failure.timestamp for failure in failures.values())
    return {
        rank: -SIGTERM
        if failure.exitcode == -SIGKILL and failure.timestamp >= first + KILLED_AFTER
        else failure.exitcode
        for rank, failure in failures.items()
    }


def _handled() -> list[str]:
    """Return the SIGNALS that are not ignored: `nohup` ignores SIGHUP."""
    handlers = {name: signal.getsignal(getattr(signal, name)) for name in SIGNALS}
    return [name for name, handler in handlers.items() if handler != signal.SIG_IGN]


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable inside the block."""
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


@contextmanager
def _kept_handlers() -> Iterator[None]:
    """Restore the handlers of SIGNALS after the block: the agent leaves its own behind."""
    numbers = [getattr(signal, name) for name in SIGNALS]
    handlers = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
