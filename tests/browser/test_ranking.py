"""People at the ranking page: nothing acknowledged is lost, nothing runs, nothing leaves."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, Response

from tests.browser.pages import Server, key_of, saved, shown, until, write_candidates

KEYS = {"1": "left", "a": "left", "ArrowLeft": "left", "2": "right", "b": "right"}
KEYS |= {"ArrowRight": "right", "0": "tie", "t": "tie"}
XSS = Path(__file__).with_name("xss.txt").read_text().splitlines()


@pytest.fixture
def server(tmp_path: Path, servers: list[Server]) -> Server:
    write_candidates(tmp_path, prompts=12, responses=3)
    servers.append(Server(tmp_path))
    return servers[0]


def judged(event: dict[str, Any]) -> str:
    """The text that won, or tie."""
    return "tie" if event["preference"] == "tie" else str(event[event["preference"]])


def test_a_thousand_judgments_and_fifty_kills_lose_nothing(
    page: Page, tmp_path: Path, servers: list[Server]
) -> None:
    draw = random.Random(0)
    assert write_candidates(tmp_path, prompts=25, responses=10) >= 1000
    server = Server(tmp_path)
    servers.append(server)
    acknowledged: list[str] = []

    def told(response: Response) -> None:
        if response.url.endswith("/api/judgments") and response.ok:
            acknowledged.append(json.loads(response.request.post_data or "")["key"])

    page.on("response", told)
    page.goto(server.url)
    kills, meant = set(draw.sample(range(1000), 50)), dict[str, str]()
    for number in range(1000):
        view, key = shown(page), draw.choice(list(KEYS))
        assert view["key"] not in meant
        meant[view["key"]] = view.get(KEYS[key], "tie")
        page.keyboard.press(key)
        if number in kills:
            server.kill()
            server.start(wait=False)
    saved(page)
    events = server.events()
    keys = Counter(event["key"] for event in events)
    assert len(acknowledged) >= 1000 and set(acknowledged) <= keys.keys()
    assert max(keys.values()) == 1
    assert {event["pair"]: judged(event) for event in events} == meant


def test_fifty_strings_that_would_be_code_are_text(
    page: Page, tmp_path: Path, servers: list[Server]
) -> None:
    assert len(XSS) == 50
    asked = [{"image_path": "0.png", "instruction": text} for text in XSS]
    rows = [{**row, "responses": [row["instruction"], f"no: {n}"]} for n, row in enumerate(asked)]
    write_candidates(tmp_path, prompts=1, responses=2)
    (tmp_path / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    servers.append(Server(tmp_path))
    alarms = list[str]()
    page.on("dialog", lambda dialog: (alarms.append(dialog.message), dialog.dismiss()))  # type: ignore[call-overload]
    page.on("console", lambda message: alarms.append(message.text))
    page.on("pageerror", lambda error: alarms.append(str(error)))
    page.goto(servers[0].url)
    for text in XSS:
        view = shown(page)
        assert view["instruction"] == text and text in (view["left"], view["right"])
        page.fill("#name", text[:60])
        page.keyboard.press("Enter")
        key_of(page)
        page.keyboard.press("s")
        page.fill("#reason", text)
        page.keyboard.press("Enter")
        saved(page)
        page.fill("#name", "eva")
        page.keyboard.press("Enter")
        key_of(page)
        page.keyboard.press("1")
    saved(page)
    assert alarms == [] and page.evaluate("window.hacked") is None
    assert page.locator("#main img").count() <= 1
    assert page.evaluate("document.querySelectorAll('script').length") == 1


def has_ended(page: Page) -> bool:
    """Wait for a pair, or for the note that there is none, and tell whether it is the note."""
    ended = "current === null && $('notice').textContent.length > 9"
    until(page, f"!locked && (current !== null || {ended})")
    return bool(page.evaluate(ended))


def test_two_people_at_once_never_judge_the_same_pair(
    chromium: Browser, server: Server, tmp_path: Path
) -> None:
    pages = [chromium.new_context().new_page() for _ in range(2)]
    for person, name in zip(pages, ("eva", "udo"), strict=True):
        person.goto(server.url)
        key_of(person)
        person.fill("#name", name)
        person.keyboard.press("Enter")
    open_pages = set(pages)
    while open_pages:
        for person in list(open_pages):
            if has_ended(person):
                saved(person)
                open_pages.remove(person)
            else:
                person.keyboard.press("2")
    events = server.events()
    assert len({event["pair"] for event in events}) == len(events) == 36
    assert {event["annotator"] for event in events} == {"eva", "udo"}


def test_undo_shows_the_pair_again_and_is_a_line_of_its_own(page: Page, server: Server) -> None:
    page.goto(server.url)
    first = shown(page)
    page.keyboard.press("1")
    second = shown(page)
    page.keyboard.press("2")
    key_of(page)
    page.keyboard.press("z")
    until(page, "$('state').textContent === 'taken back'")
    assert shown(page) == second
    page.keyboard.press("z")
    until(page, f"current && current.key === '{first['key']}' && !locked")
    assert shown(page) == first
    page.keyboard.press("0")
    saved(page)
    assert [event["event"] for event in server.events()] == [
        *["judgment"] * 2,
        *["undo"] * 2,
        "judgment",
    ]


def test_offline_responses_wait_also_when_the_page_is_closed(
    chromium: Browser, server: Server
) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(server.url)
    key_of(page)
    saved(page)
    context.set_offline(True)
    for _ in range(3):
        key_of(page)
        page.keyboard.press("1")
    until(page, "$('state').textContent === 'no connection, 3 waiting'")
    assert not (server.directory / "judgments.jsonl").exists()
    page.close()
    context.set_offline(False)
    page = context.new_page()
    page.goto(server.url)
    key_of(page)
    saved(page)
    assert len(server.events()) == 3


def test_no_request_leaves_the_machine_and_strangers_see_no_pair(
    page: Page, server: Server
) -> None:
    asked: list[Request] = []
    page.on("request", lambda request: asked.append(request))
    page.goto(server.url)
    for key in KEYS:
        key_of(page)
        page.keyboard.press(key)
    saved(page)
    site = server.url.partition("#")[0]
    assert len(asked) > 20 and all(request.url.startswith(site) for request in asked)
    page.goto("about:blank")
    page.goto(site + "#token=wrong")
    until(page, "$('notice').textContent.includes('token is wrong')")
    assert page.locator("#main").is_hidden()


def test_another_site_cannot_judge(page: Page, server: Server, servers: list[Server]) -> None:
    other = server.directory / "other"
    other.mkdir()
    write_candidates(other, prompts=1, responses=2)
    servers.append(Server(other))  # another port is another origin
    page.goto(servers[1].url)
    key_of(page)
    token = server.url.partition("token=")[2]
    sent = """([url, token]) => fetch(url, {method: "POST", body: "{}", headers:
        {"X-Token": token, "Content-Type": "application/json"}}).then(() => "sent", () => "blocked")
    """
    assert page.evaluate(sent, [server.url.partition("#")[0] + "api/undo", token]) == "blocked"


def test_the_page_stands_still_and_is_quick(page: Page, server: Server) -> None:
    page.goto(server.url)
    boxes, times = set(), list[float]()
    for _ in range(20):
        key_of(page)
        until(page, "queue.length > 1 && queue[0].image.complete")
        places = page.locator("#image, .response, footer").all()
        boxes.add(tuple(tuple((place.bounding_box() or {}).values()) for place in places))
        times.append(
            page.evaluate("""async () => {
                const before = current.key, start = performance.now();
                document.dispatchEvent(new KeyboardEvent("keydown", {key: "1"}));
                while (!current || current.key === before || !current.image.complete)
                    await new Promise(requestAnimationFrame);
                await new Promise(requestAnimationFrame);
                return performance.now() - start;
            }""")
        )
    print(f"key to next pair: median {sorted(times)[10]:.0f} ms, longest {max(times):.0f} ms")
    assert len(boxes) == 1
    assert sorted(times)[10] < 100


def test_keys_of_the_dialogs(page: Page, server: Server) -> None:
    page.goto(server.url)
    first = key_of(page)
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("1")  # means nothing here
    page.keyboard.press("Escape")
    page.keyboard.press("+")
    assert page.locator("#zoom img").is_visible()
    page.keyboard.press("2")
    page.keyboard.press("+")
    assert page.locator("#zoom").is_hidden() and key_of(page) == first
    page.keyboard.press("s")
    page.keyboard.press("2")
    saved(page)
    (event,) = server.events()
    assert (event["event"], event["reason"]) == ("skip", "both are unusable")
