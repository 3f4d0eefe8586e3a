"""Refuse text models and vision towers of which packed passes would compute something else."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from rlhf.errors import UsageError

VISION_TOWERS = ("clip_vision_model", "siglip_vision_model")
# What transformers passes to attention functions besides what ours computes; no result changes.
IGNORED_OPTIONS = {"position_ids", "use_cache", "output_attentions"}


class AttentionCall(NamedTuple):
    """One call of the packed attention.

    Attributes:
        layer: index of the layer that called.
        window: its sliding window, tokens; None: no limit.
        mask: mask that the model built for it; a placeholder outside of the check at loading.
        sizes: heads of keys and of values, and features of a key and of a value.
    """

    layer: int
    window: int | None
    mask: Tensor | None
    sizes: tuple[int, int, int, int]


def unsupported(config: Any, what: str) -> UsageError:
    """Build the error of a text model or vision tower that is not computed exactly.

    Args:
        config: configuration of the text model or of the tower.
        what: follows the name of the architecture in the first line.
    """
    return UsageError(
        f"{config.model_type} {what}",
        f"model.path: its {type(config).__name__}",
        "use a LLaVA whose text model and vision tower the documentation of families lists",
    )


def check_structure(model: Any) -> None:
    """Check the class of the vision tower and the modules of the text model's layers.

    Args:
        model: a transformers LLaVA, on any device.

    Raises:
        UsageError: the tower is not CLIP's or SigLIP's, or a layer has no `self_attn` or `mlp`.
    """
    tower, language_model = model.config.vision_config, model.model.language_model
    if tower.model_type not in VISION_TOWERS:
        raise unsupported(tower, f"is no vision tower of {' or '.join(VISION_TOWERS)}")
    needed = [(language_model, "layers")]
    for layer in getattr(language_model, "layers", ()):
        needed += [(layer, "self_attn"), (layer, "mlp")]
    for module, name in needed:
        if not hasattr(module, name):
            what = f"cannot run over packed tokens: {type(module).__name__} has no {name}"
            raise unsupported(language_model.config, what)


def check_options(module: Any, options: dict[str, Any]) -> None:
    """Check the options that a layer passes to its attention function.

    Args:
        module: the attention module.
        options: by name, without scale and sliding window.

    Raises:
        UsageError: an option may change the result; None and False mean that it is off.
    """
    if options.get("is_causal", getattr(module, "is_causal", True)) is False:
        raise unsupported(module.config, "has attention that is not causal")
    for name, value in options.items():
        is_off = value is None or value is False or (name == "dropout" and value == 0)
        if not is_off and name not in IGNORED_OPTIONS and (name, value) != ("is_causal", True):
            shown = "" if isinstance(value, Tensor) else f"={value}"
            raise unsupported(
                module.config, f"has attention with {name}{shown}, which packed passes leave out"
            )


def check_calls(language_model: Any, calls: Sequence[AttentionCall]) -> None:
    """Check that each layer called the packed attention once, in order.

    Args:
        language_model: the decoder of a transformers model.
        calls: the calls of one forward.

    Raises:
        UsageError: some layer did not; its tokens saw those of other sequences, or none.
    """
    layers = [call.layer for call in calls]
    count = len(language_model.layers)
    if layers != [*range(count)]:
        raise unsupported(
            language_model.config,
            f"cannot run over packed tokens: of its {count} layers {len({*layers})} pass the "
            "packed layout to their attention",
        )


def position_limit(config: Any) -> int | None:
    """Longest sequence, tokens, up to which dynamic RoPE does not depend on the batch.

    Beyond the trained length the frequencies of `dynamic` and `longrope` change with the longest
    sequence of the batch.

    Args:
        config: configuration of a text model.

    Returns:
        The trained length; None without dynamic RoPE.
    """
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    limits = []
    for part in (rope, *rope.values()):  # one for all layers, or one for each kind of layer
        kind = part.get("rope_type") if isinstance(part, dict) else None
        if kind == "dynamic":
            limits.append(int(config.max_position_embeddings))
        elif kind == "longrope":
            limits.append(int(part["original_max_position_embeddings"]))
    return min(limits, default=None)
