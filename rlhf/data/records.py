"""Read and write the records of JSON Lines files; every record is checked when it is read."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from rlhf.data.jsonl import json_object, layout_fault, read_lines
from rlhf.data.record_faults import check_history, check_texts, conversion_error
from rlhf.data.similar_paths import similar_file
from rlhf.errors import DataError
from rlhf.history import History
from rlhf.storage.atomic import replaced_file

Text = str  # checked on reading: not blank, no NUL
Label = str  # checked on reading: one of the values below
_LABELS = {name: name for name in ("response_a", "response_b", "tie")}
_LABELS |= {"a": "response_a", "A": "response_a", "b": "response_b", "B": "response_b"}


class _Conversation(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    gc=False,
    kw_only=True,
):
    history: History = ()  # the turns before the instruction; the image belongs to the first one


class _Prompt(_Conversation, frozen=True):
    image_path: Text
    instruction: Text


class PromptRecord(_Prompt, frozen=True):
    """An image and an instruction about it, `history` in each kind of record before it."""

    id: str = ""
    meta: dict[str, Any] = {}


class DemonstrationRecord(_Prompt, frozen=True):
    """A prompt and the response to imitate, for supervised fine-tuning."""

    response: Text
    id: str = ""
    meta: dict[str, Any] = {}


class CandidatesRecord(_Prompt, frozen=True):
    """A prompt and at least two sampled responses to compare."""

    responses: Annotated[list[Text], msgspec.Meta(min_length=2)]
    model: str = ""
    sampling: dict[str, Any] = {}
    id: str = ""
    meta: dict[str, Any] = {}


class PreferenceRecord(_Prompt, frozen=True):
    """A prompt, two responses, and which one is preferred.

    Attributes:
        response_a: one response.
        response_b: the other; it differs from `response_a` unless the preference is a tie.
        preference: response_a, response_b or tie.
        id: of the record, for the user's own use.
        annotator: who judged.
        shown_left: the response shown on the left, response_a or response_b; "" if unknown.
        seconds: how long the annotator looked at the pair.
        created_at: ISO 8601 time.
        source: the dataset it was imported from.
        meta: other values.
        schema_version: of this format.
    """

    response_a: Text
    response_b: Text
    preference: Label
    id: str = ""
    annotator: str = ""
    shown_left: str = ""
    seconds: float | None = None
    created_at: str = ""
    source: str = ""
    meta: dict[str, Any] = {}
    schema_version: Literal[1] = 1


Record = PromptRecord | DemonstrationRecord | CandidatesRecord | PreferenceRecord
T = TypeVar("T", bound=Record)


class Problem(msgspec.Struct, frozen=True):
    """A fault in a data file.

    Attributes:
        file: the file's path.
        line: number from 1; 0 for the file as a whole.
        field: the field of the line; "" for the whole line.
        message: what is wrong.
    """

    file: str
    line: int
    field: str
    message: str

    @property
    def where(self) -> str:
        """Format the place as `file:line:field`, without the parts that are unknown."""
        return ":".join(str(part) for part in (self.file, self.line, self.field) if part)

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


def read_records(path: Path, kind: type[T]) -> list[T]:
    """Read all records of a file, blank lines skipped.

    Args:
        path: the file.
        kind: the class of its records.

    Raises:
        DataError: the first problem, placed at `file:line:field`.
    """
    records = []
    for _, item in parse_file(path, kind):
        if isinstance(item, Problem):
            fix = "Correct it; `rlhf validate FILE` lists every problem."
            raise DataError(item.message, item.where, fix)
        records.append(item)
    return records


def parse_file(path: Path, kind: type[T]) -> Iterator[tuple[int, T | Problem]]:
    """Iterate over the lines of a file as records or problems.

    Args:
        path: the file.
        kind: the class of its records.

    Yields:
        Line number (0 for the file as a whole), and the record or the problem found there.
    """
    return ((number, item) for number, _, item in scan_file(path, kind))


def scan_file(path: Path, kind: type[T]) -> Iterator[tuple[int, bytes, T | Problem]]:
    """Iterate over the lines of a file as bytes and as records or problems.

    Args:
        path: the file.
        kind: the class of its records.

    Yields:
        Line number (0 for the file as a whole), the line's bytes, and the record or the problem
        found there.
    """
    number = 0
    try:
        if fault := layout_fault(path):
            yield 0, b"", Problem(str(path), 0, "", fault)
            return
        for number, line in read_lines(path):
            try:
                yield number, line, record_from_fields(json_object(line), kind)
            except DataError as error:
                yield number, line, Problem(str(path), number, error.where, error.what)
        if not number:
            yield 0, b"", Problem(str(path), 0, "", "the file holds no records")
    except OSError as error:
        similar = similar_file(str(path), Path(path.anchor))
        reason = f"the file cannot be read: {error.strerror}" + (f"; {similar}" if similar else "")
        yield 0, b"", Problem(str(path), 0, "", reason)


def record_from_fields(fields: dict[str, Any], kind: type[T]) -> T:
    """Make a record of its fields; a label may be short: `a`, `B`, `tie`.

    Args:
        fields: values by field; changed.
        kind: the class of the record.

    Raises:
        DataError: a field is missing, unknown, of another type or empty; `where` names it.
    """
    if isinstance(label := fields.get("preference"), str):
        fields["preference"] = _LABELS.get(label)
    check_history(fields)
    try:
        record = msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise conversion_error(fields, kind, str(error)) from error
    texts = (record.image_path, record.instruction, *responses(record))
    check_texts(record, texts, record.history)
    if isinstance(record, PreferenceRecord) and record.preference != "tie":
        response_a, response_b = record.response_a.strip(), record.response_b.strip()
        if response_a == response_b:
            raise DataError("equal responses can only be a tie", "preference")
    return record


def record_kind(path: Path) -> type[Record]:
    """Tell a file's record class by the keys of its first line that is a JSON object."""
    with suppress(OSError):
        for _, line in read_lines(path):
            with suppress(DataError):
                keys = json_object(line)
                if "responses" in keys:
                    return CandidatesRecord
                if "preference" in keys:
                    return PreferenceRecord
                return DemonstrationRecord if "response" in keys else PromptRecord
    return PromptRecord


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write a file of records; a crash leaves the old file or the new one.

    Raises:
        ResourceError: it cannot be written.
    """
    with replaced_file(path) as file:
        file.writelines(msgspec.json.encode(record) + b"\n" for record in records)


def resolve_image(record_path: str, root: Path) -> Path:
    """Resolve a record's image path, which must stay below `root` after links are followed.

    Args:
        record_path: the record's image_path.
        root: the directory that image paths start in.

    Raises:
        DataError: it is a URL, leads out of `root`, or a file is there whose name is only written
            in another way.
    """
    fix = "Write image_path relative to the data directory; data.root=/ allows absolute paths."
    try:
        if re.match(r"\s*([a-zA-Z][\w+.-]*://|data:)", record_path):
            raise ValueError("it is a URL, and only local files are read")
        path = (root / record_path).resolve()
        if not path.is_relative_to(root.resolve()):
            raise ValueError("it leads out of the data directory")
        if path.exists() or not similar_file(record_path, root):
            return path  # opening it says what is wrong
        raise ValueError("there is no such file")
    except (OSError, RuntimeError, ValueError) as error:  # also a link loop, a NUL, a long name
        similar = similar_file(record_path, root)
        what = f"image_path: {error}" + (f"; {similar}" if similar else "")
        raise DataError(f"{what}.", record_path, fix) from error


def responses(record: Record) -> Sequence[str]:
    """List the responses of a record of any kind, in the order of its fields."""
    if isinstance(record, PreferenceRecord):
        return record.response_a, record.response_b
    if isinstance(record, CandidatesRecord):
        return record.responses
    return (record.response,) if isinstance(record, DemonstrationRecord) else ()


def chosen(record: PreferenceRecord) -> str:
    """Return the preferred response.

    Raises:
        ValueError: the preference is a tie.
    """
    if record.preference == "tie":
        raise ValueError("record: wanted a decided preference, got a tie")
    return record.response_a if record.preference == "response_a" else record.response_b


def rejected(record: PreferenceRecord) -> str:
    """Return the response that is not preferred.

    Raises:
        ValueError: the preference is a tie.
    """
    return record.response_b if chosen(record) == record.response_a else record.response_a
