"""Argument checks of the pure functions: which argument, what came, what was wanted."""

from math import inf

from torch import Tensor


def check_between(name: str, value: float, low: float, high: float = inf) -> None:
    """Raise ValueError unless low <= value <= high; NaN is refused."""
    if not low <= value <= high:
        raise ValueError(f"{name}: got {value}, wanted {low} to {high}")


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless value is finite and above 0."""
    if not 0 < value < inf:
        raise ValueError(f"{name}: got {value}, wanted a finite number above 0")


def check_same_shape(**tensors: Tensor) -> None:
    """Raise ValueError unless all tensors have one shape."""
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if len({tuple(shape) for shape in shapes.values()}) > 1:
        raise ValueError(f"{', '.join(shapes)}: got shapes {shapes}, wanted one shape")
