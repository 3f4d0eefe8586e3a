"""Translate the labels of preference datasets."""

import re

from rlhf.data.importers.fields import Skip
from rlhf.errors import UsageError

_LABEL_NAMES = {"tie": "tie"}
_LABEL_NAMES |= dict.fromkeys(("response_a", "a", "A", "left"), "response_a")
_LABEL_NAMES |= dict.fromkeys(("response_b", "b", "B", "right"), "response_b")
_LABEL_NUMBERS = {
    "1/2": {"1": "response_a", "2": "response_b"},
    "0/1": {"0": "response_a", "1": "response_b"},
}


def parse_label(label: object, label_encoding: str) -> str:
    """Translate a dataset's label to response_a, response_b or tie.

    Args:
        label: the label as the dataset writes it.
        label_encoding: what numbers mean: "1/2", "0/1" or "" (unknown).

    Raises:
        Skip: it prefers no response, such as no label, 0 of "1/2" or a boolean.
        UsageError: it is a number and the encoding is unknown or cannot be right.
    """
    if isinstance(label, float) and label.is_integer():
        label = int(label)  # a column with gaps holds its integers as floats
    word = str(label) if isinstance(label, str | int) else ""
    if re.fullmatch(r"-?\d+", word):
        if not label_encoding:
            fix = "set data.label_encoding=1/2 or 0/1: the first number prefers response_a"
            raise UsageError(f"the label is the number {word}", "preference", fix)
        if label_encoding == "0/1" and word == "2":
            fix = "set data.label_encoding=1/2 if 1 prefers response_a"
            raise UsageError("the label 2 is not of the encoding 0/1", "preference", fix)
    side = _LABEL_NUMBERS.get(label_encoding, {}).get(word) or _LABEL_NAMES.get(word)
    if side is None:
        raise Skip("unknown label", "preference", repr(label))
    return side
