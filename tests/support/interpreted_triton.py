"""Importing this makes Triton kernels run interpreted on the CPU, where there is no GPU."""

import importlib
import os
from importlib.util import find_spec

import torch

if find_spec("triton") and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined
    # torch may have imported Triton already: its own functions must be interpreted too.
    for name in ("triton.language.standard", "triton.language"):
        importlib.reload(importlib.import_module(name))
