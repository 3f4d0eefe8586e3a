"""What the ranking page shows: images before judgments, names, the end, small screens."""

import json
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route

from tests.browser.pages import (
    Server,
    key_of,
    wait_until,
    wait_until_saved,
    write_candidates,
)

NAMED = "annotate.annotator=someone"
PHONES = {"portrait": (390, 844), "landscape": (844, 390)}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_candidates(tmp_path, prompts=3, responses=2)
    return tmp_path


def test_nothing_is_judged_before_its_image_is_there(
    page: Page, directory: Path, servers: list[Server]
) -> None:
    servers.append(Server(directory, NAMED))
    waiting: list[Route] = []
    page.route("**/images/**", lambda route: waiting.append(route))
    page.goto(servers[0].url)
    wait_until(page, "current !== null")
    for key in ("1", "2", "0"):
        page.keyboard.press(key)
    assert page.inner_text("#caption") == "loading the image …"
    assert page.locator("footer .needs-image:disabled").count() == 3
    for route in waiting:
        route.continue_()
    key_of(page)
    assert page.inner_text("#caption") == "" and not (directory / "judgments.jsonl").exists()
    page.keyboard.press("1")
    wait_until_saved(page)
    assert len(servers[0].events()) == 1


def test_a_pair_whose_image_is_lost_can_only_be_skipped(
    page: Page, directory: Path, servers: list[Server]
) -> None:
    servers.append(Server(directory, NAMED))
    page.route("**/images/**", lambda route: route.abort())
    page.goto(servers[0].url)
    wait_until(page, "current && current.state === 'broken'")
    assert "Skip the pair" in page.inner_text("#caption")
    for key in ("1", "s", "3"):
        page.keyboard.press(key)
    wait_until_saved(page)
    assert [event["event"] for event in servers[0].events()] == ["skip"]


def test_a_name_is_asked_for_once(page: Page, directory: Path, servers: list[Server]) -> None:
    servers.append(Server(directory))
    page.goto(servers[0].url)
    wait_until(page, "$('who').open")
    page.keyboard.press("Escape")
    assert page.locator("#who").is_visible()
    page.fill("#asked", " eva ")
    page.keyboard.press("Enter")
    key_of(page)
    page.keyboard.press("1")
    wait_until_saved(page)
    assert servers[0].events()[0]["annotator"] == "eva"
    page.reload()
    key_of(page)
    assert not page.locator("#who").is_visible() and page.input_value("#name") == "eva"


def test_the_end_says_what_comes_next(page: Page, directory: Path, servers: list[Server]) -> None:
    servers.append(Server(directory, NAMED, "annotate.output=pairs.jsonl"))
    page.goto(servers[0].url)
    for _ in range(3):
        key_of(page)
        page.keyboard.press("1")
    wait_until_saved(page)
    assert "last pair" in page.inner_text("#words")
    assert "data.preferences=pairs.jsonl" in page.inner_text("#commands")


def test_the_image_as_the_model_sees_it(
    page: Page, directory: Path, servers: list[Server], tiny: Path
) -> None:
    servers.append(Server(directory, NAMED, f"model.path={tiny / 'model'}"))
    page.goto(servers[0].url)
    key_of(page)
    sizes = []
    for _ in range(2):
        wait_until(page, "$('image').querySelector('img').naturalWidth > 0")
        sizes.append(page.evaluate("$('image').querySelector('img').naturalWidth"))
        page.keyboard.press("m")
    assert sizes[0] == 320 and sizes[1] < 64
    assert page.get_attribute("#seen", "aria-pressed") == "false"
    page.keyboard.press("1")  # judged as ever
    wait_until_saved(page)


@pytest.mark.parametrize("orientation", PHONES)
@pytest.mark.parametrize("words", [3, 300])
def test_a_phone_shows_image_answers_and_keys_without_scrolling(
    chromium: Browser, tmp_path: Path, servers: list[Server], orientation: str, words: int
) -> None:
    texts = [f"{side} " + "word " * words for side in "ab"]
    row = {"image_path": "0.png", "instruction": "What is in the picture?", "responses": texts}
    Image.new("RGB", (1200, 900), "teal").save(tmp_path / "0.png")
    (tmp_path / "candidates.jsonl").write_text(json.dumps(row) + "\n")
    width, height = PHONES[orientation]
    context = chromium.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    servers.append(Server(tmp_path, NAMED))
    page.goto(servers[0].url)
    key_of(page)
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    image = page.locator("#image").bounding_box()
    assert image and image["width"] * image["height"] > 0.2 * width * height
    context.close()
