"""Log judgments, skips and undos as JSON lines that are only appended."""

import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from rlhf.annotation.pairs import short_hash
from rlhf.data.jsonl import read_lines
from rlhf.data.records import PreferenceRecord
from rlhf.errors import DataError, DirectoryInUseError
from rlhf.history import History
from rlhf.storage.atomic import append_line, replace_text, set_torn_line_aside, unwritable


class _Event(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="event"
):
    key: str  # of the request; a request that is sent again has the same key
    annotator: str
    created_at: str  # ISO 8601, UTC


class Judgment(_Event, frozen=True, tag="judgment"):
    """An annotator's preference between the two responses of a pair.

    Attributes:
        pair: the pair's key.
        image_path: the pair's image.
        instruction: what was asked.
        response_a: one response.
        response_b: the other.
        preference: response_a, response_b or tie.
        shown_left: response_a or response_b.
        seconds: how long the annotator looked at the pair.
        history: the earlier turns of the conversation.
    """

    pair: str
    image_path: str
    instruction: str
    response_a: str
    response_b: str
    preference: str
    shown_left: str
    seconds: float | None = None
    history: History = ()


class Skip(_Event, frozen=True, tag="skip"):
    """A pair that an annotator does not judge.

    Attributes:
        pair: the pair's key.
        reason: why, in the annotator's words.
        seconds: how long the annotator looked at the pair.
    """

    pair: str
    reason: str = ""
    seconds: float | None = None


class Undo(_Event, frozen=True, tag="undo"):
    """The withdrawal of an earlier judgment or skip.

    Attributes:
        undoes: key of the withdrawn event.
    """

    undoes: str


Event = Judgment | Skip | Undo
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Judgment | Skip | Undo)


class EventLog:
    """The log of one page, locked for this process.

    A last line that a crash cut short is set aside before anything is appended.

    Args:
        path: the file; made when the first event is appended.

    Attributes:
        events: all events, in the order they were written.
        id: identifies the log to browsers, which send an answer to no other one.
        name: the file and its directory, for people.

    Raises:
        DirectoryInUseError: another process writes it.
        DataError: a line is not an event.
        ResourceError: the file or its lock cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        real = Path(os.path.realpath(path))  # one for all links to the file
        self.name = f"{real.parent.name}/{real.name}"
        self._lock = FileLock(f"{real}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            fix = "close the other page, or choose another output=FILE"
            raise DirectoryInUseError("another page writes this file", str(path), fix) from None
        except OSError as error:
            raise unwritable(path, error) from error
        set_torn_line_aside(path)
        self.events = read_events(path) if path.is_file() else []
        self.id = _log_id(real)

    def append(self, event: Event) -> None:
        """Append an event; it is on the disk when this returns.

        Raises:
            ResourceError: it was not written, and the file is as before.
        """
        append_line(self.path, msgspec.json.encode(event) + b"\n")
        self.events.append(event)

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()


def _log_id(path: Path) -> str:
    """Return the id of a log: a hash of its path and of a random text that is kept beside it.

    The path tells a copied directory from its original, the random text tells two machines or
    containers apart on which logs have the same path.
    """
    beside = Path(f"{path}.id")
    try:
        if not beside.exists():
            replace_text(beside, secrets.token_hex(16))
        return short_hash(beside.read_text(), str(path))
    except OSError as error:
        raise unwritable(beside, error) from error


def read_events(path: Path) -> list[Event]:
    """Read all events of a log, in the order they were written.

    Raises:
        DataError: a line is not an event, or the file cannot be read.
    """
    events = []
    try:
        for number, line in read_lines(path):
            try:
                events.append(_decoder.decode(line))
            except (msgspec.MsgspecError, ValueError) as error:
                fix = "give a file that `rlhf annotate` wrote, or remove the line"
                raise DataError(
                    f"not an event of an annotation log: {error}", f"{path}:{number}", fix
                ) from error
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", str(path)) from error
    return events


def active_events(events: Iterable[Event]) -> Iterator[Judgment | Skip]:
    """Yield the events in force: each annotator's last on a pair, without undone ones."""
    latest = dict[tuple[str, str], Judgment | Skip]()
    events = list(events)
    undone = {event.undoes for event in events if isinstance(event, Undo)}
    for event in events:
        if not isinstance(event, Undo) and event.key not in undone:
            latest.pop((event.pair, event.annotator), None)  # so that the newest event comes last
            latest[event.pair, event.annotator] = event
    yield from latest.values()


def preference_records(events: Iterable[Event]) -> list[PreferenceRecord]:
    """Convert the judgments in force to preference records."""
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
            history=event.history,
        )
        for event in active_events(events)
        if isinstance(event, Judgment)
    ]
