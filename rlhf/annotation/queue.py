"""Assign pairs to annotators and record their judgments; all state comes from the event log."""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Literal

from rlhf.annotation.event_log import Event, EventLog, Judgment, Skip, Undo, active_events
from rlhf.annotation.pairs import Pair, short_hash

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

    Args:
        pairs: by key, in the order in which they are shown.
        log: holds the earlier events; new ones are appended.
        overlap: how many annotators judge each pair.
        lease: seconds for which an assigned pair is reserved.
        clock: returns monotonic seconds.
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
        self.pairs, self._log = pairs, log
        self._overlap, self._lease, self._clock = overlap, lease, clock
        self._event_by_key = {event.key: event for event in log.events}
        # by pair and annotator
        self._judgments = defaultdict[str, dict[str, Judgment | Skip]](dict)
        # by pair and page: annotator and end of the reservation
        self._leases = defaultdict[str, dict[str, tuple[str, float]]](dict)
        for event in active_events(log.events):
            self._judgments[event.pair][event.annotator] = event

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
        for key, pages in self._leases.items():
            if key not in held:
                pages.pop(page, None)
        available = (
            key
            for key in self.pairs
            if key not in held
            and annotator not in self._holders(key)
            and self._is_open(key, annotator)
        )
        assigned = list(islice(available, count))
        for key in [*self.pairs.keys() & held, *assigned]:
            self._leases[key][page] = annotator, self._clock() + self._lease
        return [self.pairs[key] for key in assigned]

    def record(self, submission: Submission) -> None:
        """Log a submission, unless its key is logged already.

        Raises:
            KeyError: there is no such pair.
            ResourceError: it cannot be written.
        """
        pair = self.pairs[submission.pair]
        if submission.key not in self._event_by_key:
            event = _to_event(submission, pair)
            self._write(event)
            self._judgments[submission.pair][submission.annotator] = event

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
        last = (
            self._event_by_key[logged.undoes]
            if isinstance(logged, Undo)
            else self._last_event(annotator)
        )
        if last is None or isinstance(last, Undo):
            return None
        self._leases[last.pair][page] = annotator, self._clock() + self._lease
        if logged is None:
            self._write(Undo(key, annotator, _now(), undoes=last.key))
            self._reload_judgments(last.pair)
        return self.pairs.get(last.pair)

    def progress(self, annotator: str) -> dict[str, int]:
        """Count an annotator's pairs: `done` (judged or skipped), `total` with open ones."""
        done = sum(annotator in self._judgments[key] for key in self.pairs)
        remaining = sum(self._is_open(key, annotator) for key in self.pairs)
        return {"done": done, "total": done + remaining}

    def _reload_judgments(self, pair: str) -> None:
        """Read a pair's judgments from the log: after an undo, an earlier one is in force again."""
        self._judgments[pair] = {
            event.annotator: event
            for event in active_events(self._log.events)
            if event.pair == pair
        }

    def _is_open(self, key: str, annotator: str) -> bool:
        """Tell whether a pair still needs this annotator: fewer than `overlap` others have it."""
        events = self._judgments[key]
        if annotator in events:
            return False
        judges = {name for name, event in events.items() if isinstance(event, Judgment)}
        return len((judges | self._holders(key)) - {annotator}) < self._overlap

    def _holders(self, key: str) -> set[str]:
        """Return the annotators that the pair is reserved for."""
        now = self._clock()
        return {name for name, until in self._leases[key].values() if until > now}

    def _last_event(self, annotator: str) -> Event | None:
        """Return an annotator's last judgment or skip that is not undone."""
        undone = {event.undoes for event in self._log.events if isinstance(event, Undo)}
        for event in reversed(self._log.events):
            is_candidate = event.annotator == annotator and not isinstance(event, Undo)
            if is_candidate and event.key not in undone:
                return event
        return None

    def _write(self, event: Event) -> None:
        self._log.append(event)
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
