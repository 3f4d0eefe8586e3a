"""Every command refuses more tokens than the model has positions, or leaves such records out.

The tiny model has 256 positions, of which an image takes 16.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.cli.main import main
from rlhf.config.schema import SamplingConfig
from rlhf.data.records import (
    DemonstrationRecord,
    PreferenceRecord,
    PromptRecord,
    Record,
    write_records,
)
from rlhf.errors import DataError
from rlhf.generation.sampler import generate
from rlhf.generation.transformers_engine import beam_search
from tests.support import tiny_models

JUDGE = """
def score(images, instructions, responses):
    return [float(len(text)) for text in responses]
"""
LONG = "blue " * 150  # five tokens a word


def prompt(image: str, long: bool) -> Record:
    return PromptRecord(image, LONG if long else "What is it?")


def demonstration(image: str, long: bool) -> Record:
    return DemonstrationRecord(image, "What is it?", LONG if long else "a star")


def pair(image: str, long: bool) -> Record:
    return PreferenceRecord(image, "What is it?", "a star", LONG if long else "red", "response_a")


COMMANDS: dict[str, tuple[Callable[[str, bool], Record], list[str]]] = {
    "sft": (demonstration, ["sft", "data.demonstrations=rows.jsonl", "sft.batch_size=8"]),
    "reward": (
        pair,
        ["reward", "data.preferences=rows.jsonl", "reward.train=head", "reward.batch_size=8"],
    ),
    "ppo": (
        prompt,
        [
            *("ppo", "data.prompts=rows.jsonl", "sampling.max_new_tokens=3", "ppo.iterations=1"),
            *("ppo.rollout_batch_size=4", "ppo.minibatch_size=4", "ppo.ppo_epochs=1"),
            "--scorer=judge.py:score",
        ],
    ),
    "collect": (
        prompt,
        ["collect", "data.prompts=rows.jsonl", "sampling.max_new_tokens=3", "collect.num_beams=2"],
    ),
}


@pytest.fixture
def data(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to run in, with the tiny model and its pictures."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judge.py").write_text(JUDGE)
    shutil.copytree(tiny / "pictures", tmp_path / "pictures")
    (tmp_path / "model").symlink_to(tiny / "model")
    return tmp_path


def write_rows(kind: Callable[[str, bool], Record]) -> None:
    """Write eight rows, of which the third is too long."""
    rows = [kind(f"pictures/{n:05d}.png", n == 2) for n in range(8)]
    write_records(Path("rows.jsonl"), rows)


@pytest.mark.parametrize("name", COMMANDS)
def test_one_long_row_is_refused_before_anything_runs_or_left_out(
    data: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    kind, words = COMMANDS[name]
    write_rows(kind)
    words = [*words, "model.path=model"]
    assert main(words) == 3
    refused = capsys.readouterr()
    assert "the model has 256 positions" in refused.err
    assert "data.on_too_long=skip" in refused.err and len(refused.err.splitlines()) == 3
    assert "step" not in refused.out
    assert main([*words, "data.on_too_long=skip"]) == 0
    assert "1 of 8 records left out, too long" in capsys.readouterr().out


def test_a_reward_model_scores_what_it_was_trained_on_without_the_same_rows(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, words = COMMANDS["reward"]
    write_rows(kind)
    skip = "data.on_too_long=skip"
    assert main([*words, "model.path=model", skip, "output_dir=runs", "name=r"]) == 0
    assert main(["score", "runs/r", "rows.jsonl"]) == 3
    assert "the model has 256 positions" in capsys.readouterr().err
    assert main(["score", "runs/r", "rows.jsonl", skip, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 7


def test_models_side_by_side_answer_the_same_prompts(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second model has fewer positions: what it cannot read is asked of neither."""
    small = data / "small"
    small.mkdir()
    for file in (data / "model").iterdir():
        (small / file.name).symlink_to(file)
    config = json.loads((small / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 128
    (small / "config.json").unlink()
    (small / "config.json").write_text(json.dumps(config))
    rows = [PromptRecord("pictures/00000.png", text) for text in ("What?", "blue " * 30)]
    write_records(Path("rows.jsonl"), rows)
    words = ["generate", "model", "small", "data.prompts=rows.jsonl", "sampling.max_new_tokens=3"]
    assert main(words) == 3
    assert "the model has 128 positions" in capsys.readouterr().err
    assert main([*words, "data.on_too_long=skip", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["responses"]
    assert row["instruction"] == "What?" and row["responses"].keys() == {"model", "small"}


def test_validate_names_every_long_row(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Record] = [
        PromptRecord("pictures/00000.png", text) for text in ("What?", LONG, "How many?", LONG)
    ]
    write_records(Path("rows.jsonl"), rows)
    assert main(["validate", "rows.jsonl"]) == 0
    assert main(["validate", "rows.jsonl", "data.max_prompt_tokens=100"]) == 0
    assert capsys.readouterr().out.count("a very long text: 750 characters, about 187 tokens") == 2
    words = ["validate", "rows.jsonl", "validate.fix_output=fits.jsonl", "model.path=model"]
    assert main(words) == 3
    said = capsys.readouterr()
    assert "rows.jsonl:2" in said.out and "rows.jsonl:4" in said.out
    assert said.out.count("256 positions") == 2 and "2 unusable rows" in said.err
    assert main(["validate", "fits.jsonl", "model.path=model"]) == 0
    assert len(Path("fits.jsonl").read_text().splitlines()) == 2
    assert main(["validate", "fits.jsonl", "model.path=model", "data.max_prompt_tokens=20"]) == 3
    assert "tokens, the limit is 20" in capsys.readouterr().out


def test_no_path_to_the_model_passes_its_positions(tiny: Path) -> None:
    """Beneath all commands: generation by either engine, beams, training, scores."""
    llava = tiny_models.load(tiny)
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    longest = int((prompts.spans.lengths + responses.spans.lengths).max())
    llava.max_positions = longest
    llava.response_and_final_hidden_states(prompts, responses)
    sampling = SamplingConfig(max_new_tokens=longest - prompts.spans.max_len)
    generate(llava, prompts, sampling)
    llava.max_positions -= 1
    calls: list[Callable[[], Any]] = [
        lambda: generate(llava, prompts, sampling),
        lambda: beam_search(llava, prompts, sampling, num_beams=2),
        lambda: llava.response_hidden_states(prompts, responses),
        lambda: llava.final_hidden_states(prompts, responses),
    ]
    for call in calls:
        with pytest.raises(DataError, match=f"{longest} tokens, {longest - 1} is the limit"):
            call()
