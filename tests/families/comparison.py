"""What a tiny LLaVA computes here and by the stock classes of transformers and peft."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig

from rlhf.config.schema import LoraType, SamplingConfig
from rlhf.data.images import load_image
from rlhf.data.tokenization import flat_ids, response_batch
from rlhf.generation.sampler import generate
from rlhf.models.llava import Llava
from rlhf.spans import Spans
from rlhf.types import PromptBatch, Responses
from tests.families.configurations import Configuration, build
from tests.support.anyres import write_image

QUESTIONS = ("What colour is the circle?", "Where?", "How many shapes are there here?")
ANSWERS = ("red", "There are two shapes in this picture.", "a blue star")
NEW_TOKENS = 12
TOLERANCE = 1e-5  # of a logit
LORA_TYPES: tuple[LoraType, ...] = ("lora", "alora")


@dataclass(frozen=True)
class Agreement:
    """How far results here are from those of the stock classes.

    Attributes:
        logits: largest difference of a logit that predicts a response token.
        spread: standard deviation of the stock logits.
        greedy: rows of three whose greedy tokens are equal.
        adapters: largest difference of a logit under a saved adapter in stock peft, by its type.
    """

    logits: float
    spread: float
    greedy: int
    adapters: dict[LoraType, float]

    @property
    def exact(self) -> bool:
        """Whether all logits are within `TOLERANCE`, spread, and all greedy tokens equal."""
        largest = max(self.logits, *self.adapters.values())
        return largest < TOLERANCE and self.spread > 0.5 and self.greedy == len(QUESTIONS)


def compare(configuration: Configuration, tokenizer: Any, directory: Path) -> Agreement:
    """Build a tiny LLaVA and compare it with a copy that only the stock classes run.

    Args:
        configuration: what to build.
        tokenizer: of the tiny model.
        directory: for images and adapters.
    """
    directory.mkdir(exist_ok=True)
    model, processor = build(configuration, tokenizer)
    stock = copy.deepcopy(model)
    model.config.save_pretrained(directory)  # peft looks there for the size of the vocabulary
    llava = Llava(model, processor, str(directory))
    prompts, responses = batch(llava, configuration, directory)
    expected = stock_logits(stock, llava, prompts, responses)
    logits = packed_logits(llava, prompts, responses)
    greedy = _greedy_rows_equal(llava, stock, prompts)
    adapters = {
        kind: _adapter_difference(llava, stock, prompts, responses, kind, directory / kind)
        for kind in LORA_TYPES
    }
    difference = (logits - expected).abs().max().item()
    return Agreement(difference, expected.std().item(), greedy, adapters)


def batch(
    llava: Llava, configuration: Configuration, directory: Path
) -> tuple[PromptBatch, Responses]:
    """Three prompts of different lengths with their images, and a response to each."""
    files = [
        write_image(directory / f"{number}.png", *size)
        for number, size in enumerate(configuration.sizes)
    ]
    images = tuple(tuple(files[image] for image in row) for row in configuration.images)
    rows = [llava.builder.prompt_ids(*pair) for pair in zip(QUESTIONS, images, strict=True)]
    spans = Spans.from_lengths([len(row) for row in rows])
    prompts = PromptBatch(flat_ids(rows), spans, images, torch.arange(3), QUESTIONS)
    return prompts, response_batch(ANSWERS, llava.builder)


@torch.no_grad()
def packed_logits(llava: Llava, prompts: PromptBatch, responses: Responses) -> Tensor:
    """Logits [N, V] that predict the response tokens, by the packed passes of this package."""
    return llava.response_hidden_states(prompts, responses) @ llava.output_weight.T


@torch.no_grad()
def stock_logits(stock: Any, llava: Llava, prompts: PromptBatch, responses: Responses) -> Tensor:
    """Logits [N, V] that predict the response tokens, by the stock classes, row by row."""
    parts = []
    for row, tokens in enumerate(responses.rows()):
        inputs = _inputs(llava, prompts, row, tokens)
        parts.append(stock(**inputs).logits[0, -len(tokens) - 1 : -1])
    return torch.cat(parts)


def _inputs(
    llava: Llava, prompts: PromptBatch, row: int, tokens: Sequence[int] = ()
) -> dict[str, Any]:
    """A prompt and the first tokens of its response, as the stock classes take them."""
    prompt = prompts.select(torch.tensor([row]))
    ids = torch.tensor([[*prompt.tokens.tolist(), *tokens]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    images = [load_image(path) for path in prompt.images[0]]
    if not images:
        return inputs
    return inputs | dict(llava.processor.image_processor(images, return_tensors="pt"))


def _greedy_rows_equal(llava: Llava, stock: Any, prompts: PromptBatch) -> int:
    sampling = SamplingConfig(temperature=0, max_new_tokens=NEW_TOKENS)
    rows = generate(llava, prompts, sampling)[0].rows()
    config = GenerationConfig(
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=llava.eos_ids,
        pad_token_id=llava.eos_ids[0],
        suppress_tokens=llava.banned_ids,
    )
    equal = 0
    for row, tokens in enumerate(rows):
        inputs = _inputs(llava, prompts, row)
        output = stock.generate(**inputs, generation_config=config)[0]
        equal += output[inputs["input_ids"].shape[1] :].tolist() == list(tokens)
    return equal


def _adapter_difference(
    llava: Llava,
    stock: Any,
    prompts: PromptBatch,
    responses: Responses,
    kind: LoraType,
    directory: Path,
) -> float:
    """Largest difference of a logit under an adapter that is saved here and loaded by peft."""
    llava.adapters.add(kind, rank=4, alpha=8, lora_type=kind)
    with torch.no_grad():
        for value in llava.adapters.tensors(kind).values():
            value.normal_(std=0.1)
    llava.adapters.save(kind, directory, llava.base)
    logits = packed_logits(llava, prompts, responses)
    model = PeftModel.from_pretrained(copy.deepcopy(stock), directory).eval()
    expected = stock_logits(model, llava, prompts, responses)
    return float((logits - expected).abs().max())
