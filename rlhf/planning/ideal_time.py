"""Ideal time of one iteration: arithmetic at the device's peak rate, decoding at its bandwidth."""

from rlhf.planning.activation_memory import kv_cache_bytes, prompt_kv_bytes
from rlhf.planning.devices import Device
from rlhf.planning.exchange import exchange_seconds
from rlhf.planning.memory import (
    cached_prompt_share,
)
from rlhf.planning.model_dims import ModelDims
from rlhf.planning.resident_memory import (
    base_model_bytes,
)
from rlhf.planning.workload import Workload

TERA = 1e12


def ideal_seconds(dims: ModelDims, workload: Workload, device: Device) -> dict[str, float]:
    """Seconds of each phase at the device's peak; real runs take about twice as long.

    With P prompt tokens, R response tokens, S = P + R, B responses, K epochs, L layers and
    A = heads · head_dim:

        linear = 2 · weights                 operations per token
        attention(n) = 2 · A · L · n²        operations of causal attention over n tokens
        forward = S · linear + attention(S)
                  of G responses to one prompt, P · linear + attention(P) counts once
        update = K · B · (1 + b) · (forward + R · head), b = 1 with LoRA (the base model needs no
                  weight gradients), b = 2 in full training; checkpointing adds one forward
        decode = per token and batch, the larger of bytes / bandwidth (weights and KV cache) and
                  operations / peak

    Under aLoRA forward = R · linear + attention(S) - attention(P): a prompt is read once, in the
    prefill, as far as the prefix cache holds it, and otherwise again in every pass. An image's
    features are computed once. LoRA's own products (2-3 %), dequantization, norms and the optimizer
    are left out. On several processes B is the share of one; they add `exchange`, see
    `exchange_seconds`.

    Args:
        dims: sizes of the model.
        workload: the run.
        device: peak rates and bandwidth.

    Returns:
        Phase to seconds: vision, prefill, decode, old_logprobs, values, ref_logprobs, scores,
        update, and on several processes exchange. Of a step of supervised training vision, update
        and exchange; of a reward model whose backbone is frozen scores instead of update.
    """
    full_width = workload.activation_width == 4
    peak = TERA * (device.float32_tflops if full_width else device.bfloat16_tflops)
    operations = _operations if workload.stage == "ppo" else _step_operations
    times = {phase: amount / peak for phase, amount in operations(dims, workload).items()}
    if workload.stage == "ppo":
        times["decode"] = decode_seconds(dims, workload, device, peak)
    if workload.processes > 1:
        times["exchange"] = exchange_seconds(dims, workload)
    return times


def _operations(dims: ModelDims, workload: Workload) -> dict[str, float]:
    """Operations of each phase of a PPO iteration; those of decoding are left at 0."""
    rows, evaluate = workload.own_rollout_rows, evaluation_flops(dims, workload)
    critic_forwards = int(workload.critic in ("adapter", "separate"))
    head_alone = workload.max_new_tokens * lm_head_flops(dims)
    scorers = sum(x != "none" for x in (workload.reward, workload.judge))
    prefill = workload.prompts_of(rows) * prompt_flops(dims, workload)
    update = workload.ppo_epochs * rows * training_flops(dims, workload)
    return {
        "vision": rows * vision_flops(dims),
        "prefill": prefill + rows * lm_head_flops(dims),
        "decode": 0,
        "old_logprobs": rows * (evaluate if workload.recompute_logprobs else head_alone),
        "values": rows * evaluate * critic_forwards,
        "ref_logprobs": rows * evaluate,
        "scores": rows * evaluate * scorers,
        "update": update * (1 + critic_forwards),
    }


def _step_operations(dims: ModelDims, workload: Workload) -> dict[str, float]:
    """Operations of each phase of a step of supervised training."""
    rows = workload.own_rollout_rows
    vision = workload.prompts_of(rows) * vision_flops(dims)
    if not workload.trains_backbone:
        return {"vision": vision, "scores": rows * evaluation_flops(dims, workload)}
    return {"vision": vision, "update": rows * training_flops(dims, workload)}


def evaluation_flops(dims: ModelDims, workload: Workload) -> float:
    """Operations to evaluate one response, its uncached share of the prompt and logits included."""
    uncached_prompt = 0.0
    if workload.uses_alora:
        uncached_share = 1 - cached_prompt_share(dims, workload)
        prompt = prompt_flops(dims, workload)
        uncached_prompt = uncached_share * prompt / workload.samples_per_prompt
    head = workload.max_new_tokens * lm_head_flops(dims)
    return uncached_prompt + forward_flops(dims, workload) + head


def training_flops(dims: ModelDims, workload: Workload) -> float:
    """Operations of one response's forward and backward pass, recomputation included."""
    forward = forward_flops(dims, workload)
    head = workload.max_new_tokens * lm_head_flops(dims)
    backward_cost = 1 if workload.train == "lora" else 2
    recompute = forward if workload.gradient_checkpointing else 0
    return evaluation_flops(dims, workload) + backward_cost * (forward + head) + recompute


def decode_seconds(dims: ModelDims, workload: Workload, device: Device, peak: float) -> float:
    """Seconds to decode all response tokens after the first, which the prefill samples.

    Args:
        dims: sizes of the model.
        workload: the run.
        device: its bandwidth counts.
        peak: operations a second.
    """
    weights = decoder_weight_bytes(dims, workload)
    part_rows = workload.rows_of_part(workload.rollout_batch_size)
    full_batches, remainder = divmod(part_rows, workload.generation_rows)
    seconds = 0.0
    for rows, batches in ((workload.generation_rows, full_batches), (remainder, remainder > 0)):
        prompt_kv = prompt_kv_bytes(dims, workload, rows)
        for tokens in range(workload.prompt_tokens + 1, workload.sequence_tokens):
            suffix_kv = kv_cache_bytes(dims, workload, rows, tokens - workload.prompt_tokens)
            per_row = linear_flops(dims) + lm_head_flops(dims)
            operations = rows * (per_row + 4 * _attention_width(dims) * tokens)
            read_seconds = (weights + suffix_kv + prompt_kv) / (TERA * device.bandwidth_tbs)
            seconds += workload.own_parts * batches * max(read_seconds, operations / peak)
    return seconds


def decoder_weight_bytes(dims: ModelDims, workload: Workload) -> int:
    """Bytes of the weights that a decoding step reads: language model and output embedding."""
    parts = base_model_bytes(dims, workload)
    return parts["language model"] + (parts["head"] or parts["embeddings"])


def linear_flops(dims: ModelDims) -> int:
    """Operations of all linear layers of the language model on one token."""
    return 2 * dims.linear_params


def attention_flops(dims: ModelDims, tokens: int) -> int:
    """Operations of causal attention over `tokens` tokens in all layers."""
    return 2 * _attention_width(dims) * tokens**2


def lm_head_flops(dims: ModelDims) -> int:
    """Operations of the output embedding on one token."""
    return 2 * dims.hidden_size * dims.vocab_size


def vision_flops(dims: ModelDims) -> int:
    """Operations on one image: vision tower, with bidirectional attention, and projector."""
    tokens = dims.tile_tokens + 1
    attention = 4 * dims.vision_hidden_size * dims.vision_layers * tokens**2
    tower = 2 * dims.vision_tower_params * tokens + attention
    return dims.image_tiles * (tower + 2 * dims.projector_params * dims.tile_tokens)


def prompt_flops(dims: ModelDims, workload: Workload) -> int:
    """Operations to read one prompt, without the output embedding."""
    tokens = workload.prompt_tokens
    return tokens * linear_flops(dims) + attention_flops(dims, tokens)


def forward_flops(dims: ModelDims, workload: Workload) -> float:
    """Operations of one response's forward pass, without the output embedding.

    The response's share of its prompt is included; under aLoRA the prompt is not.
    """
    attention = attention_flops(dims, workload.sequence_tokens)
    attention -= attention_flops(dims, workload.prompt_tokens)
    response = workload.max_new_tokens * linear_flops(dims) + attention
    if workload.uses_alora:
        return response
    return response + prompt_flops(dims, workload) / workload.samples_per_prompt


def _attention_width(dims: ModelDims) -> int:
    """Sum over layers of heads · head_dim."""
    return dims.num_heads * dims.head_dim * dims.num_layers
