"""Read rows of JSON, JSON Lines, CSV and parquet files, told apart by their content."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from rlhf.data.file_kinds import kind_of
from rlhf.data.importers.fields import Row, Skip
from rlhf.data.importers.json_values import decode_values, list_elements
from rlhf.data.importers.text_tables import TextTable
from rlhf.errors import DataError, UsageError
from rlhf.storage.bounded import memory_limit, read_bytes

MAX_LINE_BYTES = 64_000_000  # an image of 20 MB in base64 fits
COLUMN_SAMPLE_ROWS = 1000  # the fields of so many first rows are a JSON file's columns
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
MAX_DOCUMENT_BYTES = 128_000_000  # of JSON that is decoded whole, and not row by row
BATCH = 16  # rows of a parquet file in memory at a time, images included
_BATCH_MEMORY = 1_500_000_000  # bytes; a value of 20 MB, written 16 times, takes a third of it


class OpenedRows(NamedTuple):
    """The rows of an open file.

    Attributes:
        columns: the names of the columns.
        total: the number of rows.
        rows: the rows with their numbers from 1; a Skip for what is no row.
        note: what was assumed in order to read the file; "" for nothing.
    """

    columns: frozenset[str]
    total: int
    rows: Iterator[tuple[int, Row | Skip]]
    note: str = ""


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
    except UnicodeDecodeError as error:
        reason = "it is not in UTF-8; convert it with iconv -f WINDOWS-1252 -t UTF-8"
        raise _import_error(path, reason) from error
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
        fix = "pip install 'rlhf-llava[data]'"
        raise UsageError("parquet files need pyarrow", module, fix) from error


def _open_by_content(path: Path, head: bytes) -> OpenedRows:
    if head.startswith(_UTF16):
        return _not_empty(_utf16(path))
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        raise ValueError("no rows")
    if head.startswith(b"PAR1"):
        return _not_empty(_parquet(path))
    if kind := kind_of(start):
        raise ValueError(f"it is {kind.name}: {kind.fix}")
    if path.suffix == ".parquet":
        raise ValueError("it is no parquet file")
    if start.startswith(b"["):
        return _not_empty(_json_list(path))
    return _not_empty(_json_lines(path) if start.startswith(b"{") else _text_table(path))


def _not_empty(rows: OpenedRows) -> OpenedRows:
    if not rows.total:
        raise ValueError("no rows")
    return rows


def _import_error(path: Path, reason: object) -> DataError:
    fix = "Give a JSON list, JSON lines, CSV, TSV or a parquet file, whole and unpacked."
    return DataError(f"The file cannot be imported: {reason}.", str(path), fix)


def _utf16(path: Path) -> OpenedRows:
    """Read JSON or a table of text in UTF-16, as Windows programs write it."""
    with path.open(encoding="utf-16") as file:
        start = file.read(4096).lstrip()[:1]
    if start not in ("[", "{"):
        return _text_table(path)
    text = read_bytes(path, MAX_DOCUMENT_BYTES).decode("utf-16")
    if start == "[":
        rows = _opened(decode_values(text, list[Any]))
    else:
        lines = (line.encode() for line in text.split("\n") if line.strip())
        rows = _opened([_decode_object(line) for line in lines])
    return rows._replace(note="read as UTF-16")


def _text_table(path: Path) -> OpenedRows:
    table = TextTable(path)
    columns, rows = frozenset(table.columns), _placed(path, table.rows())
    return OpenedRows(columns, table.count_rows(), rows, table.note)


def _placed(path: Path, rows: Iterator[tuple[int, Row | Skip]]) -> Iterator[tuple[int, Row | Skip]]:
    try:
        yield from rows
    except ValueError as error:
        raise _import_error(path, error) from error


def _json_list(path: Path) -> OpenedRows:
    total = sum(1 for _ in list_elements(path))  # refuses the file before anything is imported
    return OpenedRows(_columns(_elements(path)), total, _elements(path))


def _elements(path: Path) -> Iterator[tuple[int, Row | Skip]]:
    return ((number, _decode_row(row)) for number, row in enumerate(list_elements(path), 1))


def _opened(values: list[Any]) -> OpenedRows:
    rows = [*map(_as_row, values)]
    return OpenedRows(_columns(enumerate(rows)), len(rows), enumerate(rows, 1))


def _as_row(value: Any) -> Row | Skip:
    return value if isinstance(value, dict | Skip) else Skip("not an object")


def _json_lines(path: Path) -> OpenedRows:
    if isinstance(next(_lines(path))[1], Skip) and (rows := _list_inside(path)):
        return rows
    total = sum(1 for _ in _written_lines(path))
    return OpenedRows(_columns(_lines(path)), total, _lines(path))


def _lines(path: Path) -> Iterator[tuple[int, Row | Skip]]:
    return ((number, _decode_object(line)) for number, line in _written_lines(path))


def _written_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
            if len(line) > MAX_LINE_BYTES:
                raise _import_error(path, f"line {number} is over {MAX_LINE_BYTES // 10**6} MB")
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield number, line


def _list_inside(path: Path) -> OpenedRows | None:
    """Read the only list of objects in a file that is one JSON object over several lines."""
    content = read_bytes(path, MAX_DOCUMENT_BYTES).removeprefix(b"\xef\xbb\xbf")
    try:
        values = decode_values(content, dict[str, Any])
    except msgspec.MsgspecError:
        return None
    lists = {name: rows for name, rows in values.items() if isinstance(rows, list)}
    if len(lists) != 1:
        raise ValueError("it is one JSON object, not a list of them")
    ((name, rows),) = lists.items()
    return _opened(rows)._replace(note=f"read the list in its field {name}")


def _decode_object(line: bytes) -> Row | Skip:
    try:
        return decode_values(line, dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return Skip("not one JSON object", detail=error)


def _decode_row(element: bytes) -> Row | Skip:
    """Decode an element of a list, which may be of any type, where a line has to be an object."""
    row = _decode_object(element)
    return row if isinstance(row, dict) or element.startswith(b"{") else Skip("not an object")


def _columns(rows: Iterator[tuple[int, Row | Skip]]) -> frozenset[str]:
    first = islice(rows, COLUMN_SAMPLE_ROWS)
    return frozenset(name for _, row in first if not isinstance(row, Skip) for name in row)


def _parquet(path: Path) -> OpenedRows:
    parquet = import_pyarrow("pyarrow.parquet")
    with _parquet_faults(path):
        file = parquet.ParquetFile(path, pre_buffer=False)
    names = frozenset(file.schema_arrow.names)
    if file.metadata.num_rows > path.stat().st_size:  # rows of nothing, which take time
        raise ValueError(f"it has more rows ({file.metadata.num_rows:,}) than bytes")
    return OpenedRows(names, file.metadata.num_rows, _batches(path, file))


def _batches(path: Path, file: Any) -> Iterator[tuple[int, Row]]:
    batches, number = file.iter_batches(BATCH, use_threads=False), 0
    while True:
        with _parquet_faults(path, f"after row {number}: "), memory_limit(_BATCH_MEMORY):
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
    except MemoryError as error:
        what = f"{place}{BATCH} rows take over {_BATCH_MEMORY / 10**9} GB of memory"
        raise _import_error(path, what) from error
    except (import_pyarrow("pyarrow").ArrowException, OSError, ValueError) as error:
        raise _import_error(path, place + str(error).partition("\n")[0]) from error
