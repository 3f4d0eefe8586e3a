"""Read an adapter saved by peft; refuse one that would not be applied exactly as peft does."""

import re
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, NamedTuple

from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from safetensors.torch import load_file
from torch import Tensor, nn

from rlhf.errors import UsageError, as_usage_error
from rlhf.models.finite_weights import check_finite
from rlhf.models.locations import ADAPTER_CONFIG, read_json_object
from rlhf.parallel.trial import try_in_child
from rlhf.tracking.console import say

MERGE = "merge it into the model first, with the tools that it was trained with"
# Linear layers of the language model only: bare names would also match the vision tower.
LANGUAGE_LINEARS = (
    r"(?!.*(vision_tower|shared_expert)).*\."  # peft's aLoRA does not work in shared experts
    r"((q|k|v|qkv|o|gate|up|gate_up|down|c)_proj|dense|fc1|fc2|c_fc)"  # the latter: Phi, StarCoder2
)
# Linear layers of a decoder's layers; vision tower, projector, embeddings and heads are not.
DECODER_LAYERS = r"(?!.*vision_tower)(.*\.)?layers\.\d+\..+"
# Options that need not have their default: they choose layers and scales, or only matter before
# the first step. Any other option changes what the adapter computes.
_UNDERSTOOD = """
    task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode r
    target_modules exclude_modules lora_alpha lora_dropout fan_in_fan_out use_rslora
    init_lora_weights layers_to_transform layers_pattern rank_pattern alpha_pattern
    alora_invocation_tokens
"""
_PATTERN = re.compile(r"[^\w.-]")  # in what is more than the name of a layer
_INITS = (True, False, "gaussian", "orthogonal")  # the others change the base model's weights
# Names of layers before transformers 4.52, as most adapters on the hub have them.
_OLD_PREFIX, _NEW_PREFIX = "language_model.model.", "model.language_model."


class AdapterFiles(NamedTuple):
    """An adapter's files.

    Attributes:
        config: without dropout and invocation.
        weights: by peft's names.
        invocation: ids that an activated LoRA starts with; empty: it applies to every token.
    """

    config: LoraConfig
    weights: dict[str, Tensor]
    invocation: list[int]


def read_adapter(directory: Path, model: nn.Module) -> AdapterFiles:
    """Read an adapter and check that it changes linear layers of the decoder only.

    Args:
        directory: with adapter_config.json and adapter_model.safetensors.
        model: the base model that it is for; other adapters may be on it already.

    Raises:
        UsageError: it cannot be read, was trained on another model, reaches further, or is not
            finite.
    """
    _check_options(directory, read_json_object(directory / ADAPTER_CONFIG))
    with as_usage_error("the adapter cannot be read", directory, "name a directory of a run"):
        config = LoraConfig.from_pretrained(str(directory))
        weights = load_file(directory / "adapter_model.safetensors")
    check_finite(weights.items(), directory)
    weights = _with_current_names(config, weights)
    _try_patterns(config, model, directory)
    _choose_layers(config, {_layer_of(key, directory) for key in weights}, model, directory)
    if config.lora_dropout:
        say(f"{directory}: its dropout {config.lora_dropout} is not applied, also not in training")
    invocation = list(config.alora_invocation_tokens or ())
    config.lora_dropout, config.alora_invocation_tokens = 0.0, None
    config.init_lora_weights = True  # of weights that are replaced at once
    return AdapterFiles(config, weights, invocation)


def _try_patterns(config: LoraConfig, model: nn.Module, directory: Path) -> None:
    """Refuse regular expressions, of which peft makes layers and scales, that match for ever.

    The model's own expression and plain names need no trial.
    """
    scales = [*config.rank_pattern, *config.alpha_pattern]
    named = config.layers_pattern or []
    named = [named] if isinstance(named, str) else named
    chosen = (config.target_modules, config.exclude_modules, *named)
    foreign = [x for x in chosen if isinstance(x, str) and x != LANGUAGE_LINEARS]
    if not any(map(_PATTERN.search, [*foreign, *scales])):
        return

    def match() -> None:
        for name in _linear_layers(model):
            check_target_module_exists(config, name)
            for pattern in scales:
                re.match(rf"(.*\.)?({pattern})$", name)

    what, fix = "the adapter's patterns of layers cannot be used", "name the layers one by one"
    try_in_child(match, what, str(directory / ADAPTER_CONFIG), fix)
    with as_usage_error(what, directory / ADAPTER_CONFIG, fix):
        match()


def _check_options(directory: Path, options: dict[str, Any]) -> None:
    """Refuse an adapter that is no LoRA, and options that change what a LoRA computes."""
    kind = options.get("peft_type", "LORA")
    if kind != "LORA":
        raise UsageError("the adapter is no LoRA", f"{directory}: peft_type {kind}", MERGE)
    if (directory / "non_lora_trainables.bin").exists():
        where = f"{directory}: non_lora_trainables.bin"
        raise UsageError("the adapter comes with weights beyond LoRA", where, MERGE)
    known = {field.name: field for field in fields(LoraConfig)}
    for name, value in options.items():
        understood = name in _UNDERSTOOD.split() or not value or _is_default(known.get(name), value)
        if name == "init_lora_weights":
            understood = value in _INITS
        if name == "revision":
            understood = value in (None, "main")
        if not understood:
            where = f"{directory}: {name}={value}"
            raise UsageError("an option of the adapter is not supported", where, MERGE)


def _is_default(field: "Field[Any] | None", value: object) -> bool:
    if field is None:
        return False
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    return bool(value == default) or (isinstance(value, dict) and not any(value.values()))


def _linear_layers(model: nn.Module) -> set[str]:
    """Names of the linear layers of a model, with and without adapters on them."""
    linear = (nn.Linear, BaseTunerLayer)
    named = ((name, module) for name, module in model.named_modules() if isinstance(module, linear))
    return {name for name, _ in named if ".base_layer" not in name and ".lora_" not in name}


def _layer_of(key: str, directory: Path) -> str:
    """Return the layer that a tensor of an adapter belongs to; refuse one beyond the decoder."""
    match = re.fullmatch(r"base_model\.model\.(.+)\.lora_[AB]\.weight", key)
    if not match or not re.fullmatch(DECODER_LAYERS, match[1]):
        raise UsageError(
            "the adapter reaches beyond the linear layers of the language model",
            f"{directory}: {key}",
            MERGE,
        )
    return match[1]


def _with_current_names(config: LoraConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename layers of the layout before transformers 4.52, in the weights and in the patterns."""
    if not any(key.startswith(f"base_model.model.{_OLD_PREFIX}") for key in weights):
        return weights
    for patterns in (config.rank_pattern, config.alpha_pattern):
        for key in [*patterns]:
            patterns[key.replace(_OLD_PREFIX, _NEW_PREFIX)] = patterns.pop(key)
    return {key.replace(_OLD_PREFIX, _NEW_PREFIX): value for key, value in weights.items()}


def _choose_layers(config: LoraConfig, layers: set[str], model: nn.Module, directory: Path) -> None:
    """Make the configuration select just the layers that the adapter has weights for.

    The names that it was saved with may match other layers here, or none.
    """
    names = _linear_layers(model)
    if unknown := sorted(layers - names):
        where, fix = f"{directory}: {unknown[0]}", "load it on the model it was trained on"
        raise UsageError("the adapter was trained on another model", where, fix)
    if {name for name in names if check_target_module_exists(config, name)} != layers:
        config.target_modules = sorted(layers)
        config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
