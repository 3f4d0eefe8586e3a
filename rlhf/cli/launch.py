"""`rlhf COMMAND parallel.processes=4`: start the command line once more, on several processes."""

import sys
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from signal import Signals
from typing import Any

from rlhf.cli.call import Call
from rlhf.cli.input_checks import check_inputs
from rlhf.cli.notes import is_read
from rlhf.cli.overrides import quote
from rlhf.cli.processes import takes_processes
from rlhf.commands.command_line import command_line, without_resume
from rlhf.config.paths import expand_home
from rlhf.config.resolve import with_parts
from rlhf.config.schema import Config
from rlhf.errors import OtherProcessError, ResourceError, RlhfError, UsageError
from rlhf.parallel.environment import num_processes, num_restarts
from rlhf.storage.json_files import JsonObject, read_json
from rlhf.tracking.console import say
from rlhf.training.signals import EXIT_CODES


def starts_processes(command: str, config: Config) -> bool:
    """Whether a command is to be started on several processes, and this is none of them."""
    return takes_processes(command) and config.parallel.processes > 1 and num_processes() == 1


def check_restarts(command: str, config: Config) -> None:
    """Refuse `parallel.restarts` where nothing would start the run again.

    Raises:
        UsageError: the run has one process, or another launcher has started it.
    """
    named = takes_processes(command) and config.parallel.restarts > 0
    if not named or num_restarts() is not None:
        return
    where = f"parallel.restarts={config.parallel.restarts}"
    if num_processes() > 1:
        fix = "add parallel.restarts=0, and write torchrun --max-restarts=N … resume=auto"
        raise UsageError("only processes that rlhf starts itself are started again", where, fix)
    if config.parallel.processes == 1:
        fix = "add parallel.restarts=0; after a crash: resume=RUN"
        raise UsageError("a run on one process is not started again", where, fix)


def run_on_processes(call: Call, config: Config, directory: Path, working: str) -> dict[str, Any]:
    """Run a command line on `parallel.processes` processes, and return its metrics.

    After a crash it is started again, at most `parallel.restarts` times, from its newest
    checkpoint, or from the start if it has none yet.

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
        RlhfError: a process ended with a bug.
    """
    parallel = config.parallel
    if is_read(call.command, "parallel.parts"):
        with_parts(config, parallel.processes, call.command)
    from rlhf.parallel.launcher import is_crash, launch, run_exit_code  # imports torch

    with chdir(working):
        files = [Path(expand_home(word, "FILE")) for word in call.files]
        check_inputs(call.command, config, files, call.scorer, call.judge)
    for restart in range(parallel.restarts + 1):
        with chdir(working):
            words = _command_line(call, directory, restart)
            ended = launch(words, parallel.processes, parallel.patience, restart)
        if isinstance(ended, str):
            code = EXIT_CODES.get(ended, 1)
            raise OtherProcessError(f"stopped by {ended}", str(directory), "", code)
        if not ended:
            break
        code = run_exit_code(ended)
        failure = _failure(code, ended, call, directory)
        if restart == parallel.restarts or not is_crash(code):
            raise failure
        count = f"{restart + 1} of {parallel.restarts}"
        say(f"{failure.what}: it starts again, {count}", "yellow")
    return read_json(directory / "summary.json", JsonObject)


def _command_line(call: Call, directory: Path, restart: int) -> list[str]:
    """Return the words that start a process of the run, or start it again."""
    overrides = call.overrides
    if restart and (directory / "config.yaml").exists():
        overrides = [*without_resume(overrides), f"resume={directory}"]
    words = [*call.files, *overrides, f"hydra.run.dir={quote(str(directory))}", *call.flags]
    words += [f"{flag}={value}" for flag, value in call.values.items()]
    return [sys.executable, "-m", "rlhf", call.command, *words]


def _failure(code: int, codes: Mapping[int, int], call: Call, directory: Path) -> RlhfError:
    """Return the error that ends the run, printed only if no process has printed its own."""
    ranks = ", ".join(str(rank) for rank, ended in codes.items() if ended == code)
    what, where = f"process {ranks} of the run ended with exit code {code}", str(directory)
    words = [*call.files, f"resume={directory}"]
    again = command_line(call.command, words, scorer=call.scorer, judge=call.judge)
    fix = f"continue with: {again}"
    if code < 0:
        return ResourceError(f"{Signals(-code).name} killed process {ranks} of the run", where, fix)
    if code == 1:
        return RlhfError(what, where, "see its traceback above")
    return OtherProcessError(what, where, "", code)
