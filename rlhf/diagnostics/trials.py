"""Small trials on a device: dtypes, quantization, 8-bit AdamW, Triton, TensorBoard."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from rlhf.diagnostics.facts import Facts, one_line

if TYPE_CHECKING:  # torch may be what does not load
    from torch import Tensor

DTYPES = ("float32", "bfloat16", "float16")
QUANTIZATIONS = ("nf4", "int8")
SIZE = 64  # of the tried linear layer: one nf4 block a row
# Largest distance from float64, as a share of the norm: nf4 rounds normal weights by 0.09.
FARTHEST = {"float32": 1e-2, "bfloat16": 5e-2, "float16": 1e-2, "nf4": 0.25, "int8": 0.25}


@dataclass(frozen=True)
class Check:
    """One trial: what came of it, how long it took, and why it failed or was skipped."""

    name: str
    state: Literal["ok", "failed", "skipped"]
    seconds: float = 0.0
    note: str = ""


def run_checks(facts: Facts, device: str, dtype: str) -> Iterator[Check]:
    """Every trial that this machine allows, on one device.

    Args:
        facts: what was found; decides what is skipped.
        device: cpu, cuda or mps.
        dtype: quantized layers compute in, e.g. `float32`.
    """
    lacking = "torch does not load" if "torch" in facts.faults else ""
    lacking = lacking or ("" if facts.has(device) else f"there is no {device} device")
    without_bits = lacking or ("bitsandbytes does not load" if _fails(facts, "models.bits") else "")
    for name in DTYPES:
        yield check(name, partial(try_linear, device, name), lacking)
    for kind in QUANTIZATIONS:
        yield check(kind, partial(try_linear, device, dtype, kind), without_bits)
    yield check("8-bit AdamW", partial(_try_adamw, device), without_bits)
    yield check("Triton", _try_triton, lacking or _no_triton(facts, device))
    yield check("TensorBoard", _try_metrics, "it does not load" if _fails(facts, "metrics") else "")


def check(name: str, trial: Callable[[], None], skip: str = "") -> Check:
    """The outcome of `trial`, which raises when it fails; not run if there is a reason to skip."""
    if skip:
        return Check(name, "skipped", note=skip)
    start = perf_counter()
    try:
        trial()
    except Exception as error:  # whatever it is, it is what the doctor is asked for
        return Check(name, "failed", perf_counter() - start, one_line(error))
    return Check(name, "ok", perf_counter() - start)


def try_linear(device: str, dtype: str, kind: str = "none") -> None:
    """Compare a linear layer and the gradient of its input with float64 on the CPU.

    The gradient comes after a forward without one, as in an update after a rollout: that is when
    bitsandbytes can lose it in silence.

    Raises:
        RuntimeError: either is not finite, or too far away.
    """
    import torch

    generator = torch.Generator().manual_seed(0)  # of its own: a run's draws stay what they are
    weight, inputs, upstream = torch.randn(
        3, SIZE, SIZE, generator=generator, dtype=torch.float64
    ).unbind()
    place = {"device": device, "dtype": getattr(torch, dtype)}
    layer = _linear(weight.to(**place), kind)
    with torch.no_grad():
        layer(inputs.to(**place))
    entering = inputs.to(**place).requires_grad_()
    leaving = layer(entering)
    leaving.backward(upstream.to(leaving))
    farthest = FARTHEST[dtype if kind == "none" else kind]
    _compare("the forward", leaving.detach(), inputs @ weight.T, farthest)
    _compare("the gradient after an eval forward", entering.grad, upstream @ weight, farthest)


def _linear(weight: "Tensor", kind: str) -> "Callable[[Tensor], Tensor]":
    from torch.nn.functional import linear

    if kind != "none":
        from rlhf.models.quantization import quantized_linear

        return quantized_linear(weight, kind)
    weight.requires_grad_()
    return lambda inputs: linear(inputs, weight)


def _compare(name: str, found: "Tensor | None", wanted: "Tensor", farthest: float) -> None:
    if found is None or not found.any():
        raise RuntimeError(f"{name} is zero")
    distance = float((found.cpu().double() - wanted).norm() / wanted.norm())
    if not distance <= farthest:  # NaN is not
        raise RuntimeError(f"{name} is off by {distance:.2g} of its norm")


def _try_adamw(device: str) -> None:
    import torch

    from rlhf.models.quantization import adamw_8bit_step

    moved = adamw_8bit_step(torch.device(device), lr=0.01)
    if not bool(((moved + 0.01).abs() < 0.001).all()):
        raise RuntimeError(f"a step of -0.01 moved by {float(moved.mean()):.2g}")


def _try_triton() -> None:
    import torch

    from rlhf.kernels.span_ops_triton import span_sum
    from rlhf.spans import Spans

    flat = torch.tensor([1.0, 2.0, 4.0], device="cuda")
    sums = span_sum(flat, Spans.from_lengths(torch.tensor([1, 2], device="cuda"))).tolist()
    if sums != [1.0, 6.0]:
        raise RuntimeError(f"sums of spans are {sums}, not [1.0, 6.0]")


def _try_metrics() -> None:
    from rlhf.tracking.writer import MetricsWriter

    with tempfile.TemporaryDirectory() as scratch:
        with MetricsWriter(Path(scratch)) as writer:
            writer.scalars({"lr": 1.0}, 0)
        sizes = [file.stat().st_size for file in Path(scratch).glob("events.*")]
        if len(sizes) != 1 or not sizes[0]:
            raise RuntimeError("no events were written")


def _fails(facts: Facts, module: str) -> bool:
    return "torch" in facts.faults or f"rlhf.{module}" in facts.faults


def _no_triton(facts: Facts, device: str) -> str:
    if device != "cuda":
        return "only on CUDA"
    return "" if "triton" in facts.versions else "not installed"
