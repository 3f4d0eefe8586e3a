"""Weights in 8 and 4 bits, by bitsandbytes."""

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
    """The options by which transformers quantizes a LLaVA's linear layers.

    The vision tower, the projector and the output head are not quantized. The int8 threshold is 0
    because outlier columns are chosen over a batch: a row would depend on the rest of its batch.

    Args:
        kind: none, int8 or nf4, as in `model.quantization`.
        dtype: of the products.

    Returns:
        None for `none`.
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
    """Turn off the repacking of 4-bit weights, which zeroes every gradient on AVX512-BF16 CPUs."""
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
    """A frozen quantized linear layer in eval mode, as loading with `kind` would build it.

    Args:
        weight: [out, in], in the dtype of the products, on the device.
        kind: int8 or nf4.
    """
    options = quantization_config(kind, weight.dtype)
    assert options is not None
    columns, rows = weight.shape[1], weight.shape[0]
    with torch.random.fork_rng(devices=[]):  # its constructor draws weights that are not used
        if kind == "nf4":
            layer = bitsandbytes.nn.Linear4bit(
                columns,
                rows,
                bias=False,
                compute_dtype=options.bnb_4bit_compute_dtype,
                compress_statistics=options.bnb_4bit_use_double_quant,
                quant_type=options.bnb_4bit_quant_type,
            )
        else:
            layer = bitsandbytes.nn.Linear8bitLt(
                columns, rows, bias=False, has_fp16_weights=False, threshold=0.0
            )
    layer.load_state_dict({"weight": weight.cpu()})
    placed: nn.Module = layer.to(weight.device).requires_grad_(False).eval()
    keep_gradients(placed)
    return placed


def adamw_8bit_step(device: torch.device, lr: float) -> Tensor:
    """Zeros after one step of 8-bit AdamW with a gradient of ones; each should be -lr.

    Args:
        device: where the step runs.
        lr: learning rate.

    Returns:
        [4096] float32.

    Raises:
        RuntimeError: the optimizer keeps its state in more than 8 bits.
    """
    values = torch.zeros(4096, device=device, requires_grad=True)  # fewer would be kept in 32 bits
    values.grad = torch.ones_like(values)
    optimizer = bitsandbytes.optim.AdamW8bit([values], lr=lr, weight_decay=0.0)
    optimizer.step()
    if optimizer.state[values]["state1"].dtype != torch.uint8:
        raise RuntimeError("8-bit AdamW keeps its state in more than 8 bits")
    return values.detach()
