"""Token ids of prompts and responses, built by parts.

The template's own special tokens become special ids, each picture becomes exactly I placeholder
ids, and whatever a person typed becomes ordinary text: `<image>` or `</s>` inside an instruction
can neither place a picture nor end a turn.
"""

import re
from functools import cache
from typing import Any

from rlhf.errors import DataError, UsageError

# Stand for the user's text while the template is rendered; no template contains them.
_INSTRUCTION, _RESPONSE = "@@instruction@@", "@@response@@"


class PromptBuilder:
    """Turns instructions and responses into ids with a LLaVA processor's chat template.

    Args:
        processor: a `LlavaProcessor` (tokenizer and chat template).
        image_tokens: I, placeholder ids per picture.

    Raises:
        UsageError: the processor has no chat template, or no end-of-sequence token.
    """

    def __init__(self, processor: Any, image_tokens: int) -> None:
        if processor.chat_template is None or processor.tokenizer.eos_token_id is None:
            raise UsageError(
                "the model's processor has no chat template or no end-of-sequence token",
                "processor_config.json",
                "use a checkpoint that has both, e.g. llava-hf/llava-1.5-7b-hf",
            )
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_tokens = image_tokens
        self._special_ids = set(self.tokenizer.all_special_ids) | {processor.image_token_id}
        specials = {self.tokenizer.convert_ids_to_tokens(i) for i in self._special_ids}
        self._special = re.compile("(" + "|".join(map(re.escape, sorted(specials))) + ")")
        self._render = cache(self._rendered)

    def prompt_ids(self, instruction: str, images: int = 1) -> list[int]:
        """Ids of a user turn with `images` pictures, up to where the response begins."""
        ids: list[int] = self._start_ids()
        for part in self._special.split(self._render(images)[0]):
            if self._special.fullmatch(part):
                ids += self._template_ids(part)
            elif part:
                ids += self._plain_ids(part.replace(_INSTRUCTION, instruction))
        bos = self.tokenizer.bos_token_id
        return ids[1:] if ids[:2] == [bos, bos] else ids

    def response_ids(self, response: str) -> list[int]:
        """Ids of a finished response; the last one is the end-of-sequence token."""
        lead = self._render(1)[1]
        if self._adds_space():
            lead = lead.removeprefix(" ")
        return [*self._plain_ids(lead + response), self.tokenizer.eos_token_id]

    def decode(self, ids: list[int]) -> str:
        """The response as a person reads it; a NUL, which no text file may hold, becomes U+FFFD."""
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        return text.replace("\0", "\ufffd").strip()

    def _rendered(self, images: int) -> tuple[str, str]:
        """The prompt with a stand-in for the instruction, and what precedes the response."""
        user = [{"type": "image"}] * images + [{"type": "text", "text": _INSTRUCTION}]
        turns = [{"role": "user", "content": user}]
        answer = {"role": "assistant", "content": [{"type": "text", "text": _RESPONSE}]}
        template = self.processor.apply_chat_template
        prompt = template(turns, add_generation_prompt=True, tokenize=False)
        whole = template([*turns, answer], tokenize=False)
        lead = whole[len(prompt) : whole.index(_RESPONSE)] if whole.startswith(prompt) else ""
        return prompt, lead

    def _start_ids(self) -> list[int]:
        """What the tokenizer itself puts before every text."""
        plain = self.tokenizer("x", add_special_tokens=False).input_ids
        full = self.tokenizer("x").input_ids
        return list(full[: full.index(plain[0])])

    def _template_ids(self, special: str) -> list[int]:
        token = self.tokenizer.convert_tokens_to_ids(special)
        return [token] * (self.image_tokens if token == self.processor.image_token_id else 1)

    def _plain_ids(self, text: str) -> list[int]:
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        ids = list(encoded.input_ids)
        if self._special_ids & set(ids):
            raise DataError(
                "the text contains a special token that this tokenizer cannot spell out",
                repr(text[:80]),
                "remove the special token from the instruction or response",
            )
        return ids

    def _adds_space(self) -> bool:
        """Whether the tokenizer puts a space before every text (SentencePiece style)."""
        first = self.tokenizer("a", add_special_tokens=False).input_ids[0]
        return str(self.tokenizer.convert_ids_to_tokens(first)).startswith("▁")
