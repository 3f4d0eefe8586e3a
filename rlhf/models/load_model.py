"""Load a LLaVA with the adapter that was trained on it."""

from pathlib import Path
from typing import Literal

import torch

from rlhf.config.resolve import weights_dtype
from rlhf.config.schema import Config, ModelConfig
from rlhf.config.validation import check_config
from rlhf.errors import UsageError
from rlhf.models.fixed_options import stored_quantization
from rlhf.models.llava import Llava
from rlhf.models.locations import ModelLocation, locate_model
from rlhf.models.policy import POLICY
from rlhf.models.torch_device import find_torch_device
from rlhf.tracking.activity import working


def load_model(
    path: str | Path,
    *,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    adapter: str | Path | None = None,
    base: str = "",
    options: ModelConfig | None = None,
) -> Llava:
    """Load a LLaVA, with its trained adapter active if it has one.

    Args:
        path: directory of a LLaVA, of an adapter, of a run or of runs, of which the newest with a
            model is taken; or a hub id.
        device: auto: cuda, then mps, then cpu.
        dtype: of the weights; auto: float32 on the CPU, else bfloat16. Full training wants float32.
        adapter: directory of an adapter, or of the run that trained it, in place of that of `path`.
        base: directory or hub id of an adapter's base model, if it is not where it was in training.
        options: quantization, caches and largest prefill pass.

    Raises:
        UsageError: there is no model, its files are not those of a LLaVA, the adapter does not fit,
            or there is no such device.
    """
    config = check_config(Config(device=device, dtype=dtype, model=options or ModelConfig()))
    location = locate_model(str(path), base)
    if adapter is not None:
        found = locate_model(str(adapter), location.base).adapter
        if found is None:
            fix = "name the directory with adapter_config.json, or its run"
            raise UsageError("there is no adapter", str(adapter), fix)
        location = ModelLocation(location.base, found)
    llava = load_base_model(config, location, quantization=_quantization(config, location))
    if location.adapter is not None:
        llava.adapters.load(POLICY, location.adapter, trains=False)
        llava.adapter_dir = location.adapter
    return llava


def load_base_model(
    config: Config, location: ModelLocation, *, quantization: str, trains_fully: bool = False
) -> Llava:
    """Load the LLaVA of a location without its adapter.

    Args:
        config: reads `device`, `dtype`, and the caches and the largest prefill pass of `model`.
        location: where the model's files are.
        quantization: none, int8 or nf4.
        trains_fully: every layer of the language model trains; its weights are float32 then.

    Raises:
        UsageError: its files are not those of a LLaVA, or there is no such device.
    """
    device = find_torch_device(config.device)
    dtype = weights_dtype(config, device.type, trains_fully=trains_fully)
    weights = {"dtype": getattr(torch, dtype), "quantization": quantization}
    with working(f"loading {location.base}"):
        llava = Llava.load(location.base, device=device, **weights)
    llava.max_prefill_tokens = config.model.max_prefill_tokens
    llava.prefix_cache.limit = config.model.prefix_cache_gib
    llava.vision.cache.limit = config.model.vision_cache_gib
    if directory := config.model.vision_cache_dir:
        llava.vision.use_disk_cache(Path(directory))
    return llava


def _quantization(config: Config, location: ModelLocation) -> str:
    """Return the quantization of the files, which cannot change, else the one that is wanted."""
    return stored_quantization(location.base) or config.model.quantization
