"""A place that cannot be written is refused in three lines, before work begins."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import pytest

from rlhf.cli.commands import COMMANDS
from rlhf.cli.main import main
from rlhf.models.llava import Llava
from rlhf.models.policy import POLICY
from tests.support import tiny_models

LONG = "x" * 300
PLACES = {"under a file": "file/out", "name too long": LONG, "no file system": "/proc/no/out"}


@pytest.fixture
def directory(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with what the commands read; no model may be loaded from it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a file")
    copytree(tiny / "pictures", tmp_path / "pictures")
    row = {"image_path": "pictures/00000.png", "instruction": "What?"}
    pair = {**row, "response_a": "x", "response_b": "y", "preference": "response_a"}
    for name, record in {
        "prompts": row,
        "pairs": pair,
        "candidates": {**row, "responses": ["x", "y"]},
    }.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    llava = tiny_models.load(tiny)
    llava.adapters.add(POLICY, rank=4, alpha=8)
    llava.adapters.save(POLICY, tmp_path / "run" / "adapter", llava.base)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "metrics.jsonl").write_text('{"step": 0, "loss/policy_avg": 1.0}\n')

    def loaded(*_: object, **__: object) -> Llava:
        raise AssertionError("a model was loaded before the output was looked at")

    with monkeypatch.context() as patch:
        patch.setattr(Llava, "load", loaded)
        yield tmp_path


def assert_refused(words: list[str], place: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Check the exit code, and that one of three lines names the place or its parent."""
    assert main(words) in (2, 5)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3 and place.removesuffix("/out") in " ".join(lines)


WITH_RUN_DIR = sorted(name for name, command in COMMANDS.items() if command.has_run_dir)
WRITES_OUTPUT = {
    "collect": ["model.path=run", "data.prompts=prompts.jsonl"],
    "annotate": ["candidates.jsonl"],
    "compare": ["log"],
    "score": ["pairs.jsonl", "--scorer=score.py:score"],
    "import": ["trl", "pairs.jsonl"],
    "export": ["run", "export.merge=true"],
    "stamps": ["nowhere.deb"],
    "smol": [],
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("command", WITH_RUN_DIR)
def test_a_run_directory_that_cannot_be_made_is_refused(
    directory: Path, capsys: pytest.CaptureFixture[str], command: str, place: str
) -> None:
    assert_refused([command, f"output_dir={place}"], place, capsys)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("command", WRITES_OUTPUT)
def test_an_output_that_cannot_be_made_is_refused(
    directory: Path, capsys: pytest.CaptureFixture[str], command: str, place: str
) -> None:
    assert_refused([command, *WRITES_OUTPUT[command], f"output={place}"], place, capsys)


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {*WRITES_OUTPUT}))
def test_an_output_that_the_command_does_not_write_is_refused(
    directory: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert_refused([command, "output=result"], "result", capsys)


def test_every_command_that_writes_an_output_is_tried() -> None:
    assert {*WRITES_OUTPUT} == {name for name, row in COMMANDS.items() if row.writes_output}


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["export", "run", "export.merge=true", "output=file"], "file"),
        (["collect", *WRITES_OUTPUT["collect"], "output=log"], "log"),
        (["collect", *WRITES_OUTPUT["collect"], "output=no/out"], "no/out"),
        (["export", "trl", "pairs.jsonl", "output=log"], "log"),
        (["export", "label_studio", "candidates.jsonl", "output=no/out"], "no/out"),
        (["validate", "pairs.jsonl", "data.root=.", "validate.fix_output=no/out"], "no/out"),
        (["validate", "pairs.jsonl", "validate.fix_output=log"], "log"),
        (["sft", "output_dir=.", "name=file"], "file"),
        (
            ["collect", *WRITES_OUTPUT["collect"], "output=x", "collect.annotator=rule-v1"],
            "output=x",
        ),
    ],
)
def test_an_output_of_another_kind_is_refused(
    directory: Path, capsys: pytest.CaptureFixture[str], words: list[str], place: str
) -> None:
    assert_refused(words, place, capsys)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["collect", *WRITES_OUTPUT["collect"], "output=./prompts.jsonl"], "data.prompts"),
        (["annotate", "candidates.jsonl", "annotate.output=link.jsonl"], "FILE"),
        (["score", "pairs.jsonl", "--scorer=score.py:score", "output=score.py"], "--scorer"),
        (["score", "pairs.jsonl", "--scorer=score.py:score", "output=pairs.jsonl"], "FILE"),
        (["export", "trl", "pairs.jsonl", "output=pairs.jsonl"], "FILE"),
        (["validate", "pairs.jsonl", "validate.fix_output=pairs.jsonl"], "FILE"),
    ],
)
def test_no_input_is_replaced_by_an_output(
    directory: Path, capsys: pytest.CaptureFixture[str], words: list[str], name: str
) -> None:
    (directory / "score.py").write_text("def score(*_): return []\n")
    (directory / "link.jsonl").symlink_to("candidates.jsonl")
    before = {path: path.read_bytes() for path in directory.glob("*.*")}
    assert main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3 and lines[0].endswith(f"would be overwritten: {name}")
    assert {path: path.read_bytes() for path in directory.glob("*.*")} == before


@pytest.mark.parametrize("output", ["/dev/null", "pipe"])
@pytest.mark.parametrize("command", ["score", "export trl", "compare", "collect"])
def test_a_device_or_a_pipe_stays_one(
    directory: Path, capsys: pytest.CaptureFixture[str], command: str, output: str
) -> None:
    os.mkfifo("pipe")
    words = WRITES_OUTPUT.get(command, ["pairs.jsonl"])
    assert main([*command.split(), *words, f"output={output}"]) == 2
    assert output in capsys.readouterr().err
    assert not Path(output).is_file()


def test_the_system_may_refuse_later_too(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(job: object) -> None:
        raise OSError(28, "No space left on device", "runs/metrics.jsonl")

    monkeypatch.setattr("rlhf.cli.main.load_function", lambda name: full)
    assert_refused(["sft"], "No space left on device where: runs/metrics.jsonl", capsys)
