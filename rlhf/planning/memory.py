"""Memory of a training step, computed from the model's sizes and the run's options."""

from dataclasses import dataclass

from rlhf.config.schema import GIB
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
    saved_layer_bytes,
)
from rlhf.planning.model_dims import ModelDims
from rlhf.planning.resident_memory import (
    Parts,
    frozen_width,
    language_model_bytes,
    resident_bytes,
    sharded_models,
    trainable_parameters,
)
from rlhf.planning.stored_rollout import critic_fit_bytes, rollout_bytes
from rlhf.planning.workload import Workload


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a PPO iteration, or a step of supervised training, needs by part and phase.

    Attributes:
        resident: what stays allocated all the time.
        phases: what each phase allocates on top at its peak: rollout, scoring, on a CPU the
            critic's fit, and update of PPO; scoring and update of a reward model; update of
            supervised training.
        image_feature_bytes: cached features of one image, in CPU memory.
        rollout_bytes: what PPO holds of a rollout, in CPU memory.
        activations: of one micro-batch of an update, without and with gradient checkpointing.
    """

    resident: Parts
    phases: dict[str, Parts]
    image_feature_bytes: int
    rollout_bytes: int
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
    """Estimate the memory of each phase of an iteration, or of a step of supervised training.

    Adapters, gradients and optimizer state stay through all phases. A phase's peak is the largest
    set of tensors alive at once: a layer's workspace and the weight it unpacks, or the logits.
    """
    features_per_image = dims.image_tiles * dims.tile_tokens * dims.vision_feature_size
    return MemoryEstimate(
        resident=resident_bytes(dims, workload),
        phases=_phases(dims, workload),
        image_feature_bytes=features_per_image * frozen_width(workload),
        rollout_bytes=rollout_bytes(dims, workload) if workload.stage == "ppo" else 0,
        activations=(
            saved_activation_bytes(dims, workload, checkpointing=False),
            saved_activation_bytes(dims, workload, checkpointing=True),
        ),
    )


def _phases(dims: ModelDims, workload: Workload) -> dict[str, Parts]:
    """What each phase of the stage allocates at its peak; a frozen backbone has no update."""
    whole, layer = _gathered_layers(dims, workload)
    phases = {}
    stored = _stored_rollout(dims, workload)
    if workload.stage == "ppo":
        phases["rollout"] = _rollout_bytes(dims, workload) | whole
    if workload.stage != "sft":
        phases["scoring"] = _scoring_bytes(dims, workload) | whole | stored
    if stored and workload.fits_critic:
        phases["critic fit"] = stored | {"inputs of the fit": critic_fit_bytes(dims, workload)}
    if workload.trains_backbone:
        phases["update"] = _update_bytes(dims, workload) | layer | stored
    return phases


def _stored_rollout(dims: ModelDims, workload: Workload) -> Parts:
    """The rollout, from scoring to the update; a GPU's memory holds none of it."""
    is_here = workload.stage == "ppo" and workload.device == "cpu"
    return {"stored rollout": rollout_bytes(dims, workload)} if is_here else {}


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
    head = 4 * (dims.lm_head_params or dims.embedding_params)  # float32 logits
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
    at_logits = dict(saved)  # before a layer is recomputed
    if workload.gradient_checkpointing:
        at_logits["activations"] -= saved_layer_bytes(dims, workload, rows)
    layer = {"workspace of a layer": backward_workspace_bytes(dims, workload, rows)}
    layer |= _dequantized_weight(dims, workload)
    logits = {"logits": logprob_workspace_bytes(dims, workload, rows * workload.max_new_tokens)}
    prefill = _prefix_prefill(dims, workload, rows)
    if not workload.gradient_checkpointing:  # with it, they are among the activations
        cache = {name: size for name, size in prefill.items() if name == "KV cache"}
        saved, at_logits = saved | cache, at_logits | cache
    sums = _gradient_sums(dims, workload)
    moments = _largest(prefill, saved | layer, at_logits | logits, sums)
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


def cached_prompt_share(dims: ModelDims, workload: Workload) -> float:
    """Share of an iteration's prompts that the prefix cache holds, 0 to 1.

    It is 0 without aLoRA, and in the first epoch of supervised training.
    """
    if not workload.uses_alora or workload.stage != "ppo":
        return 0.0
    all_prompts = prompt_kv_bytes(dims, workload, workload.own_rollout_rows)
    return min(1.0, workload.prefix_cache_gib * GIB / all_prompts)


def _cached_prompts(dims: ModelDims, workload: Workload) -> Parts:
    """The prefix cache, as far as an iteration's prompts fill it; supervised data fill it whole."""
    if workload.uses_alora and workload.stage != "ppo" and workload.parts == 1:
        return {"prompts kept": int(workload.prefix_cache_gib * GIB)}
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
