"""Pairs are assigned to one annotator at a time, and no judgment is lost, doubled or mirrored."""

from pathlib import Path
from typing import Any

import pytest

from rlhf.annotation.event_log import EventLog, preference_records, read_events
from rlhf.annotation.pairs import Pair
from rlhf.annotation.queue import AnnotationQueue, Choice, Submission, left_side
from rlhf.history import Exchange


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


PAIRS = {p.key: p for p in (Pair(f"{n}.png", "What?", "x", "y") for n in range(6))}
KEYS = list(PAIRS)


def queue_of(path: Path, clock: Clock, *, overlap: int = 1) -> AnnotationQueue:
    log = EventLog(path / "log.jsonl")
    log.close()  # so that a second one may open it, as after a crash
    return AnnotationQueue(PAIRS, log, overlap=overlap, lease=10, clock=clock)


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> AnnotationQueue:
    return queue_of(tmp_path, clock)


def keys(pairs: list[Pair]) -> list[str]:
    return [pair.key for pair in pairs]


def submission(pair: str, choice: Choice = "tie", *, by: str = "eva", key: str = "") -> Submission:
    return Submission(key or f"{by}-{pair}", by, pair, choice, 1.0)


def test_a_judgment_keeps_the_earlier_turns(tmp_path: Path, clock: Clock) -> None:
    pair = Pair("0.png", "What?", "x", "y", (Exchange("Where?", "Here."),))
    log = EventLog(tmp_path / "log.jsonl")
    AnnotationQueue({pair.key: pair}, log, clock=clock).record(submission(pair.key))
    (record,) = preference_records(read_events(tmp_path / "log.jsonl"))
    assert record.history == pair.history


def test_two_people_never_have_the_same_pair(queue: AnnotationQueue) -> None:
    assert keys(queue.assign("eva", "page of eva", [], 2)) == KEYS[:2]
    assert keys(queue.assign("udo", "page of udo", [], 3)) == KEYS[2:5]
    assert keys(queue.assign("eva", "page of eva", KEYS[:2], 9)) == KEYS[5:]


def test_a_lease_that_ran_out_frees_the_pair(queue: AnnotationQueue, clock: Clock) -> None:
    queue.assign("eva", "page of eva", [], 6)
    clock.now = 9.0
    assert queue.assign("udo", "page of udo", [], 6) == []
    queue.assign("eva", "page of eva", KEYS, 0)
    clock.now = 18.0
    assert queue.assign("udo", "page of udo", [], 6) == []
    queue.assign("eva", "page of eva", KEYS[:1], 0)  # she still has the first
    clock.now = 20.0
    assert keys(queue.assign("udo", "page of udo", [], 6)) == KEYS[1:]


def test_what_someone_no_longer_holds_is_free_for_others(queue: AnnotationQueue) -> None:
    queue.assign("eva", "page of eva", [], 4)
    assert queue.assign("eva", "page of eva", KEYS[1:2], 0) == []
    assert keys(queue.assign("udo", "page of udo", [], 9)) == [KEYS[0], *KEYS[2:]]


def test_two_pages_of_one_person_have_different_pairs(queue: AnnotationQueue) -> None:
    assert keys(queue.assign("eva", "first page", [], 2)) == KEYS[:2]
    assert keys(queue.assign("eva", "second page", [], 2)) == KEYS[2:4]


def test_overlap_shows_a_pair_to_so_many_people(tmp_path: Path, clock: Clock) -> None:
    queue = queue_of(tmp_path, clock, overlap=2)
    queue.record(submission(KEYS[0], by="eva"))
    assert keys(queue.assign("udo", "page of udo", [], 1)) == KEYS[:1]
    assert keys(queue.assign("ida", "page of ida", [], 1)) == KEYS[1:2]
    queue.record(submission(KEYS[0], by="udo"))
    clock.now = 99.0
    assert keys(queue.assign("ida", "page of ida", [], 9)) == KEYS[1:]
    assert keys(queue.assign("eva", "page of eva", [], 9)) == KEYS[1:]


def test_a_skipped_pair_is_assigned_to_other_annotators(queue: AnnotationQueue) -> None:
    queue.record(submission(KEYS[0], "skip"))
    assert keys(queue.assign("eva", "page of eva", [], 1)) == KEYS[1:2]
    assert keys(queue.assign("udo", "page of udo", [], 1)) == KEYS[:1]


def test_a_submission_that_comes_again_is_written_once(
    queue: AnnotationQueue, tmp_path: Path
) -> None:
    for _ in range(3):
        queue.record(submission(KEYS[0]))
    assert len(read_events(tmp_path / "log.jsonl")) == 1


def test_a_submission_that_comes_again_is_acknowledged_also_when_its_pair_is_gone(
    queue: AnnotationQueue, tmp_path: Path
) -> None:
    queue.record(submission(KEYS[0]))
    reopened = AnnotationQueue({}, EventLog(tmp_path / "log.jsonl"))  # of other candidates
    reopened.record(submission(KEYS[0]))
    assert len(read_events(tmp_path / "log.jsonl")) == 1


def test_the_state_is_that_of_the_log(queue: AnnotationQueue, tmp_path: Path, clock: Clock) -> None:
    queue.record(submission(KEYS[0]))
    queue.record(submission(KEYS[1], "skip"))
    queue.record(submission(KEYS[2]))
    queue.undo("eva", "page of eva", "undo-1")
    reopened = queue_of(tmp_path, clock)
    assert keys(reopened.assign("eva", "page of eva", [], 9)) == KEYS[2:]
    assert reopened.progress("eva") == {"done": 2, "total": 6}
    reopened.record(submission(KEYS[0]))  # sent again after a crash
    assert reopened.undo("eva", "page of eva", "undo-1") == PAIRS[KEYS[2]]
    assert len(read_events(tmp_path / "log.jsonl")) == 4


def test_undo_goes_back_one_by_one_and_only_over_ones_own(queue: AnnotationQueue) -> None:
    queue.record(submission(KEYS[0]))
    queue.record(submission(KEYS[1]))
    queue.record(submission(KEYS[2], by="udo"))
    assert queue.undo("eva", "page of eva", "first") == PAIRS[KEYS[1]]
    assert queue.undo("eva", "page of eva", "first") == PAIRS[KEYS[1]]  # the same request again
    assert queue.undo("eva", "page of eva", "second") == PAIRS[KEYS[0]]
    assert queue.undo("eva", "page of eva", "third") is None
    assert keys(queue.assign("udo", "page of udo", [], 9)) == KEYS[3:]  # eva has the two again


def test_undoing_a_second_submission_on_a_pair_brings_the_first_back(
    queue: AnnotationQueue,
) -> None:
    queue.record(submission(KEYS[0], "left", key="first"))
    queue.record(submission(KEYS[0], "right", key="second"))
    queue.undo("eva", "page of eva", "undo")
    assert keys(queue.assign("eva", "page of eva", [], 1)) == KEYS[1:2]
    assert queue.progress("eva")["done"] == 1


@pytest.mark.parametrize("choice", ["left", "right", "tie"])
def test_a_side_becomes_the_response_that_was_shown_there(
    queue: AnnotationQueue, tmp_path: Path, choice: Choice
) -> None:
    for key in KEYS:
        queue.record(submission(key, choice))
    result = preference_records(read_events(tmp_path / "log.jsonl"))
    assert {record.shown_left for record in result} == {"response_a", "response_b"}
    for record, pair in zip(result, PAIRS.values(), strict=True):
        assert (record.response_a, record.response_b) == (pair.response_a, pair.response_b)
        assert record.shown_left == left_side(pair, "eva")
        left_wins = record.preference == record.shown_left
        assert (record.preference == "tie", left_wins) == (choice == "tie", choice == "left")


def test_sides_are_shuffled_evenly_and_stay() -> None:
    pairs = [Pair(f"{n}.png", "What?", "x", "y") for n in range(1000)]
    sides = [left_side(pair, "eva") for pair in pairs]
    assert 440 < sides.count("response_a") < 560  # four standard deviations
    assert sides == [left_side(pair, "eva") for pair in pairs]
    agreeing = sum(a == left_side(pair, "udo") for a, pair in zip(sides, pairs, strict=True))
    assert 440 < agreeing < 560


def test_a_pair_of_another_file_is_refused(queue: AnnotationQueue, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        queue.record(submission("no such pair"))
    assert not (tmp_path / "log.jsonl").exists()


class CountedPairs(dict[str, Pair]):
    """Pairs that count how often somebody walks through all of them."""

    walks = 0

    def __iter__(self) -> Any:
        self.walks += 1
        return super().__iter__()


def test_a_request_walks_through_all_pairs_only_once_for_each_person(
    tmp_path: Path, clock: Clock
) -> None:
    pairs = CountedPairs(PAIRS)
    queue = AnnotationQueue(pairs, EventLog(tmp_path / "log.jsonl"), clock=clock)
    for name in ("eva", "udo"):
        for key in keys(queue.assign(name, f"page of {name}", [], 3)):
            queue.record(submission(key, by=name))
            queue.progress(name)
        queue.undo(name, f"page of {name}", f"undo of {name}")
    assert pairs.walks == 2
    assert [queue.progress(name)["done"] for name in ("eva", "udo")] == [2, 2]


def test_a_pair_that_is_taken_back_is_open_again_for_others(
    queue: AnnotationQueue, clock: Clock
) -> None:
    assert queue.progress("udo") == {"done": 0, "total": 6}
    queue.record(submission(KEYS[1]))
    assert queue.progress("udo") == {"done": 0, "total": 5}
    queue.undo("eva", "page of eva", "undo of eva")
    assert queue.progress("udo") == {"done": 0, "total": 5}  # she sees it again
    clock.now = 99.0
    assert queue.progress("udo") == {"done": 0, "total": 6}
    assert KEYS[1] in keys(queue.assign("udo", "page of udo", [], 6))
