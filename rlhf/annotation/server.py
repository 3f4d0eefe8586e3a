"""Serve the page's files, its images, and three requests that need the page's token.

This is the only module that imports starlette and uvicorn.
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
_ENCODED_HEADERS = {name.lower().encode(): value.encode() for name, value in _HEADERS.items()}
_Text = Annotated[str, msgspec.Meta(max_length=200)]
_Key = Annotated[str, msgspec.Meta(min_length=8, max_length=64)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


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
        key: of the request; one that is sent again has the same key.
        pair: the pair's key.
        choice: the better side, tie or skip.
        seconds: how long the pair was looked at.
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
        key: of the request; one that is sent again has the same key.
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
        annotator: the name of annotators who give none.
    """

    queue: AnnotationQueue
    images: ServedImages
    token: str
    annotator: str

    def next_pairs(self, request: NextRequest) -> dict[str, Any]:
        """Assign more pairs to a page."""
        name = self._name(request)
        pairs = self.queue.assign(name, request.page, request.held, request.count)
        return {"annotator": name, "pairs": [self._view(pair, name) for pair in pairs]}

    def submit(self, request: JudgmentRequest) -> dict[str, Any]:
        """Record a choice.

        Raises:
            HTTPException: there is no such pair.
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
            raise HTTPException(404, "there is no such pair in this file") from None
        return {"annotator": name}

    def undo(self, request: UndoRequest) -> dict[str, Any]:
        """Undo an annotator's last choice and return its pair, null if there is none.

        Raises:
            ResourceError: it cannot be written.
        """
        name = self._name(request)
        pair = self.queue.undo(name, request.page, request.key)
        return {"annotator": name, "pair": None if pair is None else self._view(pair, name)}

    def _name(self, request: NextRequest | JudgmentRequest | UndoRequest) -> str:
        return request.annotator.strip() or self.annotator

    def _view(self, pair: Pair, annotator: str) -> dict[str, str]:
        """Describe a pair as an annotator sees it: not where it is from, nor which is response_a."""
        texts = pair.response_a, pair.response_b
        left, right = texts if left_side(pair, annotator) == "response_a" else texts[::-1]
        image = f"/images/{self.images.names[pair.image_path]}"
        return {
            "key": pair.key,
            "image": image,
            "instruction": pair.instruction,
            "left": left,
            "right": right,
        }


def application(page: Page, hosts: Sequence[str]) -> Starlette:
    """Build the web application.

    Args:
        page: answers the requests.
        hosts: host names without port; requests for others are refused.
    """

    async def index(request: Request) -> Response:
        return Response((_STATIC / "index.html").read_bytes(), media_type="text/html")

    async def image(request: Request) -> Response:
        try:
            png = await run_in_threadpool(page.images.png, request.path_params["name"])
        except (KeyError, DataError):
            raise HTTPException(404, "there is no such image") from None
        headers = {"Cache-Control": "private, max-age=86400, immutable"}
        return Response(png, media_type="image/png", headers=headers)

    routes = [
        Route("/", index),
        Route("/images/{name}", image),
        _action("/api/pairs", page, NextRequest, page.next_pairs),
        _action("/api/answers", page, JudgmentRequest, page.submit),
        _action("/api/undo", page, UndoRequest, page.undo),
        Mount("/static", StaticFiles(directory=_STATIC)),
    ]
    middleware = [
        Middleware(_SecurityHeaders),
        Middleware(TrustedHostMiddleware, allowed_hosts=[*hosts], www_redirect=False),
    ]
    return Starlette(routes=routes, middleware=middleware, exception_handlers=_error_handlers())


def serve(site: Starlette, host: str, port: int, ready: Callable[[int], None]) -> None:
    """Answer requests until Ctrl-C.

    Args:
        site: the web application.
        host: address to listen on.
        port: port to listen on; 0 for any free port.
        ready: called with the port as soon as it listens.

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
        with suppress(KeyboardInterrupt):  # uvicorn raises it again after it has shut down
            uvicorn.Server(config).run(sockets=[listening])


def _action(
    path: str, page: Page, kind: type[Any], answer: Callable[[Any], dict[str, Any]]
) -> Route:
    """Route a POST of JSON that must bring the token; the progress is added to its answer."""

    async def endpoint(request: Request) -> Response:
        _check_origin(request)
        token = request.headers.get("x-token", "")
        if not secrets.compare_digest(token.encode(), page.token.encode()):
            raise HTTPException(403, "open the link that the terminal shows: the token is wrong")
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise HTTPException(415, "a request is JSON")
        try:
            content = msgspec.json.decode(await _body(request), type=kind)
        except (msgspec.MsgspecError, ValueError) as error:
            raise HTTPException(422, str(error)) from None
        result = answer(content)  # in the event loop: one request after the other
        return JSONResponse(result | {"progress": page.queue.progress(result["annotator"])})

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


def _error_handlers() -> dict[Any, Callable[[Request, Any], Awaitable[Response]]]:
    async def refused(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code)

    async def not_written(request: Request, error: ResourceError) -> Response:
        return JSONResponse({"error": str(error)}, 507)

    return {HTTPException: refused, ResourceError: not_written}


class _SecurityHeaders:
    """Middleware that adds the security headers to every response, also to errors."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = list(
                    (_ENCODED_HEADERS | dict(message.get("headers", ()))).items()
                )
            await send(message)

        await self._app(scope, receive, send_with_headers)
