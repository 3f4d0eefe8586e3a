"""Load a LLaVA with transformers, and hash its input processing."""

from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from rlhf.data.chat_prompts import PromptBuilder
from rlhf.errors import UsageError, as_usage_error
from rlhf.models.checkpoint_files import (
    check_processor,
    check_weights_size,
    load_whole,
    reading_llava,
)
from rlhf.models.fingerprints import tokenizer_hash
from rlhf.models.fixed_options import stored_quantization
from rlhf.models.packed.supported import check_structure
from rlhf.models.quantization import prepare_quantized_layers, quantization_config
from rlhf.models.vision.families import hf_class
from rlhf.storage.hashing import text_hash


def empty_model(config: Any) -> Any:
    """Build a LLaVA on the meta device, without weights, if packed passes may compute it.

    Args:
        config: configuration of the LLaVA.

    Raises:
        UsageError: transformers cannot build the model, or packed passes do not compute it.
    """
    what = f"a LLaVA with text model {config.text_config.model_type} cannot be built"
    with as_usage_error(what, "model.path", "check the model's config.json"), torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    check_structure(model)
    return model


def load_hf(
    base: str, *, device: torch.device, dtype: torch.dtype, quantization: str
) -> tuple[Any, Any]:
    """Load a LLaVA, frozen, and its processor by the transformers classes.

    Args:
        base: directory or hub id.
        device: where the weights are put.
        dtype: of the weights that are not quantized, and of products with quantized ones.
        quantization: none, int8 or nf4, as in `model.quantization`; weights that are stored
            quantized stay so with `none`.

    Raises:
        UsageError: the files are not those of a LLaVA that packed passes compute, not whole, or
            quantized otherwise; the weights are read last.
    """
    transformers.utils.logging.disable_progress_bar()  # it would garble the progress lines
    with reading_llava(base):
        stored, model_class = stored_quantization(base), hf_class(base)
        empty = empty_model(AutoConfig.from_pretrained(base, trust_remote_code=False))
        check_weights_size(empty, base)
        processor = AutoProcessor.from_pretrained(base, trust_remote_code=False)
        model = load_whole(
            model_class,
            base,
            dtype=dtype,
            quantization_config=None if stored else quantization_config(quantization, dtype),
            device_map={"": device} if stored or quantization != "none" else None,
        )
        check_processor(model, processor, base)
    _check_quantization(base, stored, quantization)
    prepare_quantized_layers(model, dtype)
    model.requires_grad_(False)
    return (model if stored or quantization != "none" else model.to(device)), processor


def _check_quantization(base: str, stored: str, wanted: str) -> None:
    """Refuse weights that are stored in another quantization than the one that is wanted."""
    if stored and wanted not in ("none", stored):
        raise UsageError(
            f"the model's weights are stored as {stored} and cannot become {wanted}",
            f"{base} model.quantization={wanted}",
            f"set model.quantization={stored}, or use the original weights",
        )


def stored_dtype(base: str) -> torch.dtype:
    """Dtype of the weights in a model's files; float32 if the configuration names none."""
    return AutoConfig.from_pretrained(base).dtype or torch.float32


def fingerprints(builder: PromptBuilder) -> dict[str, str]:
    """Hashes of chat template, end of turn, tokenizer and image preprocessing, by name.

    Two models with equal hashes read the same text and image as the same input.

    Args:
        builder: the prompt builder of a LLaVA.
    """
    images = str(builder.processor.image_processor.to_json_string())
    return {
        "template": text_hash(str(builder.processor.chat_template)),
        "end_of_turn": str(builder.end_of_turn_id),
        "tokenizer": tokenizer_hash(builder.tokenizer),
        "images": text_hash(f"{builder.image_tokens.rule} {images}"),
    }
