"""Encode prompts and responses with a chat template, safe against special tokens in the text.

The template's own special tokens become special ids, and each image becomes one placeholder id
for each of its tokens. The user's text becomes ordinary text: `<image>` or `</s>` in an
instruction can neither place an image nor end a turn.

A copy of the tokenizer gets a second, random name for each special token. The template is rendered
with the random names, the user's text is inserted, and the result is encoded once: original names
are encoded as ordinary text, random names as the original ids. Spaces and merges around special
tokens are therefore the same as with the original tokenizer.
"""

import copy
import re
import secrets
from collections.abc import Sequence
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from transformers import AddedToken

from rlhf.data.chat_template import ChatTemplate, Turns
from rlhf.data.image_token_counts import ImageTokenCounter
from rlhf.errors import DataError, UsageError
from rlhf.history import History, history_texts
from rlhf.parallel.trial import try_in_child
from rlhf.tracking.console import say_once

# All letters, long words, numbers and blanks, other scripts: what patterns of tokenizers read.
_PROBE = "The quick brown fox jumps over the lazy dog!?\n\n é 図 🦊 "
_PROBE += f"{'a' * 200}b {'1' * 99}.0 {' ' * 99}"
_ENDLESS = (
    "the model's chat template or tokenizer cannot be used",
    "chat_template.jinja, tokenizer.json",
    "use those of a published LLaVA, e.g. llava-hf/llava-1.5-7b-hf",
)


class PromptBuilder:
    """Encodes instructions and responses with a LLaVA processor's chat template.

    Args:
        processor: the Transformers processor of a LLaVA (tokenizer and chat template).
        image_tokens: counts the placeholder ids of each image.

    Attributes:
        end_of_turn_id: the token that ends a response: the special token that the chat template
            writes after an assistant turn, or end-of-sequence if it writes none there.

    Raises:
        UsageError: the processor has no end-of-sequence token, or no chat template that writes
            the instruction unchanged and a placeholder for each image.
    """

    def __init__(self, processor: Any, image_tokens: ImageTokenCounter) -> None:
        if processor.chat_template is None or processor.tokenizer.eos_token_id is None:
            raise UsageError(
                "the model's processor has no chat template or no end-of-sequence token",
                "processor_config.json",
                "use a checkpoint that has both, e.g. llava-hf/llava-1.5-7b-hf",
            )
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_tokens = image_tokens
        try_in_child(lambda: _probe(processor), *_ENDLESS)
        self._template = ChatTemplate(processor)
        specials = self._special_names()
        self._special_ids = {self.tokenizer.convert_tokens_to_ids(name) for name in specials}
        longest_first = sorted(specials, key=len, reverse=True)
        self._special_pattern = re.compile("|".join(map(re.escape, longest_first)))
        self._random_names = {name: f"<{secrets.token_hex(8)}>" for name in specials}
        self._renamed_tokenizer = self._with_random_names(specials)
        self._original_ids = {
            self._renamed_tokenizer.convert_tokens_to_ids(
                new
            ): self.tokenizer.convert_tokens_to_ids(old)
            for old, new in self._random_names.items()
        }
        self._prefix = self._prefix_ids()
        self._renamed, self._encode_context = cache(self._rename_specials), cache(self._encode)
        self.end_of_turn_id = self._find_end_of_turn()

    def prompt_ids(
        self, instruction: str, images: Sequence[Path], history: History = ()
    ) -> list[int]:
        """Encode a conversation up to where the response to its last user turn begins.

        Args:
            instruction: of the last user turn.
            images: of the first user turn.
            history: the turns before the last user turn.

        Raises:
            DataError: a text cannot be encoded, or the chat template writes no earlier turns.
        """
        texts = *history_texts(history), instruction
        turns = self._turns(len(images), history, instruction)
        parts = zip(turns.before, turns.strips, texts, strict=True)
        written = "".join(self._renamed(before) + strip(text) for before, strip, text in parts)
        prompt = written + self._renamed(turns.after)
        ids = self._prefix + self._encode(prompt, "\n".join(texts), self.image_tokens(images))
        bos = self.tokenizer.bos_token_id
        return ids[1:] if ids[:2] == [bos, bos] else ids

    def response_ids(self, response: str) -> list[int]:
        """Encode a finished response as it follows the prompt; the last id ends the turn."""
        turns = self._template.turns(1)
        response = turns.strip_response(response)
        if not response:
            return [self.end_of_turn_id]
        separator = self._renamed(turns.separator)
        # If the prompt's last token would merge with the response, a special token stands before.
        for context in (
            self._renamed(turns.after),
            self._random_names[self.tokenizer.eos_token],
        ):
            context_ids = self._encode_context(context)
            ids = self._encode(context + separator + response, response)
            if ids[: len(context_ids)] == context_ids:
                break
        return [*ids[len(context_ids) :], self.end_of_turn_id]

    def invocation_ids(self) -> list[int]:
        """Return the ids that end every prompt: the template's text after the instruction."""
        prompts = [self.prompt_ids(text, ())[::-1] for text in ("a", "Who?", "1.")]
        common = takewhile(lambda ids: len({*ids}) == 1, zip(*prompts, strict=False))
        return [ids[0] for ids in common][::-1]

    def decode(self, ids: list[int]) -> str:
        """Decode a response without special tokens; a NUL, which records refuse, becomes U+FFFD."""
        spoken = ids[:-1] if ids[-1:] == [self.end_of_turn_id] else ids
        text = str(self.tokenizer.decode(spoken, skip_special_tokens=True))
        return text.replace("\0", "\ufffd").strip()

    def _turns(self, images: int, history: History, instruction: str) -> Turns:
        """Render the template around these turns; a template without earlier turns refuses them."""
        try:
            return self._template.turns(images, len(history))
        except UsageError as error:
            if not history:
                raise
            name = self.tokenizer.name_or_path
            raise DataError(
                f"{name}: its chat template cannot write the earlier turns of a conversation "
                f"({error.what})",
                repr(instruction[:80]),
                "remove `history` from the record, or use a model whose template writes them",
            ) from error

    def _find_end_of_turn(self) -> int:
        """Find the special token that the template writes after a response, else end-of-sequence.

        A template that leaves the last turn open shows it before another turn. The token that only
        begins a turn, the first one of a prompt, does not count there.
        """
        end: str = self._template.turns(1).end
        bos, eos = self.tokenizer.bos_token, self.tokenizer.eos_token
        opening = self._special_pattern.findall(self._template.turns(0).before[0])
        begins = {bos, *[name for name in opening if name != bos][:1]}
        for text, excluded in ((end, set[str]()), (self._template.between_turns(), begins)):
            match = self._special_pattern.match(text.lstrip())
            if match and match[0] not in excluded:
                return int(self.tokenizer.convert_tokens_to_ids(match[0]))
        if end.strip():
            say_once(
                f"the chat template writes {end.strip()!r} after a response, which is no token of "
                f"its own; responses end with {eos}"
            )
        return int(self.tokenizer.eos_token_id)

    def _special_names(self) -> set[str]:
        """Collect the special tokens, and other added tokens that the template contains."""
        turns = self._template.turns(1)
        parts = (*turns.before, turns.after, turns.separator, turns.end)
        template = "".join((*parts, self._template.between_turns()))
        ids = {*self.tokenizer.all_special_ids, self.processor.image_token_id}
        for token, name in self.tokenizer.added_tokens_decoder.items():
            if name.special or (name.content.strip() and name.content in template):
                ids.add(token)
        return {self.tokenizer.convert_ids_to_tokens(token) for token in ids}

    def _with_random_names(self, specials: set[str]) -> Any:
        """Copy the tokenizer; only the random names are encoded as single tokens in it."""
        known = {token.content: token for token in self.tokenizer.added_tokens_decoder.values()}
        tokenizer = copy.deepcopy(self.tokenizer)
        for name in specials:
            old = known.get(name, AddedToken(name))
            options = {"lstrip": old.lstrip, "rstrip": old.rstrip, "normalized": False}
            tokenizer.add_tokens([AddedToken(name, special=True, **options)], special_tokens=True)
            tokenizer.add_tokens([AddedToken(self._random_names[name], special=False, **options)])
        return tokenizer

    def _rename_specials(self, template: str) -> str:
        return self._special_pattern.sub(lambda match: self._random_names[match[0]], template)

    def _prefix_ids(self) -> list[int]:
        """Return the ids that the tokenizer itself puts before every text, e.g. BOS."""
        text_ids = self.tokenizer("x", add_special_tokens=False).input_ids
        all_ids = self.tokenizer("x").input_ids
        return list(all_ids[: all_ids.index(text_ids[0])])

    def _encode(self, text: str, user_text: str = "", image_lens: Sequence[int] = ()) -> list[int]:
        """Encode the renamed template with a person's text in it.

        Args:
            text: the rendered template with random names of special tokens.
            user_text: the part that a person typed, for the error message.
            image_lens: placeholder ids of each image.
        """
        ids, image, counts = list[int](), self.processor.image_token_id, iter(image_lens)
        encoded = self._renamed_tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        for token in encoded.input_ids:
            if token in self._special_ids:
                raise DataError(
                    "the text has a special token or a character that this tokenizer cannot encode",
                    repr(user_text[:80]),
                    "remove it from the instruction or response",
                )
            token = self._original_ids.get(token, token)
            ids += [token] * (next(counts, 1) if token == image else 1)
        return ids


def _probe(processor: Any) -> None:
    """Use a chat template and a tokenizer in every way, on texts that patterns may stumble on."""
    ids = processor.tokenizer(_PROBE).input_ids
    processor.tokenizer.decode(ids)
    template = ChatTemplate(processor)
    template.turns(2, 2)
    template.between_turns()
