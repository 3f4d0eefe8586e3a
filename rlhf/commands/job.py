"""The argument of every command. Imports no model library, for commands that only read files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.config.schema import Config

if TYPE_CHECKING:  # imports torch
    from rlhf.parallel.world import World

RunCommand = Callable[[str, list[str], list[str]], tuple[Path, dict[str, Any]]]


@dataclass(frozen=True)
class Job:
    """One call of a command: its options, files and run directory.

    Attributes:
        config: the checked options.
        run_dir: where the run writes; `.` for a command without a run directory.
        files: words without `=` on the command line, files or run directories.
        overrides: words `option=value` on the command line.
        run_command: runs another command (name, files, overrides) in a run directory of its own;
            returns that directory and the metrics.
        scorer: what `--scorer=` names, FILE.py:NAME or http://…; empty for none.
        judge: what `--judge=` names, of the same form; empty for none.
        write_options: writes config.yaml to the run directory; a resumed run calls it once its
            options are accepted.
        world: this process among those of the run; None: it is alone.
    """

    config: Config
    run_dir: Path
    files: Sequence[Path]
    overrides: Sequence[str]
    run_command: RunCommand = field(repr=False)
    scorer: str = ""
    judge: str = ""
    write_options: Callable[[], None] = field(default=lambda: None, repr=False)
    world: "World | None" = field(default=None, repr=False)
