"""Which commands may run on several processes."""

from rlhf.errors import UsageError
from rlhf.parallel.environment import num_processes


def check_processes(command: str) -> None:
    """Refuse several processes, which would each do all the work, in a run of their own.

    Args:
        command: its name.

    Raises:
        UsageError: a launcher such as torchrun started this process as one of several.
    """
    if (size := num_processes()) > 1:
        what = f"{command} runs on one process, and a launcher started {size}"
        fix = f"start `rlhf {command}` without torchrun; without a launcher: unset WORLD_SIZE"
        raise UsageError(what, f"WORLD_SIZE={size}", fix)
