"""Prompts and pairs in the form that trl takes. Needs no trl."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlhf.config.schema import Config
from rlhf.data.images import load_image
from rlhf.data.input_files import input_file, read_with_images
from rlhf.data.records import PreferenceRecord
from rlhf.errors import DataError
from rlhf.history import history_texts
from rlhf.tracking.console import say
from rlhf.types import PreferenceBatch, PromptBatch

T = TypeVar("T")


def repeated(rows: Sequence[T], count: int) -> list[T]:
    """Return the rows as often as makes `count` of them: trl leaves out what fills no batch."""
    return list(rows) * -(-count // len(rows))


def chat_rows(prompts: PromptBatch) -> list[dict[str, Any]]:
    """Return prompts as chat turns, with their opened image and the index of each."""
    return [
        {"prompt": _turns(prompts, number), "image": load_image(path), "number": number}
        for number, (path,) in enumerate(prompts.images)
    ]


def _turns(prompts: PromptBatch, number: int) -> list[dict[str, str]]:
    """Return the turns of a conversation up to its last instruction; trl adds the image."""
    turns = []
    for turn in prompts.histories[number]:
        turns.append({"role": "user", "content": turn.instruction})
        turns.append({"role": "assistant", "content": turn.response})
    return [*turns, {"role": "user", "content": prompts.instructions[number]}]


def check_special_tokens(prompts: PromptBatch, processor: Any) -> None:
    """Refuse prompts with a special token in their text, which trl would read as one.

    Raises:
        DataError: there is one.
    """
    added = processor.tokenizer.added_tokens_decoder.values()
    names = {token.content for token in added if token.special} | {processor.image_token}
    for number, instruction in enumerate(prompts.instructions):
        texts = instruction, *history_texts(prompts.histories[number])
        if found := sorted(name for name in names if any(name in text for text in texts)):
            where = f"{prompts.images[number][0]}: {instruction[:60]!r}"
            fix = "remove it from the text, or leave the prompt out; `rlhf ppo` reads it as text"
            raise DataError(f"trl would read {found[0]} in this prompt as a token", where, fix)


def check_prompt_ids(
    prompts: PromptBatch, numbers: Sequence[int], ids: Tensor, mask: Tensor
) -> None:
    """Refuse prompts that trl encodes otherwise than rlhf, whatever the reason.

    Args:
        prompts: as rlhf encodes them.
        numbers: the index of the prompt of each of B rows.
        ids: [B, T], as trl encodes them, padded.
        mask: [B, T], 1 where there is no padding.

    Raises:
        DataError: the ids of a prompt differ.
    """
    expected = prompts.tokens.split(prompts.spans.lengths.tolist())
    for number, row, inside in zip(numbers, ids.cpu(), mask.cpu().bool(), strict=True):
        if not torch.equal(row[inside], expected[number]):
            where = f"{prompts.images[number][0]}: {prompts.instructions[number][:60]!r}"
            fix = "leave the prompt out, or compare with trl_ppo, which gets the ids of rlhf"
            raise DataError("trl encodes this prompt otherwise than rlhf", where, fix)


def read_pairs(config: Config) -> tuple[list[PreferenceRecord], Path]:
    """Return the pairs of data.preferences that are no ties, and where their image paths start.

    Raises:
        UsageError: the option is empty.
        DataError: a record or image is bad, or every pair is a tie.
    """
    path = input_file(config.data.preferences, "data.preferences")
    records, root = read_with_images(config, path, PreferenceRecord)
    decided = [record for record in records if record.preference != "tie"]
    if not decided:
        raise DataError("every pair is a tie", str(path), "DPO needs pairs with a preference")
    if ties := len(records) - len(decided):
        say(f"{path.name}: {ties} ties left out, DPO has none")
    return decided, root


@dataclass(frozen=True)
class PairCollator:
    """Makes the batches of trl's DPO, encoded as by `rlhf reward`: ends of responses included.

    Attributes:
        pairs: all pairs.
        image_processor: of the model.
        pad_id: fills shorter rows, which is masked.
    """

    pairs: PreferenceBatch
    image_processor: Any
    pad_id: int

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each pair; `image` tells trl that there are images."""
        images = [str(path) for (path,) in self.pairs.prompts.images]
        columns = {"prompt": "", "chosen": "", "rejected": ""}  # trl looks for them, and no more
        return [{"image": path, "number": n, **columns} for n, path in enumerate(images)]

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return B chosen sequences, then the B rejected ones, padded on the right."""
        prompts, responses = self.pairs.select(torch.tensor([x["number"] for x in rows])).stacked()
        parts = zip(
            prompts.tokens.split(prompts.spans.lengths.tolist()), responses.rows(), strict=True
        )
        sequences, masks = [], []
        for prompt, response in parts:
            sequences.append(torch.cat([prompt, torch.tensor(response)]))
            masks.append(torch.tensor([0] * len(prompt) + [1] * len(response)))
        images = [load_image(path) for (path,) in prompts.images]
        completion_mask = pad_sequence(masks, batch_first=True)
        lengths = torch.tensor([len(row) for row in sequences])
        return {
            **self.image_processor(images, return_tensors="pt"),
            "input_ids": pad_sequence(sequences, batch_first=True, padding_value=self.pad_id),
            "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
            "completion_mask": completion_mask,
        }
