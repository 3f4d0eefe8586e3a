"""`rlhf annotate` as a person runs it: what it serves, writes, refuses, and exits with."""

import json
import re
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from rlhf.annotation import server
from rlhf.cli.main import main
from rlhf.commands import annotate
from rlhf.data.records import PreferenceRecord, read_records

CANDIDATES = [
    {"image_path": "a.png", "instruction": "What?", "responses": ["x", "y"], "model": "secret"},
    {"image_path": "b.png", "instruction": "Why?", "responses": ["x", "y", "z"]},
]


def write(path: Path, *rows: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    write(tmp_path / "candidates.jsonl", *CANDIDATES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says what someone answers, and what the page was given, in place of a browser."""

    def responses(*choices: str, by: str = "udo") -> None:
        def served(site: Any, host: str, port: int, ready: Callable[[int], None]) -> None:
            ready(port)
            token = next(Path().glob("*.token")).read_text()
            client = TestClient(site, f"http://{host}:{port}", headers={"X-Token": token})
            client.headers["X-Log"] = client.get("/").headers["X-Log"]
            for number, choice in enumerate(choices):
                ask = {"annotator": by, "page": "some page", "held": [], "count": 1}
                (pair,) = client.post("/api/pairs", json=ask).json()["pairs"]
                assert "secret" not in json.dumps(pair)
                judgment = {"annotator": by, "pair": pair["key"], "choice": choice, "seconds": 1.0}
                key = f"request-{number}-{pair['key']}"
                assert (
                    client.post("/api/judgments", json={**judgment, "key": key}).status_code == 200
                )

        monkeypatch.setattr(server, "serve", served)

    return responses


def test_ranking_resumes_and_writes_the_preferences(
    directory: Path, person: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    person("left", "skip", by="")
    assert main(["annotate", "candidates.jsonl", "annotate.annotator=eva"]) == 0
    output = capsys.readouterr().out
    assert "4 pairs of 2 prompts, 0 judgments so far" in output
    assert re.search(r"open http://127\.0\.0\.1:8765/#token=\S{24,}", output)
    person("right", "tie")
    assert main(["annotate", "candidates.jsonl", "annotate.output=pairs.jsonl"]) == 0
    assert "1 judgments so far" in capsys.readouterr().out
    records = read_records(directory / "pairs.jsonl", PreferenceRecord)
    assert [record.annotator for record in records][0] == "eva"
    assert len(records) == 3
    assert [record.image_path for record in records] == ["a.png", "b.png", "b.png"]
    assert main(["validate", "pairs.jsonl"]) == 0


def test_the_last_page_says_what_to_do_next() -> None:
    log, reward = Path("my log.jsonl"), "rlhf reward model.path=MODEL"
    lines = annotate._next_step(log, "").splitlines()
    assert lines[1] == "rlhf annotate 'my log.jsonl' annotate.output=preferences.jsonl"
    assert lines[2:] == [f"{reward} data.preferences=preferences.jsonl"]
    named = annotate._next_step(log, "a b.jsonl").splitlines()
    assert named[1:] == [f"{reward} 'data.preferences=a b.jsonl'"]


def test_a_model_that_is_named_shows_what_it_sees(
    directory: Path, person: Callable[..., None], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[Any] = []
    monkeypatch.setattr(annotate, "_serve", lambda options, page: pages.append(page))
    for words in ([], [f"model.path={tiny / 'model'}"]):
        assert main(["annotate", "candidates.jsonl", *words]) == 0
    assert [page.images.shows_seen for page in pages] == [False, True]
    name = pages[1].images.names["a.png"]
    assert pages[1].images.encoded(name, "seen") != pages[1].images.encoded(name, "whole")


def test_a_log_is_compacted_by_itself(
    directory: Path, person: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    person("left", "right", "skip")
    assert main(["annotate", "candidates.jsonl", "output=log.jsonl"]) == 0
    capsys.readouterr()
    assert main(["annotate", "log.jsonl", "annotate.output=pairs.jsonl", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["judgments"], summary["skipped"]) == (2, 1)
    assert len(read_records(directory / "pairs.jsonl", PreferenceRecord)) == 2


def test_the_link_stays_valid_and_only_its_owner_reads_the_token(
    directory: Path, person: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    links = []
    for _ in range(2):
        person()
        main(["annotate", "candidates.jsonl"])
        links += re.findall(r"open (\S+)", capsys.readouterr().out)
    assert links[0] == links[1]
    assert stat.S_IMODE((directory / "judgments.jsonl.token").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 2, "0 files are given"),
        (["candidates.jsonl", "candidates.jsonl"], 2, "2 files are given"),
        (["none.jsonl"], 3, "there is no such file"),
        (["prompts.jsonl"], 2, "the file holds no candidates"),
        (["prompts.jsonl", "annotate.output=out.jsonl"], 3, "not an event of an annotation log"),
        (["equal.jsonl"], 3, "no prompt has two different responses"),
        (["lost.jsonl"], 3, "image cannot be read"),
        (["candidates.jsonl", "annotate.host=0.0.0.0"], 2, "stands for every address"),
        (["candidates.jsonl", "annotate.host="], 2, "stands for every address"),
        (["candidates.jsonl", "annotate.host=0"], 2, "stands for every address"),
        (["candidates.jsonl", "annotate.host=::"], 2, "stands for every address"),
        (["candidates.jsonl", "annotate.port=70000"], 2, "annotate.port"),
        (["candidates.jsonl", "output=a.png/log.jsonl"], 5, "Cannot write"),
    ],
)
def test_wrong_input_is_refused_in_three_lines(
    directory: Path, capsys: pytest.CaptureFixture[str], args: list[str], code: int, message: str
) -> None:
    write(directory / "prompts.jsonl", {"image_path": "a.png", "instruction": "What?"})
    write(directory / "equal.jsonl", {**CANDIDATES[0], "responses": ["x", "x"]})
    write(directory / "lost.jsonl", {**CANDIDATES[0], "image_path": "none.png"})
    assert main(["annotate", *args]) == code
    error_output = capsys.readouterr().err
    assert message in error_output and "where:" in error_output and "to do:" in error_output
    assert not (directory / "out.jsonl").exists()


def test_a_port_in_use_has_its_exit_code(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert main(["annotate", "candidates.jsonl", f"annotate.port={port}"]) == 5
    assert "nothing can listen there" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rlhf.commands.annotate.find_spec", lambda name: None)
    assert main(["annotate", "candidates.jsonl"]) == 2
    assert "pip install 'rlhf-llava[annotate]'" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["judgments.jsonl", "./candidates.jsonl", "log.jsonl"])
def test_preferences_never_overwrite_candidates_or_judgments(
    directory: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    before = (directory / "candidates.jsonl").read_bytes()
    log = "log.jsonl" if output == "log.jsonl" else "judgments.jsonl"
    words = ["annotate", "candidates.jsonl", f"output={log}", f"annotate.output={output}"]
    assert main(words) == 2
    assert f"where: annotate.output={output}" in capsys.readouterr().err
    assert (directory / "candidates.jsonl").read_bytes() == before
