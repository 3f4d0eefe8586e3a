"""The earlier turns of a conversation: the exchanges before the instruction of a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a user asked earlier, and the response to it.

    Attributes:
        instruction: what was asked.
        response: what was answered.
    """

    instruction: str
    response: str


History = tuple[Exchange, ...]


def history_texts(history: Sequence[Exchange]) -> tuple[str, ...]:
    """List the texts of earlier turns in order, instruction and response by turns."""
    return tuple(text for turn in history for text in (turn.instruction, turn.response))


def transcript(history: Sequence[Exchange], instruction: str) -> str:
    """Write earlier turns and an instruction as one text; without earlier turns the instruction."""
    earlier = (f"{turn.instruction}\nResponse: {turn.response}\nInstruction: " for turn in history)
    return "".join((*earlier, instruction))
