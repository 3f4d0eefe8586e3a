"""Every Triton kernel compiles for an Ampere GPU; none is needed to see that.

The interpreter accepts what the compiler refuses, and tells nothing of it.
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
from rlhf.kernels import token_logprobs_triton, span_ops_triton

def compile(kernel, *types, **constants):
    names = kernel.arg_names
    plain = [name for name in names if name not in constants]
    given = dict(zip(plain, types, strict=True)) | dict.fromkeys(constants, "constexpr")
    signature = {name: given[name] for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    for capability in (80, 90):
        target = GPUTarget("cuda", capability, 32)
        triton.compile(ASTSource(kernel, signature, values), target=target)

spans, block = ("*i64", "*i64"), dict(BLOCK=span_ops_triton.BLOCK)
compile(span_ops_triton._copy_runs, "*i16", "*i16", "*i64", *spans, "i32", "i32", **block)
compile(span_ops_triton._total, "*bf16", "*fp32", *spans, **block)
for flat, step in (("*bf16", -1), ("*fp32", 1)):
    compile(span_ops_triton._discounted_sum, flat, "*fp32", "*fp64", *spans, STEP=step, **block)
for kernel in (token_logprobs_triton._fold, token_logprobs_triton._differentiate):
    where = ("i32", "i32", "*i64", "*i8", "fp32")
    compile(kernel, "*fp32", *where, *["*fp32"] * 4, BLOCK=token_logprobs_triton.BLOCK)
    # A whole number that is 1 is compiled in: one column, one element a token, one block a span.
    compile(kernel, "*fp32", *where[1:], *["*fp32"] * 4, BLOCK=token_logprobs_triton.BLOCK, width=1)
compile(span_ops_triton._copy_runs, "*i32", "*i32", "*i64", *spans, **block, inner=1, blocks=1)
"""


@pytest.mark.slow
def test_every_kernel_compiles(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
