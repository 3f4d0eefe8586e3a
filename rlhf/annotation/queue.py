"""Assign pairs to annotators and record their judgments; all state comes from the event log."""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Literal

from rlhf.annotation.event_log import Event, EventLog, Judgment, Skip, Undo
from rlhf.annotation.pairs import Pair, short_hash
from rlhf.annotation.reservations import Reservations

Choice = Literal["left", "right", "tie", "skip"]


@dataclass(frozen=True)
class Submission:
    """An annotator's choice on a pair as it was shown.

    Attributes:
        key: of the request; a submission that is sent again has the same key.
        annotator: who chose.
        pair: the pair's key.
        choice: the better side, tie or skip.
        seconds: how long the annotator looked at the pair.
        reason: why it was skipped.
    """

    key: str
    annotator: str
    pair: str
    choice: Choice
    seconds: float | None = None
    reason: str = ""


class AnnotationQueue:
    """Assigns pairs to annotators and records their submissions.

    A request takes a time that does not depend on the number of pairs, but for an annotator's
    first one.

    Args:
        pairs: by key, in the order in which they are shown.
        log: holds the earlier events; new ones are appended.
        overlap: how many annotators judge each pair.
        lease: seconds for which an assigned pair is reserved.
        clock: returns monotonic seconds.

    Attributes:
        pairs: as given.
        log: as given.
    """

    def __init__(
        self,
        pairs: Mapping[str, Pair],
        log: EventLog,
        *,
        overlap: int = 1,
        lease: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pairs = pairs
        self.log = log
        self._overlap = overlap
        self._reservations = Reservations(lease, clock)
        self._event_by_key = {event.key: event for event in log.events}
        # judgments and skips that are not undone, in order, by annotator
        self._events = defaultdict[str, list[Judgment | Skip]](list)
        # the newest of them, by pair and annotator
        self._latest = defaultdict[str, dict[str, Judgment | Skip]](dict)
        self._done = defaultdict[str, set[str]](set)  # pairs with one of them, by annotator
        # pairs that an annotator has not seen and that lack judgments, in order
        self._todo = dict[str, dict[str, None]]()
        undone = {event.undoes for event in log.events if isinstance(event, Undo)}
        for event in log.events:
            if not isinstance(event, Undo) and event.key not in undone:
                self._add(event)

    def assign(self, annotator: str, page: str, held: Collection[str], count: int) -> list[Pair]:
        """Assign more pairs to a page and reserve them for its annotator.

        Args:
            annotator: who is to judge.
            page: id of the browser page.
            held: keys of the pairs that the page still has; its other reservations end.
            count: at most so many new pairs.

        Returns:
            The new pairs.
        """
        self._reservations.release_others(held, page)
        available = (
            key
            for key in self._todo_of(annotator)
            if key not in held
            and annotator not in self._reservations.holders(key)
            and self._is_free(key, annotator)
        )
        assigned = list(islice(available, count))
        known = [key for key in held if key in self.pairs]
        self._reservations.reserve([*known, *assigned], annotator, page)
        return [self.pairs[key] for key in assigned]

    def record(self, submission: Submission) -> None:
        """Log a submission, unless its key is logged already.

        Raises:
            KeyError: there is no such pair.
            ResourceError: it cannot be written.
        """
        if submission.key not in self._event_by_key:
            event = _to_event(submission, self.pairs[submission.pair])
            self._write(event)
            self._add(event)

    def undo(self, annotator: str, page: str, key: str) -> Pair | None:
        """Undo an annotator's last judgment or skip and reserve its pair for the page.

        Args:
            annotator: whose event is undone.
            page: id of the browser page that shows the pair next.
            key: of the request; a repeated request undoes nothing more.

        Returns:
            The pair; None if there is nothing to undo, or the pair is no longer in the file.

        Raises:
            ResourceError: it cannot be written.
        """
        logged = self._event_by_key.get(key)
        if isinstance(logged, Undo):
            last = self._event_by_key[logged.undoes]
        elif self._events[annotator]:
            last = self._events[annotator][-1]
            self._write(Undo(key, annotator, _now(), undoes=last.key))
            self._remove_last(annotator)
        else:
            return None
        assert not isinstance(last, Undo)
        self._reservations.reserve([last.pair], annotator, page)
        return self.pairs.get(last.pair)

    def progress(self, annotator: str) -> dict[str, int]:
        """Count an annotator's pairs: `done` (judged or skipped), `total` with open ones."""
        todo = self._todo_of(annotator)
        taken = (key for key in self._reservations.reserved() if key in todo)
        remaining = len(todo) - sum(not self._is_free(key, annotator) for key in taken)
        done = len(self._done[annotator])
        return {"done": done, "total": done + remaining}

    def _todo_of(self, annotator: str) -> dict[str, None]:
        if annotator not in self._todo:
            self._todo[annotator] = {key: None for key in self.pairs if self._lacks(key, annotator)}
        return self._todo[annotator]

    def _lacks(self, key: str, annotator: str) -> bool:
        """Whether a pair lacks this annotator's judgment: fewer than `overlap` others gave one."""
        return annotator not in self._latest[key] and len(self._judges(key)) < self._overlap

    def _is_free(self, key: str, annotator: str) -> bool:
        """Whether so few others have judged or hold a pair that this annotator may."""
        others = self._judges(key) | self._reservations.holders(key)
        return len(others - {annotator}) < self._overlap

    def _judges(self, key: str) -> set[str]:
        events = self._latest[key].items()
        return {name for name, event in events if isinstance(event, Judgment)}

    def _add(self, event: Judgment | Skip) -> None:
        self._events[event.annotator].append(event)
        self._latest[event.pair][event.annotator] = event
        self._renew_todo(event.pair, event.annotator)

    def _remove_last(self, annotator: str) -> None:
        """Take an annotator's last event back; an earlier one on its pair is in force again."""
        pair = self._events[annotator].pop().pair
        del self._latest[pair][annotator]
        earlier = (event for event in reversed(self._events[annotator]) if event.pair == pair)
        if before := next(earlier, None):
            self._latest[pair][annotator] = before
        self._renew_todo(pair, annotator)

    def _renew_todo(self, key: str, changed_by: str) -> None:
        """Note everywhere that one annotator's judgment of a pair has come or gone."""
        if key not in self.pairs:
            return
        if changed_by in self._latest[key]:
            self._done[changed_by].add(key)
        else:
            self._done[changed_by].discard(key)
        for annotator, todo in self._todo.items():
            if self._lacks(key, annotator):
                todo.setdefault(key)
            else:
                todo.pop(key, None)

    def _write(self, event: Event) -> None:
        self.log.append(event)
        self._event_by_key[event.key] = event


def left_side(pair: Pair, annotator: str) -> Literal["response_a", "response_b"]:
    """Decide which response an annotator sees on the left, by a hash of pair and annotator."""
    return "response_a" if int(short_hash(pair.key, annotator), 16) % 2 else "response_b"


def _to_event(submission: Submission, pair: Pair) -> Judgment | Skip:
    header = submission.key, submission.annotator, _now()
    if submission.choice == "skip":
        return Skip(*header, submission.pair, submission.reason, submission.seconds)
    left = left_side(pair, submission.annotator)
    right = "response_b" if left == "response_a" else "response_a"
    return Judgment(
        *header,
        pair=submission.pair,
        image_path=pair.image_path,
        instruction=pair.instruction,
        response_a=pair.response_a,
        response_b=pair.response_b,
        preference={"left": left, "right": right, "tie": "tie"}[submission.choice],
        shown_left=left,
        seconds=submission.seconds,
        history=pair.history,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
