"""A checked file in two: the usable lines as they are, the rest with its reasons."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import msgspec

from rlhf.data.records import Problem, Record, record_kind
from rlhf.errors import UsageError
from rlhf.storage.atomic import replaced_file


def rejected_path(output: Path) -> Path:
    """Where the rest of `output` goes: OUT.rejected.jsonl beside OUT.jsonl."""
    return output.with_suffix(".rejected.jsonl")


def check_output(output: Path, inputs: Sequence[Path], root: Path | None) -> None:
    """Refuse an output that would destroy an input, or whose rows would not find their images.

    Args:
        root: where image paths start; None for the directory of each file.

    Raises:
        UsageError: see above, or the inputs are of different kinds.
    """
    existing = [path for path in (output, rejected_path(output)) if path.exists()]
    for path, given in product(existing, filter(Path.exists, inputs)):
        if path.samefile(given):
            raise UsageError(
                "an input would be overwritten",
                f"validate.fix_output={output}",
                "choose a new name",
            )
    directories = {path.resolve().parent for path in inputs}
    if root is None and directories != {output.resolve().parent}:
        raise UsageError(
            "the usable rows name their images from the folder of their own file",
            f"validate.fix_output={output}",
            "write into the one folder of the files, or set data.root=IMAGES",
        )
    if len(kinds := {record_kind(path).__name__ for path in inputs}) > 1:
        said = f"{', '.join(sorted(kinds))} do not go into one file"
        raise UsageError(
            said,
            f"validate.fix_output={output}",
            "give the files of each kind in a call of their own",
        )


@contextmanager
def repaired_file(output: Path) -> Iterator[Callable[[bytes, Record | Problem], None]]:
    """A function that takes each line with what was read there; both files come at the end.

    Usable lines keep their bytes. Of the others `rejected_path` says file, line, field, message
    and text, in which a byte that is no UTF-8 is written \\xNN.

    Raises:
        ResourceError: they cannot be written; files of these names stay as they were.
    """
    with replaced_file(rejected_path(output)) as rejected, replaced_file(output) as usable:

        def put(line: bytes, item: Record | Problem) -> None:
            if isinstance(item, Problem):
                text = line.rstrip(b"\r\n").decode(errors="backslashreplace")
                rejected.write(msgspec.json.encode(msgspec.to_builtins(item) | {"text": text}))
                rejected.write(b"\n")
            else:
                usable.write(line if line.endswith(b"\n") else line + b"\n")

        yield put
