"""Command lines that are printed to be typed: quoted for the shell, with the run's own scorers."""

import re
import shlex
from collections.abc import Iterable

from rlhf.commands.job import Job


def command_line(
    command: str, words: Iterable[object], *, scorer: str = "", judge: str = ""
) -> str:
    """Return a command line as it would be typed.

    Args:
        command: its name.
        words: its files and `option=value`.
        scorer: what `--scorer=` names; empty for none.
        judge: what `--judge=` names; empty for none.
    """
    named = {"--scorer": scorer, "--judge": judge}
    flags = [f"{flag}={_without_secrets(name)}" for flag, name in named.items() if name]
    return shlex.join(["rlhf", command, *map(str, words), *flags])


def resume_command(job: Job, command: str, checkpoint: str = "") -> str:
    """Return the command line that continues a run; its other options are stored in the run.

    Args:
        job: the call of the command.
        command: its name.
        checkpoint: path of the checkpoint to continue from; empty: the newest.
    """
    words = [*job.files, f"resume={checkpoint or job.run_dir}"]
    return command_line(command, words, scorer=job.scorer, judge=job.judge)


def _without_secrets(name: str) -> str:
    """Return what a flag names, with … for a password and a key in the query of an address."""
    if not re.match("https?://", name, re.IGNORECASE):
        return name
    without_key = re.sub(r"(?<=[?#]).*", "…", name)
    return re.sub(r"(?<=://).*@", "…@", without_key)


def without_resume(words: Iterable[str]) -> list[str]:
    """Return the overrides but the one that names the run to resume."""
    return [word for word in words if word.partition("=")[0].lstrip("+~") != "resume"]
