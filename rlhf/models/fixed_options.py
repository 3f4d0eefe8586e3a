"""Options of `model` that the files of a model fix: the LoRA of an adapter, stored quantization."""

from typing import Any

from transformers import PreTrainedConfig

from rlhf.errors import UsageError
from rlhf.models.locations import ADAPTER_CONFIG, ModelLocation, read_json_object


def fixed_options(location: ModelLocation) -> dict[str, Any]:
    """Read the values of `lora_rank`, `lora_alpha`, `lora_type` and `quantization` that are fixed.

    Args:
        location: of the model.

    Returns:
        The options by name; without the options of LoRA if there is no adapter, and without
        `quantization` if the base model's weights are not quantized.

    Raises:
        UsageError: the weights are quantized in a way that is not supported.
    """
    fixed: dict[str, Any] = {}
    if location.adapter:
        adapter = read_json_object(location.adapter / ADAPTER_CONFIG)
        fixed["lora_rank"], fixed["lora_alpha"] = adapter.get("r", 8), adapter.get("lora_alpha", 8)
        fixed["lora_type"] = "alora" if adapter.get("alora_invocation_tokens") else "lora"
    if kind := stored_quantization(location.base):
        fixed["quantization"] = kind
    return fixed


def stored_quantization(base: str) -> str:
    """Read how the weights in a model's files are quantized: nf4, int8, or empty if not at all.

    Args:
        base: directory or hub id.

    Raises:
        UsageError: in another way than bitsandbytes does as nf4 or int8.
    """
    try:
        config, _ = PreTrainedConfig.get_config_dict(base, local_files_only=True)
    except (OSError, ValueError, RecursionError):  # not downloaded yet, or said when it is loaded
        return ""
    stored = config.get("quantization_config")
    if not stored:
        return ""
    if stored.get("load_in_8bit"):
        return "int8"
    if stored.get("load_in_4bit") and stored.get("bnb_4bit_quant_type", "fp4") == "nf4":
        return "nf4"
    kind = stored.get("bnb_4bit_quant_type") or stored.get("quant_method")
    raise UsageError(
        f"the weights are quantized as {kind}, which is not supported",
        f"{base}: quantization_config in config.json",
        "use the original weights, with model.quantization=nf4 or int8 to save memory",
    )
