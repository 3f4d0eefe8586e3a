"""Argument checks of the pure functions; an error says what came and what was wanted."""

from math import inf

from torch import Tensor


def check_between(name: str, value: float, low: float, high: float = inf) -> None:
    """Refuse a number outside [low, high], and NaN.

    Args:
        name: what the error calls it.
        value: the number.
        low: smallest allowed.
        high: largest allowed.

    Raises:
        ValueError: it is outside.
    """
    if not low <= value <= high:
        raise ValueError(f"{name}: got {value}, wanted {low} to {high}")


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not finite and above 0.

    Raises:
        ValueError: names the argument and the value.
    """
    if not 0 < value < inf:
        raise ValueError(f"{name}: got {value}, wanted a finite number above 0")


def check_same_shape(**tensors: Tensor) -> None:
    """Refuse tensors, passed by name, that do not have one shape.

    Raises:
        ValueError: names all of them with their shapes.
    """
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if len({tuple(shape) for shape in shapes.values()}) > 1:
        raise ValueError(f"{', '.join(shapes)}: got shapes {shapes}, wanted one shape")
