"""Memory of one PPO iteration, from sizes alone."""

from dataclasses import dataclass

from rlhf.config.schema import GIB
from rlhf.models.packed.prepacked_linear import LIMIT
from rlhf.planning.activation_memory import (
    backward_workspace_bytes,
    forward_workspace_bytes,
    kv_cache_bytes,
    largest_dequantized_weight_bytes,
    logprob_workspace_bytes,
    sampling_workspace_bytes,
    saved_activation_bytes,
)
from rlhf.planning.model_dims import ModelDims
from rlhf.planning.workload import Workload

CUDA_CONTEXT_BYTES = 2**29  # CUDA's own and the libraries' kernels on the card
NF4_BITS = 4.127  # 4, and per 64 weights a scale of 8 bits, and per 256 scales one of 32

Parts = dict[str, int]


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the card.

    Attributes:
        resident: there all the time.
        phases: of rollout, scoring and update, what comes on top at the worst moment.
        features: on the CPU, cached features of one image.
        activations: of an update's micro-batch without and with gradient checkpointing.
    """

    resident: Parts
    phases: dict[str, Parts]
    image_feature_bytes: int
    activations: tuple[int, int]

    def peaks(self) -> Parts:
        """The most of each phase."""
        always = sum(self.resident.values())
        return {name: always + sum(parts.values()) for name, parts in self.phases.items()}

    @property
    def peak(self) -> int:
        return max(self.peaks().values())


def estimate_memory(dims: ModelDims, workload: Workload) -> MemoryEstimate:
    """What lies on the card in each phase.

    Adapters, gradients and the optimizer's state stay through all phases. A moment is what is alive
    at once: the workspace of the layer that runs, the weight it unpacks, or the head's logits.
    """
    return MemoryEstimate(
        resident=resident_bytes(dims, workload),
        phases={
            "rollout": _rollout_bytes(dims, workload),
            "scoring": _scoring_bytes(dims, workload),
            "update": _update_bytes(dims, workload),
        },
        image_feature_bytes=dims.image_tiles
        * dims.tile_tokens
        * dims.vision_feature_size
        * frozen_width(workload),
        activations=(
            saved_activation_bytes(dims, workload, checkpointing=False),
            saved_activation_bytes(dims, workload, checkpointing=True),
        ),
    )


def _rollout_bytes(dims: ModelDims, workload: Workload) -> Parts:
    """The last prompts of a batch, or the last token of its responses."""
    rows = workload.generation_rows
    held = {"KV cache": _generation_kv_cache(dims, workload, rows)} | _cached_prompts(
        dims, workload
    )
    prefill = held | _prefill_workspace(dims, workload, rows) | _dequantized_weight(dims, workload)
    decode = (
        held
        | {"logits": sampling_workspace_bytes(dims, rows)}
        | _dequantized_weight(dims, workload)
    )
    return _largest(prefill, decode | _prepacked_weights(dims, workload))


def _prepacked_weights(dims: ModelDims, workload: Workload) -> Parts:
    """Weights that a CPU lays out anew to decode."""
    if workload.triton:
        return {}
    width = frozen_width(workload)  # in which they multiply
    layers = width * dims.linear_params if workload.quantization == "none" else 0
    head = width * (dims.lm_head_params or dims.embedding_params)
    return {"weights to decode by": head + (layers if layers <= LIMIT else 0)}


def _generation_kv_cache(dims: ModelDims, workload: Workload, rows: int) -> int:
    """Of so many rows, their prompts once each; a CPU decodes from float32."""
    prompts = kv_cache_bytes(dims, workload, workload.prompts_of(rows), workload.prompt_tokens)
    narrow = prompts + kv_cache_bytes(dims, workload, rows, workload.max_new_tokens)
    return narrow if workload.triton else narrow * 4 // workload.activation_width


def _scoring_bytes(dims: ModelDims, workload: Workload) -> Parts:
    """A micro-batch without gradient: a layer, or the head."""
    rows = workload.microbatch_rows(workload.rollout_batch_size)
    layer = {
        "workspace of a layer": workload.forward_tokens(rows)
        * forward_workspace_bytes(dims, workload)
    }
    if workload.triton and (workload.uses_alora or workload.samples_per_prompt > 1):
        layer["KV of a layer"] = _generation_kv_cache(dims, workload, rows) // dims.num_layers
    logits = {"logits": logprob_workspace_bytes(dims, workload, rows * workload.max_new_tokens)}
    reading, held = _prefix_prefill(dims, workload, rows), _cached_prompts(dims, workload)
    layer |= {name: size for name, size in reading.items() if name == "KV cache"}
    return held | _largest(reading, layer | _dequantized_weight(dims, workload), logits)


def _update_bytes(dims: ModelDims, workload: Workload) -> Parts:
    """A micro-batch with gradient: the head, or a layer's backward."""
    rows = workload.microbatch_rows(workload.minibatch_size)
    kept = {"activations": saved_activation_bytes(dims, workload)}
    layer = {"workspace of a layer": backward_workspace_bytes(dims, workload, rows)}
    logits = {"logits": logprob_workspace_bytes(dims, workload, rows * workload.max_new_tokens)}
    reading, held = _prefix_prefill(dims, workload, rows), _cached_prompts(dims, workload)
    if not workload.gradient_checkpointing:  # else it is among the activations
        kept |= {name: size for name, size in reading.items() if name == "KV cache"}
    return held | _largest(
        reading, kept | layer | _dequantized_weight(dims, workload), kept | logits
    )


def cached_prompt_share(dims: ModelDims, workload: Workload) -> float:
    """Of an iteration's prompts, how many are read once for all passes."""
    wanted = kv_cache_bytes(dims, workload, workload.num_prompts, workload.prompt_tokens)
    return min(1.0, workload.prefix_cache_gib * GIB / wanted) if workload.uses_alora else 0.0


def _cached_prompts(dims: ModelDims, workload: Workload) -> Parts:
    share = cached_prompt_share(dims, workload)
    wanted = kv_cache_bytes(dims, workload, workload.num_prompts, workload.prompt_tokens)
    return {"prompts kept": int(share * wanted)} if share else {}


def _prefix_prefill(dims: ModelDims, workload: Workload, rows: int) -> Parts:
    """A micro-batch's prompts, put together or read, where LoRA is on responses alone."""
    if not workload.uses_alora:
        return {}
    prompts = workload.prompts_of(rows)
    cache = {"KV cache": kv_cache_bytes(dims, workload, prompts, workload.prompt_tokens)}
    if cached_prompt_share(dims, workload) == 1:
        return cache
    return cache | _prefill_workspace(dims, workload, rows) | _dequantized_weight(dims, workload)


def _prefill_workspace(dims: ModelDims, workload: Workload, rows: int) -> Parts:
    """Of so many prompts, those that are read at once."""
    tokens = workload.prefill_prompts(rows) * workload.prompt_tokens
    return {"workspace of a layer": tokens * forward_workspace_bytes(dims, workload)}


def _dequantized_weight(dims: ModelDims, workload: Workload) -> Parts:
    packed = workload.quantization != "none"
    return (
        {"dequantized weight": largest_dequantized_weight_bytes(dims, workload)} if packed else {}
    )


def _largest(*moments: Parts) -> Parts:
    return max(moments, key=lambda parts: sum(parts.values()))


def resident_bytes(dims: ModelDims, workload: Workload) -> Parts:
    """What stays: weights by part, adapters by role, gradients, optimizer, CUDA itself."""
    adapter = 4 * lora_parameters(dims, workload.lora_rank)  # peft keeps them in float32
    lora, trainable = workload.train == "lora", trainable_parameters(dims, workload)
    state = 8 if workload.optimizer == "adamw" else 2  # bytes a parameter, of both moments
    parts = base_model_bytes(dims, workload)
    whole = sum(parts.values())
    parts |= {
        "second base model: reference": 0 if lora else whole,
        "second base model: reward": whole if workload.reward == "trunk" else 0,
        "second base model: critic": whole if workload.critic == "separate" else 0,
        "adapter: policy": adapter if lora else 0,
        "adapter: critic": adapter if lora and workload.critic in ("adapter", "separate") else 0,
        "adapter: reference": adapter if lora and workload.starts_from_adapter else 0,
        "adapter: reward": adapter if lora and workload.reward == "adapter" else 0,
        "gradients": 4 * trainable,
        "optimizer": state * trainable,
        "CUDA": CUDA_CONTEXT_BYTES,
    }
    return {name: size for name, size in parts.items() if size}


def base_model_bytes(dims: ModelDims, workload: Workload) -> Parts:
    """The model's weights by part; only the language model's linear layers are packed."""
    plain, language = frozen_width(workload), workload.activation_width
    bits = {"none": 8 * language, "int8": 8, "nf4": NF4_BITS}[workload.quantization]
    return {
        "vision tower": plain * dims.vision_tower_params,
        "projector": plain * dims.projector_params,
        "language model": round(bits / 8 * dims.linear_params) + language * dims.norm_params,
        "embeddings": language * dims.embedding_params,
        "head": language * dims.lm_head_params,
    }


def frozen_width(workload: Workload) -> int:
    """Bytes of a number in what is neither trained nor quantized."""
    return 2 if workload.dtype == "bfloat16" else 4


def lora_parameters(dims: ModelDims, rank: int) -> int:
    """Of one adapter: `rank` columns and rows on each linear layer of the language model."""
    return rank * dims.lora_params_per_rank


def trainable_parameters(dims: ModelDims, workload: Workload) -> int:
    """Policy and critic; with `separate` the critic trains as much as the policy."""
    lora = workload.train == "lora"
    policy = lora_parameters(dims, workload.lora_rank) if lora else dims.language_params
    doubled = workload.critic == "separate" or (workload.critic == "adapter" and lora)
    critic = policy if doubled else 0
    return policy + critic + dims.hidden_size + 1
