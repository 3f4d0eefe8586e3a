"""Render a processor's chat template: what it writes around an instruction and a response.

A person's text never passes through the template. A placeholder does, and the text replaces it.
That is exact only if the template writes texts as they are, which is tested with a text that every
common filter changes. Filters that remove blanks at the ends of a text are applied to it.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

from rlhf.errors import UsageError, as_usage_error

INSTRUCTION, RESPONSE = "@@instruction@@", "@@response@@"  # no template contains them
# Capitals, markup, quotes, a backslash, lines; longer than `truncate` leaves a text; blanks around.
_WORDS = "aB  <b>&'\"%\\ é\n図 " + "long " * 60 + "end"
_PROBES = (f" \n\t{_WORDS}\t\n ", f"\n \t{_WORDS}\t \n")
_STRIPS: tuple[Callable[[str], str], ...] = (str, str.strip, str.lstrip, str.rstrip)
_FIX = "use the chat template of a LLaVA, e.g. llava-hf/llava-1.5-7b-hf"


@dataclass(frozen=True)
class Turns:
    """A rendered user turn, and what the template writes around a response to it.

    Attributes:
        before: the text before the instruction.
        after: the text after it, up to where the response begins.
        separator: more text, written before a response only, e.g. a blank.
        end: the text after the response.
        strip_instruction: removes the blanks that the template removes from an instruction.
        strip_response: removes the blanks that the template removes from a response.
    """

    before: str
    after: str
    separator: str
    end: str
    strip_instruction: Callable[[str], str]
    strip_response: Callable[[str], str]


class ChatTemplate:
    """Renders one user turn, and an assistant turn after it, with a processor's chat template.

    The content of a turn is a list of parts. A template that takes a plain text instead, as that
    of a language model, gets the image token and a new line for each image, then the instruction.

    Args:
        processor: the Transformers processor of a LLaVA.

    Raises:
        UsageError: the template fails, changes a text, or does not write the instruction once and
            a placeholder for each image.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._image = processor.tokenizer.convert_ids_to_tokens(processor.image_token_id)
        self._takes_parts = True
        self.turns = cache(self._render)
        try:
            self.turns(1)
        except UsageError as error:
            self._takes_parts = False
            try:
                self.turns(1)
            except UsageError:
                raise error from None

    def between_turns(self) -> str:
        """Render the text between a response and the next instruction; empty if that fails."""
        with suppress(UsageError):
            later = self._apply(0, INSTRUCTION, RESPONSE, "@@next@@")
            return later.partition(RESPONSE)[2].partition("@@next@@")[0]
        return ""

    def _render(self, images: int) -> Turns:
        """Render the turns with this number of images."""
        prompt, conversation = (
            self._apply(images, INSTRUCTION),
            self._apply(images, INSTRUCTION, RESPONSE),
        )
        if prompt.count(INSTRUCTION) != 1 or prompt.count(self._image) != images:
            raise UsageError(
                "the chat template does not write the instruction and each image's placeholder",
                "chat_template.jinja",
                _FIX,
            )
        before, _, after = prompt.partition(INSTRUCTION)
        spoken, found, end = conversation.partition(RESPONSE)
        continues = bool(found) and spoken.startswith(prompt)
        separator = spoken[len(prompt) :] if continues else ""
        strips = self._strips(images, prompt, conversation)
        return Turns(before, after, separator, end, *strips)

    def _strips(
        self, images: int, prompt: str, conversation: str
    ) -> tuple[Callable[[str], str], Callable[[str], str]]:
        """Find which blanks the template removes from an instruction and from a response.

        Args:
            images: of the user turn.
            prompt: rendered with the placeholder of an instruction.
            conversation: rendered with the placeholders of an instruction and a response.

        Raises:
            UsageError: the template changes texts in another way.
        """
        probed = [
            (self._apply(images, probe), self._apply(images, probe, probe)) for probe in _PROBES
        ]
        for of_instruction, of_response in product(_STRIPS, _STRIPS):
            expected = [
                tuple(
                    text.replace(INSTRUCTION, of_instruction(probe)).replace(
                        RESPONSE, of_response(probe)
                    )
                    for text in (prompt, conversation)
                )
                for probe in _PROBES
            ]
            if probed == expected:
                return of_instruction, of_response
        raise UsageError(
            "the chat template changes the instruction or the response",
            "chat_template.jinja",
            "remove its filters and methods that change a text; only trim and strip() may stay",
        )

    def _apply(self, images: int, *texts: str) -> str:
        """Apply the template to turns of user and assistant; after an instruction, prompt for one.

        Args:
            images: of the first turn.
            *texts: of the turns.
        """
        turns = [
            {
                "role": "assistant" if number % 2 else "user",
                "content": self._content(0 if number else images, text),
            }
            for number, text in enumerate(texts)
        ]
        with as_usage_error("the chat template fails", "chat_template.jinja", _FIX):
            return str(
                self._processor.apply_chat_template(
                    turns, add_generation_prompt=len(texts) == 1, tokenize=False
                )
            )

    def _content(self, images: int, text: str) -> str | list[dict[str, str]]:
        if self._takes_parts:
            return [{"type": "image"}] * images + [{"type": "text", "text": text}]
        return f"{self._image}\n" * images + text
