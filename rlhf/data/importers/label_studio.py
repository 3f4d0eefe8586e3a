"""Convert tasks of a Label Studio export, compared with its Pairwise tag, to pairs."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import msgspec

from rlhf.data.importers.conversations import read_history
from rlhf.data.importers.fields import (
    IMAGE_COLUMNS,
    INSTRUCTION_COLUMNS,
    Row,
    Skip,
    read_as,
    read_id,
    read_image,
    read_text,
)
from rlhf.data.importers.items import ImportedPair, ItemIterator
from rlhf.data.importers.json_values import decode_values

_LOCAL_FILES = "/data/local-files/?d="


class _Result(msgspec.Struct):
    type: str
    value: dict[str, Any] = {}
    meta: dict[str, Any] = {}
    from_name: str = ""


class _Annotation(msgspec.Struct):
    result: list[_Result] = []
    completed_by: Any = None
    created_at: str | None = None
    lead_time: float | None = None
    was_cancelled: bool = False


def label_studio(row: Row) -> ItemIterator:
    """Read a task of Label Studio's JSON export; each of its annotations becomes a pair.

    The responses are `response_a` and `response_b`, `text1` and `text2`, or `answer1` and
    `answer2` of the task's data. The Pairwise tag has no tie; `export_label_studio` adds a
    Choices tag with the single choice "tie". What other tags hold, such as a reason, goes into
    the record's meta under the tag's name.
    """
    data = read_as(row, "data", dict[str, Any])
    task = _task(data)
    annotations = read_as(row, "annotations", list[_Annotation])
    if not annotations:
        yield Skip("no annotation", "annotations")
    for annotation in annotations:
        judgment = _judgment(annotation)
        if isinstance(judgment, Skip):
            yield judgment
            continue
        meta = data["meta"] if isinstance(data.get("meta"), dict) else {}
        yield ImportedPair(
            **task,
            **judgment,
            id=read_id(data, "id") or read_id(row, "id"),
            source=data.get("source") if isinstance(data.get("source"), str) else None,
            meta={**meta, **_remarks(annotation)},
        )


def label_studio_min(row: Row) -> ItemIterator:
    """Read a row of Label Studio's JSON-MIN or CSV export, where results stand beside data."""
    names = [name for name, value in row.items() if _label(name, value)]
    if len(names) != 1:
        raise Skip("no single choice", ", ".join(names))
    yield ImportedPair(
        **_task(row),
        label=_label(names[0], row[names[0]]),
        id=read_id(row, "id"),
        annotator=read_id(row, "annotator"),
        created_at=read_id(row, "created_at"),
        seconds=_seconds(row.get("lead_time")),
    )


def _task(data: Row) -> dict[str, Any]:
    """Read image, instruction and responses of a task, as fields of `ImportedPair`."""
    image = read_image(data, *IMAGE_COLUMNS)
    return {
        "image": _served_path(image) if isinstance(image, str) else image,
        "instruction": read_text(data, *INSTRUCTION_COLUMNS),
        "history": read_history(data),
        "first": read_text(data, "response_a", "text1", "answer1"),
        "second": read_text(data, "response_b", "text2", "answer2"),
        "keeps_sides": True,
    }


def _judgment(annotation: _Annotation) -> dict[str, Any] | Skip:
    """Read label, annotator, seconds and time of one annotation, as fields of `ImportedPair`."""
    deciding = [item for item in annotation.result if _decides(item)]
    if annotation.was_cancelled or len(deciding) != 1:
        others = [item.value for item in annotation.result if item.type == "choices"]
        reason = "unknown label" if others and not deciding else "no single choice"
        return Skip(reason, "annotations", others or "")
    value, meta = deciding[0].value, deciding[0].meta
    user = annotation.completed_by
    user = (user.get("email") or user.get("id")) if isinstance(user, dict) else user
    return {
        "label": "tie" if value.get("choices") else value.get("selected"),
        "annotator": str(meta.get("annotator", "" if user is None else user)),
        "shown_left": str(meta.get("shown_left", "")),
        "created_at": str(meta.get("created_at", annotation.created_at or "")),
        "seconds": annotation.lead_time,
    }


def _decides(result: _Result) -> bool:
    """Whether a result says which response is preferred: the Pairwise tag's, or a tie."""
    is_tie = result.type == "choices" and result.value.get("choices") == ["tie"]
    return result.type == "pairwise" or is_tie


def _remarks(annotation: _Annotation) -> dict[str, Any]:
    """Return what the tags that do not decide hold, by name: the value itself if it is one."""
    others = [item for item in annotation.result if item.from_name and not _decides(item)]
    return {item.from_name: _only_entry(_only_entry(item.value)) for item in others}


def _only_entry(value: Any) -> Any:
    """Return the entry of a list or an object that has one; any other value as it is."""
    entries = [*value.values()] if isinstance(value, dict) else value
    return entries[0] if isinstance(entries, list) and len(entries) == 1 else value


def _label(name: str, value: object) -> str:
    """Return the label that a column of JSON-MIN holds; "" for any other column.

    The Pairwise tag is `{"selected": "left"}`, or a list of one, or their JSON text in CSV; the
    Choices tag that `export_label_studio` adds is the text "tie".
    """
    if name == value == "tie":
        return "tie"
    if isinstance(value, str) and '"selected"' in value:
        with suppress(msgspec.MsgspecError):
            value = decode_values(value, object)
    items = value if isinstance(value, list) else [value]
    sides = [item.get("selected") for item in items if isinstance(item, Mapping)]
    return sides[0] if len(sides) == 1 and isinstance(sides[0], str) else ""


def _seconds(value: object) -> float | None:
    """Read a duration, a number or in CSV the text of one; None if there is none."""
    with suppress(ValueError):
        if isinstance(value, int | float | str):
            return float(value)
    return None


def _served_path(address: str) -> str:
    """Return the path of the file that Label Studio serves at an address."""
    if address.startswith(_LOCAL_FILES):
        return unquote(address.removeprefix(_LOCAL_FILES))
    return unquote(address.removeprefix("/data/")) if address.startswith("/data/") else address
