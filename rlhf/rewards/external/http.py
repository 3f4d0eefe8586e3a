"""The scorer that calls an HTTP service."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import msgspec
from torch import Tensor

from rlhf.config.schema import ScorerConfig
from rlhf.data.tokenization import TextEncoder
from rlhf.errors import DataError, UsageError
from rlhf.rewards.external.calls import USAGE, CallFailedError, ExternalScorer, Item, to_scores

MAX_REPLY_BYTES = 1_000_000
BACKOFF_SECONDS, MAX_DOUBLINGS = 0.5, 6  # wait before a retry: 0.5 s, doubled each time up to 32 s


class HTTPScorer(ExternalScorer):
    """A service that scores the images, instructions and responses posted to it.

    A call posts {"items": [{"image": base64 of the file, "instruction": …, "response": …}, …]},
    at most `BATCH_SIZE` items, and expects {"scores": [number, …]}. After a lost connection, a
    time-out, status 429 or 5xx, or an unusable reply it is repeated `config.retries` times, with
    exponential backoff. Redirects are not followed and proxy variables are ignored: the images go
    to this address only.

    Args:
        address: http(s)://[user:password@]host[:port]/path
        encoder: decodes the responses.
        config: reads `timeout`, `retries` and `on_failure`.
        flag: what names the address, for messages.
        transport: replaces the network in tests.
        sleep: waits for a number of seconds; replaced in tests.

    Raises:
        UsageError: the address is not valid.
    """

    def __init__(
        self,
        address: str,
        encoder: TextEncoder,
        config: ScorerConfig,
        *,
        flag: str = "--scorer",
        transport: httpx2.AsyncBaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = _parse_url(address, flag)
        # Tables and logs must not show a password or a key in the query.
        name = str(self._url.copy_with(userinfo=b"", query=None, fragment=None))
        super().__init__(name, encoder, config)
        self._timeout, self._attempts = config.timeout, 1 + config.retries
        self._transport, self._sleep = transport, sleep
        self._tls = httpx2.create_ssl_context(trust_env=False)

    def call(self, items: list[Item]) -> Tensor:
        """Score n items by one call of the service, with retries: [n] float32.

        Raises:
            CallFailedError: the last attempt failed too.
            UsageError: the service redirects or refuses the call (3xx, 4xx).
            DataError: an image cannot be read.
        """
        rows = [item._asdict() | {"image": _read_image(item.image)} for item in items]
        body = msgspec.json.encode({"items": rows})  # writes bytes as base64
        fault = ""
        for retry in range(self._attempts):
            if retry:
                self._sleep(BACKOFF_SECONDS * 2 ** min(retry - 1, MAX_DOUBLINGS))
            try:
                return _parse_scores(asyncio.run(self._post(body)), len(items))
            except CallFailedError as error:
                fault = str(error)
        raise CallFailedError(f"{fault} ({self._attempts} attempts)")

    async def _post(self, body: bytes) -> bytes:
        """Post one call and return the reply; the timeout covers the whole exchange."""
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._client() as client,
                client.stream("POST", self._url, content=body) as reply,
            ):
                return await self._read(reply)
        except TimeoutError:
            raise CallFailedError(f"no complete reply within {self._timeout:g} s") from None
        except httpx2.HTTPError as error:
            raise CallFailedError(f"{type(error).__name__} {error}".strip()) from error

    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            # No compression: a small reply could expand beyond the limit in memory.
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
            timeout=None,
            follow_redirects=False,
            trust_env=False,
            verify=self._tls,
            transport=self._transport,
        )

    async def _read(self, reply: httpx2.Response) -> bytes:
        """Read the content of a reply with status 2xx, at most `MAX_REPLY_BYTES`."""
        content, status = b"", reply.status_code
        async for part in reply.aiter_raw():
            content += part
            if len(content) > MAX_REPLY_BYTES:
                raise CallFailedError(f"a reply of more than {MAX_REPLY_BYTES // 10**6} MB")
        if 300 <= status < 500 and status != 429:
            raise UsageError(
                f"the scorer answers with status {status}: {content[:200]!r}",
                self.name,
                "correct the address or the service; redirects are not followed",
            )
        if not reply.is_success:
            raise CallFailedError(f"status {status}")
        return content


class _Reply(msgspec.Struct):
    scores: list[float]


def _parse_scores(content: bytes, count: int) -> Tensor:
    """Parse a reply to [count] float32, all finite; raise CallFailedError for anything else."""
    try:
        scores = to_scores(msgspec.json.decode(content, type=_Reply).scores, count)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CallFailedError(f"the reply is not {{'scores': [number, …]}}: {error}") from None
    if not scores.isfinite().all():
        raise CallFailedError("a score is beyond the range of float32")
    return scores


def _read_image(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except OSError as error:
        fix = "replace the image, or remove its records"
        raise DataError(f"the image cannot be read: {error}", str(image), fix) from error


def _parse_url(address: str, flag: str) -> httpx2.URL:
    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL as error:
        raise UsageError(f"the address is not valid: {error}", flag, USAGE) from None
    if not url.host or not 0 < (url.port or 80) < 2**16:
        raise UsageError("the address has no host, or no valid port", flag, USAGE)
    return url
