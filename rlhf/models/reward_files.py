"""Reward models to and from disk: build a fresh one, save it, load it beside a policy."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer

from rlhf.config import ModelConfig, RewardConfig
from rlhf.errors import UsageError
from rlhf.models.captioner import Captioner
from rlhf.models.heads import ScalarHead
from rlhf.models.llava import Llava
from rlhf.models.reward import REWARD, CaptionReward, LlavaReward, RewardModel

CARD = "reward.json"


@dataclass(frozen=True)
class RewardCard:
    """What a reward model was trained to read: enough to reproduce its scores."""

    kind: str
    base: str  # trunk of llava_head; text model of caption_text
    adapter: bool  # whether a LoRA was trained
    mean: float  # of raw scores
    std: float
    caption_instruction: str
    captioner: str  # LLaVA that wrote the captions


def build_reward(config: RewardConfig, model: ModelConfig, llava: Llava) -> RewardModel:
    """An untrained reward model on the trunk `llava`, with what `config.train` names trainable."""
    reward: RewardModel
    if config.kind == "llava_head":
        head = ScalarHead(llava.hidden_size).to(llava.device)
        reward = LlavaReward(llava, head, llava.builder)
    else:
        if not config.text_model:
            raise UsageError(
                "caption_text needs a text model", "reward.text_model", "name a directory or hub id"
            )
        captioner = Captioner(llava, config.caption_instruction)
        reward = _caption_reward(config.text_model, None, captioner, llava)
    if config.train == "lora":
        reward.adapters.add(REWARD, rank=model.lora_rank, alpha=model.lora_alpha)
    elif config.train == "full":
        if isinstance(reward, LlavaReward):
            llava.train_language_model()
        else:
            reward.network().float().requires_grad_(True)
    return reward


def save_reward(reward: RewardModel, folder: Path, config: RewardConfig, captioner: str) -> None:
    """Write card, head and adapter; the trunk too when it was trained in full."""
    folder.mkdir(parents=True, exist_ok=True)
    base, adapter = reward.base, REWARD in reward.adapters.names
    if adapter:
        reward.adapters.save(REWARD, folder / "adapter", base)
    elif config.train == "full":
        reward.save_trunk(folder / "model")
        base = str((folder / "model").resolve())
    reward.head.save(folder / "head.safetensors")
    card = RewardCard(
        reward.kind, base, adapter, reward.mean, reward.std, config.caption_instruction, captioner
    )
    (folder / CARD).write_text(json.dumps(card.__dict__, indent=2))


def read_reward_card(path: str) -> tuple[Path, RewardCard]:
    """The folder and card behind `reward.path`, a reward model or the run that trained it.

    Raises:
        UsageError: no reward model there.
    """
    for folder in (Path(path), Path(path) / "reward"):
        if path and (folder / CARD).is_file():
            return folder, RewardCard(**json.loads((folder / CARD).read_text()))
    raise UsageError(
        f"no reward model at {path or '(nothing given)'}",
        "reward.path",
        "give a run folder of `rlhf reward`",
    )


def load_reward(path: str, policy: Llava, *, share_trunk: bool) -> RewardModel:
    """The reward model of `path`, frozen, reading what `policy` writes.

    Args:
        path: a reward model's folder or its run's.
        policy: whose responses are scored; its trunk is shared when it is the same one.
        share_trunk: the policy trains adapters only, so its bare trunk stays put.
    """
    folder, card = read_reward_card(path)
    shared = share_trunk and card.kind == "llava_head" and card.base == policy.base
    reward: RewardModel
    if card.kind == "llava_head":
        trunk = policy if shared else _load_beside(card.base, policy)
        head = ScalarHead.load(folder / "head.safetensors", policy.device)
        reward = LlavaReward(trunk, head, policy.builder)
    else:
        captioning = share_trunk and card.captioner == policy.base
        writer = policy if captioning else _load_beside(card.captioner, policy)
        captioner = Captioner(writer, card.caption_instruction)
        reward = _caption_reward(card.base, folder / "head.safetensors", captioner, policy)
    before = reward.adapters.current
    if card.adapter:
        reward.adapters.load(REWARD, folder / "adapter")
        reward.adapters.switch(before)
    reward.head.requires_grad_(False)
    reward.mean, reward.std = card.mean, card.std
    return reward


def _load_beside(base: str, policy: Llava) -> Llava:
    return Llava.load(base, device=policy.device, dtype=policy.output_weight.dtype)


def _caption_reward(
    base: str, head: Path | None, captioner: Captioner, policy: Llava
) -> CaptionReward:
    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
        model: Any = AutoModel.from_pretrained(base, dtype=policy.output_weight.dtype)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{base} does not load as a text model",
            str(error).split("\n")[0],
            "check reward.text_model",
        ) from error
    model.requires_grad_(False).to(policy.device)
    scalar = ScalarHead(model.config.hidden_size) if head is None else None
    loaded = scalar or ScalarHead.load(head or Path(), torch.device("cpu"))
    return CaptionReward(
        model, tokenizer, loaded.to(policy.device), captioner, policy.builder, base
    )
