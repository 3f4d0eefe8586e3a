"""Check where a command writes, before it reads anything: no input is replaced by an output."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf.cli.commands import COMMANDS
from rlhf.config.option_types import leaves, path_options
from rlhf.config.paths import expand_home
from rlhf.config.schema import Config
from rlhf.errors import UsageError
from rlhf.storage.atomic import output_file

OUTPUT_OPTIONS = ("output", "annotate.output", "validate.fix_output")
NO_INPUTS = (*OUTPUT_OPTIONS, "output_dir", "resume", "data.root", "model.vision_cache_dir")


def check_outputs(
    command: str, config: Config, files: Sequence[str], scorer: str, judge: str
) -> None:
    """Refuse an output that the command does not write, is no file, or is one of its inputs.

    Args:
        command: its name.
        config: its options.
        files: its words without `=`.
        scorer: what `--scorer=` names.
        judge: what `--judge=` names.

    Raises:
        UsageError: it is refused.
    """
    if config.output and not COMMANDS[command].writes_output:
        commands = ", ".join(sorted(name for name, row in COMMANDS.items() if row.writes_output))
        what, fix = f"{command} writes no output", f"leave it out; output= is for {commands}"
        raise UsageError(what, f"output={config.output}", fix)
    values = dict(leaves(asdict(config)))
    inputs = [*_inputs(values, files, scorer, judge)]
    for option in OUTPUT_OPTIONS:
        if output := values[option]:
            output_file(Path(output))
            _refuse_input(option, output, inputs)


def _inputs(
    values: Mapping[str, Any], files: Sequence[str], scorer: str, judge: str
) -> Iterator[tuple[str, str]]:
    """Yield the inputs of a command: what names each of them, and its path."""
    yield from (("FILE", expand_home(word, "FILE")) for word in files)
    yield from ((name, str(values[name])) for name in path_options() if name not in NO_INPUTS)
    for flag, source in (("--scorer", scorer), ("--judge", judge)):
        yield flag, expand_home(source.rpartition(":")[0], flag)


def _refuse_input(option: str, output: str, inputs: Sequence[tuple[str, str]]) -> None:
    for name, path in inputs:
        if path and _same(path, output):
            what = f"an input of this command would be overwritten: {name}"
            raise UsageError(what, f"{option}={output}", "choose a new name")


def _same(one: str, other: str) -> bool:
    """Whether two paths are one file, also through links."""
    try:
        return Path(one).samefile(other)
    except OSError:
        return False
