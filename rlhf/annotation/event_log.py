"""What people said, as a log that only grows: judgments, skips and undos, a line each."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from rlhf.data.jsonl import read_lines
from rlhf.data.records import PreferenceRecord
from rlhf.errors import DataError, DirectoryInUseError
from rlhf.storage.atomic import append_line, set_torn_line_aside, unwritable


class _Event(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="event"
):
    key: str  # of the request; one that comes again is the same event
    annotator: str
    created_at: str  # ISO 8601, UTC


class Judgment(_Event, frozen=True, tag="judgment"):
    """Which of two answers is better, with all that a preference record needs."""

    pair: str
    image_path: str
    instruction: str
    response_a: str
    response_b: str
    preference: str  # response_a, response_b or tie
    shown_left: str  # response_a or response_b
    seconds: float | None = None


class Skip(_Event, frozen=True, tag="skip"):
    """A pair that this person gives no judgment on."""

    pair: str
    reason: str = ""
    seconds: float | None = None


class Undo(_Event, frozen=True, tag="undo"):
    """What the event of key `undoes` said no longer holds."""

    undoes: str


Event = Judgment | Skip | Undo
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Judgment | Skip | Undo)


class EventLog:
    """The log of one page, owned by one process at a time.

    A last line that a crash cut short is set aside before anything is appended.

    Raises:
        DirectoryInUseError: another process writes it.
        DataError: a line is no event.
        ResourceError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(f"{path}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            fix = "close the other page, or choose another output=FILE"
            raise DirectoryInUseError("another page writes this file", str(path), fix) from None
        except OSError as error:
            raise unwritable(path, error) from error
        set_torn_line_aside(path)
        self.events = read_events(path) if path.is_file() else []

    def append(self, event: Event) -> None:
        """Write one line, which is on the disk when this returns.

        Raises:
            ResourceError: it was not written, and the file is as before.
        """
        append_line(self.path, msgspec.json.encode(event) + b"\n")
        self.events.append(event)

    def close(self) -> None:
        """Let another process write."""
        self._lock.release()


def read_events(path: Path) -> list[Event]:
    """All events of a log.

    Raises:
        DataError: a line is no event, or the file cannot be read.
    """
    events = []
    try:
        for number, line in read_lines(path):
            try:
                events.append(_decoder.decode(line))
            except (msgspec.MsgspecError, ValueError) as error:
                fix = "give a file that `rlhf annotate` wrote, or take the line out"
                raise DataError(
                    f"no event of a ranking: {error}", f"{path}:{number}", fix
                ) from error
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", str(path)) from error
    return events


def active_events(events: Iterable[Event]) -> Iterator[Judgment | Skip]:
    """What holds in the end: nothing undone, and of each person's words on a pair the last."""
    said = dict[tuple[str, str], Judgment | Skip]()
    events = list(events)
    undone = {event.undoes for event in events if isinstance(event, Undo)}
    for event in events:
        if not isinstance(event, Undo) and event.key not in undone:
            said.pop((event.pair, event.annotator), None)  # the order is that of the last words
            said[event.pair, event.annotator] = event
    yield from said.values()


def preference_records(events: Iterable[Event]) -> list[PreferenceRecord]:
    """The judgments that hold, as preference records."""
    return [
        PreferenceRecord(
            image_path=event.image_path,
            instruction=event.instruction,
            response_a=event.response_a,
            response_b=event.response_b,
            preference=event.preference,
            annotator=event.annotator,
            shown_left=event.shown_left,
            seconds=event.seconds,
            created_at=event.created_at,
        )
        for event in active_events(events)
        if isinstance(event, Judgment)
    ]
