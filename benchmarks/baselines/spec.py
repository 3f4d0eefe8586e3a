"""One case of the comparison, and the directory that holds its model, prompts and images.

Read by every baseline in its own environment: nothing here needs rlhf or trl.
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
        hidden_size: width of the language model; heads are 64 wide (tiny: 16).
        num_layers: layers of the language model.
        vocab_size: ids of the model.
        image_tokens: tokens of an image.
        response_tokens: tokens of every response; end-of-sequence is banned.
        eos_share: share of the ids that end a response of ours; 0 bans end-of-sequence.
        batch_size: responses of an iteration.
        minibatch_size: responses of an optimizer step.
        microbatches: backward passes of an optimizer step of ours.
        ppo_epochs: passes over each rollout.
        samples_per_prompt: responses to each prompt.
        questions_per_image: prompts about each image; if more than 1, every iteration has the
            same prompts.
        dtype: float32 or bfloat16, of the weights at rest.
        critic: as in `ppo.critic`.
        train: full (the layers of the language model) or lora.
        lora_type: as in `model.lora_type`.
        lora_rank: as in `model.lora_rank`.
        advantage_estimator: gae, rloo or grpo.
        scorer: model (a LLaVA with a head) or rule (a function of the tokens).
        lr: learning rate of policy and critic.
        warmup_iterations: iterations before the timed ones.
        timed_iterations: iterations whose times are reported.
    """

    hidden_size: int = 256
    num_layers: int = 6
    vocab_size: int = 2048
    image_tokens: int = 64
    response_tokens: int = 32
    eos_share: float = 0.0
    batch_size: int = 16
    minibatch_size: int = 8
    microbatches: int = 1
    ppo_epochs: int = 4
    samples_per_prompt: int = 1
    questions_per_image: int = 1
    dtype: str = "float32"
    critic: str = "separate"
    train: str = "full"
    lora_type: str = "lora"
    lora_rank: int = 16
    advantage_estimator: str = "gae"
    scorer: str = "model"
    lr: float = 1e-6
    warmup_iterations: int = 2
    timed_iterations: int = 3

    @property
    def iterations(self) -> int:
        return self.warmup_iterations + self.timed_iterations

    @property
    def prompts(self) -> int:
        """Number of prompts: new ones for each iteration, unless images have several questions."""
        batches = self.iterations if self.questions_per_image == 1 else 1
        return batches * self.batch_size // self.samples_per_prompt

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def model(self) -> tuple[int | str, ...]:
        """Return the fields that the files of its model depend on."""
        sizes = (self.hidden_size, self.num_layers, self.vocab_size, self.image_tokens)
        return (*sizes, self.dtype)

    def __str__(self) -> str:
        """Return the fields that differ from the default, as text."""
        default, fields = asdict(Case()), asdict(self)
        return " ".join(f"{n}={value}" for n, value in fields.items() if value != default[n])

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Case":
        return Case(**json.loads(text))


# Options of PPO on both sides.
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
class CaseFiles:
    """The files of a case in `directory`, which `case_files.write_case_files` writes."""

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
        """Return the path of the image of the prompt with this index."""
        return self.directory / "pictures" / f"{prompt // self.case.questions_per_image}.png"

    def tensors(self) -> dict[str, Tensor]:
        """Return prompts, images and heads as tensors.

        Returns:
            ids [n, P] int64, prompts with placeholders of images; pixels [n, 3, S, S] float32,
            what the processor makes of the images; reward.weight, value.weight [1, D] and
            reward.bias, value.bias [1] float32, the two heads.
        """
        return load_file(self.directory / "tensors.safetensors")


def banned_ids(config: Any) -> list[int]:
    """Return the ids banned from responses: image placeholder, padding and end-of-sequence."""
    text = config.text_config
    return sorted({config.image_token_id, text.pad_token_id, text.eos_token_id})
