"""Answer the requests of the annotation page: next pairs, a choice, an undo."""

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from rlhf.annotation.pairs import Pair
from rlhf.annotation.queue import AnnotationQueue, Choice, Submission, left_side
from rlhf.annotation.served_images import ServedImages

_Text = Annotated[str, msgspec.Meta(max_length=200)]
_Key = Annotated[str, msgspec.Meta(min_length=8, max_length=64)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


class UnknownPairError(LookupError):
    """A page submits a choice on a pair that is not in the file."""


class NamelessError(ValueError):
    """An annotator without a name submits a choice."""


class NextRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A page asks for more pairs.

    Attributes:
        annotator: who judges; "" for the server's default.
        page: id of the browser page.
        held: keys of the pairs that the page still has.
        count: at most so many new pairs.
    """

    annotator: _Text
    page: _Key
    held: Annotated[list[_Text], msgspec.Meta(max_length=1000)]
    count: Annotated[int, msgspec.Meta(ge=0, le=16)]


class JudgmentRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A page submits a choice on a pair.

    Attributes:
        annotator: who chose; "" for the server's default.
        key: of the request; a repeated request has the same key.
        pair: the pair's key.
        choice: the better side, tie or skip.
        seconds: how long the annotator looked at the pair.
        reason: why it was skipped.
    """

    annotator: _Text
    key: _Key
    pair: _Text
    choice: Choice
    seconds: _Seconds
    reason: _Text = ""


class UndoRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A page withdraws an annotator's last choice.

    Attributes:
        annotator: who withdraws; "" for the server's default.
        page: id of the browser page.
        key: of the request; a repeated request has the same key.
    """

    annotator: _Text
    page: _Key
    key: _Key


@dataclass(frozen=True)
class Page:
    """Answers the requests of a page.

    Attributes:
        queue: assigns pairs and records choices.
        images: the images of the pairs.
        token: the secret that a request must bring.
        annotator: the name of annotators who give none; empty: they are asked for one.
        next_step: what to do when all pairs are judged.
    """

    queue: AnnotationQueue
    images: ServedImages
    token: str
    annotator: str
    next_step: str = ""

    def next_pairs(self, request: NextRequest) -> dict[str, Any]:
        """Assign more pairs to a page; none to an annotator without a name, who is then asked."""
        name = request.annotator.strip() or self.annotator
        count = request.count if name else 0
        pairs = self.queue.assign(name, request.page, request.held, count)
        views = [self._view(pair, name) for pair in pairs]
        return {"annotator": name, "pairs": views, "next_step": self.next_step}

    def submit(self, request: JudgmentRequest) -> dict[str, Any]:
        """Record a choice.

        Raises:
            UnknownPairError: there is no such pair.
            NamelessError: nobody's name is given.
            ResourceError: it cannot be written.
        """
        name = self._name(request)
        submission = Submission(
            key=request.key,
            annotator=name,
            pair=request.pair,
            choice=request.choice,
            seconds=request.seconds,
            reason=request.reason,
        )
        try:
            self.queue.record(submission)
        except KeyError:
            words = "its pair is not in the candidates that are served; serve those that have it"
            raise UnknownPairError(words) from None
        return {"annotator": name}

    def undo(self, request: UndoRequest) -> dict[str, Any]:
        """Undo an annotator's last choice and return its pair, null if there is none.

        Raises:
            NamelessError: nobody's name is given.
            ResourceError: it cannot be written.
        """
        name = self._name(request)
        pair = self.queue.undo(name, request.page, request.key)
        return {"annotator": name, "pair": None if pair is None else self._view(pair, name)}

    def _name(self, request: JudgmentRequest | UndoRequest) -> str:
        if name := request.annotator.strip() or self.annotator:
            return name
        raise NamelessError("a judgment needs the name of who judges")

    def _view(self, pair: Pair, annotator: str) -> dict[str, Any]:
        """Describe a pair as an annotator sees it: not its source, nor which is response_a."""
        texts = pair.response_a, pair.response_b
        left, right = texts if left_side(pair, annotator) == "response_a" else texts[::-1]
        name = self.images.names[pair.image_path]
        return {
            "key": pair.key,
            "image": f"/images/whole/{name}",
            "seen": f"/images/seen/{name}" if self.images.shows_seen else "",
            "history": msgspec.to_builtins(pair.history),
            "instruction": pair.instruction,
            "left": left,
            "right": right,
        }
