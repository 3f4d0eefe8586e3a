"""The command line: one grammar, clear refusals, documented exit codes, before a model loads."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from rlhf import __version__
from rlhf.cli.main import main, parse
from rlhf.errors import UsageError
from rlhf.tracking.console import console


def test_arguments_are_files_overrides_or_flags() -> None:
    call = parse(["evaluate", "runs/a", "b.c/d", "ppo.lr=0.1", "+seed=3", "--json", "reward=x"])
    assert call.command == "evaluate"
    assert call.files == ["runs/a", "b.c/d"]
    assert call.overrides == ["ppo.lr=0.1", "+seed=3", "reward=x"]
    assert call.flags == {"--json"} and call.scorer == ""
    assert parse(["score", "a.jsonl", "--scorer=b.py:f"]).scorer == "b.py:f"


@pytest.mark.parametrize("args", [["pppo"], ["ppo", "--verbose"]])
def test_unknown_arguments_are_refused(args: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(args)


def line(**fields: object) -> str:
    base = {"image_path": "a.png", "instruction": "What?", "response_a": "x", "response_b": "y"}
    return json.dumps({**base, "preference": "response_a", **fields}) + "\n"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (tmp_path / "good.jsonl").write_text(line())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


MODEL = "model.path=model"
REFUSED = {
    "no file given": (["reward", MODEL], 2, "data.preferences"),
    "missing file": (["reward", MODEL, "data.preferences=no.jsonl"], 3, "no.jsonl"),
    "bad JSON": (["reward", MODEL, "data.preferences=bad.jsonl"], 3, "bad.jsonl:2"),
    "wrong label": (
        ["reward", MODEL, "data.preferences=label.jsonl"],
        3,
        "label.jsonl:1:preference",
    ),
    "missing picture": (["reward", MODEL, "data.preferences=lost.jsonl"], 3, "lost.png"),
    "broken picture": (["reward", MODEL, "data.preferences=broken.jsonl"], 3, "broken.png"),
    "outside picture": (["reward", MODEL, "data.preferences=outside.jsonl"], 3, "../a.png"),
    "unknown key": (["ppo", "ppo.kl_coeff=1"], 2, "did you mean ppo.kl_coef?"),
    "unknown key after +": (["ppo", "+ppo.typo=1"], 2, "ppo.typo"),
    "unknown group file": (["ppo", "reward=nothing"], 2, "reward/nothing"),
    "impossible sizes": (["ppo", "ppo.minibatch_size=48"], 2, "not a multiple"),
    "out of range": (["ppo", "ppo.clip_range=2"], 2, "ppo.clip_range"),
    "wrong type": (["ppo", "ppo.lr=fast"], 2, "ppo.lr"),
    "greedy training": (["ppo", "sampling.temperature=0"], 2, "pure sampling"),
    "no model": (["reward", "data.preferences=good.jsonl"], 2, "model.path"),
    "model not there": (
        ["reward", "model.path=nowhere/at/all", "data.preferences=good.jsonl"],
        2,
        "nowhere/at/all",
    ),
    "no reward model": (["ppo", MODEL, "data.prompts=prompts.jsonl"], 2, "reward.path"),
    "nothing to continue": (["ppo", "resume=runs/none"], 2, "runs/none"),
    "one model to compare": (["evaluate", "one"], 2, "evaluate"),
    "nothing to validate": (["validate"], 2, "FILE"),
    "scorer in two words": (["score", "good.jsonl", "--scorer", "x"], 2, "--scorer=FILE.py:NAME"),
    "scorer without a name": (["ppo", "--scorer="], 2, "--scorer=FILE.py:NAME"),
    "two scorers": (["score", "a", "--scorer=a.py:f", "--scorer=b.py:f"], 2, "more than one"),
    "one scorer twice": (["score", "a", "--scorer=a.py:f", "--scorer=a.py:f"], 2, "more than one"),
    "scorer nobody asks": (["reward", "--scorer=a.py:f"], 2, "--scorer=FILE.py:NAME is for"),
    "flag with a value": (["validate", "good.jsonl", "--debug=1"], 2, "unknown flag --debug=1"),
    **{
        f"a word for {command}": ([command, "seed=x", "spare"], 2, "not the word spare")
        for command in ("demo", "sft", "collect", "reward", "ppo")
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_input_is_refused_in_three_lines_with_its_exit_code(
    directory: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (directory / "bad.jsonl").write_text(line() + "{not json\n")
    (directory / "label.jsonl").write_text(line(preference=1))
    (directory / "lost.jsonl").write_text(line(image_path="lost.png"))
    (directory / "broken.jsonl").write_text(line(image_path="broken.png"))
    (directory / "outside.jsonl").write_text(line(image_path="../a.png"))
    (directory / "prompts.jsonl").write_text('{"image_path": "a.png", "instruction": "What?"}\n')
    args, code, message = REFUSED[name]
    assert main([*args, "--json"]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert 2 <= len(captured.err.strip().splitlines()) <= 3
    assert "Traceback" not in captured.err


def test_validate_counts_and_exits(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "good.jsonl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["usable"] == 1
    (directory / "bad.jsonl").write_text(line() + "{not json\n" + line(preference="left one"))
    assert main(["validate", "bad.jsonl"]) == 3
    captured = capsys.readouterr()
    assert "bad.jsonl:2" in captured.out and "bad.jsonl:3:preference" in captured.out


def test_json_has_null_for_nan_and_infinity(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    metrics = {"a": math.nan, "b": [{"c": math.inf}, (-math.inf, 1.5)], "d": "NaN", "e": 7}
    monkeypatch.setattr("rlhf.cli.main.load_function", lambda command: lambda job: metrics)
    expected = {"a": None, "b": [{"c": None}, [None, 1.5]], "d": "NaN", "e": 7}
    for command in ("validate", "sft"):  # without and with a run directory
        assert main([command, f"output_dir={tmp_path}", "--json"]) == 0
        output = capsys.readouterr().out
        assert json.loads(output) == expected and output.count("NaN") == 1
    [summary] = tmp_path.rglob("summary.json")
    assert json.loads(summary.read_text()) == {"command": "sft", **expected}
    assert summary.read_text().count("NaN") == 1


def test_json_silences_one_call_only(directory: Path) -> None:
    assert main(["validate", "good.jsonl", "--json"]) == 0
    assert not console().quiet


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rlhf {__version__}\n"


def test_python_m_rlhf_is_rlhf() -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "rlhf", "--help"], capture_output=True, text=True, check=True
    )
    assert "rlhf COMMAND" in completed.stdout
