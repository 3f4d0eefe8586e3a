"""Convert tasks of a Label Studio export, compared with its Pairwise tag, to pairs."""

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
    """Read a task of Label Studio's JSON export; each of its annotations becomes a pair.

    The responses are `response_a` and `response_b`, `text1` and `text2`, or `answer1` and
    `answer2` of the task's data. The Pairwise tag has no tie; `export_label_studio` adds a
    Choices tag with the single choice "tie".
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
        judgment = _judgment(annotation)
        yield (
            judgment
            if isinstance(judgment, Skip)
            else ImportedPair(
                image=_served_path(image) if isinstance(image, str) else image,
                instruction=instruction,
                first=responses[0],
                second=responses[1],
                keeps_sides=True,
                id=read_id(data, "id") or read_id(row, "id"),
                source=data.get("source") if isinstance(data.get("source"), str) else None,
                meta=data["meta"] if isinstance(data.get("meta"), dict) else {},
                **judgment,
            )
        )


def _judgment(annotation: _Annotation) -> dict[str, Any] | Skip:
    """Read label, annotator, seconds and time of one annotation, as fields of `ImportedPair`."""
    results = [item for item in annotation.result if item.type in ("pairwise", "choices")]
    if annotation.was_cancelled or len(results) != 1:
        return Skip("no single choice", "annotations")
    value, meta = results[0].value, results[0].meta
    if value.get("choices") not in (None, ["tie"]):
        return Skip("unknown label", "annotations", value)
    user = annotation.completed_by
    user = (user.get("email") or user.get("id")) if isinstance(user, dict) else user
    return {
        "label": "tie" if value.get("choices") else value.get("selected"),
        "annotator": str(meta.get("annotator", "" if user is None else user)),
        "shown_left": str(meta.get("shown_left", "")),
        "created_at": str(meta.get("created_at", annotation.created_at or "")),
        "seconds": annotation.lead_time,
    }


def _served_path(address: str) -> str:
    """Return the path of the file that Label Studio serves at an address."""
    if address.startswith("/data/local-files/?d="):
        return unquote(address.partition("?d=")[2])
    return address.removeprefix("/data/")
