"""Prompts, scores and the LLaVA of a task, for both of trl's trainers."""

from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from baselines.image_lookup import BANNED_LOGIT
from baselines.learning_task import Task
from rlhf.commands.model_setup import load_model
from rlhf.data.collate import prompt_batch
from rlhf.data.records import PromptRecord, read_records
from rlhf.data.tokenization import flat_ids
from rlhf.models.locations import locate_model
from rlhf.rewards.loading import load_reward_model
from rlhf.spans import Spans
from rlhf.types import Responses

# The linear layers of the language model, which our LoRA adapts.
TARGETS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"


class PromptScorer:
    """Our reward model, which scores responses by the index of their prompt.

    Attributes:
        llava: the supervised model, under the reward model's adapter.
        prompts: those of PPO, in the order of their file.
    """

    def __init__(self, task: Task) -> None:
        self.config = task.config
        self.llava = load_model(self.config, locate_model(task.start.model))
        self.reward = load_reward_model(task.start.reward, self.llava, share_base_model=True)
        max_prompt_tokens = self.config.data.max_prompt_tokens
        records, root = read_records(task.prompts, PromptRecord), task.prompts.parent
        self.prompts = prompt_batch(records, self.llava.builder, root, max_tokens=max_prompt_tokens)

    def scores(self, numbers: list[int], rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Return scores [B] of responses to prompts, and whether each one is finished [B]."""
        ends = torch.tensor([row[-1] in self.llava.eos_ids for row in rows])
        responses = Responses(flat_ids(rows), Spans.from_lengths([len(row) for row in rows]), ends)
        prompts = self.prompts.select(torch.tensor(numbers))
        max_tokens = self.config.ppo.microbatch_tokens
        return self.reward.scores(prompts, responses, max_tokens=max_tokens), ends


def load_llava(task: Task, banned: list[int]) -> Any:
    """Return the supervised model, frozen, with the logits of banned ids masked."""
    location = locate_model(task.start.model)
    model = LlavaForConditionalGeneration.from_pretrained(location.base, dtype=torch.float32)

    def mask_banned(_: Any, __: Any, logits: Tensor) -> Tensor:
        logits[..., banned] = BANNED_LOGIT
        return logits

    model.lm_head.register_forward_hook(mask_banned)
    return model.requires_grad_(False)


def lora(task: Task) -> LoraConfig:
    """Return the LoRA that our PPO trains, as peft's configuration."""
    options = task.config.model
    return LoraConfig(r=options.lora_rank, lora_alpha=options.lora_alpha, target_modules=TARGETS)


def shared_options(task: Task) -> dict[str, Any]:
    """Return the options that both of trl's configurations share."""
    ppo = task.config.ppo
    return {
        "seed": task.seed,
        "gradient_accumulation_steps": 1,
        "temperature": task.config.sampling.temperature,
        "learning_rate": ppo.lr,
        "lr_scheduler_type": ppo.lr_schedule,
        "adam_epsilon": ppo.adam_eps,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
