"""Keys of prompts: equal keys mean one prompt, in sampling, in groups and in microbatches."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import msgspec

from rlhf.data.records import Record
from rlhf.history import history_texts


def prompt_content(record: Record) -> tuple[str, ...]:
    """Return what makes a record's prompt: image path, instruction, texts of the earlier turns."""
    return record.image_path, record.instruction, *history_texts(record.history)


def prompt_keys(records: Sequence[Record], *, repeats_share: bool) -> list[int]:
    """Return one key of 63 bits for the prompt of each record.

    A key hashes the record's id, or the prompt's content if it has none. If an earlier record of
    other content has that key, the content is hashed beside the id: what several prompts share does
    not name them.

    Args:
        records: the records, in the order of their file.
        repeats_share: records of equal id and content have one key. False: the first keeps its key,
            each later one gets a key of its own, and so is sampled by itself.
    """
    content_of: dict[int, tuple[str, ...]] = {}
    repeats, keys = Counter[int](), []
    for record in records:
        content = prompt_content(record)
        key = _hash(record.id) if record.id else _hash(*content)
        if content_of.setdefault(key, content) != content:
            key = _hash(record.id, *content)
        keys.append(_hash(key, repeats[key]) if repeats[key] and not repeats_share else key)
        repeats[key] += 1
    return keys


def _hash(*parts: str | int) -> int:
    digest = hashlib.blake2b(msgspec.json.encode(parts), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
