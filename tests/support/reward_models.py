"""Small reward models of every kind, and pairs to train them on."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaModel,
)

from rlhf.config.schema import ModelConfig, RewardConfig
from rlhf.data.tokenization import response_batch
from rlhf.models.llava import Llava
from rlhf.rewards.base import RewardModel
from rlhf.rewards.loading import build_reward_model, save_reward
from rlhf.types import PreferenceBatch
from tests.support import tiny_models

KINDS = ("llava_head", "llava_state", "caption_text")


def write_text_model(directory: Path, tiny: Path, kind: str, labels: int = 1) -> Path:
    """A text model with the tiny model's tokenizer: `text`, `llama` or `bert` (classifiers)."""
    tokenizer = AutoTokenizer.from_pretrained(tiny / "model")
    torch.manual_seed(1)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.2,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if kind == "bert":
        model = BertForSequenceClassification(BertConfig(**sizes, num_labels=labels))
    elif kind == "llama":
        model = LlamaForSequenceClassification(LlamaConfig(**sizes, num_labels=labels))
    else:
        model = LlamaModel(LlamaConfig(**sizes))
    model.eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def options(
    kind: str, text_model: Path | str = "", train: str = "lora", **more: Any
) -> RewardConfig:
    """Options of a kind; `llava_state` is a llava_head that does not use the log-likelihood."""
    fields: dict[str, Any] = {"lr": 1e-2, "epochs": 8, "warmup_steps": 2, "train": train}
    fields |= {"kind": kind.replace("state", "head"), "use_logprob_feature": kind == "llava_head"}
    return RewardConfig(**{**fields, "text_model": str(text_model), **more})


def build(llava: Llava, config: RewardConfig) -> RewardModel:
    return build_reward_model(llava, config, ModelConfig(lora_rank=4))


def shake(model: RewardModel) -> None:
    """Draw random weights for the head, so that every input counts."""
    torch.nn.init.normal_(model.head.linear.weight)


def save(model: RewardModel, directory: Path, training: dict[str, Any] | None = None) -> None:
    save_reward(model, directory, training or {})


def pairs_of(llava: Llava, tiny: Path, labels: list[float] | None = None) -> PreferenceBatch:
    """Eight pairs whose chosen response is short."""
    prompts = tiny_models.prompts_of(llava, tiny, 8)
    chosen = response_batch(["a red circle"] * 4 + ["blue"] * 4, llava.builder)
    rejected = response_batch(["I do not know what it is."] * 8, llava.builder)
    return PreferenceBatch(prompts, chosen, rejected, torch.tensor(labels or [1.0] * 8))
