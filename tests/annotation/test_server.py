"""What the server answers, and which requests it refuses."""

import asyncio
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient
from uvicorn.server import ServerState

from rlhf.annotation import server
from rlhf.annotation.event_log import EventLog, Judgment, read_events
from rlhf.annotation.page import Page
from rlhf.annotation.pairs import Pair
from rlhf.annotation.queue import AnnotationQueue
from rlhf.annotation.served_images import ServedImages
from rlhf.annotation.server import MAX_BODY, _Protocol, application
from rlhf.data.images import load_image
from rlhf.history import Exchange

HOST = "http://127.0.0.1:8765"
STATIC = Path(server.__file__).parent / "static"
TOKEN = "a token that is long enough"
HISTORY = (Exchange("Where?", "<b>Here.</b>"),)
PAIRS = {
    p.key: p for p in (Pair(f"{n}.png", f"What {n}?", "x", "y", HISTORY[: n % 2]) for n in range(3))
}
ASK = {"annotator": "eva", "page": "some page", "held": [], "count": 2}


@pytest.fixture
def page(tmp_path: Path) -> Page:
    for n in range(3):
        Image.new("RGBA", (9, 7), (10 * n, 20, 30, 128)).save(tmp_path / f"{n}.png")
    (tmp_path / "secret.png").write_bytes((tmp_path / "0.png").read_bytes())
    images = ServedImages((pair.image_path for pair in PAIRS.values()), tmp_path, TOKEN)
    return Page(AnnotationQueue(PAIRS, EventLog(tmp_path / "log.jsonl")), images, TOKEN, "someone")


@pytest.fixture
def client(page: Page) -> TestClient:
    site = application(page, ["127.0.0.1", "localhost"])
    return TestClient(site, base_url=HOST, headers=headers_of(page))


def headers_of(page: Page) -> dict[str, str]:
    return {"X-Token": TOKEN, "X-Log": page.queue.log.id}


def submit(client: TestClient, view: dict[str, Any], **changes: Any) -> Any:
    body = {"annotator": "eva", "key": "12345678", "pair": view["key"], "choice": "left"}
    return client.post("/api/judgments", json={**body, "seconds": 1.5, **changes})


def test_a_pair_is_shown_judged_and_taken_back(client: TestClient, tmp_path: Path) -> None:
    result = client.post("/api/pairs", json=ASK).json()
    assert [view["instruction"] for view in result["pairs"]] == ["What 0?", "What 1?"]
    assert result["progress"] == {"done": 0, "total": 3}
    first, second = result["pairs"]
    shown = {"key", "image", "seen", "history", "instruction", "left", "right"}
    assert set(first) == shown and not first["seen"]  # no model is known
    earlier = [{"instruction": "Where?", "response": "<b>Here.</b>"}]
    assert (first["history"], second["history"]) == ([], earlier)
    assert submit(client, first).json()["progress"] == {"done": 1, "total": 3}
    (event,) = read_events(tmp_path / "log.jsonl")
    assert isinstance(event, Judgment)
    assert getattr(event, event.preference) == first["left"]
    request = {"annotator": "eva", "page": "some page"}
    undone = client.post("/api/undo", json={**request, "key": "abcdefgh"}).json()
    assert undone["pair"] == first
    assert undone["progress"] == {"done": 0, "total": 3}


def test_a_missing_annotator_name_is_that_of_the_command_line(client: TestClient) -> None:
    assert client.post("/api/pairs", json={**ASK, "annotator": "  "}).json()["annotator"] == (
        "someone"
    )


def test_an_image_is_the_rgb_that_the_model_is_given(client: TestClient, tmp_path: Path) -> None:
    view = client.post("/api/pairs", json=ASK).json()["pairs"][1]
    response = client.get(view["image"], headers={"X-Token": ""})  # an <img> brings no header
    assert response.headers["content-type"] == "image/png"
    with Image.open(BytesIO(response.content)) as served:
        assert served.mode == "RGB"
        assert list(served.getdata()) == list(load_image(tmp_path / "1.png").getdata())


def test_a_photograph_is_sent_as_a_small_jpeg_and_encoded_once(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = Image.effect_noise((3000, 2000), 40).convert("RGB")
    noise.save(tmp_path / "0.png")
    view = client.post("/api/pairs", json=ASK).json()["pairs"][0]
    response = client.get(view["image"])
    assert response.headers["content-type"] == "image/jpeg" and len(response.content) < 2_000_000
    with Image.open(BytesIO(response.content)) as served:
        assert served.size == (1600, 1067)
    (tmp_path / "0.png").unlink()
    assert client.get(view["image"]).content == response.content


def test_an_image_is_also_shown_as_the_model_sees_it(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), "red").save(tmp_path / "0.png")

    def middle(image: Image.Image) -> Image.Image | None:
        return image.crop((10, 0, 30, 20))

    images = ServedImages(["0.png"], tmp_path, "secret", middle)
    sizes = {}
    for kind in ("whole", "seen"):
        with Image.open(BytesIO(images.encoded(images.names["0.png"], kind).data)) as served:
            sizes[kind] = served.size
    assert sizes == {"whole": (40, 20), "seen": (20, 20)}
    tiled = ServedImages(["0.png"], tmp_path, "secret", lambda image: None)  # it sees all of it
    name = tiled.names["0.png"]
    assert tiled.encoded(name, "seen") == tiled.encoded(name, "whole")


def test_who_judges_is_asked_for_a_name(page: Page, tmp_path: Path) -> None:
    site = application(replace(page, annotator=""), ["127.0.0.1"])
    client = TestClient(site, base_url=HOST, headers=headers_of(page))
    result = client.post("/api/pairs", json={**ASK, "annotator": " "}).json()
    assert (result["annotator"], result["pairs"]) == ("", [])
    assert submit(client, {"key": next(iter(PAIRS))}, annotator="").status_code == 422
    undo = {"annotator": "", "page": "some page", "key": "abcdefgh"}
    assert client.post("/api/undo", json=undo).status_code == 422
    assert not (tmp_path / "log.jsonl").exists()


@pytest.mark.parametrize("name", ["0.png", "../0.png", "%2e%2e%2fsecret.png", "0" * 16])
def test_other_images_have_no_name(client: TestClient, name: str) -> None:
    for kind in ("whole", "seen", "other"):
        assert client.get(f"/images/{kind}/{name}").status_code == 404


def test_names_of_images_follow_from_the_secret(tmp_path: Path) -> None:
    images, images_of_other_secret = (
        ServedImages(["0.png"], tmp_path, "one"),
        ServedImages(["0.png"], tmp_path, "other"),
    )
    assert images.names != images_of_other_secret.names


@pytest.mark.parametrize("path", ["/api/pairs", "/api/judgments", "/api/undo"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Log": ""}, 409),
        ({"X-Log": "0" * 16, "X-Token": "wrong"}, 409),
        ({"X-Token": ""}, 403),
        ({"X-Token": TOKEN[:-1]}, 403),
        ({"X-Token": TOKEN + "x"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Host": "evil.example:8765"}, 400),
        ({"Host": "127.0.0.1.evil.example"}, 400),
        ({"Content-Type": "text/plain"}, 415),
    ],
)
def test_requests_without_token_origin_or_json_are_refused(
    client: TestClient, tmp_path: Path, path: str, headers: dict[str, str], status: int
) -> None:
    request_headers = {"Content-Type": "application/json", **headers}
    assert client.post(path, content=b"{}", headers=request_headers).status_code == status
    assert not (tmp_path / "log.jsonl").exists()


@pytest.mark.parametrize("path", ["/", "/static/annotate.js", "/images/whole/x"])
def test_a_foreign_host_sees_nothing(client: TestClient, path: str) -> None:
    assert client.get(path, headers={"Host": "evil.example"}).status_code == 400


@pytest.mark.parametrize(
    "changes",
    [
        {"choice": "both"},
        {"key": "short"},
        {"key": 7},
        {"seconds": -1},
        {"seconds": 1e9},
        {"annotator": "x" * 201},
        {"more": 1},
    ],
)
def test_a_malformed_response_is_refused(
    client: TestClient, tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert submit(client, {"key": next(iter(PAIRS))}, **changes).status_code == 422
    assert not (tmp_path / "log.jsonl").exists()


def test_a_repeated_key_is_refused(client: TestClient, tmp_path: Path) -> None:
    pair = next(iter(PAIRS))
    body = f'{{"annotator": "eva", "key": "12345678", "pair": "{pair}", "seconds": 1.5, '
    body += '"choice": "left", "choice": "right"}'
    headers = {"Content-Type": "application/json"}
    reply = client.post("/api/judgments", content=body, headers=headers)
    assert reply.status_code == 422 and "twice" in reply.json()["error"]
    assert not (tmp_path / "log.jsonl").exists()


@pytest.mark.parametrize("host", ["[::1]", "[::1]:8000", "[0:0::1]:80", "LOCALHOST", "localhost:1"])
def test_an_address_of_ipv6_and_a_name_are_known_however_written(page: Page, host: str) -> None:
    client = TestClient(application(page, ["::1", "localhost"]), base_url=HOST)
    assert client.get("/", headers={"Host": host}).status_code == 200
    for foreign in ("[::2]", "[::1", "::1", "", "localhost.evil.example", "a@localhost.x"):
        assert client.get("/", headers={"Host": foreign}).status_code == 400


async def closed(count: int, sent: bytes, page: Page) -> list[bytes]:
    """Open connections, send something on each, and return what comes until each is closed."""
    config = uvicorn.Config(application(page, ["localhost"]), log_level="error")
    loop, state = asyncio.get_running_loop(), ServerState()
    server = await loop.create_server(lambda: _Protocol(config, state, {}, loop), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    for _, writer in streams:
        writer.write(sent)
    replies = [await asyncio.wait_for(reader.read(), 5) for reader, _ in streams]
    server.close()
    return replies


HEAD = b"POST /api/undo HTTP/1.1\r\nHost: localhost\r\nX-Token: " + TOKEN.encode()
HEAD += b"\r\nX-Log: LOG_ID\r\nContent-Type: application/json\r\nContent-Length: 9\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\nHost: loc", b""),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /", b"HTTP/1.1 200 OK"),
        (HEAD + b"\r\n{", b"HTTP/1.1 408 Request Timeout"),
    ],
    ids=["nothing", "half a head", "half a second head", "half a body"],
)
def test_a_request_that_does_not_come_in_time_frees_its_connection(
    page: Page, monkeypatch: pytest.MonkeyPatch, sent: bytes, status: bytes
) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.1)
    sent = sent.replace(b"LOG_ID", page.queue.log.id.encode())
    [reply] = asyncio.run(closed(1, sent, page))
    assert reply.partition(b"\r\n")[0] == status


def test_connections_are_limited(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    sent = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    replies = asyncio.run(closed(4, sent, page))
    assert [reply[:15] for reply in replies] == 2 * [b"HTTP/1.1 200 OK"] + 2 * [b""]


def test_an_unknown_pair_and_a_long_body_are_refused(client: TestClient) -> None:
    assert submit(client, {"key": "0" * 16}).status_code == 404
    long_body = b'{"annotator": "' + b"x" * MAX_BODY + b'"}'
    headers = {"Content-Type": "application/json"}
    assert client.post("/api/undo", content=long_body, headers=headers).status_code == 413
    assert client.get("/api/judgments").status_code == 405


def test_a_full_disk_is_reported_and_the_judgment_may_be_sent_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = client.post("/api/pairs", json=ASK).json()["pairs"][0]
    with monkeypatch.context() as patched:
        patched.setattr("os.write", lambda handle, data: 0)
        assert submit(client, view).status_code == 507
    assert submit(client, view).json()["progress"]["done"] == 1


@pytest.mark.parametrize("path", ["/", "/static/annotate.css", "/nowhere", "/api/judgments"])
def test_every_response_names_the_log(client: TestClient, page: Page, path: str) -> None:
    for response in (client.get(path), client.head(path), client.post(path, json={})):
        assert response.headers["x-log"] == page.queue.log.id
    foreign = client.get(path, headers={"Host": "evil.example"})
    assert foreign.status_code == 400 and "x-log" not in foreign.headers


def test_the_page_knows_its_log(client: TestClient, page: Page, tmp_path: Path) -> None:
    assert f'<html lang="en" data-log="{page.queue.log.id}">' in client.get("/").text
    reply = client.post("/api/pairs", json=ASK).json()
    assert reply["log"] == f"{tmp_path.name}/log.jsonl"


@pytest.mark.parametrize("path", ["/", "/static/annotate.css", "/nowhere", "/api/pairs"])
def test_every_response_forbids_foreign_and_inline_code(client: TestClient, path: str) -> None:
    result = client.get(path).headers
    assert result["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in result["content-security-policy"]
    assert result["x-content-type-options"] == "nosniff"
    assert result["referrer-policy"] == "no-referrer"
    assert result["cross-origin-resource-policy"] == "same-origin"


def test_the_page_has_no_inline_code_and_asks_nobody_else(client: TestClient) -> None:
    for file in STATIC.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|\beval\(", text)
    page = client.get("/").text
    assert not re.search(r"\son\w+\s*=|<style|style=|<script(?! src)", page)
