"""The scorer that calls the user's Python function."""

import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rlhf.config.schema import ScorerConfig
from rlhf.data.tokenization import TextEncoder
from rlhf.errors import UsageError
from rlhf.rewards.external.calls import USAGE, CallFailedError, ExternalScorer, Item, to_scores

_ARRAYS = (Tensor, np.ndarray, np.generic)


class FunctionScorer(ExternalScorer):
    """Calls a function of images, instructions and responses, which is not sandboxed.

    It is called with three lists of equal length, at most `BATCH_SIZE`, and returns one real number
    for each response. A failed call is not repeated: it would fail again.

    Args:
        function: the function.
        name: shown in tables.
        encoder: decodes the responses.
        config: reads `on_failure`.
        file: where the function is defined, for messages; None: as the function says.
    """

    def __init__(
        self,
        function: Callable[..., object],
        name: str,
        encoder: TextEncoder,
        config: ScorerConfig,
        file: Path | None = None,
    ) -> None:
        super().__init__(name, encoder, config)
        self._function = function
        code = getattr(function, "__code__", None)
        self._file = file or Path(code.co_filename if code else type(function).__name__)

    def call(self, items: list[Item]) -> Tensor:
        """Score n items by one call of the function: [n] float32.

        Raises:
            CallFailedError: the function raises, or does not return n real numbers.
        """
        images, instructions, responses = map(list, zip(*items, strict=True))
        try:
            values = self._function(images, instructions, responses)
        except (Exception, SystemExit) as error:
            raise CallFailedError(_origin(error, self._file)) from error
        return to_scores(_to_numbers(values), len(items))


def _to_numbers(values: object) -> list[float]:
    """Check and convert the return value of the function to a list of floats."""
    listed = values.tolist() if isinstance(values, _ARRAYS) else values
    if not isinstance(listed, Sequence) or isinstance(listed, str | bytes):
        kind = type(values).__name__
        raise CallFailedError(f"the function returned {kind} instead of a list of numbers")
    return [_to_number(value) for value in listed]


def _to_number(value: object) -> float:
    number = value.tolist() if isinstance(value, _ARRAYS) else value
    if isinstance(number, bool) or not isinstance(number, Real):
        raise CallFailedError(f"the function returned {type(value).__name__} instead of a number")
    try:
        return float(number)
    except OverflowError:
        return math.inf


def load_function(file: Path, name: str) -> Callable[..., object]:
    """Load a function of a Python file.

    Args:
        file: the Python file that defines the function.
        name: of the function.

    Raises:
        UsageError: the file or function is missing, or the file fails to load.
    """
    if not file.is_file():
        raise UsageError("there is no such file", str(file), USAGE)
    function: Callable[..., object] | None = getattr(_load_module(file), name, None)
    if not callable(function):
        fix = f"define {name}(images, instructions, responses) there"
        raise UsageError(f"{file.name} has no function {name}", str(file), fix)
    return function


def _load_module(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"rlhf_scorer_{file.stem}", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up the module they are defined in
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        origin = _origin(error, file)
        raise UsageError(f"{file.name} does not load", origin, "correct the file") from error
    return module


def _origin(error: BaseException, file: Path) -> str:
    """Describe an error and the line of `file` it came from: `scorer.py:12: ValueError: …`."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines.append(error.lineno)
    place = f"{file.name}:{lines[-1]}" if lines else file.name
    return f"{place}: {type(error).__name__}: {error}"
