"""Token ids of prompts and responses, built by parts.

The template's own special tokens become special ids, each image becomes a placeholder id for
each of its tokens, and whatever a person typed becomes ordinary text: `<image>` or `</s>` inside an
instruction can neither place an image nor end a turn.

How: a copy of the tokenizer gets a second name for each special token, one that nobody can guess.
The template is written with these names and the user's text put into it; the whole is encoded
once, with everything under its old name spelled out, and the second names become the old ids. So
spaces and merges around a special token are those of the stock tokenizer.
"""

import copy
import re
import secrets
from collections.abc import Sequence
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AddedToken

from rlhf.data.image_token_counts import ImageTokens
from rlhf.errors import DataError, UsageError

# Stand for the user's text while the template is rendered; no template contains them.
_INSTRUCTION, _RESPONSE = "@@instruction@@", "@@response@@"


class PromptBuilder:
    """Turns instructions and responses into ids with a LLaVA processor's chat template.

    Args:
        processor: the stock processor of a LLaVA (tokenizer and chat template).
        image_tokens: counts placeholder ids.

    Raises:
        UsageError: the processor has no end-of-sequence token, or no chat template that writes
            the instruction as it is and a placeholder for each image.
    """

    def __init__(self, processor: Any, image_tokens: ImageTokens) -> None:
        if processor.chat_template is None or processor.tokenizer.eos_token_id is None:
            raise UsageError(
                "the model's processor has no chat template or no end-of-sequence token",
                "processor_config.json",
                "use a checkpoint that has both, e.g. llava-hf/llava-1.5-7b-hf",
            )
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_tokens = image_tokens
        specials = self._specials()
        self._special_ids = {self.tokenizer.convert_tokens_to_ids(name) for name in specials}
        longest_first = sorted(specials, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)))
        self._names = {name: f"<{secrets.token_hex(8)}>" for name in specials}
        self._plain = self._renaming(specials)
        self._ids_of_names = {
            self._plain.convert_tokens_to_ids(new): self.tokenizer.convert_tokens_to_ids(old)
            for old, new in self._names.items()
        }
        self._start = self._start_ids()
        self._render, self._context_ids = cache(self._rendered), cache(self._ids)

    def prompt_ids(self, instruction: str, images: Sequence[Path]) -> list[int]:
        """Ids of a user turn with these images, up to where the response begins."""
        prompt = self._render(len(images))[0].replace(_INSTRUCTION, instruction)
        ids = self._start + self._ids(prompt, instruction, self.image_tokens(images))
        bos = self.tokenizer.bos_token_id
        return ids[1:] if ids[:2] == [bos, bos] else ids

    def response_ids(self, response: str) -> list[int]:
        """Ids of a finished response as they follow the prompt's; the last ends the sequence."""
        prompt, lead = self._render(1)
        end: int = self.tokenizer.eos_token_id
        if not response:
            return [end]
        # Only where the prompt's last token would merge with the response, it cannot be seen.
        for context in (prompt.rpartition(_INSTRUCTION)[2], self._names[self.tokenizer.eos_token]):
            before = self._context_ids(context)
            ids = self._ids(context + lead + response, response)
            if ids[: len(before)] == before:
                break
        return [*ids[len(before) :], end]

    def invocation_ids(self) -> list[int]:
        """What ends every prompt: the template's own words after the instruction."""
        prompts = [self.prompt_ids(text, ())[::-1] for text in ("a", "Who?", "1.")]
        same = takewhile(lambda ids: len({*ids}) == 1, zip(*prompts, strict=False))
        return [ids[0] for ids in same][::-1]

    def decode(self, ids: list[int]) -> str:
        """The response as a person reads it; a NUL, which no text file may hold, becomes U+FFFD."""
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        return text.replace("\0", "\ufffd").strip()

    def _rendered(self, images: int) -> tuple[str, str]:
        """The prompt with a stand-in for the instruction, and what precedes the response."""
        prompt, whole = self._written(images)
        image_token = self.tokenizer.convert_ids_to_tokens(self.processor.image_token_id)
        if _INSTRUCTION not in prompt or prompt.count(image_token) != images:
            raise UsageError(
                "the chat template does not write the instruction and each image's placeholder",
                "chat_template.jinja",
                "use the chat template of a LLaVA, e.g. llava-hf/llava-1.5-7b-hf",
            )
        same = whole.startswith(prompt) and _RESPONSE in whole
        lead = whole[len(prompt) : whole.index(_RESPONSE)] if same else ""
        return self._renamed(prompt), self._renamed(lead)

    def _written(self, images: int) -> tuple[str, str]:
        """By the template: a prompt, and the same with a response."""
        user = [{"type": "image"}] * images + [{"type": "text", "text": _INSTRUCTION}]
        turns = [{"role": "user", "content": user}]
        response = {"role": "assistant", "content": [{"type": "text", "text": _RESPONSE}]}
        template = self.processor.apply_chat_template
        try:
            prompt = template(turns, add_generation_prompt=True, tokenize=False)
            return prompt, template([*turns, response], tokenize=False)
        except (TemplateError, TypeError, ValueError, OverflowError) as error:
            fix = "use the chat template of a LLaVA, e.g. llava-hf/llava-1.5-7b-hf"
            raise UsageError("the chat template fails", str(error).split("\n")[0], fix) from error

    def _specials(self) -> set[str]:
        """Names of the special tokens, and of other added tokens the template is written with."""
        template = "".join(self._written(1))
        ids = {*self.tokenizer.all_special_ids, self.processor.image_token_id}
        for token, name in self.tokenizer.added_tokens_decoder.items():
            if name.special or (name.content.strip() and name.content in template):
                ids.add(token)
        return {self.tokenizer.convert_ids_to_tokens(token) for token in ids}

    def _renaming(self, specials: set[str]) -> Any:
        """The tokenizer with the second names, which alone are not spelled out."""
        known = {token.content: token for token in self.tokenizer.added_tokens_decoder.values()}
        tokenizer = copy.deepcopy(self.tokenizer)
        for name in specials:
            old = known.get(name, AddedToken(name))
            sides = {"lstrip": old.lstrip, "rstrip": old.rstrip, "normalized": False}
            tokenizer.add_tokens([AddedToken(name, special=True, **sides)], special_tokens=True)
            tokenizer.add_tokens([AddedToken(self._names[name], special=False, **sides)])
        return tokenizer

    def _renamed(self, template: str) -> str:
        return self._special.sub(lambda found: self._names[found[0]], template)

    def _start_ids(self) -> list[int]:
        """What the tokenizer itself puts before every text."""
        plain = self.tokenizer("x", add_special_tokens=False).input_ids
        full = self.tokenizer("x").input_ids
        return list(full[: full.index(plain[0])])

    def _ids(self, text: str, typed: str = "", images: Sequence[int] = ()) -> list[int]:
        """Ids of the renamed template with a person's text and so many tokens of each image."""
        ids, image, counts = list[int](), self.processor.image_token_id, iter(images)
        encoded = self._plain(text, add_special_tokens=False, split_special_tokens=True)
        for token in encoded.input_ids:
            if token in self._special_ids:
                raise DataError(
                    "the text contains a special token or a sign that this tokenizer cannot spell",
                    repr(typed[:80]),
                    "remove it from the instruction or response",
                )
            token = self._ids_of_names.get(token, token)
            ids += [token] * (next(counts, 1) if token == image else 1)
        return ids
