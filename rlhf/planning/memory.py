"""Memory of one PPO iteration, computed from the model's sizes and the run's options."""

from dataclasses import dataclass

from rlhf.config.schema import GIB
from rlhf.functional import VALUE_FEATURES
from rlhf.models.packed.prepacked_linear import LIMIT
from rlhf.planning.activation_memory import (
    backward_workspace_bytes,
    forward_workspace_bytes,
    kv_cache_bytes,
    largest_dequantized_weight_bytes,
    logprob_workspace_bytes,
    prompt_kv_bytes,
    sampling_workspace_bytes,
    saved_activation_bytes,
)
from rlhf.planning.model_dims import ModelDims
from rlhf.planning.workload import Workload

CUDA_CONTEXT_BYTES = 2**29  # the CUDA context and the libraries' kernels on the GPU
NF4_BITS = 4.127  # 4, plus an 8-bit scale per 64 weights and a 32-bit scale per 256 scales

Parts = dict[str, int]  # name of what is allocated: bytes


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that one PPO iteration needs on the GPU, by part and phase.

    Attributes:
        resident: what stays allocated all the time.
        phases: what rollout, scoring and update allocate on top at their peak.
        image_feature_bytes: cached features of one image, in CPU memory.
        activations: of one micro-batch of an update, without and with gradient checkpointing.
    """

    resident: Parts
    phases: dict[str, Parts]
    image_feature_bytes: int
    activations: tuple[int, int]

    def peaks(self) -> Parts:
        """Bytes of each phase at its peak, resident parts included."""
        resident = sum(self.resident.values())
        return {name: resident + sum(parts.values()) for name, parts in self.phases.items()}

    @property
    def peak(self) -> int:
        """Bytes at the peak of the largest phase."""
        return max(self.peaks().values())


def estimate_memory(dims: ModelDims, workload: Workload) -> MemoryEstimate:
    """Estimate the GPU memory of each phase of an iteration.

    Adapters, gradients and optimizer state stay through all phases. A phase's peak is the largest
    set of tensors alive at once: a layer's workspace and the weight it unpacks, or the logits.
    """
    features_per_image = dims.image_tiles * dims.tile_tokens * dims.vision_feature_size
    whole, layer = _gathered_layers(dims, workload)
    return MemoryEstimate(
        resident=resident_bytes(dims, workload),
        phases={
            "rollout": _rollout_bytes(dims, workload) | whole,
            "scoring": _scoring_bytes(dims, workload) | whole,
            "update": _update_bytes(dims, workload) | layer,
        },
        image_feature_bytes=features_per_image * frozen_width(workload),
        activations=(
            saved_activation_bytes(dims, workload, checkpointing=False),
            saved_activation_bytes(dims, workload, checkpointing=True),
        ),
    )


def _rollout_bytes(dims: ModelDims, workload: Workload) -> Parts:
    """Peak of generation: the last prefill of a batch, or sampling its last token."""
    rows, weight = workload.generation_rows, _dequantized_weight(dims, workload)
    cache = {"KV cache": _generation_kv_bytes(dims, workload, rows)}
    cache |= _cached_prompts(dims, workload)
    prefill = cache | _prefill_workspace(dims, workload, rows) | weight
    decode = cache | {"logits": sampling_workspace_bytes(dims, rows)} | weight
    return _largest(prefill, decode | _prepacked_weights(dims, workload))


def _prepacked_weights(dims: ModelDims, workload: Workload) -> Parts:
    """Weights that a CPU copies into another layout to decode faster."""
    if workload.triton:
        return {}
    width = frozen_width(workload)
    layers = width * dims.linear_params if workload.quantization == "none" else 0
    head = width * (dims.lm_head_params or dims.embedding_params)
    return {"weights to decode by": head + (layers if layers <= LIMIT else 0)}


def _generation_kv_bytes(dims: ModelDims, workload: Workload, rows: int) -> int:
    """KV cache of `rows` sequences, each prompt held once; a CPU decodes in float32."""
    responses = kv_cache_bytes(dims, workload, rows, workload.max_new_tokens)
    size = prompt_kv_bytes(dims, workload, rows) + responses
    return size if workload.triton else size * 4 // workload.activation_width


def _scoring_bytes(dims: ModelDims, workload: Workload) -> Parts:
    """Peak of a micro-batch without gradient: a layer, or the logits."""
    rows = workload.microbatch_rows(workload.rows_of_part(workload.rollout_batch_size))
    tokens = workload.forward_tokens(rows)
    layer = {"workspace of a layer": tokens * forward_workspace_bytes(dims, workload)}
    if workload.triton and (workload.uses_alora or workload.samples_per_prompt > 1):
        layer["KV of a layer"] = _generation_kv_bytes(dims, workload, rows) // dims.num_layers
    logits = {"logits": logprob_workspace_bytes(dims, workload, rows * workload.max_new_tokens)}
    prefill = _prefix_prefill(dims, workload, rows)
    layer |= {name: size for name, size in prefill.items() if name == "KV cache"}
    layer |= _dequantized_weight(dims, workload)
    return _cached_prompts(dims, workload) | _largest(prefill, layer, logits)


def _update_bytes(dims: ModelDims, workload: Workload) -> Parts:
    """Peak of a micro-batch with gradient: the logits, or a layer's backward pass."""
    rows = workload.microbatch_rows(workload.rows_of_part(workload.minibatch_size))
    saved = {"activations": saved_activation_bytes(dims, workload)}
    layer = {"workspace of a layer": backward_workspace_bytes(dims, workload, rows)}
    layer |= _dequantized_weight(dims, workload)
    logits = {"logits": logprob_workspace_bytes(dims, workload, rows * workload.max_new_tokens)}
    prefill = _prefix_prefill(dims, workload, rows)
    if not workload.gradient_checkpointing:  # with it, they are among the activations
        saved |= {name: size for name, size in prefill.items() if name == "KV cache"}
    sums = _gradient_sums(dims, workload)
    moments = _largest(prefill, saved | layer, saved | logits, sums)
    return _cached_prompts(dims, workload) | moments


def _gradient_sums(dims: ModelDims, workload: Workload) -> Parts:
    """Partial sums of the gradients of parts, a path of the binary tree over them."""
    if workload.parts == 1 or (workload.is_sharded and workload.train == "full"):
        return {}
    own = workload.own_parts
    copies = 1 if own == 1 else own.bit_length() + 1
    return {"sums of gradients": 4 * copies * trainable_parameters(dims, workload)}


def _gathered_layers(dims: ModelDims, workload: Workload) -> tuple[Parts, Parts]:
    """Layers that a process gathers beside its shards: all in the rollout, two in the update."""
    if not workload.is_sharded:
        return {}, {}
    layers = language_model_bytes(dims, workload)
    others = layers - layers // workload.processes
    whole = sharded_models(workload) * others
    return {"gathered layers": whole}, {"gathered layers": 2 * layers // dims.num_layers}


def sharded_models(workload: Workload) -> int:
    """Language models of a run, each of which is sharded."""
    own = [placement == "base_model" for placement in (workload.reward, workload.judge)]
    return 1 + sum([workload.train == "full", *own, workload.critic == "separate"])


def language_model_bytes(dims: ModelDims, workload: Workload) -> int:
    """Bytes of the layers of one language model, without its embeddings and its head."""
    return base_model_bytes(dims, workload)["language model"]


def cached_prompt_share(dims: ModelDims, workload: Workload) -> float:
    """Share of an iteration's prompts that the prefix cache holds, 0 to 1; 0 without aLoRA."""
    if not workload.uses_alora:
        return 0.0
    all_prompts = prompt_kv_bytes(dims, workload, workload.own_rollout_rows)
    return min(1.0, workload.prefix_cache_gib * GIB / all_prompts)


def _cached_prompts(dims: ModelDims, workload: Workload) -> Parts:
    """The prefix cache, as far as an iteration's prompts fill it."""
    share = cached_prompt_share(dims, workload)
    all_prompts = prompt_kv_bytes(dims, workload, workload.own_rollout_rows)
    return {"prompts kept": int(share * all_prompts)} if share else {}


def _prefix_prefill(dims: ModelDims, workload: Workload, rows: int) -> Parts:
    """KV cache of a micro-batch's prompts under aLoRA, and the workspace to compute it."""
    if not workload.uses_alora:
        return {}
    cache = {"KV cache": prompt_kv_bytes(dims, workload, rows)}
    if cached_prompt_share(dims, workload) == 1:
        return cache
    return cache | _prefill_workspace(dims, workload, rows) | _dequantized_weight(dims, workload)


def _prefill_workspace(dims: ModelDims, workload: Workload, rows: int) -> Parts:
    """Workspace of one prefill of the prompts of `rows` responses."""
    tokens = workload.prefill_prompts(rows) * workload.prompt_tokens
    return {"workspace of a layer": tokens * forward_workspace_bytes(dims, workload)}


def _dequantized_weight(dims: ModelDims, workload: Workload) -> Parts:
    """The largest weight that a product unpacks; nothing without quantization."""
    if workload.quantization == "none":
        return {}
    return {"dequantized weight": largest_dequantized_weight_bytes(dims, workload)}


def _largest(*moments: Parts) -> Parts:
    return max(moments, key=lambda parts: sum(parts.values()))


def resident_bytes(dims: ModelDims, workload: Workload) -> Parts:
    """Bytes that stay: weights by part, adapters by role, gradients, optimizer, CUDA context."""
    adapter = 4 * lora_parameters(dims, workload.lora_rank)  # peft keeps factors in float32
    lora, trainable = workload.train == "lora", trainable_parameters(dims, workload)
    state = 8 if workload.optimizer == "adamw" else 2  # bytes per parameter for both moments
    parts = base_model_bytes(dims, workload)
    sharing = workload.processes if workload.is_sharded else 1
    parts["language model"] //= sharing
    whole, trained_by = sum(parts.values()), 1 if lora else sharing
    parts |= {
        "second base model: reference": 0 if lora else whole,
        "second base model: reward": whole if workload.reward == "base_model" else 0,
        "second base model: judge": whole if workload.judge == "base_model" else 0,
        "second base model: critic": whole if workload.critic == "separate" else 0,
        "adapter: policy": adapter if lora else 0,
        "adapter: critic": adapter if lora and workload.critic in ("adapter", "separate") else 0,
        "adapter: reference": adapter if lora and workload.starts_from_adapter else 0,
        "adapter: reward": adapter if lora and workload.reward == "adapter" else 0,
        "adapter: judge": adapter if lora and workload.judge == "adapter" else 0,
        "gradients": 4 * trainable // trained_by,
        "optimizer": state * trainable // trained_by,
        "CUDA": CUDA_CONTEXT_BYTES,
    }
    return {name: size for name, size in parts.items() if size}


def base_model_bytes(dims: ModelDims, workload: Workload) -> Parts:
    """Bytes of the model's weights by part.

    Quantization packs only the linear layers of the language model.
    """
    frozen, language = frozen_width(workload), workload.activation_width
    bits = {"none": 8 * language, "int8": 8, "nf4": NF4_BITS}[workload.quantization]
    return {
        "vision tower": frozen * dims.vision_tower_params,
        "projector": frozen * dims.projector_params,
        "language model": round(bits / 8 * dims.linear_params) + language * dims.norm_params,
        "embeddings": language * dims.embedding_params,
        "head": language * dims.lm_head_params,
    }


def frozen_width(workload: Workload) -> int:
    """Bytes per number of weights that are neither trained nor quantized."""
    return 2 if workload.dtype == "bfloat16" else 4


def lora_parameters(dims: ModelDims, rank: int) -> int:
    """Parameters of one LoRA adapter on all linear layers of the language model."""
    return rank * dims.lora_params_per_rank


def trainable_parameters(dims: ModelDims, workload: Workload) -> int:
    """Trainable parameters of policy and critic, the value head included."""
    lora = workload.train == "lora"
    policy = lora_parameters(dims, workload.lora_rank) if lora else dims.language_params
    critic_trains_as_much = workload.critic == "separate" or (workload.critic == "adapter" and lora)
    critic = policy if critic_trains_as_much else 0
    return policy + critic + dims.hidden_size + 1 + len(VALUE_FEATURES)
