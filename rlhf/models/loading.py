"""A LLaVA's files as the stock classes read them, and fingerprints of what they make of inputs."""

from typing import Any

import torch
import transformers
from transformers import AutoProcessor

from rlhf.models.fingerprints import tokenizer_hash
from rlhf.models.quantization import keep_gradients, quantization_config
from rlhf.models.reading import as_usage_error
from rlhf.models.vision.families import hf_class
from rlhf.storage.hashing import text_hash


def load_hf(
    base: str, *, device: torch.device, dtype: torch.dtype, quantization: str
) -> tuple[Any, Any]:
    """Model, frozen, and processor of a LLaVA directory or hub id.

    Raises:
        UsageError: the files are not those of a LLaVA.
    """
    transformers.utils.logging.disable_progress_bar()  # it breaks our own progress lines
    fix = "check model.path; if a package is named, install the package"
    with as_usage_error(f"{base} does not load as a LLaVA", "its files", fix):
        processor = AutoProcessor.from_pretrained(base, trust_remote_code=False)
        model = hf_class(base).from_pretrained(
            base,
            dtype=dtype,
            quantization_config=quantization_config(quantization, dtype),
            device_map={"": device} if quantization != "none" else None,
            use_safetensors=True,  # the other kind of weights is a pickle
        )
    keep_gradients(model)
    model.requires_grad_(False)
    return (model if quantization != "none" else model.to(device)), processor


def fingerprints(processor: Any, image_rule: str) -> dict[str, str]:
    """Of template, tokenizer and image sizes: how text and image become a trunk's input."""
    images = str(processor.image_processor.to_json_string())
    return {
        "template": text_hash(str(processor.chat_template)),
        "tokenizer": tokenizer_hash(processor.tokenizer),
        "images": text_hash(f"{image_rule} {images}"),
    }
