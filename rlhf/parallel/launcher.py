"""Start a command on several processes of this machine, with the elastic agent of torch."""

import logging
import os
from collections.abc import Mapping, Sequence
from signal import SIGTERM
from uuid import uuid4

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"  # passed on to the processes
BUG, RESOURCES = 1, 5  # exit codes; 5 also of a process that another one has left alone


def launch(command: Sequence[str], processes: int, patience: float) -> Mapping[int, int] | str:
    """Run a command on several processes and wait for them.

    A signal to this process is passed on to all, which then have time to save.

    Args:
        command: program and arguments.
        processes: how many.
        patience: seconds that they have to save after a signal.

    Returns:
        Exit codes of the processes that failed, by rank, negative for those that a signal killed;
        or the name of the signal that ended all.
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
        signals_to_handle=SIGNALS,
        shutdown_timeout=int(patience),
        logs_specs=DefaultLogsSpecs(),
    )
    try:
        elastic_launch(config, command[0])(*command[1:])
    except SignalException as error:
        return error.sigval.name
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}
    return {}


def run_exit_code(codes: Mapping[int, int]) -> int:
    """Return the exit code of a run from those of its processes.

    What ended one process ends the others too: with 5, because it does not answer, or with the
    SIGTERM of the launcher. Such a code stands behind one that says what happened.

    Args:
        codes: of the processes that failed, by rank.
    """
    ended = [code for _, code in sorted(codes.items())]
    told = [code for code in ended if code > 0 and code not in (BUG, RESOURCES)]
    killed = [code for code in ended if code < 0 and code != -SIGTERM]
    rest = [code for last in (BUG, RESOURCES, -SIGTERM) for code in ended if code == last]
    return [*told, *killed, *rest][0]
