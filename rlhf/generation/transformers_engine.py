"""Generation by `generate` of transformers: slower, an independent check of the native engine."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, LogitsProcessor

from rlhf.config.schema import SamplingConfig
from rlhf.data.images import load_image
from rlhf.errors import UsageError
from rlhf.generation.checkpoint_options import blank_generation_config, say_unused_options
from rlhf.generation.sampler import to_responses
from rlhf.generation.token_sampling import check_distributions, sample_tokens
from rlhf.models.encoding import check_positions
from rlhf.models.llava import Llava
from rlhf.types import PromptBatch, Responses, SampledTokens


class KeyedSampling(LogitsProcessor):  # type: ignore[misc]
    """Picks each row's token by a uniform number and sets the logits of all other tokens to -inf.

    Attributes:
        logprobs: a tensor [B] float32 for each position so far, of the picked tokens, nats; NaN
            where there was no distribution.

    Args:
        llava: the model.
        sampling: temperature and filters.
        uniforms: [B, T] float64 in [0, 1), the number that picks each token.
    """

    def __init__(self, llava: Llava, sampling: SamplingConfig, uniforms: Tensor) -> None:
        self.llava, self.sampling, self.uniforms = llava, sampling, uniforms
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits [B, V] of the next position: 0 at the picked token of each row, else -inf.

        Args:
            input_ids: [B, t], the tokens so far; not used.
            scores: [B, V], the model's logits.
        """
        uniforms = self.uniforms[:, len(self.logprobs)]
        tokens, logprobs = sample_tokens(self.llava, scores, self.sampling, uniforms)
        self.logprobs.append(logprobs)
        picked = tokens.unsqueeze(1).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(1, picked, 0)


@torch.no_grad()
def hf_generate_batch(
    llava: Llava,
    prompts: PromptBatch,
    sampling: SamplingConfig,
    uniforms: Tensor,
    *,
    return_hidden_states: bool = False,
) -> tuple[list[Tensor], SampledTokens]:
    """Sample one response to each prompt by transformers' `generate`, with padded prompts.

    Args:
        llava: the model; its active adapter is used.
        prompts: B prompts.
        sampling: temperature (0 is greedy), filters, longest response.
        uniforms: [B, T] float64 in [0, 1), the number that picks each token.
        return_hidden_states: ignored; this engine returns no hidden states.

    Returns:
        The tokens [n] of each response, and the log-probabilities [N] of all tokens, end to end.

    Raises:
        UsageError: `sampling.cuda_graphs` is set.
        ValueError: logits are not finite.
    """
    if sampling.cuda_graphs:
        where, fix = "sampling.cuda_graphs=true", "sample by the native engine, or leave it out"
        raise UsageError("generate of transformers does not use CUDA graphs here", where, fix)
    inputs = _inputs(llava, prompts)
    if llava.adapters.lora_type == "alora":
        inputs = prefill_prefix(llava, inputs)
    picks = KeyedSampling(llava, sampling, uniforms)
    config = _generation_config(llava, sampling)
    with blank_generation_config(llava.model):
        output = llava.model.generate(**inputs, generation_config=config, logits_processor=[picks])
    rows = truncate_at_eos(llava, output[:, prompts.spans.max_len :].cpu())
    logprobs = torch.stack(picks.logprobs, dim=1).cpu()
    flat = torch.cat([row[: len(tokens)] for row, tokens in zip(logprobs, rows, strict=True)])
    check_distributions(flat)
    return rows, SampledTokens(flat)


@torch.no_grad()
def beam_search(
    llava: Llava, prompts: PromptBatch, sampling: SamplingConfig, *, num_beams: int
) -> Responses:
    """Find a probable response to each prompt by beam search of transformers.

    The score of a beam is the sum of its log-probabilities divided by its length in tokens.

    Args:
        llava: the model; its active adapter is used.
        prompts: B prompts.
        sampling: longest response, and rows at a time; temperature and filters are not used.
        num_beams: hypotheses kept for each prompt.

    Raises:
        UsageError: the adapter is of type `alora`.
    """
    if llava.adapters.lora_type == "alora":
        where, fix = "model.lora_type=alora", "set collect.num_beams=0"
        raise UsageError("beam search does not support this type of adapter", where, fix)
    config = _generation_config(
        llava, sampling, num_beams=num_beams, suppress_tokens=list(llava.banned_ids)
    )
    say_unused_options(llava)
    lengths = prompts.spans.lengths + sampling.max_new_tokens
    check_positions(lengths, llava.max_positions, llava.base)
    rows: list[Tensor] = []
    for chunk in torch.arange(len(prompts)).split(max(1, sampling.batch_size // num_beams)):
        batch = prompts.select(chunk)
        with blank_generation_config(llava.model):
            output = llava.model.generate(**_inputs(llava, batch), generation_config=config)
        rows += truncate_at_eos(llava, output[:, batch.spans.max_len :].cpu())
    return to_responses(llava, rows)


def truncate_at_eos(llava: Llava, tokens: Tensor) -> list[Tensor]:
    """Cut each row after its first end-of-sequence token.

    Args:
        llava: the model that sampled them.
        tokens: [B, T] int64.

    Returns:
        B tensors [n], n ≤ T.
    """
    ends = torch.isin(tokens, torch.tensor(llava.eos_ids))
    lengths = torch.where(ends.any(1), ends.int().argmax(1) + 1, tokens.shape[1]).tolist()
    return [tokens[row, :length] for row, length in enumerate(lengths)]


def _generation_config(llava: Llava, sampling: SamplingConfig, **options: Any) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,
        eos_token_id=llava.eos_ids,
        pad_token_id=llava.eos_ids[0],
        **options,
    )


def _inputs(llava: Llava, prompts: PromptBatch) -> dict[str, Any]:
    """Left-padded prompts and pixel values, as keyword arguments of the transformers model."""
    rows = prompts.tokens.split(prompts.spans.lengths.tolist())
    pad = partial(nn.utils.rnn.pad_sequence, batch_first=True, padding_side="left")
    tokens = pad(rows, padding_value=llava.eos_ids[0])
    mask = pad([torch.ones_like(row) for row in rows])
    inputs = {"input_ids": tokens.to(llava.device), "attention_mask": mask.to(llava.device)}
    images = [load_image(path) for row in prompts.images for path in row]
    if not images:
        return inputs
    pixels = llava.processor.image_processor(images=images, return_tensors="pt")
    dtype = llava.model.model.vision_tower.dtype
    return inputs | dict(pixels.to(device=llava.device, dtype=dtype))


def prefill_prefix(llava: Llava, inputs: dict[str, Any]) -> dict[str, Any]:
    """Run the base model, without adapter, on all tokens before the invocation.

    Args:
        llava: the model; its active adapter is of type `alora`.
        inputs: `input_ids` [B, t], `attention_mask` [B, t] and pixel values.

    Returns:
        Arguments with which `generate` continues: ids, mask, and the KV cache of the prefix.
    """
    prefix_end, cache = -len(llava.adapters.invocation), DynamicCache()
    ids = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    prefix = {name: value[:, :prefix_end] for name, value in ids.items()}
    positions = (prefix["attention_mask"].cumsum(1) - 1).clamp(min=0)  # like `generate` does
    options = {"position_ids": positions, "use_cache": True, "logits_to_keep": 1}
    with llava.adapters.use(None):
        llava.model(**inputs | prefix | options, past_key_values=cache)
    return ids | {"past_key_values": cache}
