"""`rlhf ppo` builds the critic that its options name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from rlhf.commands.job import Job
from rlhf.commands.ppo import _say_verdict, ppo
from rlhf.config.schema import Config, DataConfig, ModelConfig, PPOConfig, SamplingConfig
from rlhf.data.evaluation_split import is_held_out
from rlhf.data.images import image_digest
from rlhf.data.records import PromptRecord
from rlhf.rewards.reward_card import RewardCard

LINEAR = {"features", "states.linear.weight", "states.linear.bias"}
HIDDEN = {"states.hidden.weight", "states.hidden.bias"}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"critic_fit": "ridge"}, LINEAR),
        ({"critic_fit": "gradient", "critic_head": "mlp"}, LINEAR | HIDDEN),
    ],
)
def test_the_saved_head_is_of_the_kind_of_the_options(
    tiny: Path, tmp_path: Path, options: dict[str, Any], names: set[str]
) -> None:
    judge, prompts = tmp_path / "judge.py", tmp_path / "prompts.jsonl"
    judge.write_text("def score(images, asked, said):\n    return [float(len(x)) for x in said]\n")
    rows = [{"image_path": f"pictures/{n:05d}.png", "instruction": "What?"} for n in range(4)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes: dict[str, Any] = {"rollout_batch_size": 4, "minibatch_size": 4, "iterations": 1}
    config = Config(
        model=ModelConfig(path=str(tiny / "model"), lora_rank=4),
        data=DataConfig(prompts=str(prompts), root=str(tiny)),
        sampling=SamplingConfig(max_new_tokens=4),
        ppo=PPOConfig(ppo_epochs=1, **sizes, **options),
    )
    ppo(Job(config, tmp_path, [], [], lambda *_: (Path(), {}), f"{judge}:score"))
    head = load_file(tmp_path / "value_head.safetensors")
    assert head.keys() == names and bool(head["states.linear.weight"].any())


def test_images_that_are_held_out_are_not_trained_on(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(records: list[PromptRecord], root: Path, **_: Any) -> None:
        raise LookupError({record.image_path for record in records}, root)

    monkeypatch.setattr("rlhf.commands.ppo.Prompts", stop)
    monkeypatch.setattr("rlhf.commands.ppo.named_reward", lambda *_: None)
    photos = tiny / "pictures"
    config = Config(
        model=ModelConfig(path=str(tiny / "model")),
        data=DataConfig(prompts=str(photos), evaluation_fraction=0.5),
    )
    with pytest.raises(LookupError) as caught:
        ppo(Job(config, tmp_path, [], [], lambda *_: (Path(), {}), "judge.py:score"))
    digests = {path.name: image_digest(path) for path in photos.iterdir()}
    trained_on = {name for name, digest in digests.items() if not is_held_out(digest, 0.5)}
    assert caught.value.args == (trained_on, photos)


def test_the_verdict_on_the_reward_model_is_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = RewardCard("llava_head", "base", True, 0.0, 1.0, "", "", {})
    _say_verdict(tmp_path / "reward", card)
    (tmp_path / "summary.json").write_text('{"reward_model_accuracy": null}')
    _say_verdict(tmp_path / "reward", card)
    assert capsys.readouterr().out == ""
    accuracy = {"reward_model_accuracy": 0.868, "accuracy_low": 0.842, "accuracy_high": 0.8914}
    found = {**accuracy, "blindness": "looks at the image", "instruction_test": "reads it"}
    (tmp_path / "summary.json").write_text(json.dumps(found))
    _say_verdict(tmp_path / "reward", replace(card, training={"learnt": "has not learnt: 52.1 %"}))
    assert " ".join(capsys.readouterr().out.split()) == (
        "reward model: right in 86.8 % of held-out pairs (95 %: 84.2 to 89.1); "
        "blindness test: looks at the image; wrong-instruction test: reads it "
        "reward model: has not learnt: 52.1 %"
    )
