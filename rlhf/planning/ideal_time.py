"""Ideal time of one PPO iteration: arithmetic at the card's peak, decoding at its bandwidth."""

from rlhf.planning.activation_memory import kv_cache_bytes
from rlhf.planning.gpus import GPU
from rlhf.planning.memory import base_model_bytes, cached_prompt_share
from rlhf.planning.model_dims import ModelDims
from rlhf.planning.workload import Workload

TERA = 1e12


def ideal_seconds(dims: ModelDims, workload: Workload, gpu: GPU) -> dict[str, float]:
    """Seconds by phase that the card's peak allows; real ones are about twice that.

    With P, R, S = P + R tokens, B responses, K epochs:

        forward = S·lin + att(S)        lin = 2·weights         att(n) = 2·A·L·n², causal
                 of G responses to one prompt its P·lin + att(P) counts once
        update = K·B·(forward + R·head + b·(forward + R·head))     b = 1 with LoRA (the trunk needs
                 no gradient of its weights), 2 in full; checkpointing runs forward once more
        a decoded token = the larger of (weights + cache) / bandwidth and products / peak, for each
                 batch of rows

    Where LoRA is on responses alone, forward is R·lin + att(S) - att(P): each prompt is read once,
    in the prefill, as far as prompts are kept, and else again in each pass. An image's features
    are computed once. LoRA's own products (2-3 %), unpacking, norms and the optimizer are left out.
    """
    peak = TERA * (gpu.float32_tflops if workload.activation_width == 4 else gpu.bfloat16_tflops)
    rows, outputs = workload.rollout_batch_size, workload.max_new_tokens * lm_head_flops(dims)
    prompt = workload.prompt_tokens * linear_flops(dims) + attention_flops(
        dims, workload.prompt_tokens
    )
    anew = (
        (1 - cached_prompt_share(dims, workload)) * prompt / workload.samples_per_prompt
        if workload.uses_alora
        else 0
    )
    own = forward_flops(dims, workload)
    scored = anew + own + outputs
    critic = int(workload.critic in ("adapter", "separate"))  # a forward of its own
    backward = 1 if workload.train == "lora" else 2
    again = own if workload.gradient_checkpointing else 0
    trained = scored + backward * (own + outputs) + again
    work = {
        "vision": rows * vision_flops(dims),
        "prefill": workload.num_prompts * prompt + rows * lm_head_flops(dims),
        "decode": 0,
        "old_logprobs": rows * (scored if workload.recompute_logprobs else outputs),
        "values": rows * scored * critic,
        "ref_logprobs": rows * scored,
        "scores": rows * scored if workload.reward != "none" else 0,
        "update": workload.ppo_epochs * rows * trained * (1 + critic),
    }
    times = {name: amount / peak for name, amount in work.items()}
    return times | {"decode": decode_seconds(dims, workload, gpu, peak)}


def decode_seconds(dims: ModelDims, workload: Workload, gpu: GPU, peak: float) -> float:
    """Seconds for the tokens after the first, of all rows."""
    parts = base_model_bytes(dims, workload)
    weights = parts["language model"] + (parts["head"] or parts["embeddings"])
    batches, left = divmod(workload.rollout_batch_size, workload.generation_rows)
    total = 0.0
    for rows, count in ((workload.generation_rows, batches), (left, 1 if left else 0)):
        for tokens in range(workload.prompt_tokens + 1, workload.sequence_tokens):
            own = kv_cache_bytes(dims, workload, rows, tokens - workload.prompt_tokens)
            moved = (
                weights
                + own
                + kv_cache_bytes(dims, workload, workload.prompts_of(rows), workload.prompt_tokens)
            )
            products = rows * (
                linear_flops(dims) + lm_head_flops(dims) + 4 * _attention_width(dims) * tokens
            )
            total += count * max(moved / (TERA * gpu.bandwidth_tbs), products / peak)
    return total


def linear_flops(dims: ModelDims) -> int:
    """Operations of the linear layers on one token."""
    return 2 * dims.linear_params


def attention_flops(dims: ModelDims, tokens: int) -> int:
    """Operations of causal attention over so many tokens, all layers."""
    return 2 * _attention_width(dims) * tokens**2


def lm_head_flops(dims: ModelDims) -> int:
    """Operations of the output embedding on one token."""
    return 2 * dims.hidden_size * dims.vocab_size


def vision_flops(dims: ModelDims) -> int:
    """Operations on one image: tower, whose attention looks both ways, and projector."""
    tokens = dims.tile_tokens + 1
    looks = 4 * dims.vision_hidden_size * dims.vision_layers * tokens**2
    tile = (
        2 * dims.vision_tower_params * tokens + looks + 2 * dims.projector_params * dims.tile_tokens
    )
    return dims.image_tiles * tile


def forward_flops(dims: ModelDims, workload: Workload) -> float:
    """Operations of one row's pass, without the head; of its prompt its share, or none of it."""
    prompt = workload.prompt_tokens * linear_flops(dims) + attention_flops(
        dims, workload.prompt_tokens
    )
    seen = attention_flops(dims, workload.sequence_tokens) - attention_flops(
        dims, workload.prompt_tokens
    )
    own = workload.max_new_tokens * linear_flops(dims) + seen
    return own if workload.uses_alora else own + prompt / workload.samples_per_prompt


def _attention_width(dims: ModelDims) -> int:
    return dims.num_heads * dims.head_dim * dims.num_layers
