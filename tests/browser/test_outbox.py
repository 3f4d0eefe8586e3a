"""No answer is lost in the browser: it waits for its own log, is counted, and comes once."""

import random
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.outbox import NAMED, SCENARIOS, Answers, faults, judge, opened, ready, tabs
from tests.browser.pages import Server, key_of, wait_until, wait_until_saved, write_candidates

WAITING = "waiting(log).length"


@pytest.fixture
def server(tmp_path: Path, servers: list[Server]) -> Server:
    write_candidates(tmp_path, prompts=8, responses=2)
    servers.append(Server(tmp_path, NAMED))
    return servers[0]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_answer_reaches_its_own_log_once(
    chromium: Browser, tmp_path: Path, name: str, seed: int
) -> None:
    assert SCENARIOS[name](chromium, tmp_path, random.Random(seed)) == []


@pytest.mark.parametrize("status", [200, 302, 400, 403, 404, 409, 413])
def test_what_another_server_answers_keeps_answers_and_is_said(
    page: Page, server: Server, status: int
) -> None:
    answers, methods = Answers(), list[str]()
    page.goto(server.url)
    ready(page)
    page.on("request", lambda request: methods.append(request.method))
    page.route("**/*", lambda route: route.fulfill(status=status, body="{}"))
    judge(page, 2, random.Random(0), answers)
    wait_until(page, "$('state').textContent === 'not sent, 2 waiting'")
    host, log = server.url.split("/")[2], f"{server.directory.name}/judgments.jsonl"
    assert page.inner_text("#trouble").splitlines() == [
        f"Another server answers at {host}: start rlhf annotate for {log} there again.",
        f"2 answers wait in this browser for {log}, and will be sent then.",
    ]
    while methods.count("HEAD") < 5:
        page.wait_for_timeout(2)
    assert page.evaluate(WAITING) == 2 and methods.count("POST") <= 2  # an answer, and more pairs
    page.unroute_all()
    wait_until_saved(page)
    assert page.locator("#trouble").is_hidden() and faults(server, answers) == []


def test_a_wrong_token_stops_sending_and_is_said(page: Page, server: Server) -> None:
    page.goto(server.url)
    ready(page)
    server.kill()
    judge(page, 1, random.Random(0), Answers())
    (server.directory / "judgments.jsonl.token").unlink()
    server.start()
    wait_until(page, "$('state').textContent === 'not sent, 1 waiting'")
    assert page.inner_text("#trouble").splitlines() == [
        "The token is wrong: open the link that the terminal shows.",
        f"1 answer waits in this browser for {server.directory.name}/judgments.jsonl, "
        "and will be sent then.",
    ]


def test_while_the_disk_is_full_no_more_pairs_are_asked_for(page: Page, server: Server) -> None:
    answers = Answers()
    page.goto(server.url)
    ready(page)
    full = {"status": 507, "json": {"error": "Cannot write: No space left on device."}}
    log = {"X-Log": page.evaluate("log")}
    page.route("**/api/judgments", lambda route: route.fulfill(**full, headers=log))
    judge(page, 1, random.Random(0), answers)
    wait_until(page, "trouble()")
    ready(page)
    judge(page, 4, random.Random(0), answers)
    with page.expect_response("**/api/judgments"):  # another attempt
        pass
    assert page.evaluate("held().length") == 0
    assert page.inner_text("#trouble").startswith("Cannot write: No space left on device.\n")
    page.unroute_all()
    wait_until_saved(page)
    assert faults(server, answers) == []


def test_a_refused_answer_is_kept_and_blocks_no_other(page: Page, server: Server) -> None:
    answers = Answers()
    page.goto(server.url)
    ready(page)
    page.evaluate(
        "keep({annotator: 'eva', key: newKey(), pair: 'gone', choice: 'tie', seconds: 1})"
    )
    judge(page, 2, random.Random(0), answers)
    wait_until(page, f"{WAITING} === 1 && $('state').textContent === '1 refused'")
    assert faults(server, answers) == []
    said = page.inner_text("#trouble")
    assert said.startswith("1 answer stays in this browser, refused by the server: its pair is not")
    page.keyboard.press("z")  # waits for nothing that is refused
    wait_until(page, "$('state').textContent === 'taken back'")
    for again in ("window.dispatchEvent(new Event('focus'))", "location.reload()"):
        with page.expect_response("**/api/judgments") as sent:
            page.evaluate(again)
        assert sent.value.status == 404
        wait_until(page, f"{WAITING} === 1 && $('state').textContent === '1 refused'")


def test_a_refused_answer_is_sent_when_its_candidates_are_served(
    page: Page, server: Server
) -> None:
    answers = Answers()
    page.goto(server.url)
    ready(page)
    server.kill()
    judge(page, 3, random.Random(0), answers)
    candidates = server.directory / "candidates.jsonl"
    rows = candidates.read_text()
    write_candidates(server.directory, prompts=1, responses=3)
    server.start()
    wait_until(page, "$('state').textContent === '2 refused'")  # the first is in both files
    server.kill()
    page.keyboard.press("z")
    wait_until(page, "$('state').textContent === 'no connection'")
    candidates.write_text(rows)
    server.start()
    wait_until(page, f"!{WAITING} && !locked")
    assert len([event for event in server.events() if event["event"] == "judgment"]) == 3


def test_a_page_says_that_answers_wait_for_another_log(
    chromium: Browser, server: Server, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_candidates(other, prompts=4, responses=2)
    with tabs(chromium) as context:
        page = opened(context, server)
        ready(page)
        server.kill()
        judge(page, 1, random.Random(0), Answers())
        page.close()
        with Server(other, NAMED, port=server.port) as successor:
            page = opened(context, successor)
            key_of(page)
            assert page.inner_text("#trouble") == (
                f"1 answer waits in this browser for {tmp_path.name}/judgments.jsonl: "
                f"start rlhf annotate for it at 127.0.0.1:{server.port} and open its link."
            )
            assert successor.events() == []


def test_a_full_storage_takes_no_answer(page: Page, server: Server) -> None:
    page.goto(server.url)
    key = key_of(page)
    page.evaluate("void (Storage.prototype.setItem = () => { throw new DOMException('full') })")
    page.keyboard.press("1")
    assert page.inner_text("#state") == "not taken: this browser's storage is full"
    assert key_of(page) == key and not server.events()
