"""A command line on several processes: which commands may, and what each process prints."""

from rlhf.cli.call import Call
from rlhf.cli.commands import COMMANDS
from rlhf.cli.notes import is_read
from rlhf.errors import (
    LostProcessError,
    OtherProcessError,
    RlhfError,
    StoppedError,
    UsageError,
    expected_error,
)
from rlhf.parallel.environment import num_processes, process_rank


def check_processes(call: Call) -> None:
    """Refuse several processes that would each do all the work, in a run of their own.

    Args:
        call: the command line.

    Raises:
        UsageError: a launcher such as torchrun started this process as one of several, and the
            command does not know it.
    """
    if (size := num_processes()) == 1:
        return
    name = f"rlhf {call.command}"
    if not takes_processes(call.command):
        what = f"{call.command} runs on one process, and a launcher started {size}"
        fix = f"start `{name}` without torchrun; without a launcher: unset WORLD_SIZE"
        raise UsageError(what, f"WORLD_SIZE={size}", fix)
    if "--multirun" in call.flags:
        what, fix = "a sweep runs on one process", "start its members one by one"
        raise UsageError(what, f"--multirun WORLD_SIZE={size}", fix)


def takes_processes(command: str) -> bool:
    """Whether a command may run on several processes."""
    return COMMANDS[command].has_run_dir and is_read(command, "parallel.processes")


def is_quiet(call: Call) -> bool:
    """Whether this process prints errors only: with `--json`, and on all but process 0."""
    return "--json" in call.flags or process_rank() > 0


def code_if_told_elsewhere(error: Exception) -> int | None:
    """Return the exit code of an error that another process of the run prints; else None.

    Args:
        error: what ended this process.
    """
    known = expected_error(error)
    if isinstance(known, OtherProcessError):
        return known.exit_code
    if num_processes() == 1:
        return None
    if known and known.on_every_process:
        return known.exit_code if process_rank() else None
    from rlhf.parallel.failures import is_printed_elsewhere  # imports torch

    follows = isinstance(known, LostProcessError | StoppedError)
    if not is_printed_elsewhere(known.what if known else repr(error), follows=follows):
        return None
    if follows:
        return LostProcessError.exit_code
    return known.exit_code if known else 1


def named_process(error: RlhfError) -> RlhfError:
    """Return the error with the number of this process, unless it is process 0."""
    if rank := process_rank():
        return RlhfError(f"process {rank}: {error.what}", error.where, error.fix)
    return error
