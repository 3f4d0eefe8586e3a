"""Events are appended whole, torn lines are set aside, and undone events no longer hold."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlhf.annotation import event_log
from rlhf.annotation.event_log import (
    EventLog,
    Judgment,
    Skip,
    Undo,
    preference_records,
    read_events,
)
from rlhf.errors import DataError, DirectoryInUseError, ResourceError

WHEN = "2026-01-02T03:04:05.000+00:00"


def make_judgment(
    key: str, pair: str = "p", *, annotator: str = "eva", wins: str = "tie"
) -> Judgment:
    texts = {"instruction": "What?", "response_a": "x", "response_b": "y"}
    fields: dict[str, Any] = {"image_path": "a.png", **texts, "shown_left": "response_b"}
    return Judgment(key, annotator, WHEN, pair=pair, preference=wins, seconds=1.5, **fields)


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "log.jsonl")


def test_written_events_are_read_back(log: EventLog) -> None:
    events: list[event_log.Event] = [
        make_judgment("1"),
        Skip("2", "eva", WHEN, "q", "dark", 2.0),
        Undo("3", "eva", WHEN, "1"),
    ]
    for event in events:
        log.append(event)
    assert read_events(log.path) == events == log.events
    log.close()
    reopened = EventLog(log.path)
    assert reopened.events == events


def test_every_line_is_on_the_disk_before_append_returns(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = list[int]()
    monkeypatch.setattr(os, "fsync", lambda handle: sizes.append(os.fstat(handle).st_size))
    log.append(make_judgment("1"))
    assert sizes == [log.path.stat().st_size]


def test_a_torn_last_line_is_set_aside_and_the_next_is_whole(log: EventLog) -> None:
    log.append(make_judgment("1"))
    log.close()
    torn = b'{"event":"skip","key":"2'
    with log.path.open("ab") as file:
        file.write(torn)
    reopened = EventLog(log.path)
    reopened.append(make_judgment("3"))
    assert [event.key for event in read_events(log.path)] == ["1", "3"]
    assert Path(f"{log.path}.torn").read_bytes() == torn + b"\n"


@pytest.mark.parametrize("bytes_written", [0, 7])
def test_a_full_disk_leaves_the_file_as_it_was(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, bytes_written: int
) -> None:
    log.append(make_judgment("1"))
    before, original_write = log.path.read_bytes(), os.write

    def write_to_full_disk(handle: int, data: bytes) -> int:
        if not bytes_written:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original_write(handle, data[:bytes_written])

    monkeypatch.setattr(os, "write", write_to_full_disk)
    with pytest.raises(ResourceError, match="No space left"):
        log.append(make_judgment("2"))
    monkeypatch.undo()
    assert log.path.read_bytes() == before
    assert [event.key for event in log.events] == ["1"]
    log.append(make_judgment("2"))
    assert [event.key for event in read_events(log.path)] == ["1", "2"]


def test_one_process_writes_a_log(log: EventLog) -> None:
    with pytest.raises(DirectoryInUseError) as caught:
        EventLog(log.path)
    assert caught.value.exit_code == 6
    log.close()
    EventLog(log.path)


def test_a_link_to_a_log_is_that_log(log: EventLog, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(log.path.parent)
    (tmp_path / "link.jsonl").symlink_to(log.path)
    for path in (tmp_path / "linked" / log.path.name, tmp_path / "link.jsonl"):
        with pytest.raises(DirectoryInUseError):
            EventLog(path)


def test_the_id_of_a_log_stays_and_is_that_of_its_links(log: EventLog, tmp_path: Path) -> None:
    log.append(make_judgment("1"))
    log.close()
    (tmp_path / "link.jsonl").symlink_to(log.path)
    for path in (log.path, tmp_path / "link.jsonl"):
        reopened = EventLog(path)
        assert (reopened.id, reopened.name) == (log.id, f"{tmp_path.name}/log.jsonl")
        reopened.close()


def test_a_copied_log_and_another_one_at_the_same_path_have_other_ids(
    log: EventLog, tmp_path: Path
) -> None:
    log.close()
    (tmp_path / "copy").mkdir()
    shutil.copy(f"{log.path}.id", tmp_path / "copy")
    copied = EventLog(tmp_path / "copy" / log.path.name)
    (tmp_path / "log.jsonl.id").unlink()  # as on another machine
    assert len({log.id, copied.id, EventLog(log.path).id}) == 3


def test_an_id_that_cannot_be_read_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl.id").mkdir()
    with pytest.raises(ResourceError, match="Is a directory"):
        EventLog(tmp_path / "log.jsonl")


def test_a_line_that_is_no_event_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"image_path": "a.png"}\n')
    with pytest.raises(DataError) as caught:
        read_events(path)
    assert caught.value.where == f"{path}:1"


def test_a_path_that_cannot_be_written_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError) as caught:
        EventLog(tmp_path / "file" / "log.jsonl")
    assert caught.value.where and caught.value.fix


def test_active_events_are_not_undone_and_the_last_judgment_of_a_pair_counts() -> None:
    events: list[event_log.Event] = [
        make_judgment("1", "p", wins="response_a"),
        make_judgment("2", "q", wins="response_b"),
        make_judgment("3", "p", annotator="udo", wins="tie"),
        make_judgment("4", "p", wins="response_b"),  # eva again, on p
        make_judgment("5", "r"),
        Undo("6", "eva", WHEN, undoes="5"),
        Skip("7", "eva", WHEN, "s"),
    ]
    assert [event.key for event in event_log.active_events(events)] == ["2", "3", "4", "7"]
    result = preference_records(events)
    assert [(r.preference, r.annotator) for r in result] == [
        ("response_b", "eva"),
        ("tie", "udo"),
        ("response_b", "eva"),
    ]
    assert (result[0].shown_left, result[0].seconds, result[0].created_at) == (
        "response_b",
        1.5,
        WHEN,
    )


def test_undoing_a_second_judgment_restores_the_first() -> None:
    events: list[event_log.Event] = [
        make_judgment("1", wins="response_a"),
        make_judgment("2", wins="response_b"),
        Undo("3", "eva", WHEN, "2"),
    ]
    assert [record.preference for record in preference_records(events)] == ["response_a"]
