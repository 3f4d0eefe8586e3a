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
from rlhf.kernels import triton_logprobs, triton_spans

def compile(kernel, *types, **constants):
    names = kernel.arg_names
    signature = dict(zip(names, types)) | dict.fromkeys(constants, "constexpr")
    assert list(signature) == names, names
    values = {(names.index(name),): value for name, value in constants.items()}
    triton.compile(ASTSource(kernel, signature, values), target=GPUTarget("cuda", 80, 32))

spans, block = ("*i64", "*i64"), dict(BLOCK=triton_spans.BLOCK)
compile(triton_spans._copy_runs, "*i16", "*i16", "*i64", *spans, "i32", "i32", **block)
compile(triton_spans._total, "*bf16", "*fp32", *spans, **block)
for flat, step in (("*bf16", -1), ("*fp32", 1)):
    compile(triton_spans._discounted_sum, flat, "*fp32", "*fp64", *spans, STEP=step, **block)
for kernel in (triton_logprobs._fold, triton_logprobs._differentiate):
    where = ("i32", "i32", "*i64", "*i8", "fp32")
    compile(kernel, "*fp32", *where, *["*fp32"] * 4, BLOCK=triton_logprobs.BLOCK)
"""


@pytest.mark.slow
def test_every_kernel_compiles(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
