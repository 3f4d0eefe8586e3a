import base64
import io
import re
from html.parser import HTMLParser
from math import inf, nan

import pytest
from PIL import Image

from rlhf.metrics import METRICS
from rlhf.report import Comparison, write_report

NASTY = "<script>alert('x')</script>\" onload=\"x & y"


class Page(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def written(path, **parts):
    given = {"title": "Run", "summary": {}, "comparisons": [], "curves": {}, **parts}
    write_report(path / "deep" / "report.html", **given)
    return Page((path / "deep" / "report.html").read_text("utf-8"))


def comparison(size=(48, 48), verdict="win: shorter", text="a red circle", mode="RGB"):
    answers = (("sft", "a circle maybe", -0.5), ("ppo", text, 1.25))
    return Comparison(Image.new(mode, size, 77), "what is it?", answers, verdict)


def test_figures_before_and_after_share_a_tile(tmp_path):
    summary = {"score_before": 0.25, "kl": 3.0, "score_after": 0.5, "wins": "64 %", "x_before": 1.0}
    page = written(tmp_path, summary=summary)
    for part in ("score before → after 0.25 → 0.5", "kl 3", "wins 64 %", "x before 1"):
        assert part in page.text
    assert len([x for x in page.all("div") if x.get("class") == "big"]) == 4


def test_nothing_is_fetched_and_nothing_runs(tmp_path):
    page = written(tmp_path, comparisons=[comparison()], curves={"lr": [(0, 1.0), (1, 2.0)]})
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "base", "form"}
    for _, attributes in page.tags:
        assert not any(key.startswith("on") for key in attributes)
        assert all(
            attributes[key].startswith("data:") for key in ("src", "href") if key in attributes
        )
    policy = [x["content"] for x in page.all("meta") if "http-equiv" in x]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    style = "".join(page.words)
    assert "prefers-color-scheme: dark" in style and "url(" not in style and "@import" not in style


def test_every_text_is_escaped(tmp_path):
    nasty = Comparison(Image.new("RGB", (4, 4)), NASTY, ((NASTY, NASTY, 1.0),), f"win: {NASTY}")
    odd = Comparison(Image.new("RGB", (4, 4)), NASTY, (), NASTY)
    plain = written(tmp_path, comparisons=[comparison(), comparison()], curves={"a": [(0, 1.0)]})
    page = written(
        tmp_path,
        title=NASTY,
        summary={},
        comparisons=[nasty, odd],
        curves={NASTY: [(0, 1.0)]},
        notes=[NASTY],
    )
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in plain.tags}
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    # title twice, note, curve, instructions, verdicts, one model and its text
    assert page.text.count("alert('x')") == 10
    page = written(tmp_path, summary={NASTY: NASTY})
    assert page.text.count("alert('x')") == 2 and not page.all("script")


def test_a_lone_surrogate_does_not_stop_the_report(tmp_path):
    assert written(tmp_path, notes=["half \ud83d done"]).text.count("done") == 1


def picture(page, number=0):
    kind, data = page.all("img")[number]["src"].removeprefix("data:image/").split(";base64,")
    return kind, Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_tiny_picture_is_unharmed_and_shown_crisp(tmp_path):
    item = comparison()
    item.picture.putpixel((3, 4), (1, 2, 3))
    page = written(tmp_path, comparisons=[item])
    kind, shown = picture(page)
    assert kind == "png" and page.all("img")[0]["class"] == "tiny"
    assert shown.tobytes() == item.picture.tobytes()
    assert page.all("img")[0]["alt"] == "what is it?"


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "I;16"])
def test_a_large_picture_of_any_mode_is_shrunk_and_itself_untouched(tmp_path, mode):
    item = comparison((2000, 1000), mode=mode)
    kind, shown = picture(written(tmp_path, comparisons=[item]))
    assert kind == "jpeg" and shown.size == (640, 320)
    assert item.picture.size == (2000, 1000) and item.picture.mode == mode


@pytest.mark.parametrize(
    "verdict, color", [("win: why", "win"), ("Loss", "loss"), ("tie: same", "tie"), ("?", "tie")]
)
def test_the_badge_shows_the_verdict_and_why(tmp_path, verdict, color):
    page = written(tmp_path, comparisons=[comparison(verdict=verdict)])
    (badge,) = [x for x in page.all("span") if x.get("class") == "badge"]
    assert badge["style"] == f"background: var(--{color})"
    label, _, why = verdict.partition(":")
    assert f"{label} {why.strip()}".strip() in page.text


def test_answers_stand_side_by_side_with_model_and_score(tmp_path):
    text = written(tmp_path, comparisons=[comparison()]).text
    assert text.index("sft · -0.5") < text.index("a circle maybe") < text.index("ppo · 1.25")


def test_a_curve_lies_where_its_values_say(tmp_path):
    page = written(tmp_path, curves={"objective/kl": [(10, 1.0), (20, 3.0), (50, 2.0)]})
    (line,) = page.all("polyline")
    points = [tuple(map(float, pair.split(","))) for pair in line["points"].split()]
    (left, bottom), (second, top), (right, middle) = points
    assert left < second < right and top < middle < bottom  # y grows downwards in SVG
    assert second - left == pytest.approx((right - left) / 4)
    assert middle == pytest.approx((top + bottom) / 2)
    ticks = {word.strip(): None for word in page.words}
    assert {"1", "2", "3", "10", "50", "step", "last 2", METRICS["objective/kl"]} <= ticks.keys()
    (dot,) = page.all("circle")
    assert (float(dot["cx"]), float(dot["cy"])) == points[-1]


def test_not_finite_constant_single_and_empty_curves(tmp_path):
    curves = {
        "gap": [(0, 1.0), (1, nan), (2, inf), (3, 2.0)],
        "flat": [(0, 5.0), (9, 5.0)],
        "single": [(4, -1.0)],
        "nothing": [],
        "broken": [(0, nan)],
    }
    page = written(tmp_path, curves=curves)
    assert [len(x["points"].split()) for x in page.all("polyline")] == [2, 2, 1]
    assert page.text.count("no finite value") == 2
    numbers = re.findall(r'(?:points|cx|cy|d)="([^"]*)"', str(page.tags))
    assert not any("nan" in number or "inf" in number for number in numbers)
    places = " ".join(x["points"] for x in page.all("polyline"))
    assert "nan" not in places and "inf" not in places


def test_empty_parts_leave_no_heading(tmp_path):
    assert written(tmp_path).all("h2") == []
