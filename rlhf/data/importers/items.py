"""What a row of another dataset is read as: a prompt, a demonstration or a pair."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from rlhf.data.importers.fields import Skip
from rlhf.history import History


class ImportedPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """An image and what was asked about it, as the dataset writes them.

    Attributes:
        image: a path, base64 text or the bytes of an image file.
        instruction: what was asked.
        history: the exchanges before it; the image belongs to the first one.
        id: the row's id in the dataset.
        meta: anything else about the row, such as its reference answer.
    """

    image: str | bytes
    instruction: str
    history: History = ()
    id: str = ""
    meta: Mapping[str, Any] = {}


class ImportedDemonstration(ImportedPrompt, frozen=True, kw_only=True):
    """A prompt and the response to imitate.

    Attributes:
        response: the response.
    """

    response: str


class ImportedPair(ImportedPrompt, frozen=True, kw_only=True):
    """Two responses to one instruction and the preference, as the dataset writes them.

    Attributes:
        first: one response.
        second: the other.
        label: "a" if `first` is preferred, "b" if `second` is, or another value of `parse_label`.
        keeps_sides: whether a person saw `first` on the left and `second` on the right.
        annotator: who judged.
        shown_left: the response shown on the left, response_a or response_b.
        seconds: how long the annotator looked at the pair.
        created_at: ISO 8601 time.
        source: the dataset it was taken from; None for the dataset that is imported.
        response_meta: what describes each of the two responses, e.g. its model.
    """

    first: str
    second: str
    label: object = "a"
    keeps_sides: bool = False
    annotator: str = ""
    shown_left: str = ""
    seconds: float | None = None
    created_at: str = ""
    source: str | None = None
    response_meta: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {})


ItemIterator = Iterator[ImportedPrompt | Skip]
