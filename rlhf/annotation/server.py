"""The page's server: its files, its images, and three requests that only the token opens.

The only file that knows starlette and uvicorn.
"""

import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from rlhf.annotation.pairs import Pair
from rlhf.annotation.queue import AnnotationQueue, Choice, Submission, left_side
from rlhf.annotation.served_images import ServedImages
from rlhf.errors import DataError, ResourceError

MAX_BODY = 64 * 1024  # bytes of a request
_STATIC = Path(__file__).parent / "static"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_SAFE = {name.lower().encode(): value.encode() for name, value in _HEADERS.items()}
_Word = Annotated[str, msgspec.Meta(max_length=200)]
_Key = Annotated[str, msgspec.Meta(min_length=8, max_length=64)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


class NextRequest(msgspec.Struct, forbid_unknown_fields=True):
    """More pairs, for someone whose page has those."""

    annotator: _Word
    page: _Key
    held: Annotated[list[_Word], msgspec.Meta(max_length=1000)]
    count: Annotated[int, msgspec.Meta(ge=0, le=16)]


class JudgmentRequest(msgspec.Struct, forbid_unknown_fields=True):
    annotator: _Word
    key: _Key
    pair: _Word
    choice: Choice
    seconds: _Seconds
    reason: _Word = ""


class UndoRequest(msgspec.Struct, forbid_unknown_fields=True):
    annotator: _Word
    page: _Key
    key: _Key


@dataclass(frozen=True)
class Page:
    """What the requests work on.

    Attributes:
        annotator: who answers when a page names nobody.
        token: that a request must bring.
    """

    queue: AnnotationQueue
    images: ServedImages
    token: str
    annotator: str

    def next_pairs(self, asked: NextRequest) -> dict[str, Any]:
        name = self._name(asked)
        pairs = self.queue.assign(name, asked.page, asked.held, asked.count)
        return {"annotator": name, "pairs": [self._view(pair, name) for pair in pairs]}

    def submit(self, said: JudgmentRequest) -> dict[str, Any]:
        name = self._name(said)
        submission = Submission(said.key, name, said.pair, said.choice, said.seconds, said.reason)
        try:
            self.queue.record(submission)
        except KeyError:
            raise HTTPException(404, "there is no such pair in this file") from None
        return {"annotator": name}

    def undo(self, taken: UndoRequest) -> dict[str, Any]:
        name = self._name(taken)
        pair = self.queue.undo(name, taken.page, taken.key)
        return {"annotator": name, "pair": None if pair is None else self._view(pair, name)}

    def _name(self, request: NextRequest | JudgmentRequest | UndoRequest) -> str:
        return request.annotator.strip() or self.annotator

    def _view(self, pair: Pair, annotator: str) -> dict[str, str]:
        """A pair as this person sees it: not where it came from, nor which answer is which."""
        texts = pair.response_a, pair.response_b
        left, right = texts if left_side(pair, annotator) == "response_a" else texts[::-1]
        image = f"/images/{self.images.names[pair.image_path]}"
        shown = {"image": image, "instruction": pair.instruction}
        return {"key": pair.key, **shown, "left": left, "right": right}


def application(page: Page, hosts: Sequence[str]) -> Starlette:
    """The site; requests for other `hosts` (names without port) are refused."""

    async def index(request: Request) -> Response:
        return Response((_STATIC / "index.html").read_bytes(), media_type="text/html")

    async def image(request: Request) -> Response:
        try:
            png = await run_in_threadpool(page.images.png, request.path_params["name"])
        except (KeyError, DataError):
            raise HTTPException(404, "there is no such image") from None
        kept = {"Cache-Control": "private, max-age=86400, immutable"}
        return Response(png, media_type="image/png", headers=kept)

    routes = [
        Route("/", index),
        Route("/images/{name}", image),
        _action("/api/pairs", page, NextRequest, page.next_pairs),
        _action("/api/answers", page, JudgmentRequest, page.submit),
        _action("/api/undo", page, UndoRequest, page.undo),
        Mount("/static", StaticFiles(directory=_STATIC)),
    ]
    guards = [
        Middleware(_SafeHeaders),
        Middleware(TrustedHostMiddleware, allowed_hosts=[*hosts], www_redirect=False),
    ]
    return Starlette(routes=routes, middleware=guards, exception_handlers=_refusals())


def serve(site: Starlette, host: str, port: int, ready: Callable[[int], None]) -> None:
    """Answer requests until Ctrl-C; `ready` is told the port as soon as it listens.

    Raises:
        ResourceError: the port is taken, or the address is not this machine's.
    """
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        fix = "choose annotate.port=0 for any free port, and an address of this machine"
        raise ResourceError(
            f"nothing can listen there: {error.strerror}", f"{host}:{port}", fix
        ) from error
    with listening:
        ready(listening.getsockname()[1])
        config = uvicorn.Config(site, log_level="error", access_log=False)
        with suppress(KeyboardInterrupt):  # given again by uvicorn when it has closed
            uvicorn.Server(config).run(sockets=[listening])


def _action(path: str, page: Page, kind: type[Any], act: Callable[[Any], dict[str, Any]]) -> Route:
    """A POST of JSON that brings the token; its answer also tells the progress."""

    async def endpoint(request: Request) -> Response:
        _check_origin(request)
        given = request.headers.get("x-token", "")
        if not secrets.compare_digest(given.encode(), page.token.encode()):
            raise HTTPException(403, "open the link that the terminal shows: the token is wrong")
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise HTTPException(415, "a request is JSON")
        try:
            asked = msgspec.json.decode(await _body(request), type=kind)
        except (msgspec.MsgspecError, ValueError) as error:
            raise HTTPException(422, str(error)) from None
        found = act(asked)  # in the event loop: one request after the other
        return JSONResponse(found | {"progress": page.queue.progress(found["annotator"])})

    return Route(path, endpoint, methods=["POST"])


def _check_origin(request: Request) -> None:
    """Refuse a request that another site's page made."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(403, "the request comes from another site")


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"a request has at most {MAX_BODY} bytes")
    return body


def _refusals() -> dict[Any, Callable[[Request, Any], Awaitable[Response]]]:
    async def refused(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code)

    async def unwritten(request: Request, error: ResourceError) -> Response:
        return JSONResponse({"error": str(error)}, 507)

    return {HTTPException: refused, ResourceError: unwritten}


class _SafeHeaders:
    """Adds the safe headers to every answer, refusals too."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def told(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = list((_SAFE | dict(message.get("headers", ()))).items())
            await send(message)

        await self._app(scope, receive, told)
