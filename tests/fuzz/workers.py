"""End the worker processes of `make fuzz` with the process that started them."""

import signal
import sys
from multiprocessing import active_children
from typing import Any, NoReturn


def kill_workers_on_signals() -> None:
    """End this process on SIGTERM and SIGINT, and its workers with it.

    A worker takes any signal for the end of its command line only, and would go on with the next.
    """

    def stop(number: int, _: Any) -> NoReturn:
        for worker in active_children():
            worker.kill()
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
