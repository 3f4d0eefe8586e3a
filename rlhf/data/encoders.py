"""What turns text into ids and back: a model's `PromptBuilder`, or no model at all."""

from typing import Protocol


class Encoder(Protocol):
    """Turns instructions and responses into ids, and responses back."""

    def prompt_ids(self, instruction: str, images: int = 1) -> list[int]:
        """Ids of a prompt with `images` pictures."""

    def response_ids(self, response: str) -> list[int]:
        """Ids of a finished response."""

    def decode(self, ids: list[int]) -> str:
        """The response as a person reads it."""


class TextBytes:
    """Text as its UTF-8 bytes, for scorers that read text and no model's tokens."""

    def prompt_ids(self, instruction: str, images: int = 1) -> list[int]:
        """The bytes of the instruction; pictures have no tokens here."""
        return list(instruction.encode())

    def response_ids(self, response: str) -> list[int]:
        """The bytes of the response."""
        return list(response.encode())

    def decode(self, ids: list[int]) -> str:
        """The text of the bytes."""
        return bytes(ids).decode()
