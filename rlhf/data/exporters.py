"""Export records to other tools: as trl's preference data or as Label Studio's tasks."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import msgspec

from rlhf.data.images import load_image
from rlhf.data.importers.readers import import_pyarrow
from rlhf.data.records import (
    CandidatesRecord,
    PreferenceRecord,
    chosen,
    rejected,
    resolve_image,
)
from rlhf.errors import UsageError
from rlhf.history import history_texts
from rlhf.storage.atomic import replaced_file

BATCH = 64  # records whose images are in memory at a time

# Column types for the library `datasets`; without them it reads an image as plain bytes.
_STRING = {"dtype": "string", "_type": "Value"}
_TURNS = [{"role": _STRING, "content": [{"type": _STRING, "text": _STRING}]}]
_FEATURES = dict.fromkeys(("prompt", "chosen", "rejected"), _TURNS)
_FEATURES |= {"images": [{"_type": "Image"}]}

LABELING_CONFIG = """\
<View>
  <Image name="image" value="$image"/>
  <Text name="instruction" value="$instruction"/>
  <Pairwise name="preference" toName="response_a,response_b"/>
  <View style="display: flex; gap: 1em">
    <Text name="response_a" value="$response_a"/>
    <Text name="response_b" value="$response_b"/>
  </View>
  <Choices name="tie" toName="instruction" choice="single">
    <Choice value="tie"/>
  </Choices>
</View>
"""
_INSTRUCTION_TAG = '  <Text name="instruction" value="$instruction"/>\n'
_HISTORY_TAG = """\
  <Paragraphs name="history" value="$history" nameKey="instruction" textKey="response"
    layout="dialogue"/>
"""


def export_trl(
    records: Sequence[PreferenceRecord], root: Path, output: Path
) -> tuple[int, Counter[str]]:
    """Write trl's conversational preference format as parquet, images embedded.

    Args:
        records: preferences; ties are left out, because the format has none.
        root: the directory that image paths start in.
        output: the parquet file.

    Returns:
        Number of rows written, and of records left out by reason.

    Raises:
        UsageError: `output` exists, pyarrow is not installed, or every record is a tie.
        DataError: an image cannot be read.
        ResourceError: it cannot be written.
    """
    pairs = [record for record in records if record.preference != "tie"]
    if not pairs:
        raise UsageError("trl's format has no ties, and every record is a tie", str(output), "")
    schema, parquet = _trl_schema(), import_pyarrow("pyarrow.parquet")
    table = import_pyarrow("pyarrow").Table
    with _new_file(output) as part, parquet.ParquetWriter(part, schema) as writer:
        for start in range(0, len(pairs), BATCH):
            rows = [_trl_row(record, root) for record in pairs[start : start + BATCH]]
            writer.write_table(table.from_pylist(rows, schema=schema))
    return len(pairs), +Counter({"tie": len(records) - len(pairs)})


def export_label_studio(
    records: Sequence[PreferenceRecord] | Sequence[CandidatesRecord], output: Path
) -> tuple[int, Counter[str]]:
    """Write Label Studio's tasks as JSON, and its labeling configuration beside them.

    A preference becomes a task with one annotation, a candidates record a task for every two
    responses. Images are addressed as local files: set Label Studio's
    LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT to the directory that image paths start in.

    Returns:
        Number of tasks written, and of pairs left out by reason.

    Raises:
        UsageError: a file of that name exists, or no pair is left.
        ResourceError: they cannot be written.
    """
    tasks, skipped = list[dict[str, Any]](), Counter[str]()
    for record in records:
        if isinstance(record, PreferenceRecord):
            tasks.append(_preference_task(record, len(tasks)))
            continue
        for (i, first), (j, second) in combinations(enumerate(record.responses), 2):
            if first.strip() == second.strip():
                skipped["equal responses"] += 1
            else:
                name = f"{record.id}/{i}-{j}" if record.id else ""
                tasks.append({"data": _task_data(record, first, second, name)})
    if not tasks:
        raise UsageError("no two responses differ, so there is nothing to compare", str(output), "")
    has_history = any(record.history for record in records)
    labeling_config = _show_history(tasks) if has_history else LABELING_CONFIG
    config = output.with_name(f"{output.stem}.config.xml")
    with _new_file(output) as tasks_part, _new_file(config) as config_part:
        config_part.write(labeling_config.encode())
        tasks_part.write(msgspec.json.encode(tasks))
    return len(tasks), skipped


def _trl_schema() -> Any:
    pa = import_pyarrow("pyarrow")
    part = pa.struct([("type", pa.string()), ("text", pa.string())])
    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(part))]))
    images = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    columns = {"prompt": turns, "images": images, "chosen": turns, "rejected": turns}
    features = {"info": {"features": {name: _FEATURES[name] for name in columns}}}
    return pa.schema(columns, metadata={"huggingface": json.dumps(features)})


def _trl_row(record: PreferenceRecord, root: Path) -> dict[str, Any]:
    path = resolve_image(record.image_path, root)
    load_image(path)
    return {
        "prompt": _prompt(record),
        "images": [{"bytes": path.read_bytes(), "path": path.name}],
        "chosen": _message("assistant", _text_part(chosen(record))),
        "rejected": _message("assistant", _text_part(rejected(record))),
    }


def _prompt(record: PreferenceRecord) -> list[dict[str, Any]]:
    """Build the turns of a prompt, the image in the first one."""
    turns = list[dict[str, Any]]()
    for number, text in enumerate((*history_texts(record.history), record.instruction)):
        image = [] if number else [{"type": "image"}]
        turns += _message("assistant" if number % 2 else "user", *image, _text_part(text))
    return turns


def _message(role: str, *content: dict[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": list(content)}]


def _text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _preference_task(record: PreferenceRecord, number: int) -> dict[str, Any]:
    """Build a task with one annotation; `meta` holds what Label Studio has no field for."""
    if record.preference == "tie":
        result = {"from_name": "tie", "to_name": "instruction", "type": "choices"}
        value: dict[str, Any] = {"choices": ["tie"]}
    else:  # in exports of Label Studio itself, from_name and to_name of Pairwise are equal
        result = {"from_name": "preference", "to_name": "preference", "type": "pairwise"}
        value = {"selected": "left" if record.preference == "response_a" else "right"}
    meta = {name: getattr(record, name) for name in ("annotator", "shown_left", "created_at")}
    annotation = {"result": [{"id": f"pair{number}", **result, "value": value, "meta": meta}]}
    seconds = {} if record.seconds is None else {"lead_time": record.seconds}
    data = _task_data(record, record.response_a, record.response_b, record.id)
    return {
        "data": {**data, "source": record.source, "schema_version": record.schema_version},
        "annotations": [{**annotation, **seconds}],
    }


def _show_history(tasks: Sequence[Mapping[str, Any]]) -> str:
    """Give every task a history, as Label Studio wants; return the configuration that shows it."""
    for task in tasks:
        task["data"].setdefault("history", [])
    return LABELING_CONFIG.replace(_INSTRUCTION_TAG, _HISTORY_TAG + _INSTRUCTION_TAG)


def _task_data(
    record: PreferenceRecord | CandidatesRecord, first: str, second: str, name: str
) -> dict[str, Any]:
    history = {"history": msgspec.to_builtins(record.history)} if record.history else {}
    return {
        "id": name,
        "image": f"/data/local-files/?d={quote(record.image_path)}",
        **history,
        "instruction": record.instruction,
        "response_a": first,
        "response_b": second,
        "meta": record.meta,
    }


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears at `path` when the block succeeds; refuse an existing `path`."""
    if path.exists():
        raise UsageError("the output exists already", str(path), "choose another name")
    with replaced_file(path) as file:
        yield file
