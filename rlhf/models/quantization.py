"""8-bit and 4-bit weights by bitsandbytes."""

import os
from dataclasses import dataclass
from pathlib import Path

import bitsandbytes
import torch
from bitsandbytes import cextension
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

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


def keep_gradients(model: nn.Module) -> None:
    """Turn off repacking of 4-bit weights, which makes all gradients 0 on AVX512-BF16 CPUs."""
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


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
    keep_gradients(quantized)
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
