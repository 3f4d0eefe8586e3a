"""The command line: `rlhf COMMAND [FILE…] [option=value…] [flags]`."""

import sys
import traceback
from collections.abc import Sequence
from functools import partial

from rlhf import __version__
from rlhf.cli.call import Call, parse
from rlhf.cli.help import command_help, overview
from rlhf.cli.input_checks import load_function
from rlhf.cli.processes import check_processes, code_if_told_elsewhere, is_quiet, named_process
from rlhf.errors import expected_error
from rlhf.storage.run_directory import json_text
from rlhf.tracking.console import console, print_error
from rlhf.training.signals import raise_on_signal

__all__ = ["load_function", "main", "parse"]


def main(arguments: list[str] | None = None) -> int:
    """Run one command line.

    Args:
        arguments: its words; None: the arguments of this process.

    Returns:
        The exit code: 0 done, 1 a bug, 2 usage, 3 data, 4 diverged, 5 resources, 6 the run
        directory is in use, 75, 130 and 143 stopped by a signal. Of a sweep: 0, or that of its
        first member that failed.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        with raise_on_signal():
            return _run(parse(words), words)
    except Exception as error:
        if (code := code_if_told_elsewhere(error)) is not None:
            return code
        if not expected_error(error):
            raise
        return report(error, words)
    except KeyboardInterrupt:
        return 130
    finally:
        console().quiet = False


def report(error: Exception, words: Sequence[str]) -> int:
    """Print an error, called where it was caught, and return its exit code.

    Args:
        error: printed in three lines, or with its traceback if it is a bug.
        words: of the command line; `--debug` and `--json` are looked for.
    """
    known = expected_error(error)
    if "--debug" in words or not known:
        traceback.print_exc()
    if not known:
        return 1
    print_error(named_process(known))
    if "--json" in words and (metrics := getattr(known, "metrics", None)):
        print(json_text(metrics))
    return known.exit_code


def _run(call: Call, words: Sequence[str]) -> int:
    if "--version" in call.flags:
        print(f"rlhf {__version__}")
        return 0
    if request := call.values.get("--shell-completion"):
        from rlhf.cli.completion import completion

        print(completion(request), end="")
        return 0
    if not call.command:
        print(overview(), end="")
        return 0
    if "--help" in call.flags:
        print(command_help(call.command), end="")
        return 0
    check_processes(call)
    from rlhf.cli.hydra_task import run_call  # imports Hydra

    console().quiet = is_quiet(call)
    return run_call(call, load_function, partial(report, words=words))
