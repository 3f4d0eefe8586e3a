"""A command line on several processes: which commands may, and what each process prints."""

from rlhf.cli.call import Call
from rlhf.cli.notes import is_read
from rlhf.errors import OtherProcessError, RlhfError, UsageError
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
    return is_read(command, "parallel.processes")


def is_quiet(call: Call) -> bool:
    """Whether this process prints errors only: with `--json`, and on all but process 0."""
    return "--json" in call.flags or process_rank() > 0


def is_told_elsewhere(error: RlhfError) -> bool:
    """Whether process 0 prints this error, or has printed it."""
    return isinstance(error, OtherProcessError) or (process_rank() > 0 and error.on_every_process)


def named_process(error: RlhfError) -> RlhfError:
    """Return the error with the number of this process, unless it is process 0."""
    if rank := process_rank():
        return RlhfError(f"process {rank}: {error.what}", error.where, error.fix)
    return error
