"""What processes record of their failures: who prints what, and who is silent."""

import pytest
from torch._C._distributed_c10d import HashStore
from torch.distributed.distributed_c10d import PrefixStore, Store

from rlhf.parallel.failures import FailureRecord

LOST = "another process of this run does not answer"


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf.parallel.failures.GRACE", 0.0)


def records(size: int = 3) -> list[FailureRecord]:
    store: Store = PrefixStore("run", HashStore())
    return [FailureRecord(rank, size, store=store) for rank in range(size)]


def test_process_0_prints_what_several_found_and_each_its_own() -> None:
    first, second, third = records()
    assert not first.is_printed_elsewhere("line 3 is damaged", follows=False)
    assert second.is_printed_elsewhere("line 3 is damaged", follows=False)
    assert not third.is_printed_elsewhere("memory ran out", follows=False)


def test_what_process_0_did_not_find_is_printed_by_the_others() -> None:
    _, second, third = records()
    assert not second.is_printed_elsewhere("memory ran out", follows=False)
    assert not third.is_printed_elsewhere("memory ran out", follows=False)


def test_what_follows_is_printed_only_without_a_cause() -> None:
    first, second, third = records()
    assert not first.is_printed_elsewhere(LOST, follows=True)
    assert second.is_printed_elsewhere(LOST, follows=True)
    assert not third.is_printed_elsewhere("memory ran out", follows=False)
    first, second, _ = records()
    assert not second.is_printed_elsewhere("memory ran out", follows=False)
    assert first.is_printed_elsewhere(LOST, follows=True)


def test_those_that_have_not_left_after_a_timeout_are_silent() -> None:
    first, second, third = records()
    first.leave()
    assert third.silent_processes() == []
    first.leave(timed_out=True)
    assert third.silent_processes() == [1, 2]
    third.leave()
    assert first.silent_processes() == [1]
    second.leave()
    assert first.silent_processes() == []
