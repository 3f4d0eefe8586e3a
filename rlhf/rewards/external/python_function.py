"""A person's own Python function as scorer."""

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
from rlhf.rewards.external.calls import EXAMPLES, Item, ScorerCalls, Unscored, checked_scores
from rlhf.types import PromptBatch, Responses

_ARRAYS = (Tensor, np.ndarray, np.generic)


class FunctionScorer:
    """A function of images, instructions and responses; it runs with the person's own rights.

    It gets three lists of equal length, at most `PIECE` long, and gives back one real number for
    each response. It is not called again after a failure, which would only come again.

    Args:
        file, function: where it is defined, and its name.
        builder, options: see `load_scorer`.

    Raises:
        UsageError: no such file or function, or the file does not load.
    """

    can_fail = True

    def __init__(
        self, file: Path, function: str, builder: TextEncoder, options: ScorerConfig
    ) -> None:
        self.name = f"function {file.name}:{function}"
        self._file = file.resolve()
        self._function = _load_function(self._file, function)
        self._calls = ScorerCalls(self.name, self._call, builder, options.on_failure)

    @property
    def dropped(self) -> int:
        """Responses left without a score so far."""
        return self._calls.dropped

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        """See `Scorer`.

        Raises:
            ResourceError: the function fails and that is not tolerated.
        """
        return self._calls.scores(prompts, responses)

    def _call(self, items: list[Item]) -> Tensor:
        images, instructions, responses = map(list, zip(*items, strict=True))
        try:
            values = self._function(images, instructions, responses)
        except (Exception, SystemExit) as error:
            raise Unscored(_own_line(error, self._file)) from error
        return checked_scores(_numbers(values), len(items))


def _numbers(values: object) -> list[float]:
    """What a function gave back, one real number each; Unscored otherwise."""
    plain = values.tolist() if isinstance(values, _ARRAYS) else values
    if not isinstance(plain, Sequence) or isinstance(plain, str | bytes):
        raise Unscored(f"the function gave {type(values).__name__} instead of a list of numbers")
    return [_number(value) for value in plain]


def _number(value: object) -> float:
    plain = value.tolist() if isinstance(value, _ARRAYS) else value
    if isinstance(plain, bool) or not isinstance(plain, Real):
        raise Unscored(f"the function gave {type(value).__name__} instead of a number")
    try:
        return float(plain)
    except OverflowError:
        return math.inf


def _load_function(file: Path, name: str) -> Callable[..., object]:
    if not file.is_file():
        raise UsageError("there is no such file", str(file), EXAMPLES)
    function = getattr(_module(file), name, None)
    if not callable(function):
        fix = f"define {name}(images, instructions, responses) there"
        raise UsageError(f"{file.name} has no function {name}", str(file), fix)
    found: Callable[..., object] = function
    return found


def _module(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"rlhf_scorer_{file.stem}", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up the module they are defined in
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        place = _own_line(error, file)
        raise UsageError(f"{file.name} does not load", place, "correct the file") from error
    return module


def _own_line(error: BaseException, file: Path) -> str:
    """`scorer.py:12: ValueError: …`: the person's own line that an error came from."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines.append(error.lineno)
    place = f"{file.name}:{lines[-1]}" if lines else file.name
    return f"{place}: {type(error).__name__}: {error}"
