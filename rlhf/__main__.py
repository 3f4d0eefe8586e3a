"""Runs the command line: `python -m rlhf` is `rlhf`."""

import signal
import sys
from types import FrameType

from rlhf.training.signals import EXIT_CODES


def main() -> int:
    """Run the command line of this process, and return its exit code.

    A signal that comes while the libraries are loaded gives its exit code, too.
    """
    names = [name for name in EXIT_CODES if name != "SIGINT" and hasattr(signal, name)]
    numbers = [getattr(signal, name) for name in names]
    numbers = [n for n in numbers if signal.getsignal(n) != signal.SIG_IGN]
    for number in numbers:
        signal.signal(number, _exit)
    from rlhf.cli.main import main as run

    code = run()
    for number in numbers:  # the work is done: it ends with its own exit code
        signal.signal(number, signal.SIG_IGN)
    return code


def _exit(number: int, _: FrameType | None) -> None:
    sys.exit(EXIT_CODES[signal.Signals(number).name])


if __name__ == "__main__":
    sys.exit(main())
