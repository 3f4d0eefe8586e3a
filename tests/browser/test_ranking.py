"""People at the ranking page: nothing acknowledged is lost, nothing runs, nothing leaves."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, Response

from tests.browser.outbox import KEYS, NAMED, preferred_text
from tests.browser.pages import (
    Server,
    key_of,
    shown_pair,
    wait_until,
    wait_until_saved,
    write_candidates,
)

XSS = Path(__file__).with_name("xss.txt").read_text().splitlines()


@pytest.fixture
def server(tmp_path: Path, servers: list[Server]) -> Server:
    write_candidates(tmp_path, prompts=12, responses=3)
    servers.append(Server(tmp_path, NAMED))
    return servers[0]


def test_a_thousand_judgments_and_fifty_kills_lose_nothing(
    page: Page, tmp_path: Path, servers: list[Server]
) -> None:
    draw = random.Random(0)
    assert write_candidates(tmp_path, prompts=25, responses=10) >= 1000
    server = Server(tmp_path, NAMED)
    servers.append(server)
    acknowledged: list[str] = []

    def record_acknowledged(response: Response) -> None:
        if response.url.endswith("/api/judgments") and response.ok:
            acknowledged.append(json.loads(response.request.post_data or "")["key"])

    page.on("response", record_acknowledged)
    page.goto(server.url)
    kills, expected = set(draw.sample(range(1000), 50)), dict[str, str]()
    for number in range(1000):
        view, key = shown_pair(page), draw.choice(list(KEYS))
        assert view["key"] not in expected
        expected[view["key"]] = view.get(KEYS[key], "tie")
        page.keyboard.press(key)
        if number in kills:
            server.kill()
            server.start(wait=False)
    wait_until_saved(page)
    events = server.events()
    keys = Counter(event["key"] for event in events)
    assert len(acknowledged) >= 1000 and set(acknowledged) <= keys.keys()
    assert max(keys.values()) == 1
    assert {event["pair"]: preferred_text(event) for event in events} == expected


def test_fifty_strings_that_would_be_code_are_text(
    page: Page, tmp_path: Path, servers: list[Server]
) -> None:
    assert len(XSS) == 50
    prompts = [
        {
            "image_path": "0.png",
            "instruction": text,
            "history": [{"instruction": text, "response": text}],
        }
        for text in XSS
    ]
    rows = [{**row, "responses": [row["instruction"], f"no: {n}"]} for n, row in enumerate(prompts)]
    write_candidates(tmp_path, prompts=1, responses=2)
    (tmp_path / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    servers.append(Server(tmp_path, NAMED))
    alarms = list[str]()
    page.on("dialog", lambda dialog: (alarms.append(dialog.message), dialog.dismiss()))  # type: ignore[call-overload]
    page.on("console", lambda message: alarms.append(message.text))
    page.on("pageerror", lambda error: alarms.append(str(error)))
    page.goto(servers[0].url)
    for text in XSS:
        view = shown_pair(page)
        assert view["instruction"] == text and text in (view["left"], view["right"])
        assert page.locator("#history p").all_text_contents() == [text, text]
        page.fill("#name", text[:60])
        page.keyboard.press("Enter")
        key_of(page)
        page.keyboard.press("s")
        page.fill("#reason", text)
        page.keyboard.press("Enter")
        wait_until_saved(page)
        page.fill("#name", "eva")
        page.keyboard.press("Enter")
        key_of(page)
        page.keyboard.press("1")
    wait_until_saved(page)
    assert alarms == [] and page.evaluate("window.hacked") is None
    assert page.locator("#main img").count() <= 1
    assert page.evaluate("document.querySelectorAll('script').length") == 4


def has_ended(page: Page) -> bool:
    """Wait for a pair, or for the note that there is none, and tell whether it is the note."""
    ended = "current === null && $('notice').textContent.length > 9"
    wait_until(page, f"!locked && (current !== null || {ended})")
    return bool(page.evaluate(ended))


def test_two_people_at_once_never_judge_the_same_pair(
    chromium: Browser, server: Server, tmp_path: Path
) -> None:
    pages = [chromium.new_context().new_page() for _ in range(2)]
    for person_page, name in zip(pages, ("eva", "udo"), strict=True):
        person_page.goto(server.url)
        key_of(person_page)
        person_page.fill("#name", name)
        person_page.keyboard.press("Enter")
    open_pages = set(pages)
    while open_pages:
        for person_page in list(open_pages):
            if has_ended(person_page):
                wait_until_saved(person_page)
                open_pages.remove(person_page)
            else:
                person_page.keyboard.press("2")
    events = server.events()
    assert len({event["pair"] for event in events}) == len(events) == 36
    assert {event["annotator"] for event in events} == {"eva", "udo"}


def test_undo_shows_the_pair_again_and_is_a_line_of_its_own(page: Page, server: Server) -> None:
    page.goto(server.url)
    first = shown_pair(page)
    page.keyboard.press("1")
    second = shown_pair(page)
    page.keyboard.press("2")
    key_of(page)
    page.keyboard.press("z")
    wait_until(page, "$('state').textContent === 'taken back'")
    assert shown_pair(page) == second
    page.keyboard.press("z")
    wait_until(page, f"current && current.key === '{first['key']}' && !locked")
    assert shown_pair(page) == first
    page.keyboard.press("0")
    wait_until_saved(page)
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
    wait_until_saved(page)
    context.set_offline(True)
    for _ in range(3):
        key_of(page)
        page.keyboard.press("1")
    wait_until(page, "$('state').textContent === 'no connection, 3 waiting'")
    assert not (server.directory / "judgments.jsonl").exists()
    page.close()
    context.set_offline(False)
    page = context.new_page()
    page.goto(server.url)
    key_of(page)
    wait_until_saved(page)
    assert len(server.events()) == 3


def test_no_request_leaves_the_machine_and_a_wrong_token_sees_no_pair(
    page: Page, server: Server
) -> None:
    requests: list[Request] = []
    page.on("request", lambda request: requests.append(request))
    page.goto(server.url)
    for key in KEYS:
        key_of(page)
        page.keyboard.press(key)
    wait_until_saved(page)
    site = server.url.partition("#")[0]
    assert len(requests) > 20 and all(request.url.startswith(site) for request in requests)
    page.goto("about:blank")
    page.goto(site + "#token=wrong")
    wait_until(page, "$('trouble').textContent.includes('token is wrong')")
    assert page.locator("#main").is_hidden()


def test_another_site_cannot_judge(page: Page, server: Server, servers: list[Server]) -> None:
    other_site = server.directory / "other"
    other_site.mkdir()
    write_candidates(other_site, prompts=1, responses=2)
    servers.append(Server(other_site, NAMED))  # another port is another origin
    page.goto(servers[1].url)
    key_of(page)
    token = server.url.partition("token=")[2]
    cross_site_request = """([url, token]) => fetch(url, {method: "POST", body: "{}", headers:
        {"X-Token": token, "Content-Type": "application/json"}}).then(() => "sent", () => "blocked")
    """
    assert (
        page.evaluate(cross_site_request, [server.url.partition("#")[0] + "api/undo", token])
        == "blocked"
    )


def test_the_layout_does_not_shift_and_the_next_pair_comes_quickly(
    page: Page, server: Server
) -> None:
    page.goto(server.url)
    boxes, times = set(), list[float]()
    for _ in range(20):
        key_of(page)
        wait_until(page, "queue.length > 1 && queue[0].image.complete")
        elements = page.locator("#image, .response, footer").all()
        boxes.add(tuple(tuple((element.bounding_box() or {}).values()) for element in elements))
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
    wait_until_saved(page)
    (event,) = server.events()
    assert (event["event"], event["reason"]) == ("skip", "both are unusable")
