"""`rlhf COMMAND parallel.processes=4`: start the command line once more, on several processes."""

import json
import sys
from contextlib import chdir
from pathlib import Path
from signal import Signals
from typing import Any

from rlhf.cli.call import Call
from rlhf.cli.input_checks import check_inputs
from rlhf.cli.notes import is_read
from rlhf.cli.overrides import quote
from rlhf.cli.processes import takes_processes
from rlhf.config.paths import expand_home
from rlhf.config.resolve import with_parts
from rlhf.config.schema import Config
from rlhf.errors import OtherProcessError, ResourceError
from rlhf.parallel.environment import num_processes
from rlhf.training.signals import EXIT_CODES


def starts_processes(command: str, config: Config) -> bool:
    """Whether a command is to be started on several processes, and this is none of them."""
    return takes_processes(command) and config.parallel.processes > 1 and num_processes() == 1


def run_on_processes(call: Call, config: Config, directory: Path, working: str) -> dict[str, Any]:
    """Run a command line on `parallel.processes` processes, and return its metrics.

    Args:
        call: the command line.
        config: its options.
        directory: the run directory.
        working: the directory that the command line was typed in.

    Raises:
        UsageError: the parts cannot be shared by that many processes, or no model is at its path.
        DataError: there is no such file.
        OtherProcessError: the run failed, and has said why.
        ResourceError: a process was killed.
    """
    processes = config.parallel.processes
    if is_read(call.command, "parallel.parts"):
        with_parts(config, processes, call.command)
    from rlhf.parallel.launcher import launch, run_exit_code  # imports torch

    words = [*call.files, *call.overrides, f"hydra.run.dir={quote(str(directory))}", *call.flags]
    words += [f"{flag}={value}" for flag, value in call.values.items()]
    with chdir(working):
        files = [Path(expand_home(word, "FILE")) for word in call.files]
        check_inputs(call.command, config, files, call.scorer)
        ended = launch(
            [sys.executable, "-m", "rlhf", call.command, *words],
            processes,
            config.parallel.patience,
        )
    if isinstance(ended, str):
        raise OtherProcessError(f"stopped by {ended}", str(directory), "", EXIT_CODES.get(ended, 1))
    if ended:
        raise _failure(run_exit_code(ended), ended, call, directory)
    summary: dict[str, Any] = json.loads((directory / "summary.json").read_bytes())
    return summary


def _failure(
    code: int, codes: Any, call: Call, directory: Path
) -> OtherProcessError | ResourceError:
    """Return the error that ends the run, printed only if a process could not print its own."""
    if code > 0:
        return OtherProcessError("a process failed", str(directory), "", code)
    ranks = ", ".join(str(rank) for rank, ended in codes.items() if ended == code)
    what = f"{Signals(-code).name} killed process {ranks} of the run"
    fix = f"continue it: rlhf {' '.join([call.command, *call.files])} resume={directory}"
    return ResourceError(what, str(directory), fix)
