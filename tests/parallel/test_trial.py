"""What never ends, or takes all memory, does so in a child."""

import os
import sys
from collections.abc import Callable

import pytest

from rlhf.errors import DataError
from rlhf.parallel.trial import try_in_child

LINE = ("it cannot be used", "a.json", "use another")


def refused(function: Callable[[], object]) -> str:
    with pytest.raises(DataError) as error:
        try_in_child(function, *LINE)
    assert (error.value.where, error.value.fix) == LINE[1:]
    return error.value.what


def for_ever() -> None:
    while True:
        pass


def panic() -> None:
    raise BaseException("as a library in Rust does")


def test_what_never_ends_is_refused() -> None:
    assert refused(for_ever) == "it cannot be used: it takes over 1 s where milliseconds are usual"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_what_takes_all_memory_or_crashes_is_refused() -> None:
    assert "over 1 GB of memory" in refused(lambda: bytearray(2 * 10**9))
    assert "over 1 GB of memory" in refused(os.abort)
    assert "crashes" in refused(panic)


def test_what_ends_changes_nothing_here() -> None:
    seen: list[int] = []
    try_in_child(lambda: seen.append(1), *LINE)
    try_in_child(lambda: 1 / 0, *LINE)  # said by the same call in this process
    assert not seen
