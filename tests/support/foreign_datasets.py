"""Small files in the columns of public preference datasets, and the records they become."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import replace
from PIL import Image

from rlhf.data.importers.import_report import ImportReport
from rlhf.data.importers.importer import import_dataset
from rlhf.data.records import PreferenceRecord, read_records

Rows = list[dict[str, Any]]
OTHER = {"response_a": "response_b", "response_b": "response_a", "tie": "tie"}


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


RED, BLUE = png("red"), png("blue")


def stored_path(content: bytes) -> str:
    """Return the image_path of an imported PNG."""
    return f"pictures/{hashlib.sha256(content).hexdigest()[:16]}.png"


def embedded(content: bytes | None, path: str | None = None) -> dict[str, Any]:
    return {"bytes": content, "path": path}


def write_rows(path: Path, rows: Rows) -> Path:
    """Write a JSON list, JSON lines or parquet, by the suffix, beside red.png and blue.png."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "red.png").write_bytes(RED)
    (path.parent / "blue.png").write_bytes(BLUE)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def imported(
    directory: Path, source: str, rows: Rows, suffix: str = "json", **options: Any
) -> tuple[list[PreferenceRecord], ImportReport]:
    path = write_rows(directory / "set" / f"rows.{suffix}", rows)
    output = directory / f"out{len(list(directory.iterdir()))}"
    report = import_dataset(source, [path], output, **options)
    return read_records(output / "preferences.jsonl", PreferenceRecord), report


def swap_sides(record: PreferenceRecord) -> PreferenceRecord:
    """Swap the sides of a record: responses, preference and what describes each response."""
    meta = dict(record.meta)
    if "response_a" in meta:
        meta |= {"response_a": meta["response_b"], "response_b": meta["response_a"]}
    return replace(
        record,
        response_a=record.response_b,
        response_b=record.response_a,
        preference=OTHER[record.preference],
        meta=meta,
    )


def with_first_response(record: PreferenceRecord, first: str) -> PreferenceRecord:
    """Swap the sides if `first` is not response_a."""
    return record if record.response_a == first else swap_sides(record)
