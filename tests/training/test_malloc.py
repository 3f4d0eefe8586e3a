"""Freed memory is kept by glibc, and any other C library is left alone."""

import ctypes
from types import SimpleNamespace

import pytest

from rlhf.training.malloc import tune_malloc


def test_both_malloc_thresholds_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda name, value: calls.append((name, value)))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr("sys.platform", "linux")
    tune_malloc()
    assert calls == [(-3, 32 * 2**20), (-1, 2**31 - 1)]


@pytest.mark.parametrize(("system", "library"), [("linux", SimpleNamespace()), ("darwin", None)])
def test_malloc_is_not_tuned_outside_linux(
    system: str, library: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr("sys.platform", system)
    tune_malloc()
