"""8-bit and 4-bit weights by bitsandbytes."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
from bitsandbytes import cextension
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from rlhf.errors import UsageError

PACKED_DTYPES = {bitsandbytes.nn.Linear4bit: "nf4", bitsandbytes.nn.Linear8bitLt: "int8"}


def quantization_config(kind: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Options with which transformers quantizes the linear layers of a LLaVA's language model.

    The vision tower, the projector and the output head are not quantized. The int8 threshold is 0:
    outlier columns are chosen over a batch, so a row would depend on the other rows of its batch.

    Args:
        kind: none, int8 or nf4, as in `model.quantization`.
        dtype: compute dtype of the quantized layers.

    Returns:
        The options; None for `none`.
    """
    if kind == "none":
        return None
    return BitsAndBytesConfig(
        load_in_8bit=kind == "int8",
        load_in_4bit=kind == "nf4",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_threshold=0.0,
        llm_int8_skip_modules=["model.vision_tower", "model.multi_modal_projector", "lm_head"],
    )


def prepare_quantized_layers(model: nn.Module, dtype: torch.dtype) -> None:
    """Make quantized layers compute as this package does, also those that were stored quantized.

    Products run in `dtype`; int8 chooses no outlier columns, so that a row does not depend on the
    other rows; and 4-bit weights are not repacked, which makes all gradients 0 on AVX512-BF16 CPUs.

    Args:
        model: its quantized layers are changed.
        dtype: compute dtype.

    Raises:
        UsageError: the output head is quantized.
    """
    for name, module in model.named_modules():
        if quantization_of(module) and name.endswith("lm_head"):
            fix = "use a checkpoint whose lm_head is not quantized, or the original weights"
            raise UsageError("the output head is quantized", name, fix)
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
            module.compute_dtype, module.compute_type_is_set = dtype, True
        elif isinstance(module, bitsandbytes.nn.Linear8bitLt):
            module.state.threshold = 0.0


def misshapen_layers(model: nn.Module) -> list[str]:
    """Names of the quantized weights whose shape is not that of their layer.

    transformers checks the shapes of a checkpoint, but not those of weights that it quantizes.
    """
    return [
        f"{name}.weight"
        for name, module in model.named_modules()
        if quantization_of(module)
        and _stored_shape(module) != (module.out_features, module.in_features)
    ]


def _stored_shape(module: Any) -> tuple[int, ...]:
    """Shape of a quantized layer's weight before it was packed."""
    state = getattr(module.weight, "quant_state", None)
    return tuple(module.weight.shape if state is None else state.shape)


def model_quantization(model: nn.Module) -> str:
    """The quantization of a model's layers, `nf4` or `int8`; `none` if no layer has any."""
    kinds = (quantization_of(module) for module in model.modules())
    return next((kind for kind in kinds if kind), "none")


def quantization_of(module: nn.Module) -> str:
    """The quantization of a layer's weight, `nf4` or `int8`; empty if it has none."""
    return PACKED_DTYPES.get(type(module), "")


@dataclass(frozen=True)
class NativeLibrary:
    """The native library of bitsandbytes.

    Attributes:
        name: file of the loaded library, e.g. `libbitsandbytes_cuda126.so`; empty: none loaded.
        fault: why none loaded.
        shipped: CUDA versions that bitsandbytes ships libraries for, e.g. `12.6`.
        override: value of BNB_CUDA_VERSION, which selects a library by hand.
    """

    name: str
    fault: str
    shipped: tuple[str, ...]
    override: str


def native_library() -> NativeLibrary:
    """The native library that importing bitsandbytes loaded."""
    parts = vars(cextension.lib)  # getattr would return a function for any missing name
    loaded = parts.get("_lib")
    return NativeLibrary(
        name=Path(loaded._name).name if loaded else "",
        fault=str(parts.get("error_msg", "")).split("\n")[0],
        shipped=tuple(cextension.get_available_cuda_binary_versions()),
        override=os.environ.get("BNB_CUDA_VERSION", ""),
    )


def quantized_linear(weight: Tensor, kind: str) -> nn.Module:
    """Build a frozen quantized linear layer in eval mode, like `load_hf` does for a whole model.

    Args:
        weight: [out, in], in the compute dtype, on the device.
        kind: int8 or nf4.
    """
    options = quantization_config(kind, weight.dtype)
    assert options is not None
    in_features, out_features = weight.shape[1], weight.shape[0]
    with torch.random.fork_rng(devices=[]):  # its constructor draws weights that are not used
        if kind == "nf4":
            layer = bitsandbytes.nn.Linear4bit(
                in_features,
                out_features,
                bias=False,
                compute_dtype=options.bnb_4bit_compute_dtype,
                compress_statistics=options.bnb_4bit_use_double_quant,
                quant_type=options.bnb_4bit_quant_type,
            )
        else:
            layer = bitsandbytes.nn.Linear8bitLt(
                in_features, out_features, bias=False, has_fp16_weights=False, threshold=0.0
            )
    layer.load_state_dict({"weight": weight.cpu()})
    quantized: nn.Module = layer.to(weight.device).requires_grad_(False).eval()
    prepare_quantized_layers(quantized, weight.dtype)
    return quantized


def adamw_8bit_step(device: torch.device, lr: float) -> Tensor:
    """Take one 8-bit AdamW step from zeros with a gradient of ones; each result should be -lr.

    Args:
        device: where the step runs.
        lr: learning rate.

    Returns:
        The parameters after the step, [4096] float32.

    Raises:
        RuntimeError: the optimizer stores its state in more than 8 bits.
    """
    values = torch.zeros(4096, device=device, requires_grad=True)  # smaller ones get 32-bit state
    values.grad = torch.ones_like(values)
    optimizer = bitsandbytes.optim.AdamW8bit([values], lr=lr, weight_decay=0.0)
    optimizer.step()
    if optimizer.state[values]["state1"].dtype != torch.uint8:
        raise RuntimeError("8-bit AdamW stores its state in more than 8 bits")
    return values.detach()


def refuse_quantized(model: Any, base: str) -> None:
    """Refuse to train all weights of a quantized model.

    Args:
        model: the model.
        base: where it was loaded from, for the message.

    Raises:
        UsageError: its weights are quantized.
    """
    if model_quantization(model) != "none":
        fix = "train a LoRA, or use the weights as they were before quantization"
        raise UsageError("full training needs weights that are not quantized", base, fix)
