"""Convert rows of plain tables: an image, an instruction, and responses if there are any."""

from rlhf.data.importers.fields import (
    INSTRUCTION_COLUMNS,
    Row,
    Skip,
    present,
    read_id,
    read_image,
)
from rlhf.data.importers.items import (
    ImportedDemonstration,
    ImportedPair,
    ImportedPrompt,
    ItemIterator,
)
from rlhf.data.importers.turns import read_message

_IMAGE = ("image_path", "image", "images")
RESPONSE_COLUMNS = ("response", "output", "answer")


def table(row: Row) -> ItemIterator:
    """Read any table with an image, an instruction, and two responses.

    The columns are response_a, response_b and preference, or chosen and rejected.
    """
    has_label = row.get("response_a") is not None
    first, second = ("response_a", "response_b") if has_label else ("chosen", "rejected")
    yield ImportedPair(
        image=read_image(row, *_IMAGE),
        instruction=_instruction(row),
        first=read_message(row, first, "assistant"),
        second=read_message(row, second, "assistant"),
        label=row.get("preference") if has_label else "a",
        id=read_id(row, "id"),
        annotator=read_id(row, "annotator"),
        created_at=read_id(row, "created_at"),
        keeps_sides=has_label,
    )


def demonstration_table(row: Row) -> ItemIterator:
    """Read any table with an image, an instruction and a response."""
    yield ImportedDemonstration(
        image=read_image(row, *_IMAGE),
        instruction=_instruction(row),
        response=read_message(row, present(row, *RESPONSE_COLUMNS), "assistant"),
        id=read_id(row, "id"),
    )


def prompt_table(row: Row) -> ItemIterator:
    """Read any table with an image and an instruction."""
    image = read_image(row, *_IMAGE)
    yield ImportedPrompt(image=image, instruction=_instruction(row), id=read_id(row, "id"))


def _instruction(row: Row) -> str:
    """Return the instruction, with the alpaca format's `input` on the line below it."""
    name = present(row, *INSTRUCTION_COLUMNS)
    text, added = read_message(row, name, "user"), row.get("input")
    if added and not isinstance(added, str):
        raise Skip("not a text", "input", type(added).__name__)
    return f"{text}\n{added}" if added else text
