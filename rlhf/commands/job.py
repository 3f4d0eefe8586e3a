"""What a command is called with; light, so that a command on files loads no model library."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.config.schema import Config

RunCommand = Callable[[str, list[str], list[str]], tuple[Path, dict[str, Any]]]


@dataclass(frozen=True)
class Job:
    """One call of a command.

    Attributes:
        config: the checked options.
        directory: where the run writes; validate and generate write nothing.
        files: positional arguments, files or run directories.
        overrides: the options as given on the command line.
        run_stage: runs another command (name, files, overrides) in a directory of its own.
        scorer: a judge named by `--scorer=` on this command line, FILE.py:NAME or http://….
        keep_options: writes the options into the directory; of a continued run, once they are
            accepted.
    """

    config: Config
    directory: Path
    files: Sequence[Path]
    overrides: Sequence[str]
    run_command: RunCommand = field(repr=False)
    scorer: str = ""
    keep_options: Callable[[], None] = field(default=lambda: None, repr=False)
