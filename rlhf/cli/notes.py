"""What a command prints about its options at the start, and about the next step at the end."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf.cli.commands import COMMANDS
from rlhf.cli.overrides import override_name
from rlhf.commands.command_line import command_line
from rlhf.config.option_types import defaults, leaves
from rlhf.config.schema import Config
from rlhf.tracking.console import say

# Options that every command may read, and those that commands read from sections of others.
_COMMON = {"seed", "name", "output_dir", "device", "dtype"}
_COMMON |= {"ppo.microbatch_tokens", "sweep.objective", "sweep.direction"}
_PROMPTS_FILE = "data.prompts=FILE.jsonl"  # in the command that usually follows

# Options that only some of the commands read that read their section.
_READ_BY = {
    "data.evaluation_fraction": ("collect", "ppo", "evaluate"),
    "reward.judge_path": ("demo", "plan", "ppo"),
    "sampling.cuda_graphs": ("demo", "collect", "ppo", "evaluate", "generate"),
}


def option_changes(command: str, config: Config) -> None:
    """Print the options of a command that differ from the defaults, after all files and words.

    Args:
        command: its name; options that it does not read are left out.
        config: its options.
    """
    before, now = dict(leaves(defaults())), dict(leaves(asdict(config)))
    changed = [
        f"{name}={_shown(value)}"
        for name, value in now.items()
        if value != before[name] and name != "name" and is_read(command, name)
    ]
    if changed:
        say(f"options: {' '.join(changed)}")


def unused_options(command: str, overrides: Sequence[str]) -> None:
    """Print the options and groups named on the command line that the command does not read."""
    read = {name: is_read(command, name) for name, _ in leaves(defaults())}
    read |= {name: _reads_group(command, name) for name in defaults() if name not in read}
    unused = [word for word in overrides if not read.get(override_name(word), True)]
    if unused:
        say(f"rlhf {command} does not read {' '.join(unused)}", "yellow")


def _reads_group(command: str, section: str) -> bool:
    """Tell whether a command reads a section, of which a group of the same name has files."""
    row = COMMANDS[command]
    single = [option.partition(".")[0] for option in row.root_options if "." in option]
    return section in row.sections or section in single


def is_read(command: str, option: str) -> bool:
    """Tell whether a command reads an option.

    Args:
        command: its name.
        option: its dotted name.
    """
    row, section = COMMANDS[command], option.rpartition(".")[0]
    if command not in _READ_BY.get(option, (command,)):
        return False
    return option in _COMMON or section in row.sections or option in row.root_options


def next_step(
    command: str, run_dir: Path, config: Config, summary: Mapping[str, Any], scorer: str = ""
) -> None:
    """Print the command that usually follows.

    Args:
        command: the one that ended.
        run_dir: its run directory.
        config: its options.
        summary: its metrics.
        scorer: what its `--scorer=` names; that of the next command, if it takes one.
    """
    output = config.output or summary.get("output") or summary.get("page")
    reward = "" if scorer else f"reward.path={config.reward.path}"
    values = {
        "run": run_dir,
        "model": config.model.path or "MODEL",
        "output": output,
        "reward": reward,
    }
    words = [
        filled
        for word in COMMANDS[command].next_step.split()
        for filled in (_prompts(config) if word == _PROMPTS_FILE else [word.format(**values)])
    ]
    if words:
        say(f"next: {_typed([word for word in words if word], scorer)}")


def _prompts(config: Config) -> list[str]:
    """Return the words that name the folder of prompts, or what stands for a file of them."""
    data = config.data
    if not data.prompts or not Path(data.prompts).is_dir():
        return [_PROMPTS_FILE]
    recursive = "true" if data.recursive else ""
    values = {"data.prompts": data.prompts, "data.root": data.root, "data.recursive": recursive}
    values["instruction"] = config.instruction
    return [f"{name}={value}" for name, value in values.items() if value]


def _typed(words: Sequence[str], scorer: str) -> str:
    """Return words quoted for the shell, with the scorer if they are a command that takes one."""
    program, command, *rest = words
    if program != "rlhf":
        return shlex.join(words)
    takes_scorer = COMMANDS[command].takes_scorer
    return command_line(command, rest, scorer=scorer if takes_scorer else "")


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    return repr(text) if " " in text or not text else text
