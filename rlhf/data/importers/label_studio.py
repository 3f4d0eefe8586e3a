"""Label Studio's export of tasks that were compared with its Pairwise tag."""

from typing import Any
from urllib.parse import unquote

import msgspec

from rlhf.data.importers.fields import (
    IMAGE_COLUMNS,
    INSTRUCTION_COLUMNS,
    ImportedPair,
    PairIterator,
    Row,
    Skip,
    read_as,
    read_id,
    read_image,
    read_text,
)


class _Result(msgspec.Struct):
    type: str
    value: dict[str, Any] = {}
    meta: dict[str, Any] = {}


class _Annotation(msgspec.Struct):
    result: list[_Result] = []
    completed_by: Any = None
    created_at: str | None = None
    lead_time: float | None = None
    was_cancelled: bool = False


def label_studio(row: Row) -> PairIterator:
    """Label Studio's JSON export of tasks compared with its Pairwise tag, one pair an annotation.

    The two answers are `response_a`/`response_b`, `text1`/`text2`, … of the task's data. The tag
    has no tie; a Choices tag with the one choice "tie" beside it (as our export writes) adds it.
    """
    data = read_as(row, "data", dict[str, Any])
    image = read_image(data, *IMAGE_COLUMNS)
    instruction = read_text(data, *INSTRUCTION_COLUMNS)
    responses = [
        read_text(data, f"response_{x}", f"text{n}", f"answer{n}") for x, n in ("a1", "b2")
    ]
    annotations = read_as(row, "annotations", list[_Annotation])
    if not annotations:
        yield Skip("no annotation", "annotations")
    for annotation in annotations:
        given = _judgment(annotation)
        yield (
            given
            if isinstance(given, Skip)
            else ImportedPair(
                image=_served_path(image) if isinstance(image, str) else image,
                instruction=instruction,
                first=responses[0],
                second=responses[1],
                keeps_sides=True,
                id=read_id(data, "id") or read_id(row, "id"),
                source=data.get("source") if isinstance(data.get("source"), str) else None,
                meta=data["meta"] if isinstance(data.get("meta"), dict) else {},
                **given,
            )
        )


def _judgment(annotation: _Annotation) -> dict[str, Any] | Skip:
    """Label, annotator, seconds and time of one annotation."""
    results = [item for item in annotation.result if item.type in ("pairwise", "choices")]
    if annotation.was_cancelled or len(results) != 1:
        return Skip("no single choice", "annotations")
    value, noted = results[0].value, results[0].meta
    if value.get("choices") not in (None, ["tie"]):
        return Skip("unknown label", "annotations", value)
    by = annotation.completed_by
    by = (by.get("email") or by.get("id")) if isinstance(by, dict) else by
    return {
        "label": "tie" if value.get("choices") else value.get("selected"),
        "annotator": str(noted.get("annotator", "" if by is None else by)),
        "shown_left": str(noted.get("shown_left", "")),
        "created_at": str(noted.get("created_at", annotation.created_at or "")),
        "seconds": annotation.lead_time,
    }


def _served_path(address: str) -> str:
    """The file behind Label Studio's address of a local image."""
    if address.startswith("/data/local-files/?d="):
        return unquote(address.partition("?d=")[2])
    return address.removeprefix("/data/")
