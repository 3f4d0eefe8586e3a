"""The same responses by transformers' own `generate`: slower, and the judge of `generate`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessor

from rlhf.config.schema import SamplingConfig
from rlhf.data.images import load_image
from rlhf.errors import UsageError
from rlhf.functional import keyed_uniforms
from rlhf.generation.sampler import sample_tokens, to_responses
from rlhf.models.llava import Llava
from rlhf.types import PromptBatch, Responses, SampledTokens


@torch.no_grad()
def hf_generate(
    llava: Llava,
    prompts: PromptBatch,
    sampling: SamplingConfig,
    *,
    seed: int = 0,
    iteration: int = 0,
    samples: Tensor | None = None,
    return_hidden_states: bool = False,
    on_chunk: Callable[[int], None] = lambda rows: None,
) -> tuple[Responses, SampledTokens]:
    """As `generate`: the same numbers pick the tokens. Prompts are padded, none is shared.

    The stock loop hands out no states; `return_hidden_states` changes nothing.
    """
    samples = torch.zeros(len(prompts), dtype=torch.int64) if samples is None else samples
    rows: list[Tensor] = []
    logprobs: list[Tensor] = []
    for chunk in torch.arange(len(prompts)).split(sampling.batch_size):
        keys = (seed, iteration, prompts.sampling_keys[chunk], samples[chunk])
        picks = KeyedSampling(llava, sampling, keys)
        for tokens, scores in _generated(llava, prompts.select(chunk), sampling, picks):
            rows.append(tokens)
            logprobs.append(scores)
        on_chunk(len(chunk))
    return to_responses(llava, rows), SampledTokens(torch.cat(logprobs))


@torch.no_grad()
def beam_search(
    llava: Llava, prompts: PromptBatch, sampling: SamplingConfig, *, beams: int
) -> Responses:
    """The likeliest response found to each prompt, by stock beam search of that width.

    Its score is the sum of log-probabilities over the length, in tokens.

    Raises:
        UsageError: the model reads its prompts without its adapter.
    """
    if llava.adapters.lora_type == "alora":
        where, fix = "model.lora_type=alora", "set collect.num_beams=0"
        raise UsageError("beam search cannot read a prompt apart", where, fix)
    rows = [
        row
        for chunk in torch.arange(len(prompts)).split(max(1, sampling.batch_size // beams))
        for row in truncate_at_eos(llava, _searched(llava, prompts.select(chunk), sampling, beams))
    ]
    return to_responses(llava, rows)


def _searched(llava: Llava, prompts: PromptBatch, sampling: SamplingConfig, beams: int) -> Tensor:
    given = _inputs(llava, prompts)
    options = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,
        num_beams=beams,
        suppress_tokens=list(llava.banned_ids),
        eos_token_id=llava.eos_ids,
        pad_token_id=llava.eos_ids[0],
    )
    found: Tensor = llava.model.generate(**given, generation_config=options)
    return found[:, given["input_ids"].shape[1] :].cpu()


def truncate_at_eos(llava: Llava, tokens: Tensor) -> list[Tensor]:
    """Each row [T] up to its first end, that included."""
    ends = torch.isin(tokens, torch.tensor(llava.eos_ids))
    lengths = torch.where(ends.any(1), ends.int().argmax(1) + 1, tokens.shape[1]).tolist()
    return [tokens[row, :n] for row, n in enumerate(lengths)]


class KeyedSampling(LogitsProcessor):  # type: ignore[misc]
    """Leaves of each row's logits only the token that its key picks."""

    def __init__(
        self, llava: Llava, sampling: SamplingConfig, keys: tuple[int, int, Tensor, Tensor]
    ) -> None:
        self.llava, self.sampling, self.keys = llava, sampling, keys
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        uniforms = keyed_uniforms(*self.keys, len(self.logprobs))
        chosen, logprobs = sample_tokens(self.llava, scores, self.sampling, uniforms)
        self.logprobs.append(logprobs.cpu())
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen.unsqueeze(1), 0)


def _generated(
    llava: Llava, prompts: PromptBatch, sampling: SamplingConfig, picks: KeyedSampling
) -> list[tuple[Tensor, Tensor]]:
    """Tokens and log-probabilities of each row."""
    given = _inputs(llava, prompts)
    width = given["input_ids"].shape[1]
    if llava.adapters.lora_type == "alora":
        given = prefill_prefix(llava, given)
    options = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,
        eos_token_id=llava.eos_ids,
        pad_token_id=llava.eos_ids[0],
    )
    found = llava.model.generate(**given, generation_config=options, logits_processor=[picks])
    tokens, scores = found[:, width:].cpu(), torch.stack(picks.logprobs, dim=1)
    return [
        (row, own[: len(row)])
        for row, own in zip(truncate_at_eos(llava, tokens), scores, strict=True)
    ]


def _inputs(llava: Llava, prompts: PromptBatch) -> dict[str, Any]:
    """Prompts padded on the left, and pixels, as the stock model takes them."""
    spans, width = prompts.spans, prompts.spans.max_len
    columns = width - spans.lengths[spans.segment_ids] + spans.positions
    tokens = torch.full((len(prompts), width), llava.eos_ids[0])
    mask = torch.zeros_like(tokens)
    tokens[spans.segment_ids, columns], mask[spans.segment_ids, columns] = prompts.tokens, 1
    given = {"input_ids": tokens.to(llava.device), "attention_mask": mask.to(llava.device)}
    images = [load_image(path) for row in prompts.images for path in row]
    if not images:
        return given
    pixels = llava.processor.image_processor(images=images, return_tensors="pt")
    dtype = llava.model.model.vision_tower.dtype
    return given | dict(pixels.to(device=llava.device, dtype=dtype))


def prefill_prefix(llava: Llava, given: dict[str, Any]) -> dict[str, Any]:
    """What is left to read after the bare trunk has read all but the invocation."""
    cut, cache = -len(llava.adapters.invocation), DynamicCache()
    before = {name: given[name][:, :cut] for name in ("input_ids", "attention_mask")}
    places = (before["attention_mask"].cumsum(1) - 1).clamp(min=0)  # as `generate` counts them
    options = {"position_ids": places, "use_cache": True, "logits_to_keep": 1}
    with llava.adapters.use(None):
        llava.model(**given | before | options, past_key_values=cache)
    ids = {name: given[name] for name in ("input_ids", "attention_mask")}
    return ids | {"past_key_values": cache}
