"""Split a checked file into a file of usable lines and a file of the others with their problems."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import msgspec

from rlhf.data.records import Problem, Record, record_kind
from rlhf.errors import UsageError
from rlhf.storage.atomic import replaced_file


def rejected_path(output: Path) -> Path:
    """Return the path of the rejected lines: OUT.rejected.jsonl beside OUT.jsonl."""
    return output.with_suffix(".rejected.jsonl")


def check_output(output: Path, inputs: Sequence[Path], root: Path | None) -> None:
    """Refuse an output that would overwrite an input, or whose image paths would be wrong.

    Args:
        output: the file for the usable lines.
        inputs: the checked files.
        root: the directory that image paths start in; None for the directory of each file.

    Raises:
        UsageError: it is refused, or the inputs have records of different classes.
    """
    existing = [path for path in (output, rejected_path(output)) if path.exists()]
    for path, source in product(existing, filter(Path.exists, inputs)):
        if path.samefile(source):
            raise UsageError(
                "an input would be overwritten",
                f"validate.fix_output={output}",
                "choose a new name",
            )
    directories = {path.resolve().parent for path in inputs}
    if root is None and directories != {output.resolve().parent}:
        raise UsageError(
            "image paths of the usable rows are relative to the directory of their file",
            f"validate.fix_output={output}",
            "write to the one directory of the files, or set data.root=IMAGES",
        )
    if len(kinds := {record_kind(path).__name__ for path in inputs}) > 1:
        raise UsageError(
            f"{', '.join(sorted(kinds))} do not go into one file",
            f"validate.fix_output={output}",
            "repair files of each kind in a separate call",
        )


@contextmanager
def repaired_file(output: Path) -> Iterator[Callable[[bytes, Record | Problem], None]]:
    r"""Open the two files of a repair and yield a function that writes a line to one of them.

    The function takes a line's bytes and what was read there. Usable lines keep their bytes. For a
    problem, `rejected_path(output)` gets file, line, field, message and the line's text, in which
    bytes that are not UTF-8 are written as \xNN. Both files appear when the block ends.

    Raises:
        ResourceError: they cannot be written; files of these names stay as they were.
    """
    with replaced_file(rejected_path(output)) as rejected, replaced_file(output) as usable:

        def write_line(line: bytes, item: Record | Problem) -> None:
            if isinstance(item, Problem):
                text = line.rstrip(b"\r\n").decode(errors="backslashreplace")
                rejected.write(msgspec.json.encode(msgspec.to_builtins(item) | {"text": text}))
                rejected.write(b"\n")
            else:
                usable.write(line if line.endswith(b"\n") else line + b"\n")

        yield write_line
