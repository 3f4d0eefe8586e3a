"""Memory of one PPO iteration, from sizes alone."""

from dataclasses import dataclass

from rlhf.models.packed.prepacked_linear import LIMIT
from rlhf.planning.activation_memory import (
    activations,
    backward_workspace,
    forward_workspace,
    head_logits,
    kv_cache,
    sampling_logits,
    widest_weight,
)
from rlhf.planning.model_shape import ModelDims
from rlhf.planning.workload import Workload

GIB = 2**30
CONTEXT = 2**29  # CUDA's own and the libraries' kernels on the card
NF4_BITS = 4.127  # 4, and per 64 weights a scale of 8 bits, and per 256 scales one of 32

Parts = dict[str, int]


@dataclass(frozen=True)
class Memory:
    """Bytes on the card.

    Attributes:
        resident: there all the time.
        phases: of rollout, scoring and update, what comes on top at the worst moment.
        features: on the CPU, cached features of one image.
        activations: of an update's micro-batch without and with gradient checkpointing.
    """

    resident: Parts
    phases: dict[str, Parts]
    features: int
    activations: tuple[int, int]

    def peaks(self) -> Parts:
        """The most of each phase."""
        always = sum(self.resident.values())
        return {name: always + sum(parts.values()) for name, parts in self.phases.items()}

    @property
    def peak(self) -> int:
        return max(self.peaks().values())


def memory(shape: ModelDims, setup: Workload) -> Memory:
    """What lies on the card in each phase.

    Adapters, gradients and the optimizer's state stay through all phases. A moment is what is alive
    at once: the workspace of the layer that runs, the weight it unpacks, or the head's logits.
    """
    return Memory(
        resident=resident(shape, setup),
        phases={
            "rollout": _rollout(shape, setup),
            "scoring": _scoring(shape, setup),
            "update": _update(shape, setup),
        },
        features=shape.tiles * shape.tile_tokens * shape.feature_width * plain_width(setup),
        activations=(
            activations(shape, setup, checkpointing=False),
            activations(shape, setup, checkpointing=True),
        ),
    )


def _rollout(shape: ModelDims, setup: Workload) -> Parts:
    """The last prompts of a batch, or the last token of its responses."""
    rows = setup.generated_together
    held = {"KV cache": _keys_values(shape, setup, rows)} | _kept_prefixes(shape, setup)
    prefill = held | _reading(shape, setup, rows) | _unpacked(shape, setup)
    decode = held | {"logits": sampling_logits(shape, rows)} | _unpacked(shape, setup)
    return _worst(prefill, decode | _blocked(shape, setup))


def _blocked(shape: ModelDims, setup: Workload) -> Parts:
    """Weights that a CPU lays out anew to decode."""
    if setup.triton:
        return {}
    width = plain_width(setup)  # in which they multiply
    layers = width * shape.linears if setup.quantization == "none" else 0
    head = width * (shape.head or shape.embeddings)
    return {"weights to decode by": head + (layers if layers <= LIMIT else 0)}


def _keys_values(shape: ModelDims, setup: Workload, rows: int) -> int:
    """Of so many rows, their prompts once each; a CPU decodes from float32."""
    prompts = kv_cache(shape, setup, setup.distinct(rows), setup.prompt_tokens)
    narrow = prompts + kv_cache(shape, setup, rows, setup.max_new_tokens)
    return narrow if setup.triton else narrow * 4 // setup.width


def _scoring(shape: ModelDims, setup: Workload) -> Parts:
    """A micro-batch without gradient: a layer, or the head."""
    rows = setup.rows(setup.rollout_batch_size)
    layer = {"workspace of a layer": setup.tokens(rows) * forward_workspace(shape, setup)}
    if setup.triton and (setup.uses_alora or setup.samples_per_prompt > 1):
        layer["KV of a layer"] = _keys_values(shape, setup, rows) // shape.layers
    logits = {"logits": head_logits(shape, setup, rows * setup.max_new_tokens)}
    reading, held = _prefix(shape, setup, rows), _kept_prefixes(shape, setup)
    layer |= {name: size for name, size in reading.items() if name == "KV cache"}
    return held | _worst(reading, layer | _unpacked(shape, setup), logits)


def _update(shape: ModelDims, setup: Workload) -> Parts:
    """A micro-batch with gradient: the head, or a layer's backward."""
    rows = setup.rows(setup.minibatch_size)
    kept = {"activations": activations(shape, setup)}
    layer = {"workspace of a layer": backward_workspace(shape, setup, rows)}
    logits = {"logits": head_logits(shape, setup, rows * setup.max_new_tokens)}
    reading, held = _prefix(shape, setup, rows), _kept_prefixes(shape, setup)
    if not setup.gradient_checkpointing:  # else it is among the activations
        kept |= {name: size for name, size in reading.items() if name == "KV cache"}
    return held | _worst(reading, kept | layer | _unpacked(shape, setup), kept | logits)


def kept_share(shape: ModelDims, setup: Workload) -> float:
    """Of an iteration's prompts, how many are read once for all passes."""
    wanted = kv_cache(shape, setup, setup.prompts, setup.prompt_tokens)
    return min(1.0, setup.prefix_cache_gib * GIB / wanted) if setup.uses_alora else 0.0


def _kept_prefixes(shape: ModelDims, setup: Workload) -> Parts:
    share = kept_share(shape, setup)
    wanted = kv_cache(shape, setup, setup.prompts, setup.prompt_tokens)
    return {"prompts kept": int(share * wanted)} if share else {}


def _prefix(shape: ModelDims, setup: Workload, rows: int) -> Parts:
    """A micro-batch's prompts, put together or read, where LoRA is on responses alone."""
    if not setup.uses_alora:
        return {}
    prompts = setup.distinct(rows)
    cache = {"KV cache": kv_cache(shape, setup, prompts, setup.prompt_tokens)}
    if kept_share(shape, setup) == 1:
        return cache
    return cache | _reading(shape, setup, rows) | _unpacked(shape, setup)


def _reading(shape: ModelDims, setup: Workload, rows: int) -> Parts:
    """Of so many prompts, those that are read at once."""
    tokens = setup.prefilled(rows) * setup.prompt_tokens
    return {"workspace of a layer": tokens * forward_workspace(shape, setup)}


def _unpacked(shape: ModelDims, setup: Workload) -> Parts:
    packed = setup.quantization != "none"
    return {"dequantized weight": widest_weight(shape, setup)} if packed else {}


def _worst(*moments: Parts) -> Parts:
    return max(moments, key=lambda parts: sum(parts.values()))


def resident(shape: ModelDims, setup: Workload) -> Parts:
    """What stays: weights by part, adapters by role, gradients, optimizer, CUDA itself."""
    adapter = 4 * lora_parameters(shape, setup.lora_rank)  # peft keeps them in float32
    lora, trainable = setup.train == "lora", trainable_parameters(shape, setup)
    state = 8 if setup.optimizer == "adamw" else 2  # bytes a parameter, of both moments
    parts = base_model_bytes(shape, setup)
    whole = sum(parts.values())
    parts |= {
        "second trunk: reference": 0 if lora else whole,
        "second trunk: reward": whole if setup.reward == "trunk" else 0,
        "second trunk: critic": whole if setup.critic == "separate" else 0,
        "adapter: policy": adapter if lora else 0,
        "adapter: critic": adapter if lora and setup.critic in ("adapter", "separate") else 0,
        "adapter: reference": adapter if lora and setup.starts_from_adapter else 0,
        "adapter: reward": adapter if lora and setup.reward == "adapter" else 0,
        "gradients": 4 * trainable,
        "optimizer": state * trainable,
        "CUDA": CONTEXT,
    }
    return {name: size for name, size in parts.items() if size}


def base_model_bytes(shape: ModelDims, setup: Workload) -> Parts:
    """The model's weights by part; only the language model's linear layers are packed."""
    plain, language = plain_width(setup), setup.width
    bits = {"none": 8 * language, "int8": 8, "nf4": NF4_BITS}[setup.quantization]
    return {
        "vision tower": plain * shape.tower,
        "projector": plain * shape.projector,
        "language model": round(bits / 8 * shape.linears) + language * shape.others,
        "embeddings": language * shape.embeddings,
        "head": language * shape.head,
    }


def plain_width(setup: Workload) -> int:
    """Bytes of a number in what is neither trained nor quantized."""
    return 2 if setup.dtype == "bfloat16" else 4


def lora_parameters(shape: ModelDims, rank: int) -> int:
    """Of one adapter: `rank` columns and rows on each linear layer of the language model."""
    return rank * shape.lora_width


def trainable_parameters(shape: ModelDims, setup: Workload) -> int:
    """Policy and critic; with `separate` the critic trains as much as the policy."""
    lora = setup.train == "lora"
    policy = lora_parameters(shape, setup.lora_rank) if lora else shape.language
    doubled = setup.critic == "separate" or (setup.critic == "adapter" and lora)
    critic = policy if doubled else 0
    return policy + critic + shape.hidden + 1
