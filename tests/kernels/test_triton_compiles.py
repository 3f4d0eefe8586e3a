"""Every Triton kernel compiles for an Ampere GPU; none is needed to see that.

The interpreter accepts what the compiler refuses, and says nothing of it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rlhf.kernels import span_ops_triton, token_logprobs_triton
from rlhf.kernels.span_ops_triton import (
    _copy_spans_kernel,
    _discounted_sum_kernel,
    _segment_sum_kernel,
)
from rlhf.kernels.token_logprobs_triton import _logits_grad_kernel, _online_softmax_kernel

def compile(kernel, *types, **constants):
    names = kernel.arg_names
    arguments = [name for name in names if name not in constants]
    by_name = dict(zip(arguments, types, strict=True)) | dict.fromkeys(constants, "constexpr")
    signature = {name: by_name[name] for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    for capability in (80, 90):
        target = GPUTarget("cuda", capability, 32)
        triton.compile(ASTSource(kernel, signature, values), target=target)

spans, block = ("*i64", "*i64"), dict(BLOCK=span_ops_triton.BLOCK)
compile(_copy_spans_kernel, "*i16", "*i16", "*i64", *spans, "i32", "i32", **block)
compile(_segment_sum_kernel, "*bf16", "*fp32", *spans, **block)
for flat, step in (("*bf16", -1), ("*fp32", 1)):
    compile(_discounted_sum_kernel, flat, "*fp32", "*fp64", *spans, STEP=step, **block)
for kernel in (_online_softmax_kernel, _logits_grad_kernel):
    where = ("i32", "i32", "*i64", "*i8", "fp32")
    compile(kernel, "*fp32", *where, *["*fp32"] * 4, BLOCK=token_logprobs_triton.BLOCK)
    # A whole number that is 1 is compiled in: one column, one element a token, one block a span.
    compile(kernel, "*fp32", *where[1:], *["*fp32"] * 4, BLOCK=token_logprobs_triton.BLOCK, width=1)
ones = dict(row_size=1, blocks_per_span=1)
compile(_copy_spans_kernel, "*i32", "*i32", "*i64", *spans, **block, **ones)
"""


@pytest.mark.slow
def test_every_kernel_compiles(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", PROGRAM]
    completed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
