"""Small checks that run on a device: dtypes, quantization, 8-bit AdamW, Triton, TensorBoard."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from rlhf.diagnostics.environment import METRICS_WRITER, QUANTIZATION, Environment, one_line
from rlhf.diagnostics.problems import PROCESSES
from rlhf.diagnostics.process_check import check_processes

if TYPE_CHECKING:  # torch may be what does not load
    from torch import Tensor

DTYPES = ("float32", "bfloat16", "float16")
QUANTIZATIONS = ("nf4", "int8")
SIZE = 64  # inputs and outputs of the linear layer: each row is one nf4 block
# Largest relative error (norm) against float64; nf4 rounds normal weights by 0.09.
TOLERANCES = {"float32": 1e-2, "bfloat16": 5e-2, "float16": 1e-2, "nf4": 0.25, "int8": 0.25}


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check.

    Attributes:
        name: what was checked.
        state: outcome.
        seconds: how long it took.
        note: why it failed or was skipped.
    """

    name: str
    state: Literal["ok", "failed", "skipped"]
    seconds: float = 0.0
    note: str = ""


def run_checks(
    environment: Environment, device: str, dtype: str, processes: int = 1
) -> Iterator[CheckResult]:
    """Run every check on one device; those that cannot run are skipped with a reason.

    Args:
        environment: decides what is skipped.
        device: `cpu`, `cuda` or `mps`.
        dtype: in which quantized layers compute, e.g. `float32`.
        processes: of the run; with one, all GPUs of the machine are tried together.

    Yields:
        The result of each check.
    """
    missing = "torch does not load" if "torch" in environment.import_errors else ""
    missing = missing or ("" if environment.has(device) else f"there is no {device} device")
    missing_bnb = missing or (
        "bitsandbytes does not load" if _fails(environment, QUANTIZATION) else ""
    )
    for name in DTYPES:
        yield run_check(name, partial(check_linear, device, name), missing)
    for kind in QUANTIZATIONS:
        yield run_check(kind, partial(check_linear, device, dtype, kind), missing_bnb)
    yield run_check("8-bit AdamW", partial(_check_adamw_8bit, device), missing_bnb)
    yield run_check("Triton", _check_triton, missing or _no_triton(environment, device))
    count = processes if processes > 1 else environment.num_gpus if device == "cuda" else 1
    if count > 1:
        yield run_check(PROCESSES, partial(check_processes, device, count), missing)
    yield run_check(
        "TensorBoard",
        _check_metrics_writer,
        "it does not load" if _fails(environment, METRICS_WRITER) else "",
    )


def run_check(name: str, trial: Callable[[], None], skip: str = "") -> CheckResult:
    """Run a check and time it.

    Args:
        name: what is checked.
        trial: raises if the check fails.
        skip: reason not to run it; empty to run it.
    """
    if skip:
        return CheckResult(name, "skipped", note=skip)
    start = perf_counter()
    try:
        trial()
    except Exception as error:  # any error is the result
        return CheckResult(name, "failed", perf_counter() - start, one_line(error))
    return CheckResult(name, "ok", perf_counter() - start)


def check_linear(device: str, dtype: str, kind: str = "none") -> None:
    """Compare a linear layer's output and input gradient with float64 on the CPU.

    The gradient is taken after a forward without gradient, as in an update after a rollout: that
    is when bitsandbytes can lose the gradient without an error.

    Args:
        device: `cpu`, `cuda` or `mps`.
        dtype: of weights and inputs, e.g. `float32`.
        kind: quantization: `none`, `nf4` or `int8`.

    Raises:
        RuntimeError: either is not finite or too far from float64.
    """
    import torch

    generator = torch.Generator().manual_seed(0)  # leaves the global one untouched
    weight, inputs, upstream = torch.randn(
        3, SIZE, SIZE, generator=generator, dtype=torch.float64
    ).unbind()
    options = {"device": device, "dtype": getattr(torch, dtype)}
    layer = _linear(weight.to(**options), kind)
    with torch.no_grad():
        layer(inputs.to(**options))
    layer_inputs = inputs.to(**options).requires_grad_()
    outputs = layer(layer_inputs)
    outputs.backward(upstream.to(outputs))
    tolerance = TOLERANCES[dtype if kind == "none" else kind]
    _compare("the forward", outputs.detach(), inputs @ weight.T, tolerance)
    _compare("the gradient after an eval forward", layer_inputs.grad, upstream @ weight, tolerance)


def _linear(weight: "Tensor", kind: str) -> "Callable[[Tensor], Tensor]":
    from torch.nn.functional import linear

    if kind != "none":
        from rlhf.models.quantization import quantized_linear

        return quantized_linear(weight, kind)
    weight.requires_grad_()
    return lambda inputs: linear(inputs, weight)


def _compare(name: str, actual: "Tensor | None", expected: "Tensor", tolerance: float) -> None:
    if actual is None or not actual.any():
        raise RuntimeError(f"{name} is zero")
    distance = float((actual.cpu().double() - expected).norm() / expected.norm())
    if not distance <= tolerance:  # NaN is not
        raise RuntimeError(f"{name} is off by {distance:.2g} of its norm")


def _check_adamw_8bit(device: str) -> None:
    import torch

    from rlhf.models.quantization import adamw_8bit_step

    change = adamw_8bit_step(torch.device(device), lr=0.01)
    if not bool(((change + 0.01).abs() < 0.001).all()):
        raise RuntimeError(f"a step of -0.01 moved by {float(change.mean()):.2g}")


def _check_triton() -> None:
    import torch

    from rlhf.kernels.span_ops_triton import span_sum
    from rlhf.spans import Spans

    flat = torch.tensor([1.0, 2.0, 4.0], device="cuda")
    sums = span_sum(flat, Spans.from_lengths(torch.tensor([1, 2], device="cuda"))).tolist()
    if sums != [1.0, 6.0]:
        raise RuntimeError(f"sums of spans are {sums}, not [1.0, 6.0]")


def _check_metrics_writer() -> None:
    from rlhf.tracking.writer import MetricsWriter

    with tempfile.TemporaryDirectory() as scratch:
        with MetricsWriter(Path(scratch)) as writer:
            writer.scalars({"lr": 1.0}, 0)
        sizes = [file.stat().st_size for file in Path(scratch).glob("events.*")]
        if len(sizes) != 1 or not sizes[0]:
            raise RuntimeError("no events were written")


def _fails(environment: Environment, module: str) -> bool:
    return "torch" in environment.import_errors or module in environment.import_errors


def _no_triton(environment: Environment, device: str) -> str:
    if device != "cuda":
        return "only on CUDA"
    return "" if "triton" in environment.versions else "not installed"
