"""Who is shown which pair, and what they said: the state of a page, all of it from its log."""

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
    """What a person says of a pair as it was shown.

    Attributes:
        key: of the request; the same answer sent twice has the same.
        pair: key of the pair.
        seconds: that the pair was looked at.
        reason: of a skip.
    """

    key: str
    annotator: str
    pair: str
    choice: Choice
    seconds: float | None = None
    reason: str = ""


class AnnotationQueue:
    """Hands out pairs and writes down answers.

    Args:
        pairs: by key, in the order in which they are shown.
        log: of what was said before, and where more is written.
        overlap: people who judge each pair.
        lease: seconds for which a pair that was handed out waits for its answer.
        clock: seconds that only grow.
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
        self._pair_by_key = {event.key: event for event in log.events}
        self._judgments = defaultdict[str, dict[str, Judgment | Skip]](dict)  # pair, annotator
        self._leases = defaultdict[str, dict[str, tuple[str, float]]](
            dict
        )  # pair, page: who, until
        for event in active_events(log.events):
            self._judgments[event.pair][event.annotator] = event

    def assign(self, annotator: str, page: str, held: Collection[str], count: int) -> list[Pair]:
        """Up to `count` more pairs for someone whose page holds those, and no others any more."""
        for key, pages in self._leases.items():
            if key not in held:
                pages.pop(page, None)
        free = (
            key
            for key in self.pairs
            if key not in held
            and annotator not in self._holders(key)
            and self._is_open(key, annotator)
        )
        found = list(islice(free, count))
        for key in [*self.pairs.keys() & held, *found]:
            self._leases[key][page] = annotator, self._clock() + self._lease
        return [self.pairs[key] for key in found]

    def record(self, submission: Submission) -> None:
        """Write an answer down; one whose key is known has been written.

        Raises:
            KeyError: there is no such pair.
            ResourceError: it cannot be written.
        """
        pair = self.pairs[submission.pair]
        if submission.key not in self._pair_by_key:
            event = _event(submission, pair)
            self._write(event)
            self._judgments[submission.pair][submission.annotator] = event

    def undo(self, annotator: str, page: str, key: str) -> Pair | None:
        """Take this person's last answer back; its pair, now on this page, or None.

        Raises:
            ResourceError: it cannot be written.
        """
        known = self._pair_by_key.get(key)
        last = self._pair_by_key[known.undoes] if isinstance(known, Undo) else self._last(annotator)
        if last is None or isinstance(last, Undo):
            return None
        self._leases[last.pair][page] = annotator, self._clock() + self._lease
        if known is None:
            self._write(Undo(key, annotator, _now(), undoes=last.key))
            del self._judgments[last.pair][
                annotator
            ]  # what was said of the pair before holds again
            self._judgments[last.pair] |= {
                event.annotator: event
                for event in active_events(self._log.events)
                if event.pair == last.pair
            }
        return self.pairs.get(last.pair)

    def progress(self, annotator: str) -> dict[str, int]:
        """`done`: pairs this person answered or skipped; `total`: and those that may yet come."""
        done = sum(annotator in self._judgments[key] for key in self.pairs)
        left = sum(self._is_open(key, annotator) for key in self.pairs)
        return {"done": done, "total": done + left}

    def _is_open(self, key: str, annotator: str) -> bool:
        """Whether this person may be shown the pair: enough others neither judge nor judged it."""
        said = self._judgments[key]
        if annotator in said:
            return False
        judged = {name for name, event in said.items() if isinstance(event, Judgment)}
        return len((judged | self._holders(key)) - {annotator}) < self._overlap

    def _holders(self, key: str) -> set[str]:
        """Those on whose pages the pair is."""
        now = self._clock()
        return {name for name, until in self._leases[key].values() if until > now}

    def _last(self, annotator: str) -> Event | None:
        """What this person said last and did not take back."""
        undone = {event.undoes for event in self._log.events if isinstance(event, Undo)}
        for event in reversed(self._log.events):
            mine = event.annotator == annotator and not isinstance(event, Undo)
            if mine and event.key not in undone:
                return event
        return None

    def _write(self, event: Event) -> None:
        self._log.append(event)
        self._pair_by_key[event.key] = event


def left_side(pair: Pair, annotator: str) -> Literal["response_a", "response_b"]:
    """Which answer this person sees on the left: as if by a coin, always the same."""
    return "response_a" if int(short_hash(pair.key, annotator), 16) % 2 else "response_b"


def _event(response: Submission, pair: Pair) -> Judgment | Skip:
    who = response.key, response.annotator, _now()
    if response.choice == "skip":
        return Skip(*who, response.pair, response.reason, response.seconds)
    left = left_side(pair, response.annotator)
    right = "response_b" if left == "response_a" else "response_a"
    return Judgment(
        *who,
        pair=response.pair,
        image_path=pair.image_path,
        instruction=pair.instruction,
        response_a=pair.response_a,
        response_b=pair.response_b,
        preference={"left": left, "right": right, "tie": "tie"}[response.choice],
        shown_left=left,
        seconds=response.seconds,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
