"""One case of the comparison, and the directory that holds its model, prompts and images.

Read by every contender in its own environment: nothing here needs rlhf or trl.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes of the model and of an iteration, and what is trained.

    Attributes:
        hidden, layers: of the language model, whose heads have 64 numbers each (tiny: 16).
        vocabulary, image_tokens: of the model.
        response: tokens of every response; end-of-sequence cannot be drawn.
        ends: share of the vocabulary whose tokens end a response of ours; 0: none ends by itself.
        batch, minibatch: responses of an iteration, of an optimizer step.
        backwards: of an optimizer step of ours, each with its part of the minibatch.
        epochs: passes over each rollout.
        samples: responses to each prompt.
        questions: prompts about each image, then all in one batch.
        dtype: float32 or bfloat16, of the weights at rest.
        critic: as in `ppo.critic`.
        train: full (the layers of the language model) or lora.
        lora_type, rank: of the LoRA.
        advantage: gae, rloo or grpo.
        scorer: model (a LLaVA with a head) or rule (a function of the tokens).
        lr: learning rate of policy and critic.
        warmups, timed: iterations.
    """

    hidden: int = 256
    layers: int = 6
    vocabulary: int = 2048
    image_tokens: int = 64
    response: int = 32
    ends: float = 0.0
    batch: int = 16
    minibatch: int = 8
    backwards: int = 1
    epochs: int = 4
    samples: int = 1
    questions: int = 1
    dtype: str = "float32"
    critic: str = "separate"
    train: str = "full"
    lora_type: str = "lora"
    rank: int = 16
    advantage: str = "gae"
    scorer: str = "model"
    lr: float = 1e-6
    warmups: int = 2
    timed: int = 3

    @property
    def iterations(self) -> int:
        return self.warmups + self.timed

    @property
    def prompts(self) -> int:
        """All that are asked; each once, so that each iteration sees new images. Several
        questions about an image are asked anew in each."""
        batches = self.iterations if self.questions == 1 else 1
        return batches * self.batch // self.samples

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def model(self) -> tuple[int | str, ...]:
        """What the files of its model depend on."""
        sizes = (self.hidden, self.layers, self.vocabulary, self.image_tokens)
        return (*sizes, self.dtype)

    def __str__(self) -> str:
        """What is not as usual."""
        usual, own = asdict(Case()), asdict(self)
        return " ".join(f"{name}={own[name]}" for name in own if own[name] != usual[name])

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Case":
        return Case(**json.loads(text))


# What both sides of PPO are set to.
PPO = {
    "adam_eps": 1e-5,
    "gamma": 1.0,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "clip_range_value": 0.2,
    "vf_coef": 0.1,
    "kl_coef": 0.05,
}


@dataclass(frozen=True)
class World:
    """The files of a case, in `directory`: see `world.build_world`."""

    directory: Path

    @property
    def model(self) -> Path:
        return self.directory / "model"

    @property
    def case(self) -> Case:
        return Case.from_json((self.directory / "case.json").read_text())

    @property
    def instructions(self) -> list[str]:
        return list(json.loads((self.directory / "instructions.json").read_text()))

    def image(self, prompt: int) -> Path:
        """That of the prompt with this number."""
        return self.directory / "pictures" / f"{prompt // self.case.questions}.png"

    def tensors(self) -> dict[str, Tensor]:
        """What baselines need not make themselves.

        Returns:
            ids [n, P] int64, prompts with placeholders of images; pixels [n, 3, S, S] float32,
            what the processor makes of the images; reward.weight, value.weight [1, D] and
            reward.bias, value.bias [1] float32, the two heads.
        """
        return load_file(self.directory / "tensors.safetensors")


def banned_ids(config: Any) -> list[int]:
    """What no response may contain: the image's placeholder, pad, and end of sequence."""
    text = config.text_config
    return sorted({config.image_token_id, text.pad_token_id, text.eos_token_id})
