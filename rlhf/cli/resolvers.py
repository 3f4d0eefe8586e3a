"""Interpolations that conf/ uses: the directory of a run, of a sweep and of its members."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from rlhf.cli.commands import COMMANDS
from rlhf.cli.overrides import override_name, typed_value
from rlhf.config.paths import expand_home
from rlhf.errors import RlhfError, UsageError
from rlhf.parallel.environment import process_rank
from rlhf.storage.run_directory import new_run_directory, run_directory_of, unfinished_run
from rlhf.storage.sweep import unfinished_sweep

LONGEST_NAME = 150  # characters of a member's directory; file systems allow 255 bytes


@dataclass
class RunDirectories:
    """Names the directories of one command line: that of its run, or that of its sweep.

    Hydra sends its resolvers to the processes that it starts, so this is no closure.

    Attributes:
        command: the name of the command.
        reserves: make the directory of a new run or sweep, once; else only say where it would be.
        sweep_words: the words by which a sweep is found again.
        made: the directories made so far, by their parent; Hydra composes, and asks, many times.
    """

    command: str
    reserves: bool
    sweep_words: tuple[str, ...] = ()
    made: dict[Path, str] = field(default_factory=dict)

    def register(self) -> None:
        """Make `${run_dir:…}` and `${sweep_dir:…}` of conf/base.yaml resolve to them."""
        OmegaConf.register_new_resolver("run_dir", self.run, replace=True)
        OmegaConf.register_new_resolver("sweep_dir", self.sweep, replace=True)

    def run(self, output_dir: str, name: str, resume: str) -> str:
        """Return the directory of the run.

        Args:
            output_dir: the option of this name.
            name: the option of this name.
            resume: the run to continue, `auto`, or empty for a new one.
        """
        if not COMMANDS[self.command].has_run_dir:
            return "."
        parent = Path(expand_home(str(output_dir), "output_dir")) / str(name)
        run = run_to_resume(parent, self.command) if resume == "auto" else resume
        if run:
            return str(run_directory_of(expand_home(str(run), "resume")))
        return self.new(output_dir, name)

    def sweep(self, output_dir: str, name: str, resume: str) -> str:
        """Return the directory of the sweep.

        Args:
            output_dir: the option of this name.
            name: the option of this name.
            resume: `auto` for the newest sweep of this command line, if it is not done.
        """
        parent = Path(expand_home(str(output_dir), "output_dir")) / str(name)
        auto = resume == "auto"
        found = unfinished_sweep(parent, self.command, self.sweep_words) if auto else None
        return str(found or self.new(output_dir, name))

    def new(self, output_dir: str, name: str) -> str:
        """Return the directory of the new run or sweep."""
        output = Path(expand_home(str(output_dir), "output_dir"))
        parent = output / str(name)
        if not self.reserves or process_rank():  # process 0 tells the others its directory
            return str(parent / "NEW")
        if parent not in self.made:
            try:
                self.made[parent] = str(new_run_directory(output, str(name)))
            except RlhfError:  # says what is wrong when the directory is made
                return str(parent / "new")
        return self.made[parent]


def run_to_resume(directory: Path, command: str) -> Path | None:
    """Return the run of a directory that `resume=auto` continues; None: a new one begins."""
    needs_checkpoint = COMMANDS[command].has_checkpoints
    return unfinished_run(directory, command, needs_checkpoint=needs_checkpoint)


def swept_overrides(settings: Any) -> dict[str, str]:
    """Return the options that differ between members of a sweep, with this member's values.

    Args:
        settings: Hydra's own section, in a member.

    Returns:
        Options with their values as they would be typed.
    """
    fixed = settings.job.config.override_dirname.exclude_keys
    words = OmegaConf.to_container(settings.overrides.task, resolve=False)
    assert isinstance(words, list)
    return {override_name(x): typed_value(x) for x in words if override_name(x) not in fixed}


def member_directory(overrides: dict[str, str], number: int) -> str:
    """Return the name of a sweep member's directory: its overrides, `seed=1,ppo.kl_coef=0.05`.

    Args:
        overrides: of this member alone.
        number: of the member in the sweep, from 0; distinguishes names that had to be changed.
    """
    full = ",".join(f"{name}={value}" for name, value in overrides.items())
    plain = re.sub(r"[^\w.,=+@~ -]+", "_", full).strip(" .")
    if plain == full and 0 < len(plain.encode()) <= LONGEST_NAME:
        return plain
    return f"{number}-{plain[: LONGEST_NAME // 4]}".rstrip(" .-")


def _member_directory() -> str:
    settings = HydraConfig.get()
    return member_directory(swept_overrides(settings), int(settings.job.num))


def _environment(name: str, default: str | None = None, *, _node_: Any) -> str | None:
    """Return an environment variable, for Hydra's own keys only: options are stored."""
    key = str(_node_._get_full_key(None))
    if not key.startswith("hydra."):
        fix = f'let the shell write it: {key}="${name}"'
        raise UsageError("an option reads no environment variable", f"{key}: {name}", fix)
    return os.environ.get(name, default)


# Registered at import, so that they also exist in the processes that a launcher starts.
OmegaConf.register_new_resolver("member_dir", _member_directory, replace=True)
OmegaConf.register_new_resolver("oc.env", _environment, replace=True)
