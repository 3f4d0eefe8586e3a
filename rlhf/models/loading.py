"""Find the files of a model, load them with transformers, and hash its input processing."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoProcessor

from rlhf.errors import UsageError, as_usage_error
from rlhf.models.fingerprints import tokenizer_hash
from rlhf.models.quantization import keep_gradients, quantization_config
from rlhf.models.vision.families import hf_class
from rlhf.storage.hashing import text_hash
from rlhf.storage.run_directory import run_directories


@dataclass(frozen=True)
class ModelLocation:
    """Where a LLaVA and, if the path named one, an adapter on it are stored.

    Attributes:
        base: directory or hub id of the LLaVA.
        adapter: directory of the adapter; None: no adapter.
    """

    base: str
    adapter: Path | None = None


def locate_model(path: str) -> ModelLocation:
    """Find the model that `model.path` names.

    Args:
        path: a LLaVA directory, an adapter's directory, a run's directory, a directory of runs (the
            newest run with a model is taken), or a hub id.

    Raises:
        UsageError: no model there.
    """
    if not path:
        raise UsageError("no model is given", "model.path", "set model.path=DIRECTORY_OR_HUB_ID")
    directory = Path(path).expanduser()
    runs = run_directories(directory)
    for candidate in (run / part for run in runs for part in ("", "model", "adapter")):
        if (candidate / "adapter_config.json").is_file():
            config = json.loads((candidate / "adapter_config.json").read_text())
            base = _model_path_or_hub_id(config["base_model_name_or_path"], candidate)
            return ModelLocation(base, candidate)
        if (candidate / "config.json").is_file():
            return ModelLocation(str(candidate.resolve()))
    return ModelLocation(_model_path_or_hub_id(path, directory))


def _model_path_or_hub_id(path: str, where: Path) -> str:
    """Absolute path of a model directory, or `path` if it looks like a hub id."""
    if (Path(path) / "config.json").is_file():
        return str(Path(path).resolve())
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path) and not where.exists():
        return path
    raise UsageError(
        f"no model at {path}",
        str(where),
        "give a directory with config.json, a run directory of `rlhf sft` or `rlhf ppo`, a hub id, "
        "or build a model: `rlhf smol output=DIRECTORY`",
    )


def load_hf(
    base: str, *, device: torch.device, dtype: torch.dtype, quantization: str
) -> tuple[Any, Any]:
    """Load a LLaVA, frozen, and its processor by the transformers classes.

    Args:
        base: directory or hub id.
        device: where the weights are put.
        dtype: of the weights that are not quantized, and of products with quantized ones.
        quantization: none, int8 or nf4, as in `model.quantization`.

    Raises:
        UsageError: the files are not those of a LLaVA.
    """
    transformers.utils.logging.disable_progress_bar()  # it would garble the progress lines
    fix = "check model.path; if a package is named, install the package"
    with as_usage_error(f"{base} does not load as a LLaVA", "its files", fix):
        processor = AutoProcessor.from_pretrained(base, trust_remote_code=False)
        model = hf_class(base).from_pretrained(
            base,
            dtype=dtype,
            quantization_config=quantization_config(quantization, dtype),
            device_map={"": device} if quantization != "none" else None,
            use_safetensors=True,  # other weight files are pickles, which can run code
        )
    keep_gradients(model)
    model.requires_grad_(False)
    return (model if quantization != "none" else model.to(device)), processor


def stored_dtype(base: str) -> torch.dtype:
    """Dtype of the weights in a model's files; float32 if the configuration names none."""
    return AutoConfig.from_pretrained(base).dtype or torch.float32


def fingerprints(processor: Any, image_rule: str) -> dict[str, str]:
    """Hashes of chat template, tokenizer and image preprocessing, by name.

    Two models with equal hashes read the same text and image as the same input.

    Args:
        processor: a LLaVA's processor.
        image_rule: how image tokens are counted, `ImageTokenCounter.rule`.
    """
    images = str(processor.image_processor.to_json_string())
    return {
        "template": text_hash(str(processor.chat_template)),
        "tokenizer": tokenizer_hash(processor.tokenizer),
        "images": text_hash(f"{image_rule} {images}"),
    }
