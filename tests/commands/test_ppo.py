"""`rlhf ppo` builds the critic that its options name."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from rlhf.commands.job import Job
from rlhf.commands.ppo import ppo
from rlhf.config.schema import Config, DataConfig, ModelConfig, PPOConfig, SamplingConfig

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
