"""The operators of torch that Apple's MPS has a kernel of, by torch's own list of operators."""

import re
from functools import cache
from pathlib import Path

import torch

# Kernels made of other operators: each of those needs its own.
COMPOSITE = re.compile(r"Composite(Implicit|Explicit)Autograd(NonFunctional)?$")


def check_on_mps(name: str) -> None:
    """Refuse an operator that MPS does not have.

    Args:
        name: such as `aten::add.Tensor`; operators of other libraries are not known.

    Raises:
        NotImplementedError: as torch words it.
    """
    if name.startswith("aten::") and name not in mps_operators():
        raise NotImplementedError(
            f"The operator '{name}' is not currently implemented for the MPS device."
        )


@cache
def mps_operators() -> frozenset[str]:
    """Names such as `aten::add.Tensor`; composite operators are among them."""
    packages = Path(torch.__file__).parents[1]
    file = packages / "torchgen/packaged/ATen/native/native_functions.yaml"
    entries = re.split(r"^- func: ", file.read_text(), flags=re.MULTILINE)[1:]
    by_name = {entry.partition("(")[0]: entry for entry in entries}
    return frozenset(f"aten::{name}" for name in by_name if _on_mps(name, by_name))


def _on_mps(name: str, by_name: dict[str, str]) -> bool:
    """Whether an operator, or the structured one that it calls, has a kernel."""
    entry = by_name[name]
    if delegate := re.search(r"structured_delegate: (\S+)", entry):
        return _on_mps(delegate[1], by_name)
    dispatch = re.search(r"^  dispatch:\n((?: {4}.*\n)+)", entry, flags=re.MULTILINE)
    if dispatch is None:
        return True  # composite
    keys = re.findall(r"[A-Z]\w+(?=[,:])", re.sub(r":.*", ":", dispatch[1]))
    return "MPS" in keys or any(map(COMPOSITE.match, keys))
