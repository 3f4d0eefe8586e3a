"""What stays allocated through a run: weights, adapters, gradients, optimizer state."""

from rlhf.functional import VALUE_FEATURES
from rlhf.models.scalar_head import MAX_MLP_WIDTH
from rlhf.models.value_head import MAX_FIT_WIDTH
from rlhf.planning.model_dims import ModelDims
from rlhf.planning.workload import Workload

PROCESS_BYTES = 2**29  # of a GPU's context and kernels, or of the libraries' code
NF4_BITS = 4.127  # 4, plus an 8-bit scale per 64 weights and a 32-bit scale per 256 scales

Parts = dict[str, int]  # name of what is allocated: bytes


def resident_bytes(dims: ModelDims, workload: Workload) -> Parts:
    """Bytes that stay: weights by part, adapters by role, gradients, optimizer, the process."""
    trainable, lora = trainable_parameters(dims, workload), workload.train == "lora"
    state = 8 if workload.optimizer == "adamw" else 2  # bytes per parameter for both moments
    parts = base_model_bytes(dims, workload)
    sharing = workload.processes if workload.is_sharded else 1
    parts["language model"] //= sharing
    whole, trained_by = sum(parts.values()), 1 if lora else sharing
    parts |= _adapter_bytes(dims, workload)
    parts |= {
        "second base model: reference": whole if _copies_reference(workload) else 0,
        "second base model: reward": whole if workload.reward == "base_model" else 0,
        "second base model: judge": whole if workload.judge == "base_model" else 0,
        "second base model: critic": whole if workload.critic == "separate" else 0,
        "value head": _value_head_bytes(dims, workload),
        "gradients": 4 * trainable // trained_by,
        "optimizer": state * trainable // trained_by,
        "CUDA" if workload.device == "cuda" else "process": PROCESS_BYTES,
    }
    return {name: size for name, size in parts.items() if size}


def _adapter_bytes(dims: ModelDims, workload: Workload) -> Parts:
    """Bytes of adapters by role; peft keeps their factors in float32."""
    if workload.train == "full":
        return {}
    adapter = 4 * lora_parameters(dims, workload.lora_rank)
    trained = workload.trains_backbone or workload.starts_from_adapter
    if workload.stage == "reward":
        return {"adapter: reward": adapter if trained else 0}
    copied = workload.stage == "ppo" and workload.starts_from_adapter
    return {
        "adapter: policy": adapter,
        "adapter: critic": adapter if workload.critic in ("adapter", "separate") else 0,
        "adapter: reference": adapter if copied else 0,
        "adapter: reward": adapter if workload.reward == "adapter" else 0,
        "adapter: judge": adapter if workload.judge == "adapter" else 0,
    }


def base_model_bytes(dims: ModelDims, workload: Workload) -> Parts:
    """Bytes of the model's weights by part.

    Quantization packs only the linear layers of the language model.
    """
    frozen, language = frozen_width(workload), workload.activation_width
    bits = {"none": 8 * language, "int8": 8, "nf4": NF4_BITS}[workload.quantization]
    return {
        "vision tower": frozen * dims.vision_tower_params,
        "projector": (language if trains_embeddings(workload) else frozen) * dims.projector_params,
        "language model": round(bits / 8 * dims.linear_params) + language * dims.norm_params,
        "embeddings": language * dims.embedding_params,
        "head": language * dims.lm_head_params,
    }


def trains_embeddings(workload: Workload) -> bool:
    """Whether embeddings and projector train too, as in full supervised training."""
    return workload.stage == "sft" and workload.train == "full"


def frozen_width(workload: Workload) -> int:
    """Bytes per number of weights that are neither trained nor quantized."""
    return 2 if workload.dtype == "bfloat16" else 4


def lora_parameters(dims: ModelDims, rank: int) -> int:
    """Parameters of one LoRA adapter on all linear layers of the language model."""
    return rank * dims.lora_params_per_rank


def trainable_parameters(dims: ModelDims, workload: Workload) -> int:
    """Trainable parameters: of policy and critic with its value head, or of a reward model."""
    lora = workload.train == "lora"
    policy = lora_parameters(dims, workload.lora_rank) if lora else dims.language_params
    if workload.stage == "sft":
        embeddings = dims.embedding_params + dims.lm_head_params + dims.projector_params
        return policy + (embeddings if trains_embeddings(workload) else 0)
    if workload.stage == "reward":
        return (policy if workload.trains_backbone else 0) + dims.hidden_size + 2
    critic_trains_as_much = workload.critic == "separate" or (workload.critic == "adapter" and lora)
    critic = policy if critic_trains_as_much else 0
    return policy + critic + value_head_parameters(dims, workload)


def value_head_parameters(dims: ModelDims, workload: Workload) -> int:
    """Parameters of the critic's head, `ValueHead`, on hidden states and value features."""
    h, width = dims.hidden_size, min(dims.hidden_size, MAX_MLP_WIDTH)
    states = h + 1 if workload.critic_head == "linear" else (h + 1) * width + width + 1
    return states + len(VALUE_FEATURES)


def _value_head_bytes(dims: ModelDims, workload: Workload) -> int:
    """Bytes of the critic's head, and of the matrix by which a fit reads wide hidden states."""
    if workload.stage != "ppo":
        return 0
    projection = dims.hidden_size * MAX_FIT_WIDTH if dims.hidden_size > MAX_FIT_WIDTH else 0
    return 4 * (value_head_parameters(dims, workload) + projection)


def sharded_models(workload: Workload) -> int:
    """Language models of a run, each of which is sharded."""
    own = [placement == "base_model" for placement in (workload.reward, workload.judge)]
    return 1 + sum([_copies_reference(workload), *own, workload.critic == "separate"])


def _copies_reference(workload: Workload) -> bool:
    """Whether the reference is a model of its own: without a LoRA there is none to switch off."""
    return workload.stage == "ppo" and workload.train == "full"


def language_model_bytes(dims: ModelDims, workload: Workload) -> int:
    """Bytes of the layers of one language model, without its embeddings and its head."""
    return base_model_bytes(dims, workload)["language model"]
