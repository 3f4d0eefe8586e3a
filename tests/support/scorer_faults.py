"""HTTP services that fail: with one fault, in a given order, or in a share of the calls."""

import asyncio
import gzip
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2

GZIP: dict[str, Any] = {"Content-Encoding": "gzip"}
Handler = Callable[[httpx2.Request], httpx2.Response]


class Drip(httpx2.AsyncByteStream):
    """A reply that starts well and never ends."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'{"scores": ['
        await asyncio.Event().wait()


def true_scores(request: httpx2.Request) -> list[float]:
    """Row / 4 of each item, read from its instruction."""
    items = json.loads(request.content)["items"]
    return [int(item["instruction"].split()[1]) / 4 for item in items]


def reply(content: bytes | list[Any], code: int = 200, **headers: str) -> httpx2.Response:
    """A reply with this content, or these scores, read from a stream."""
    body = content if isinstance(content, bytes) else json.dumps({"scores": content}).encode()
    return httpx2.Response(code, stream=httpx2.ByteStream(body), headers=headers)


def constant_reply(content: bytes, **headers: Any) -> Handler:
    return lambda request: reply(content, **headers)


def status(code: int, **headers: str) -> Handler:
    """As many scores as were asked for, all wrong, under another status than 200."""
    return lambda request: reply([9.0] * len(true_scores(request)), code, **headers)


def reply_with_value(value: str) -> Handler:
    """The true scores, the first replaced by a piece of JSON."""

    def handler(request: httpx2.Request) -> httpx2.Response:
        content = json.dumps({"scores": ["@", *true_scores(request)[1:]]})
        return reply(content.replace('"@"', value).encode())

    return handler


def failing(error: type[Exception]) -> Handler:
    def handler(request: httpx2.Request) -> httpx2.Response:
        raise error("a fault")

    return handler


NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", "1e39", "1" + 400 * "0")
OTHERS = ('"1"', "true", "null", "[1]", "{}", "1 2")
FAULTS: dict[str, Handler] = {
    "timeout": failing(httpx2.ReadTimeout),
    "refused": failing(httpx2.ConnectError),
    "cut": failing(httpx2.RemoteProtocolError),
    **{str(code): status(code) for code in (429, 500, 502, 503)},
    "short": lambda request: reply(true_scores(request)[1:]),
    "long": lambda request: reply([1.0, *true_scores(request)]),
    **{value[:9]: reply_with_value(value) for value in NUMBERS + OTHERS},
    "empty": constant_reply(b""),
    "no scores": constant_reply(b"{}"),
    "bare list": lambda request: reply(json.dumps(true_scores(request)).encode()),
    "html": constant_reply(b"<html>0.5</html>"),
    "half": constant_reply(b'{"scores": [1.0, 2.'),
    "no utf-8": constant_reply(b"\xff\xfe"),
    "deep": constant_reply(b'{"scores": [1.0], "x": ' + 200_000 * b"["),
    "large": reply_with_value(10**6 * " " + "1"),
    "gzip": lambda request: reply(
        gzip.compress(json.dumps({"scores": true_scores(request)}).encode()),
        **GZIP,
    ),
    "drip": lambda request: httpx2.Response(200, stream=Drip()),
}


class Script:
    """Replies by a list of handlers, then with true scores; keeps the requests."""

    def __init__(self, *handlers: Handler) -> None:
        self.handlers, self.requests = list(handlers), list[httpx2.Request]()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self.handlers.pop(0)(request) if self.handlers else reply(true_scores(request))


class Unreliable:
    """Replies with true scores, but with a fault or a redirect in 30 % of the calls."""

    def __init__(self, seed: int) -> None:
        self.random, self.calls, self.faults = random.Random(seed), 0, 0
        self.names = [name for name in FAULTS if name != "drip"] * 3 + ["drip"]

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.calls += 1
        if self.random.random() > 0.3:
            return reply(true_scores(request))
        self.faults += 1
        if self.random.random() < 0.01:
            return status(302, Location="http://elsewhere.test/")(request)
        return FAULTS[self.random.choice(self.names)](request)
