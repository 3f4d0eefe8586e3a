"""Earlier turns of a conversation pass through every command that reads or shows a prompt."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from rlhf.cli.main import main
from rlhf.config.schema import Config, DataConfig
from rlhf.data.collate import prompt_batch
from rlhf.data.input_files import read_with_images
from rlhf.data.records import CandidatesRecord, PreferenceRecord, PromptRecord, read_records
from rlhf.data.tokenization import ByteEncoder, response_batch
from rlhf.data.validation.validate import validate_files
from rlhf.evaluation.model_comparison import person_outputs, unjudged_pairs
from rlhf.evaluation.reward_scoring import _report_pair
from rlhf.history import Exchange
from rlhf.rewards.caption_reward import CaptionReward

HISTORY = (Exchange("Where?", "Left."), Exchange("Sure?", "Yes."))
EARLIER = [*msgspec.to_builtins(HISTORY)]
TRANSCRIPT = "Where?\nResponse: Left.\nInstruction: Sure?\nResponse: Yes.\nInstruction: What is it?"
SMALL = ["sampling.max_new_tokens=4", "collect.responses_per_prompt=3"]


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    prompt = {"image_path": "pictures/00000.png", "instruction": "What is it?"}
    path.write_text("".join(json.dumps({**prompt, **row}) + "\n" for row in rows))
    return path


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "prompts.jsonl", {}, {"history": EARLIER}, {"history": EARLIER[:1]})
    return tmp_path


def test_candidates_keep_them_and_an_interrupted_run_finds_its_prompts(
    directory: Path, tiny: Path
) -> None:
    words = [f"model.path={tiny / 'model'}", "data.prompts=prompts.jsonl", f"data.root={tiny}"]
    assert main(["collect", *words, *SMALL, "sampling.temperature=2"]) == 0
    (run,) = (directory / "runs" / "collect").iterdir()
    file = run / "candidates.jsonl"
    records = read_records(file, CandidatesRecord)
    assert [record.history for record in records] == [(), HISTORY, HISTORY[:1]]
    whole = file.read_bytes()
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    assert main(["collect", f"resume={run}"]) == 0
    assert read_records(file, CandidatesRecord) == records


def test_a_prompt_too_long_with_them_is_named_by_validate(
    directory: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["validate", "prompts.jsonl", f"data.root={tiny}", f"model.path={tiny / 'model'}"]
    assert main([*words, "data.max_prompt_tokens=50"]) == 3
    out = "".join(capsys.readouterr())
    assert "prompts.jsonl:2" in out and "the limit is 50" in out and "prompts.jsonl:1:" not in out
    assert main(words) == 0
    assert any(
        line.split("│")[1:2] and "with earlier turns" in line and " 2 " in f"{line} "
        for line in capsys.readouterr().out.splitlines()
    )


def test_a_scorer_reads_the_whole_conversation(directory: Path, tiny: Path) -> None:
    write_rows(
        directory / "candidates.jsonl",
        {"responses": ["a star", "a moon"]},
        {"responses": ["a star", "a moon"], "history": EARLIER},
    )
    (directory / "mine.py").write_text(
        "def score(images, instructions, responses):\n"
        "    return [float(text.count('Response:')) for text in instructions]\n"
    )
    words = ["score", "candidates.jsonl", f"data.root={tiny}", "output=scores.jsonl"]
    assert main([*words, "--scorer=mine.py:score"]) == 0
    rows = [json.loads(line) for line in (directory / "scores.jsonl").read_text().splitlines()]
    assert [row["scores"] for row in rows] == [[0, 0], [2, 2]]
    assert rows[1]["history"] == EARLIER


def test_a_text_reward_model_reads_the_whole_conversation(directory: Path, tiny: Path) -> None:
    class Captions:
        def captions(self, images: list[Path]) -> list[str]:
            return ["a picture"] * len(images)

    model = CaptionReward.__new__(CaptionReward)
    model.captioner, model.encoder = Captions(), ByteEncoder()  # type: ignore[assignment]
    records = [PromptRecord("pictures/00000.png", "What is it?", history=HISTORY)]
    prompts = prompt_batch(records, model.encoder, tiny, max_tokens=999)
    (text,) = model.texts(prompts, response_batch(["a star"], model.encoder))
    assert text == f"Image description: a picture\nInstruction: {TRANSCRIPT}\nResponse: a star"


def test_a_judgment_belongs_to_the_prompt_with_the_same_turns() -> None:
    judged = PreferenceRecord("a.png", "What?", "x", "y", "response_b", history=HISTORY)
    prompts = [PromptRecord("a.png", "What?"), PromptRecord("a.png", "What?", history=HISTORY)]
    _, outputs = person_outputs([judged], prompts, ["x", "x"], ["y", "y"])
    assert outputs.scores[1] == 1.0
    assert str(outputs.scores[0]) == "nan"


def test_a_template_without_them_is_refused_before_anything_is_sampled(
    directory: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny / "model", directory / "model")
    template = directory / "model" / "chat_template.jinja"
    text = template.read_text("utf-8")
    assert "in messages" in text
    template.write_text(text.replace("in messages", "in messages[-2:]", 1), "utf-8")
    words = ["collect", "model.path=model", "data.prompts=prompts.jsonl", f"data.root={tiny}"]
    assert main([*words, *SMALL]) == 3
    said = capsys.readouterr().err
    assert "its chat template cannot write the earlier turns" in said
    assert not list(directory.glob("runs/collect/*/candidates.jsonl"))


def test_pairs_that_wait_for_a_person_keep_them() -> None:
    records = [PromptRecord("a.png", "What?", history=HISTORY)]
    results = [SimpleNamespace(texts=["x"]), SimpleNamespace(texts=["y"])]
    (pair,) = unjudged_pairs([], records, results, 0)  # type: ignore[arg-type]
    assert pair.history == HISTORY


def test_the_pairs_of_a_report_keep_them(tiny: Path) -> None:
    record = PreferenceRecord(
        "pictures/00000.png", "What?", "x", "y", "response_a", history=HISTORY
    )
    row = torch.zeros(1)
    scored = SimpleNamespace(scores_a=row, scores_b=row, labels=row, kinds=[""])
    assert _report_pair(record, scored, 0, tiny).history == HISTORY  # type: ignore[arg-type]


def test_markers_of_images_in_them_are_said(
    directory: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = {"instruction": "<image> Where?", "response": "Left."}
    path = write_rows(directory / "prompts.jsonl", {}, {"history": [earlier]})
    config = Config(data=DataConfig(root=str(tiny)))
    read_with_images(config, path, PromptRecord)
    assert "1 of 2 instructions contain a marker" in " ".join(capsys.readouterr().out.split())
    assert validate_files([path], root=tiny).rows[0]["image markers"] == 1
