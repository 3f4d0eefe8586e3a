"""Texts too long for the text model of `caption_text` are refused before a run, or left out.

The text model has 300 positions. Captions of the untrained LLaVA have some 150 tokens.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlhf.cli.main import main
from rlhf.commands.fitting import fitting_scorer
from rlhf.config.schema import Config, SamplingConfig
from rlhf.data.records import DemonstrationRecord, PreferenceRecord, PromptRecord, write_records
from rlhf.errors import DataError
from rlhf.history import Exchange
from rlhf.rewards.caption_reward import CaptionReward
from tests.support import reward_models as kit
from tests.support import tiny_models

POSITIONS = 300
LONG = "blue " * 40  # five tokens a word
SKIP = "data.on_too_long=skip"


@pytest.fixture
def data(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny / "pictures", tmp_path / "pictures")
    (tmp_path / "model").symlink_to(tiny / "model")
    text = kit.write_text_model(tmp_path / "text", tiny, "text") / "config.json"
    config = json.loads(text.read_text()) | {"max_position_embeddings": POSITIONS}
    text.write_text(json.dumps(config))
    return tmp_path


def write_pairs(long: int | None) -> None:
    """Write eight pairs, of which one may have a long response."""
    rows = [
        PreferenceRecord(
            f"pictures/{n:05d}.png", "What?", "a star", LONG if n == long else "red", "response_a"
        )
        for n in range(8)
    ]
    write_records(Path("pairs.jsonl"), rows)


def train(*words: str) -> int:
    options = ["reward.kind=caption_text", "reward.text_model=text", "reward.train=head"]
    options += ["output_dir=runs", "name=r", "reward.epochs=1", "reward.batch_size=8"]
    return main(["reward", "model.path=model", "data.preferences=pairs.jsonl", *options, *words])


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr()
    assert f"the text model reads {POSITIONS}" in said.err, said.err
    assert len(said.err.splitlines()) == 3 and "step" not in said.out
    return said.err


def test_a_long_pair_is_refused_before_training_or_left_out(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(2)
    assert train() == 3
    refused(capsys)
    assert train(SKIP) == 0
    assert "1 of 8 records left out, too long" in capsys.readouterr().out
    assert main(["score", "runs/r", "pairs.jsonl"]) == 3
    refused(capsys)
    assert main(["score", "runs/r", "pairs.jsonl", SKIP, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 7


def test_responses_that_may_become_long_are_refused_before_they_are_sampled(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(None)
    assert train() == 0
    rows = [PromptRecord(f"pictures/{n:05d}.png", "What?") for n in range(4)]
    write_records(Path("prompts.jsonl"), rows)
    capsys.readouterr()
    common = ["data.prompts=prompts.jsonl", "reward.path=runs/r"]
    ppo = ["ppo", "model.path=model", *common, "ppo.iterations=1", "ppo.rollout_batch_size=4"]
    ppo += ["ppo.minibatch_size=4", "ppo.ppo_epochs=1"]
    assert main([*ppo, "sampling.max_new_tokens=200"]) == 3
    assert "a response of 200 tokens" in refused(capsys)
    assert main([*ppo, "sampling.max_new_tokens=3"]) == 0
    capsys.readouterr()
    evaluate = ["evaluate", "model", "model", *common]
    assert main([*evaluate, "sampling.max_new_tokens=200"]) == 3
    assert "a response of 200 tokens" in refused(capsys)
    assert main([*evaluate, "sampling.max_new_tokens=3"]) == 0


def test_known_captions_and_earlier_turns_count(tiny: Path, data: Path) -> None:
    llava = tiny_models.load(tiny)
    model = kit.build(llava, kit.options("caption_text", data / "text", "head"))
    assert isinstance(model, CaptionReward)
    history = (Exchange("Where is it?", "It is red."),)
    record = DemonstrationRecord("pictures/00000.png", "What?", "a star", history=history)
    model.captioner.add(data / "pictures" / "00000.png", "a red star")
    text = (
        "Image description: a red star\nInstruction: Where is it?\nResponse: It is red.\n"
        "Instruction: What?\nResponse: a star"
    )
    needed = len(model.token_ids(text))

    def fits(positions: int, **options: Any) -> bool:
        model.backbone().config.max_position_embeddings = positions
        config = Config(sampling=SamplingConfig(**options))
        try:
            return bool(fitting_scorer(config, model, llava.builder, [record], data))
        except DataError:
            return False

    assert fits(needed + 2)  # an end token of the caption, and a merge at its ends
    assert not fits(needed - 2)
