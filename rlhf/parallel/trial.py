"""Try in a child process what files from outside may make endless: templates, patterns, texts.

Code in C or Rust sees no signal of Python and no limit of ours; a process has limits that the
system keeps. What a trial survives is then done in this process.
"""

import faulthandler
import gc
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress

from rlhf.errors import DataError
from rlhf.storage.bounded import mapped_bytes

CPU_SECONDS = 1  # what is tried takes milliseconds with honest files
MORE_MEMORY = 1_000_000_000  # bytes
_PATIENCE = 60  # seconds; a child may hang that was forked while a lock was held: no one's fault
_OUT_OF_MEMORY, _PANIC = 80, 81
_REASONS = {
    -signal.SIGXCPU: f"it takes over {CPU_SECONDS} s where milliseconds are usual",
    _OUT_OF_MEMORY: f"it takes over {MORE_MEMORY // 10**9} GB of memory",
    -signal.SIGABRT: f"it takes over {MORE_MEMORY // 10**9} GB of memory",
    -signal.SIGSEGV: "it crashes the library that reads it",
    _PANIC: "it crashes the library that reads it",
}


def try_in_child(function: Callable[[], object], what: str, where: str, fix: str) -> None:
    """Call a function in a forked process, and refuse what takes too long or too much memory.

    An error that the function raises there is ignored: it is raised here again by the same call.

    Args:
        function: what is tried; nothing that it changes is changed in this process.
        what: one sentence, what is wrong where it does not end; the reason is added.
        where: the file.
        fix: one sentence, what to do about it.

    Raises:
        DataError: it took more than `CPU_SECONDS` or `MORE_MEMORY`, or ended the process.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        pid = os.fork()
    if not pid:
        _end_with(function)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    counts = sys.platform == "linux" or code == -signal.SIGXCPU  # a Mac forbids forks beside a GPU
    if counts and code in _REASONS:
        raise DataError(f"{what}: {_REASONS[code]}", where, fix)


def _end_with(function: Callable[[], object]) -> None:
    """End this process, a child: call the function, and say how it went by the exit code."""
    code = _PANIC
    try:
        _set_limits()
        function()
        code = 0
    except MemoryError:
        code = _OUT_OF_MEMORY
    except Exception:
        code = 0
    finally:
        os._exit(code)


def _set_limits() -> None:
    faulthandler.disable()  # an abort is told by its exit code
    gc.disable()  # a collection would touch, and so copy, all memory of this fork
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    for number in (signal.SIGXCPU, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.alarm(_PATIENCE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    with suppress(ValueError):  # a lower limit holds already
        resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes() + MORE_MEMORY, hard))
