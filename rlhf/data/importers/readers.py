"""Read rows of JSON, JSON Lines and parquet files, told apart by their first bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from rlhf.data.importers.fields import Row, Skip
from rlhf.errors import DataError, UsageError

MAX_LINE_BYTES = 64_000_000  # an image of 20 MB in base64 fits
COLUMN_SAMPLE_ROWS = 1000  # the fields of so many first rows are a JSON file's columns
BATCH = 64  # rows of a parquet file in memory at a time, images included


class OpenedRows(NamedTuple):
    """The rows of an open file.

    Attributes:
        columns: the names of the columns.
        total: the number of rows.
        rows: the rows with their numbers from 1; a Skip for what is no row.
    """

    columns: frozenset[str]
    total: int
    rows: Iterator[tuple[int, Row | Skip]]


def open_rows(path: Path) -> OpenedRows:
    """Open a file whose rows are read one by one.

    Raises:
        DataError: it cannot be read, has no rows, or another format; also while rows are read.
        UsageError: it is a parquet file and pyarrow is not installed.
    """
    try:
        if path.exists() and not path.is_file():  # a FIFO would block for ever
            raise OSError(0, "not a regular file")
        with path.open("rb") as file:
            head = file.read(4096)
        return _open_by_content(path, head)
    except (OSError, ValueError, RecursionError) as error:
        raise _import_error(path, getattr(error, "strerror", None) or error) from error


def import_pyarrow(module: str) -> Any:
    """Import a module of pyarrow, which only parquet files need.

    Raises:
        UsageError: pyarrow is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        fix = "pip install 'rlhf[data]'"
        raise UsageError("parquet files need pyarrow", module, fix) from error


def _open_by_content(path: Path, head: bytes) -> OpenedRows:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"PAR1"):
        rows = _parquet(path)
    elif path.suffix == ".parquet":
        raise ValueError("it is no parquet file" + _lfs_hint(head))
    elif start.startswith(b"["):
        rows = _json_list(path)
    elif start.startswith(b"{"):
        rows = _json_lines(path)
    else:
        raise ValueError("it is neither JSON nor parquet" + _lfs_hint(head) if start else "no rows")
    if not rows.total:
        raise ValueError("no rows")
    return rows


def _lfs_hint(head: bytes) -> str:
    lfs = head.startswith(b"version https://git-lfs")
    return ": a Git LFS pointer, not the file it stands for" if lfs else ""


def _import_error(path: Path, reason: object) -> DataError:
    fix = "Give a JSON list, JSON lines or a parquet file, whole and unpacked."
    return DataError(f"The file cannot be imported: {reason}.", str(path), fix)


def _json_list(path: Path) -> OpenedRows:
    values = msgspec.json.decode(path.read_bytes().removeprefix(b"\xef\xbb\xbf"), type=list[Any])
    rows = [row if isinstance(row, dict) else Skip("not an object") for row in values]
    return OpenedRows(_columns(enumerate(rows)), len(rows), enumerate(rows, 1))


def _json_lines(path: Path) -> OpenedRows:
    with path.open("rb") as file:
        total = sum(1 for line in file if line.strip())
    return OpenedRows(_columns(_lines(path)), total, _lines(path))


def _lines(path: Path) -> Iterator[tuple[int, Row | Skip]]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
            if len(line) > MAX_LINE_BYTES:
                raise _import_error(path, f"line {number} is over {MAX_LINE_BYTES // 10**6} MB")
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield number, _decode_object(line)


def _decode_object(line: bytes) -> Row | Skip:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return Skip("not one JSON object", detail=error)


def _columns(rows: Iterator[tuple[int, Row | Skip]]) -> frozenset[str]:
    first = islice(rows, COLUMN_SAMPLE_ROWS)
    return frozenset(name for _, row in first if not isinstance(row, Skip) for name in row)


def _parquet(path: Path) -> OpenedRows:
    parquet = import_pyarrow("pyarrow.parquet")
    with _parquet_faults(path):
        file = parquet.ParquetFile(path)
    names = frozenset(file.schema_arrow.names)
    return OpenedRows(names, file.metadata.num_rows, _batches(path, file))


def _batches(path: Path, file: Any) -> Iterator[tuple[int, Row]]:
    batches, number = file.iter_batches(BATCH), 0
    while True:
        with _parquet_faults(path, f"after row {number}: "):
            batch = next(batches, None)
            rows = batch.to_pylist() if batch else []
        if not rows:
            return
        yield from enumerate(rows, number + 1)
        number += len(rows)


@contextmanager
def _parquet_faults(path: Path, place: str = "") -> Iterator[None]:
    try:
        yield
    except (import_pyarrow("pyarrow").ArrowException, OSError, ValueError) as error:
        raise _import_error(path, place + str(error).partition("\n")[0]) from error
