"""Kernels with a PyTorch implementation for every device, and some with Triton for GPUs.

Each function runs in Triton, if it has such a kernel, when its first tensor is on a GPU, and in
PyTorch otherwise.
"""

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from rlhf.kernels import span_ops as _span_ops
from rlhf.kernels.span_ops import add_at_span_end as add_at_span_end
from rlhf.kernels.span_ops import later_in_span as later_in_span
from rlhf.kernels.token_kl import token_kl as token_kl
from rlhf.kernels.token_logprobs import token_logprobs as _token_logprobs

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _wants_triton(tensor: Tensor) -> bool:
    """Whether `tensor` is on a GPU with Triton; float64 tensors use the PyTorch version."""
    return tensor.is_cuda and tensor.dtype != torch.float64 and find_spec("triton") is not None


def _by_device(definition: Callable[_P, _R], module: str) -> Callable[_P, _R]:
    """Wrap `definition` to call the function of that name in `module` for tensors on a GPU."""

    @wraps(definition)
    def dispatched(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        first = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
        if first is None or not _wants_triton(first):
            return definition(*args, **kwargs)
        kernel: Callable[_P, _R] = getattr(import_module(module), definition.__name__)
        with torch.cuda.device_of(first):  # Triton launches on the current device
            return kernel(*args, **kwargs)

    return dispatched


gather_spans = _by_device(_span_ops.gather_spans, "rlhf.kernels.span_ops_triton")
scatter_spans = _by_device(_span_ops.scatter_spans, "rlhf.kernels.span_ops_triton")
span_discounted_sum = _by_device(_span_ops.span_discounted_sum, "rlhf.kernels.span_ops_triton")
span_mean = _by_device(_span_ops.span_mean, "rlhf.kernels.span_ops_triton")
span_sum = _by_device(_span_ops.span_sum, "rlhf.kernels.span_ops_triton")
token_logprobs = _by_device(_token_logprobs, "rlhf.kernels.token_logprobs_triton")
