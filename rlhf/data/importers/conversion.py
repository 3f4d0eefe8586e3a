"""Convert what the readers return to records: texts checked, markers removed, labels translated."""

import hashlib
import re
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from rlhf.data.importers.conversations import IMAGE_MARKER
from rlhf.data.importers.fields import Skip
from rlhf.data.importers.items import ImportedDemonstration, ImportedPair, ImportedPrompt
from rlhf.data.importers.labels import parse_label
from rlhf.data.records import DemonstrationRecord, PreferenceRecord, PromptRecord
from rlhf.history import Exchange, History, history_texts

Item = TypeVar("Item", bound=ImportedPrompt)
ImportedRecord = PromptRecord | DemonstrationRecord | PreferenceRecord

_EDGE_MARKER = re.compile(r"\A\s*<image>\s*|\s*<image>\s*\Z")
_SWAPPED = {"response_a": "response_b", "response_b": "response_a", "tie": "tie"}


def remove_image_marker(instruction: str, *, marks_images: bool) -> str:
    """Remove the `<image>` that LLaVA's format puts before or after an instruction.

    Args:
        instruction: the text.
        marks_images: whether an `<image>` elsewhere in it is the place of the image, too.

    Raises:
        Skip: there are several, or the image's place is inside the text.
    """
    text = _EDGE_MARKER.sub("", instruction, count=1)
    several = marks_images and instruction.count("<image>") > 1
    if several or (text != instruction and _EDGE_MARKER.search(text)):
        raise Skip("several images", "instruction")
    if marks_images and "<image>" in text:
        raise Skip("image inside the text", "instruction", text)
    return text


def remove_image_markers(item: Item, *, marks_images: bool) -> Item:
    """Remove the `<image>` from the first user turn of an item, and refuse it in later ones.

    Args:
        item: the prompt, demonstration or pair.
        marks_images: whether an `<image>` inside the first user turn is the place of the image.

    Raises:
        Skip: there are several, or it is inside the text or in a later turn.
    """
    first, *later = (*(turn.instruction for turn in item.history), item.instruction)
    text = remove_image_marker(first, marks_images=marks_images)
    if any(IMAGE_MARKER in other for other in later):
        raise Skip("image in a later turn", "instruction")
    if not item.history:
        return replace(item, instruction=text)
    earliest = Exchange(text, item.history[0].response)
    return replace(item, history=(earliest, *item.history[1:]))


def with_earlier(item: Item, history: History) -> Item:
    """Put exchanges of another column before the turns of an item."""
    return replace(item, history=(*history, *item.history)) if history else item


def check_texts(item: ImportedPrompt, label: str = "") -> None:
    """Skip an item whose texts a record does not allow: blank, with a NUL, or equal responses.

    Args:
        item: the prompt, demonstration or pair.
        label: of a pair; equal responses are allowed in a tie.

    Raises:
        Skip: a text is not allowed.
    """
    texts = {f"earlier turn {n}": text for n, text in enumerate(history_texts(item.history), 1)}
    texts |= {"instruction": item.instruction}
    if isinstance(item, ImportedPair):
        texts |= {"first response": item.first, "second response": item.second}
    elif isinstance(item, ImportedDemonstration):
        texts |= {"response": item.response}
    for name, value in texts.items():
        if not value.strip():
            raise Skip("blank text", name)
        if "\0" in value:
            raise Skip("NUL in a text", name)
    if isinstance(item, ImportedPair) and label != "tie":
        _check_differ(item)


def _check_differ(pair: ImportedPair) -> None:
    if pair.first.strip() == pair.second.strip():
        raise Skip("equal responses")


def to_record(
    item: ImportedPrompt, image_path: str, source: str, *, label: str = "", seed: int = 0
) -> ImportedRecord:
    """Build the record of an item.

    Args:
        item: the prompt, demonstration or pair.
        image_path: of its image, in the record's form.
        source: the dataset's name.
        label: of a pair: response_a (its first response), response_b or tie.
        seed: with the row, decides which response of a pair becomes response_a.
    """
    common: dict[str, Any] = {"image_path": image_path, "instruction": item.instruction}
    common |= {"history": item.history} if item.history else {}
    if isinstance(item, ImportedPair):
        return _preference(item, common, source, label, seed)
    common |= {"id": item.id, "meta": {**item.meta}}
    if isinstance(item, ImportedDemonstration):
        return DemonstrationRecord(**common, response=item.response)
    return PromptRecord(**common)


def label_of(item: ImportedPrompt, label_encoding: str) -> str:
    """Translate the label of a pair; "" for other items.

    Args:
        item: the prompt, demonstration or pair.
        label_encoding: what numbers mean: "1/2", "0/1" or "" (unknown).

    Raises:
        Skip: the label prefers no response.
        UsageError: it is a number and the encoding is unknown or cannot be right.
    """
    return parse_label(item.label, label_encoding) if isinstance(item, ImportedPair) else ""


def _preference(
    pair: ImportedPair, common: dict[str, Any], source: str, label: str, seed: int
) -> PreferenceRecord:
    """Build a preference; a hash of seed and row decides whether the sides are swapped."""
    key = (seed, *common.values(), pair.first, pair.second, pair.id)
    swaps = hashlib.blake2b(msgspec.json.encode(key)).digest()[0] & 1
    responses, response_meta = (pair.first, pair.second), pair.response_meta
    if swaps and not pair.keeps_sides:
        responses, response_meta = responses[::-1], response_meta[::-1]
        label = _SWAPPED[label]
    meta_by_side = dict(zip(("response_a", "response_b"), response_meta, strict=True))
    return PreferenceRecord(
        **common,
        response_a=responses[0],
        response_b=responses[1],
        preference=label,
        id=pair.id,
        annotator=pair.annotator,
        shown_left=pair.shown_left,
        seconds=pair.seconds,
        created_at=pair.created_at,
        source=source if pair.source is None else pair.source,
        meta={**pair.meta, **(meta_by_side if any(response_meta) else {})},
    )
