"""Render a processor's chat template: what it writes around the texts of a conversation.

A person's text never passes through the template. A placeholder does, and the text replaces it.
That is exact only if the template writes texts as they are, which is tested with a text that every
common filter changes. Filters that remove blanks at the ends of a text are applied to it.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

from rlhf.errors import UsageError, as_usage_error

INSTRUCTION, RESPONSE = "@@instruction@@", "@@response@@"  # no template contains them
# Capitals, markup, quotes, a backslash, lines; longer than `truncate` leaves a text; blanks around.
_WORDS = "aB  <b>&'\"%\\ é\n図 " + "long " * 60 + "end"
_PROBES = (f" \n\t{_WORDS}\t\n ", f"\n \t{_WORDS}\t \n")
Strip = Callable[[str], str]
_STRIPS: tuple[Strip, ...] = (str, str.strip, str.lstrip, str.rstrip)
_FIX = "use the chat template of a LLaVA, e.g. llava-hf/llava-1.5-7b-hf"


@dataclass(frozen=True)
class Turns:
    """What the template writes around the texts of a prompt, and around a response to it.

    The texts are those of the earlier turns, if there are any, and the instruction.

    Attributes:
        before: the text before each text of the prompt.
        strips: for each text of the prompt, removes the blanks that the template removes.
        after: the text after the instruction, up to where the response begins.
        separator: more text, written before a response only, e.g. a blank.
        end: the text after the response.
        strip_response: removes the blanks that the template removes from a response.
    """

    before: tuple[str, ...]
    strips: tuple[Strip, ...]
    after: str
    separator: str
    end: str
    strip_response: Strip


class ChatTemplate:
    """Renders a user turn, what came before it and a response, with a processor's chat template.

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
        self.turns = cache(self._turns)
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

    def _turns(self, images: int, exchanges: int = 0) -> Turns:
        """Render a prompt with this number of images, after this number of exchanges."""
        turns = self._render(images, exchanges)
        plain = self.turns(images) if exchanges else turns
        if turns != replace(plain, before=turns.before, strips=turns.strips):
            raise UsageError(
                "the chat template ends a prompt with earlier turns in another way",
                "chat_template.jinja",
                _FIX,
            )
        return turns

    def _render(self, images: int, exchanges: int) -> Turns:
        names = [*(f"@@earlier{number}@@" for number in range(2 * exchanges)), INSTRUCTION]
        prompt, conversation = self._apply(images, *names), self._apply(images, *names, RESPONSE)
        if re.findall("|".join(names), prompt) != names or prompt.count(self._image) != images:
            raise UsageError(
                "the chat template does not write the instruction and each image's placeholder",
                "chat_template.jinja",
                _FIX,
            )
        *before, after = re.split("|".join(names), prompt)
        spoken, found, end = conversation.partition(RESPONSE)
        continues = bool(found) and spoken.startswith(prompt)
        separator = spoken[len(prompt) :] if continues else ""
        *strips, strip_response = self._strips(images, names, (prompt, conversation))
        return Turns(tuple(before), tuple(strips), after, separator, end, strip_response)

    def _strips(
        self, images: int, names: Sequence[str], rendered: tuple[str, str]
    ) -> tuple[Strip, ...]:
        """Find which blanks the template removes from each text of a prompt and from a response.

        A template that reads a plain text may remove others where the image stands before it.

        Args:
            images: of the first user turn.
            names: the placeholders of the texts of the prompt, in order.
            rendered: the prompt, and the conversation that ends with the response's placeholder.

        Raises:
            UsageError: the template changes texts in another way.
        """
        count = len(names)
        probed = [
            (self._apply(images, *[probe] * count), self._apply(images, *[probe] * (count + 1)))
            for probe in _PROBES
        ]
        for first, later, response in product(_STRIPS, _STRIPS, _STRIPS):
            strips = (first, *(response, later) * (count // 2), response)
            if probed == [_fill(rendered, (*names, RESPONSE), strips, probe) for probe in _PROBES]:
                return strips
        raise UsageError(
            "the chat template changes the instruction or the response",
            "chat_template.jinja",
            "remove its filters and methods that change a text; only trim and strip() may stay",
        )

    def _apply(self, images: int, *texts: str) -> str:
        """Apply the template to turns of user and assistant; after a user's turn, prompt for one.

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
                    turns, add_generation_prompt=len(texts) % 2 == 1, tokenize=False
                )
            )

    def _content(self, images: int, text: str) -> str | list[dict[str, str]]:
        if self._takes_parts:
            return [{"type": "image"}] * images + [{"type": "text", "text": text}]
        return f"{self._image}\n" * images + text


def _fill(
    rendered: tuple[str, str], names: Sequence[str], strips: Sequence[Strip], probe: str
) -> tuple[str, str]:
    """Replace each placeholder by a probe without the blanks that `strips` remove from it."""
    prompt, conversation = rendered
    for name, strip in zip(names, strips, strict=True):
        prompt = prompt.replace(name, strip(probe))
        conversation = conversation.replace(name, strip(probe))
    return prompt, conversation
