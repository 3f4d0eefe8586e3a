"""An HTTP service as scorer: what is posted, what is retried, and that no score is made up."""

import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from torch import Tensor

from rlhf.config.schema import ScorerConfig
from rlhf.errors import DataError, ResourceError, UsageError
from rlhf.rewards.external.http import HTTPScorer
from tests.support.scored_rows import builder, example, rows
from tests.support.scorer_faults import FAULTS, Handler, Script, Unreliable, status

ADDRESS = "http://name:secret@scorer.test:81/score?key=hidden"


def scorer_of(
    handler: Handler, sleeps: list[float], *, timeout: float = 0.1, **options: Any
) -> HTTPScorer:
    config = ScorerConfig(timeout=timeout, **options)
    transport = httpx2.MockTransport(handler)
    return HTTPScorer(ADDRESS, builder, config, transport=transport, sleep=sleeps.append)


def scored(scorer: HTTPScorer, directory: Path, count: int) -> Tensor:
    prompts, responses = rows(directory, count)
    return scorer.scores(prompts, responses, max_tokens=1)


def test_images_and_texts_are_posted_in_calls_of_16_and_keep_their_order(
    tmp_path: Path,
) -> None:
    script = Script()
    scorer = scorer_of(script, [])
    assert scored(scorer, tmp_path, 34).tolist() == [row / 4 for row in range(34)]
    assert json.loads(script.requests[2].content) == {
        "items": [
            {
                "image": "cGljdHVyZSAzMg==",
                "instruction": "instruction 32",
                "response": "response 32",
            },
            {
                "image": "cGljdHVyZSAzMw==",
                "instruction": "instruction 33",
                "response": "response 33",
            },
        ]
    }
    assert len(script.requests) == 3 and script.requests[0].method == "POST"
    assert scored(scorer, tmp_path, 0).tolist() == [] and len(script.requests) == 3


def test_the_password_reaches_the_service_and_no_table(tmp_path: Path) -> None:
    script = Script(*[FAULTS["500"]] * 4)
    scorer = scorer_of(script, [])
    assert scorer.name == "http://scorer.test:81/score"
    with pytest.raises(ResourceError) as caught:
        scored(scorer, tmp_path, 1)
    assert "secret" not in str(caught.value) and "hidden" not in str(caught.value)
    assert script.requests[0].headers["Authorization"] == "Basic bmFtZTpzZWNyZXQ="
    assert script.requests[0].url.query == b"key=hidden"


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_retried(tmp_path: Path, name: str) -> None:
    script, sleeps = Script(FAULTS[name], FAULTS[name]), list[float]()
    assert scored(scorer_of(script, sleeps), tmp_path, 2).tolist() == [0.0, 0.25]
    assert len(script.requests) == 3 and sleeps == [0.5, 1.0]


@pytest.mark.parametrize("name", FAULTS)
def test_a_lasting_fault_stops_the_run_or_drops_its_rows(tmp_path: Path, name: str) -> None:
    script = Script(*[FAULTS[name]] * 2)
    with pytest.raises(ResourceError, match="http://scorer.test:81/score") as caught:
        scored(scorer_of(script, [], retries=1), tmp_path, 20)
    assert caught.value.where.endswith("(2 attempts)") and len(script.requests) == 2
    scorer = scorer_of(Script(*[FAULTS[name]] * 2), [], retries=1, on_failure="drop")
    scores = scored(scorer, tmp_path, 20)
    assert scores[:16].isnan().all() and scores[16:].tolist() == [4.0, 4.25, 4.5, 4.75]
    assert scorer.dropped == 16


@pytest.mark.parametrize("code", [301, 302, 304, 307, 400, 401, 404, 413, 422])
def test_a_refusal_is_not_retried_and_no_redirect_followed(tmp_path: Path, code: int) -> None:
    script = Script(status(code, Location="http://elsewhere.test/"))
    with pytest.raises(UsageError, match=str(code)) as caught:
        scored(scorer_of(script, [], on_failure="drop"), tmp_path, 2)
    assert len(script.requests) == 1 and caught.value.where == "http://scorer.test:81/score"


def test_backoff_doubles_up_to_a_limit(tmp_path: Path) -> None:
    sleeps = list[float]()
    scorer = scorer_of(Script(*[FAULTS["500"]] * 9), sleeps, retries=9)
    assert scored(scorer, tmp_path, 1).tolist() == [0.0]
    assert sleeps == [0.5, 1, 2, 4, 8, 16, 32, 32, 32]


def test_a_missing_image_is_a_data_error(tmp_path: Path) -> None:
    prompts, responses = rows(tmp_path, 2)
    (tmp_path / "1.png").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        scorer_of(Script(), []).scores(prompts, responses, max_tokens=1)


@pytest.mark.parametrize("address", ["http://", "http://h:x/", "http://h:99999/", "https:///score"])
def test_an_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError):
        HTTPScorer(address, builder, ScorerConfig())


def run(scorer: HTTPScorer, service: Unreliable, directory: Path, calls: int) -> dict[str, int]:
    """How many batches of 6 rows ended in which way; every score is that of its row."""
    outcomes = {"scored": 0, "dropped": 0, "stopped": 0, "refused": 0}
    prompts, responses = rows(directory, 6)
    while service.calls < calls:
        try:
            scores = scorer.scores(prompts, responses, max_tokens=1).tolist()
        except ResourceError:
            outcomes["stopped"] += 1
        except UsageError:
            outcomes["refused"] += 1
        else:
            missing = [math.isnan(score) for score in scores]
            assert all(missing[row] or scores[row] == row / 4 for row in range(6))
            outcomes["dropped" if any(missing) else "scored"] += 1
    return outcomes


@pytest.mark.parametrize("calls", [400, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("on_failure", ["stop", "drop"])
def test_with_30_percent_faults_no_score_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_failure: str, calls: int
) -> None:
    monkeypatch.setattr("rlhf.rewards.external.calls.BATCH_SIZE", 2)
    service, sleeps = Unreliable(seed=1), list[float]()
    scorer = scorer_of(service, sleeps, retries=1, on_failure=on_failure)
    outcomes = run(scorer, service, tmp_path, calls)
    assert 0.25 < service.faults / service.calls < 0.35
    assert service.calls <= 6 * sum(outcomes.values())  # 3 calls, each tried twice at most
    assert outcomes["scored"] > calls / 10 and outcomes["refused"] > 0 and set(sleeps) == {0.5}
    assert (outcomes["stopped"] > calls / 50) == (on_failure == "stop")
    assert (outcomes["dropped"] > calls / 50) == (on_failure == "drop") == (scorer.dropped > 0)


@contextmanager
def dripping(start: bytes) -> Iterator[str]:
    """The address of a server that begins a reply and goes on with a byte every 20 ms."""
    stop, server = threading.Event(), socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while not stop.is_set():
            try:
                connection, _ = server.accept()
                connection.sendall(start)
                while not stop.wait(0.02):
                    connection.sendall(b"1")
            except OSError:
                continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
    finally:
        stop.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nX-Slow: ",
        b'HTTP/1.1 200 OK\r\n\r\n{"scores": [',
        b"HTTP/1.1 500 N\r\n\r\n",
    ],
)
def test_a_slow_reply_meets_the_time_limit(tmp_path: Path, start: bytes) -> None:
    with dripping(start) as address:
        config, began = ScorerConfig(timeout=0.2, retries=1), time.monotonic()
        scorer = HTTPScorer(address, builder, config, sleep=lambda _: None)
        with pytest.raises(ResourceError) as caught:
            scored(scorer, tmp_path, 1)
        assert "no complete reply within 0.2 s (2 attempts)" in caught.value.where
        assert 0.4 <= time.monotonic() - began < 3


def test_the_service_of_the_guide_works_and_proxies_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    names: dict[str, Any] = {"__name__": "guide"}
    exec(example("my_service.py"), names)
    names["Service"].log_message = lambda *_: None
    names["score"] = lambda image, *texts: image.getpixel((0, 0))
    prompts, responses = rows(tmp_path, 18)
    for row, (path,) in enumerate(prompts.images):
        Image.new("L", (1, 1), row).save(path)
    with ThreadingHTTPServer(("127.0.0.1", 0), names["Service"]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/score"
        scorer = HTTPScorer(address, builder, ScorerConfig(timeout=20, retries=0))
        assert scorer.scores(prompts, responses, max_tokens=1).tolist() == list(range(18))
        server.shutdown()
    with pytest.raises(ResourceError, match=address):
        scored(scorer, tmp_path, 1)
