"""Records of our JSON Lines files: every check on reading, one atomic step on writing."""

import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from rlhf.data.jsonl import json_object, read_lines, shown_key
from rlhf.errors import DataError
from rlhf.storage.atomic import replaced_file

Text = str  # as read: not blank, no NUL
Label = str  # as read: one of the values below
_LABELS = {name: name for name in ("response_a", "response_b", "tie")}
_LABELS |= {"a": "response_a", "A": "response_a", "b": "response_b", "B": "response_b"}
_LABEL_HELP = "write response_a, response_b or tie (number codings clash: 1/2 against 0/1)"


class _Prompt(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False
):
    image_path: Text
    instruction: Text


class PromptRecord(_Prompt, frozen=True):
    """An image and what is asked about it."""

    id: str = ""
    meta: dict[str, Any] = {}


class DemonstrationRecord(_Prompt, frozen=True):
    """A prompt and the response to imitate (supervised file)."""

    response: Text
    id: str = ""
    meta: dict[str, Any] = {}


class CandidatesRecord(_Prompt, frozen=True):
    """A prompt and the sampled responses to be ranked."""

    responses: Annotated[list[Text], msgspec.Meta(min_length=2)]
    model: str = ""
    sampling: dict[str, Any] = {}
    id: str = ""
    meta: dict[str, Any] = {}


class PreferenceRecord(_Prompt, frozen=True):
    """One judgment: `preference` is "response_a", "response_b" or "tie"."""

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
    """A fault in a file; line 0 is the file itself, field "" the whole line."""

    file: str
    line: int
    field: str
    message: str

    @property
    def where(self) -> str:
        """`file:line:field`, as far as known."""
        return ":".join(str(part) for part in (self.file, self.line, self.field) if part)

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


def read_records(path: Path, kind: type[T], *, strict: bool = True) -> list[T]:
    """All records of a file, blank lines skipped; `strict=False` drops unknown fields.

    Raises:
        DataError: the first problem, at `file:line:field`.
    """
    records = []
    for _, item in parse_file(path, kind, strict=strict):
        if isinstance(item, Problem):
            fix = "Correct it; `rlhf validate FILE` lists every problem."
            raise DataError(item.message, item.where, fix)
        records.append(item)
    return records


def parse_file(
    path: Path, kind: type[T], *, strict: bool = True
) -> Iterator[tuple[int, T | Problem]]:
    """Line number (0 for the file itself) with the record or the problem found there."""
    return ((number, item) for number, _, item in scan_file(path, kind, strict=strict))


def scan_file(
    path: Path, kind: type[T], *, strict: bool = True
) -> Iterator[tuple[int, bytes, T | Problem]]:
    """What `parse_file` gives, with the bytes of each line between."""
    number = 0
    try:
        for number, line in read_lines(path):
            try:
                yield number, line, _record(json_object(line), kind, strict)
            except DataError as error:
                yield number, line, Problem(str(path), number, error.where, error.what)
        if not number:
            yield 0, b"", Problem(str(path), 0, "", "the file holds no records")
    except OSError as error:
        reason = f"the file cannot be read: {error.strerror}"
        yield 0, b"", Problem(str(path), 0, "", reason)


def record_kind(path: Path) -> type[Record]:
    """The kind of a file, by the keys of its first line that is a JSON object."""
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
    """Replace a whole file in one step: a crash leaves the old one or the new one."""
    with replaced_file(path) as file:
        file.writelines(msgspec.json.encode(record) + b"\n" for record in records)


def resolve_image(record_path: str, root: Path, *, where: str = "") -> Path:
    """The image of a record, below `root` also after links are followed.

    Raises:
        DataError: a URL, or a path out of `root`; placed at `where`, else at the path.
    """
    try:
        if re.match(r"\s*([a-zA-Z][\w+.-]*://|data:)", record_path):
            raise ValueError("it is a URL, and only local files are read")
        path = (root / record_path).resolve()
        if not path.is_relative_to(root.resolve()):
            raise ValueError("it leads out of the data folder")
    except (OSError, RuntimeError, ValueError) as error:  # also a link loop, a NUL, a long name
        fix = "Write image_path relative to the data folder."
        raise DataError(f"image_path: {error}.", where or record_path, fix) from error
    return path


def prompt_key(record: Record) -> int:
    """63-bit BLAKE2b of the id, or without one of image path and instruction."""
    parts = (record.id,) if record.id else (record.image_path, record.instruction)
    digest = hashlib.blake2b(msgspec.json.encode(parts), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def responses(record: Record) -> Sequence[str]:
    """The responses of a record of any kind, in the order of its fields."""
    if isinstance(record, PreferenceRecord):
        return record.response_a, record.response_b
    if isinstance(record, CandidatesRecord):
        return record.responses
    return (record.response,) if isinstance(record, DemonstrationRecord) else ()


def chosen(record: PreferenceRecord) -> str:
    """The preferred response; ValueError for a tie."""
    if record.preference == "tie":
        raise ValueError("record: wanted a decided preference, got a tie")
    return record.response_a if record.preference == "response_a" else record.response_b


def rejected(record: PreferenceRecord) -> str:
    """The other response; ValueError for a tie."""
    return record.response_b if chosen(record) == record.response_a else record.response_a


def _record(fields: dict[str, Any], kind: type[T], strict: bool) -> T:
    if isinstance(label := fields.get("preference"), str):
        fields["preference"] = _LABELS.get(label)
    if not strict:
        fields = {name: value for name, value in fields.items() if name in kind.__struct_fields__}
    try:
        record = msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise _refusal(fields, kind, str(error)) from error
    _check_texts(record)
    if isinstance(record, PreferenceRecord) and record.preference != "tie":
        response_a, response_b = record.response_a.strip(), record.response_b.strip()
        if response_a == response_b:
            raise DataError("equal responses can only be a tie", "preference")
    return record


def _refusal(fields: dict[str, Any], kind: type[T], reason: str) -> DataError:
    for name in fields:
        if name not in kind.__struct_fields__:
            close = difflib.get_close_matches(name, kind.__struct_fields__, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            return DataError(f"unknown field{hint}", shown_key(name))
    message, _, place = reason.partition(" - at ")
    field = re.findall(r"\w+", place or message)[0 if place else -1]
    return DataError(_LABEL_HELP if field == "preference" else message, field)


def _check_texts(record: Record) -> None:
    """Refuse a required text that is blank or holds a NUL."""
    texts = (record.image_path, record.instruction, *responses(record))
    if all(map(str.strip, texts)) and "\0" not in "".join(texts):
        return
    for field in msgspec.structs.fields(record):
        value = getattr(record, field.name) if field.required else []
        for text in value if isinstance(value, list) else [value]:
            if not text.strip() or "\0" in text:
                raise DataError("the text is empty or holds a NUL", field.name)
