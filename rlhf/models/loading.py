"""Find the files of a model, load them with transformers, and fingerprint how they read inputs."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoProcessor

from rlhf.errors import UsageError, as_usage_error
from rlhf.models.fingerprints import tokenizer_hash
from rlhf.models.quantization import keep_gradients, quantization_config
from rlhf.models.vision.families import hf_class
from rlhf.storage.hashing import text_hash
from rlhf.storage.run_directory import run_directories


@dataclass(frozen=True)
class ModelLocation:
    """A LLaVA and, when the path named one, the adapter trained on it."""

    base: str
    adapter: Path | None = None


def locate_model(path: str) -> ModelLocation:
    """The files behind `model.path`; of a directory of runs those of the newest that has a model.

    Raises:
        UsageError: nothing there that could be a model.
    """
    if not path:
        raise UsageError("no model is given", "model.path", "set model.path=DIRECTORY_OR_HUB_ID")
    directory = Path(path).expanduser()
    runs = run_directories(directory)
    for place in (run / part for run in runs for part in ("", "model", "adapter")):
        if (place / "adapter_config.json").is_file():
            config = json.loads((place / "adapter_config.json").read_text())
            return ModelLocation(_existing(config["base_model_name_or_path"], place), place)
        if (place / "config.json").is_file():
            return ModelLocation(str(place.resolve()))
    return ModelLocation(_existing(path, directory))


def _existing(path: str, where: Path) -> str:
    """The path of a model directory, or a name that looks like a hub id."""
    if (Path(path) / "config.json").is_file():
        return str(Path(path).resolve())
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path) and not where.exists():
        return path
    raise UsageError(
        f"no model at {path}",
        str(where),
        "give a directory with config.json, a run folder of `rlhf sft` or `rlhf ppo`, a hub id, "
        "or build a model: `rlhf smol output=FOLDER`",
    )


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
