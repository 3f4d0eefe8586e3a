"""Argument checks; each error says which value was passed and which was expected."""

from math import inf

from torch import Tensor


def check_between(name: str, value: float, low: float, high: float = inf) -> None:
    """Raise an error if a number is NaN or outside [low, high].

    Args:
        name: name of the argument, for the message.
        value: the number.
        low: smallest allowed value.
        high: largest allowed value.

    Raises:
        ValueError: names the argument and the value.
    """
    if not low <= value <= high:
        raise ValueError(f"{name}: got {value}, wanted {low} to {high}")


def check_positive(name: str, value: float) -> None:
    """Raise an error if a number is not finite or not above 0.

    Raises:
        ValueError: names the argument and the value.
    """
    if not 0 < value < inf:
        raise ValueError(f"{name}: got {value}, wanted a finite number above 0")


def check_same_shape(**tensors: Tensor) -> None:
    """Raise an error if tensors, passed by name, differ in shape.

    Raises:
        ValueError: names all of them with their shapes.
    """
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if len({tuple(shape) for shape in shapes.values()}) > 1:
        raise ValueError(f"{', '.join(shapes)}: got shapes {shapes}, wanted one shape")
