"""A service at an HTTP address as scorer."""

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
from rlhf.rewards.external.calls import EXAMPLES, Item, ScorerCalls, Unscored, checked_scores
from rlhf.types import PromptBatch, Responses

MAX_REPLY = 1_000_000  # bytes
FIRST_DELAY, DOUBLINGS = 0.5, 6  # seconds before the first repeat; each next twice, up to 32 s


class HTTPScorer:
    """A service that scores what is posted to it: images, instructions and responses.

    A call posts {"items": [{"image": base64 of the file, "instruction": …, "response": …}, …]},
    at most `PIECE` items, and wants {"scores": [number, …]} back. After a lost connection, a
    time-out, status 429 or 5xx, or an unusable reply it is repeated `retries` times. Neither
    redirects nor proxies of the environment are followed: the images go to this address only.

    Args:
        address: http(s)://[user:password@]host[:port]/path
        builder, options: see `load_scorer`.
        transport: stands in for the network in tests.
        sleep: waits that many seconds.

    Raises:
        UsageError: not an address.
    """

    can_fail = True

    def __init__(
        self,
        address: str,
        builder: TextEncoder,
        options: ScorerConfig,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = _url(address)
        # A password or a key in the query is for the service alone.
        self.name = str(self._url.copy_with(userinfo=b"", query=None, fragment=None))
        self._timeout, self._tries = options.timeout, 1 + options.retries
        self._transport, self._sleep = transport, sleep
        self._tls = httpx2.create_ssl_context(trust_env=False)
        self._calls = ScorerCalls(self.name, self._call, builder, options.on_failure)

    @property
    def dropped(self) -> int:
        """Responses left without a score so far."""
        return self._calls.dropped

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        """See `Scorer`.

        Raises:
            ResourceError: no usable scores after the last try, and that is not tolerated.
            UsageError: the service redirects or refuses the call (3xx, 4xx).
            DataError: an image cannot be read.
        """
        return self._calls.scores(prompts, responses)

    def _call(self, items: list[Item]) -> Tensor:
        posted = [item._asdict() | {"image": _content(item.image)} for item in items]
        body = msgspec.json.encode({"items": posted})  # writes bytes as base64
        fault = ""
        for repeat in range(self._tries):
            if repeat:
                self._sleep(FIRST_DELAY * 2 ** min(repeat - 1, DOUBLINGS))
            try:
                return _reply_scores(asyncio.run(self._exchange(body)), len(items))
            except Unscored as error:
                fault = str(error)
        raise Unscored(f"{fault} ({self._tries} tries)")

    async def _exchange(self, body: bytes) -> bytes:
        """The reply to one call; the deadline holds for all of it, however slowly it drips."""
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._client() as client,
                client.stream("POST", self._url, content=body) as reply,
            ):
                return await self._checked(reply)
        except TimeoutError:
            raise Unscored(f"no whole reply within {self._timeout:g} s") from None
        except httpx2.HTTPError as error:
            raise Unscored(f"{type(error).__name__} {error}".strip()) from error

    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            # A compressed reply could grow past the limit in memory.
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
            timeout=None,
            follow_redirects=False,
            trust_env=False,
            verify=self._tls,
            transport=self._transport,
        )

    async def _checked(self, reply: httpx2.Response) -> bytes:
        content, status = b"", reply.status_code
        async for part in reply.aiter_raw():
            content += part
            if len(content) > MAX_REPLY:
                raise Unscored(f"a reply of more than {MAX_REPLY // 10**6} MB")
        if 300 <= status < 500 and status != 429:
            raise UsageError(
                f"the scorer answers with status {status}: {content[:200]!r}",
                self.name,
                "correct the address or the service; redirects are not followed",
            )
        if not reply.is_success:
            raise Unscored(f"status {status}")
        return content


class _Reply(msgspec.Struct):
    scores: list[float]


def _reply_scores(content: bytes, count: int) -> Tensor:
    """[count] float32, all finite; Unscored otherwise."""
    try:
        scores = checked_scores(msgspec.json.decode(content, type=_Reply).scores, count)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unscored(f"the reply is no {{'scores': [number, …]}}: {error}") from None
    if not scores.isfinite().all():
        raise Unscored("a score beyond the range of float32")
    return scores


def _content(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except OSError as error:
        fix = "replace the image, or remove its records"
        raise DataError(f"the image cannot be read: {error}", str(image), fix) from error


def _url(address: str) -> httpx2.URL:
    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL as error:
        raise UsageError(f"this is no address: {error}", "--scorer", EXAMPLES) from None
    if not url.host or not 0 < (url.port or 80) < 2**16:
        raise UsageError("the address has no host, or no valid port", "--scorer", EXAMPLES)
    return url
