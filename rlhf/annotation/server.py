"""Serve the annotation page: its files, its images, and requests that need the page's token.

This is the only module that imports starlette and uvicorn.
"""

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from uvicorn.protocols.http.h11_impl import H11Protocol

from rlhf.annotation.page import (
    JudgmentRequest,
    NamelessError,
    NextRequest,
    Page,
    UndoRequest,
    UnknownPairError,
)
from rlhf.data.jsonl import decode_object
from rlhf.errors import DataError, ResourceError

MAX_BODY = 64 * 1024  # bytes of a request
MAX_CONNECTIONS = 200  # open at once
PATIENCE = 10.0  # seconds in which the head of a request has to come, and as many for its body
_STATIC = Path(__file__).parent / "static"
_SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def application(page: Page, hosts: Sequence[str]) -> Starlette:
    """Build the web application.

    Args:
        page: answers the requests.
        hosts: host names without port; requests for others are refused.
    """
    log_id = page.queue.log.id
    html = (_STATIC / "index.html").read_bytes().replace(b"LOG_ID", log_id.encode())

    async def index(request: Request) -> Response:
        return Response(html, media_type="text/html")

    async def image(request: Request) -> Response:
        kind, name = request.path_params["kind"], request.path_params["name"]
        try:
            data, media_type = await run_in_threadpool(page.images.encoded, name, kind)
        except (KeyError, DataError):
            raise HTTPException(404, "there is no such image") from None
        headers = {"Cache-Control": "private, max-age=86400, immutable"}
        return Response(data, media_type=media_type, headers=headers)

    routes = [
        Route("/", index),
        Route("/images/{kind}/{name}", image),
        _action("/api/pairs", page, NextRequest, page.next_pairs),
        _action("/api/judgments", page, JudgmentRequest, page.submit),
        _action("/api/undo", page, UndoRequest, page.undo),
        Mount("/static", StaticFiles(directory=_STATIC)),
    ]
    middleware = [
        Middleware(_AddHeaders, headers=_SECURITY_HEADERS),
        Middleware(_OwnHosts, hosts=hosts),
        Middleware(_AddHeaders, headers={"X-Log": log_id}),
    ]
    return Starlette(routes=routes, middleware=middleware, exception_handlers=_error_handlers())


def serve(site: Starlette, host: str, port: int, ready: Callable[[int], None]) -> None:
    """Answer requests until Ctrl-C.

    Args:
        site: the web application.
        host: address to listen on, of IPv4 or IPv6, or a name.
        port: port to listen on; 0 for any free port.
        ready: called with the port as soon as it listens.

    Raises:
        ResourceError: the port is taken, or the address is not this machine's.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        fix = "choose annotate.port=0 for any free port, and an address of this machine"
        raise ResourceError(
            f"nothing can listen there: {error.strerror}", f"{host}:{port}", fix
        ) from error
    with listening:
        ready(listening.getsockname()[1])
        config = uvicorn.Config(site, log_level="error", access_log=False, http=_Protocol)
        with suppress(KeyboardInterrupt):  # uvicorn raises it again after it has shut down
            uvicorn.Server(config).run(sockets=[listening])


def _action(
    path: str, page: Page, kind: type[Any], answer: Callable[[Any], dict[str, Any]]
) -> Route:
    """Route a POST of JSON that must bring the log's id and the token; its answer has progress."""
    log = page.queue.log

    async def endpoint(request: Request) -> Response:
        _check_origin(request)
        if request.headers.get("x-log") != log.id:
            raise HTTPException(409, "another log is served here than that of this page")
        token = request.headers.get("x-token", "")
        if not secrets.compare_digest(token.encode(), page.token.encode()):
            raise HTTPException(403, "the token is wrong: open the link that the terminal shows")
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise HTTPException(415, "a request is JSON")
        try:
            content = decode_object(await _body(request), kind)
        except (msgspec.MsgspecError, ValueError, DataError) as error:
            raise HTTPException(422, str(error)) from None
        result = answer(content)  # in the event loop: one request after the other
        progress = page.queue.progress(result["annotator"])
        return JSONResponse(result | {"progress": progress, "log": log.name})

    return Route(path, endpoint, methods=["POST"])


def _check_origin(request: Request) -> None:
    """Refuse a request that another site's page made."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(403, "the request comes from another site")


async def _body(request: Request) -> bytes:
    body = b""
    try:
        async with asyncio.timeout(PATIENCE):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY:
                    raise HTTPException(413, f"a request has at most {MAX_BODY} bytes")
    except TimeoutError:
        raise HTTPException(408, "the request did not come in time") from None
    return body


def _error_handlers() -> dict[Any, Callable[[Request, Any], Awaitable[Response]]]:
    async def refused(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code)

    async def not_written(request: Request, error: ResourceError) -> Response:
        return JSONResponse({"error": str(error)}, 507)

    async def nameless(request: Request, error: NamelessError) -> Response:
        return JSONResponse({"error": str(error)}, 422)

    async def unknown_pair(request: Request, error: UnknownPairError) -> Response:
        return JSONResponse({"error": str(error)}, 404)

    return {
        HTTPException: refused,
        ResourceError: not_written,
        NamelessError: nameless,
        UnknownPairError: unknown_pair,
    }


class _Protocol(H11Protocol):
    """HTTP that closes connections which send nothing, or which are too many."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.close()
        self._wait_for_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait_for_head()

    def _wait_for_head(self) -> None:
        self.loop.call_later(PATIENCE, self._close_without_head, self.cycle)

    def _close_without_head(self, last: Any) -> None:
        """Close the connection if no request came since the last one."""
        if self.cycle is last:
            self.transport.close()


class _OwnHosts:
    """Middleware that refuses requests for other hosts, as of a page whose name leads here."""

    def __init__(self, app: Any, hosts: Sequence[str]) -> None:
        self._app, self._hosts = app, {*map(_canonical, hosts)}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        host = dict(scope.get("headers", ())).get(b"host", b"").decode("latin-1")
        if scope["type"] == "http" and _hostname(host) not in self._hosts:
            refused = PlainTextResponse("the page has another address", 400)
            await refused(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _hostname(host: str) -> str:
    """Return the name or address in a Host header, without its port; empty if there is none."""
    with suppress(ValueError):
        return _canonical(urlsplit(f"//{host}").hostname or "")
    return ""


def _canonical(host: str) -> str:
    """Return one way to write a host: `::1` for `0:0::1`, names in small letters."""
    with suppress(ValueError):
        return ip_address(host).compressed
    return host.lower()


class _AddHeaders:
    """Middleware that adds headers to every response, also to errors."""

    def __init__(self, app: Any, headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = {name.lower().encode(): text.encode() for name, text in headers.items()}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*(self._headers | dict(message.get("headers", ()))).items()]
            await send(message)

        await self._app(scope, receive, send_with_headers)
