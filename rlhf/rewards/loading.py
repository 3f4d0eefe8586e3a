"""Build a new reward model, save it, and load it to score the responses of a policy."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rlhf.config.schema import Config, ModelConfig, RewardConfig
from rlhf.config.validation import check_config
from rlhf.errors import UsageError
from rlhf.models.llava import Llava
from rlhf.models.locations import relative_path
from rlhf.models.lora import Adapters, add_adapter, refuse_full_training
from rlhf.models.scalar_head import ScalarHead
from rlhf.parallel.world import ALONE, World
from rlhf.rewards.base import REWARD, RewardModel
from rlhf.rewards.caption_reward import CaptionReward, load_caption_reward
from rlhf.rewards.captioner import GIVEN, Captioner, load_captions
from rlhf.rewards.llava_reward import LlavaReward
from rlhf.rewards.reward_card import (
    CAPTIONER,
    RewardCard,
    differs_in_storage_only,
    fingerprint_mismatches,
)
from rlhf.storage.directories import replaced_directory
from rlhf.storage.hashing import file_hash, hash_tensors, text_hash
from rlhf.tracking.console import say

CAPTIONS = "captions.jsonl"


def build_reward_model(
    llava: Llava,
    config: RewardConfig | None = None,
    lora: ModelConfig | None = None,
    *,
    captions: Mapping[str, str] | None = None,
    init_adapter: Path | None = None,
) -> RewardModel:
    """Build a new reward model; the parts that `config.train` names are trainable.

    A LoRA is drawn from torch's global generator.

    Args:
        llava: the base model of llava_head, which goes on from the adapter it was loaded with; for
            caption_text it captions the images.
        config: kind, head and trained parts of the reward model.
        lora: rank, scale and type of a LoRA.
        captions: by the SHA-256 of the image's bytes; caption_text then generates none.
        init_adapter: an adapter on `llava` from supervised training; llava_head starts from it.

    Raises:
        UsageError: an option is out of range, caption_text without a text model or with an adapter,
            or nothing to train and no trained head.
    """
    checked = check_config(Config(reward=config or RewardConfig(), model=lora or ModelConfig()))
    config, lora, init_adapter = checked.reward, checked.model, init_adapter or llava.adapter_dir
    reward: RewardModel
    if config.kind == "llava_head":
        size = llava.hidden_size
        head = ScalarHead.identity(size + 1) if config.use_logprob_feature else ScalarHead(size)
        reward = LlavaReward(llava, head.to(llava.device), llava.builder)
    else:
        if init_adapter is not None:
            raise UsageError(
                "caption_text reads the captions of a model without adapter",
                f"reward.kind=caption_text: {init_adapter}",
                "merge the adapter: rlhf export RUN export.merge=true, or name the base model",
            )
        captioning_llava = llava if captions is None else None
        captioner = Captioner(captioning_llava, config.caption_instruction, captions)
        dtype = llava.output_weight.dtype
        reward = load_caption_reward(config.text_model, captioner, llava, dtype)
    _make_trainable(reward, config, lora, init_adapter)
    return reward


def _make_trainable(
    reward: RewardModel, config: RewardConfig, model: ModelConfig, init_adapter: Path | None
) -> None:
    """Make trainable what `config.train` names: an adapter, the backbone, or only the head."""
    if config.train == "full":
        _train_backbone(reward, init_adapter)
    elif init_adapter is not None:
        reward.adapters.load(REWARD, init_adapter, trains=config.train == "lora")
    elif config.train == "lora":
        add_adapter(reward.adapters, REWARD, model)
    elif config.train == "none":
        _check_trained_head(reward, config)
        reward.head.requires_grad_(False)


def _check_trained_head(reward: RewardModel, config: RewardConfig) -> None:
    if not reward.head.linear.weight.any():
        raise UsageError(
            "nothing is trained, and there is no trained head to use as it is",
            f"reward.train=none reward.kind={config.kind}",
            "name a sequence classifier with one label as reward.text_model, or train the head",
        )


def _train_backbone(reward: RewardModel, init_adapter: Path | None) -> None:
    refuse_full_training(init_adapter, "reward.train=full")
    if isinstance(reward, LlavaReward):
        reward.llava.precision = torch.float32
        reward.llava.train_language_model()
        reward.llava.model.float()  # one dtype for all weights, so that a load restores it
    else:
        reward.backbone().float().requires_grad_(True)


def save_reward(
    reward: RewardModel, directory: Path, training: dict[str, Any], world: World = ALONE
) -> None:
    """Write head, captions, adapter (or the fully trained backbone) and card, or nothing.

    Args:
        reward: the trained reward model.
        directory: created if missing; an earlier reward model there is replaced.
        training: file, split and metrics of the training pairs, stored in the card.
        world: the processes, which call this together; process 0 writes.
    """
    with reward.sharding.whole():
        weights = world.first(reward.weights_fingerprint)
    with reward.sharding.saving():
        world.first(partial(_replace_reward, reward, directory, training, weights))


def _replace_reward(
    reward: RewardModel, directory: Path, training: dict[str, Any], weights: dict[str, str]
) -> None:
    with replaced_directory(directory) as new:
        _write_reward(reward, new, training, weights)


def _write_reward(
    reward: RewardModel, directory: Path, training: dict[str, Any], weights: dict[str, str]
) -> None:
    """Write a reward model whose base model has this `weights_fingerprint`."""
    if reward.has_adapter:
        reward.adapters.save(reward.adapter, directory / "adapter", reward.base)
    elif any(value.requires_grad for value in reward.backbone().parameters()):
        reward.save_backbone(directory / "model")
    captioner, instruction = "", ""
    if isinstance(reward, CaptionReward):
        captioner, instruction = reward.llava_base, reward.captioner.instruction
        reward.captioner.save(directory / CAPTIONS)
    reward.head.save(directory / "head.safetensors")
    RewardCard(
        kind=reward.kind,
        base=reward.base,
        adapter=reward.has_adapter,
        mean=reward.mean,
        std=reward.std,
        captioner=captioner,
        caption_instruction=instruction,
        fingerprint=reward_fingerprint(reward, directory, weights),
        training=training,
        relative_base=relative_path(reward.base, directory),
        relative_captioner=relative_path(captioner, directory) if captioner else "",
    ).write(directory)


def reward_fingerprint(
    reward: RewardModel, directory: Path, weights: dict[str, str]
) -> dict[str, str]:
    """Hashes of everything that a score depends on, by name.

    Args:
        reward: the reward model.
        directory: where it is stored; weights in model/ there are hashed as files.
        weights: its `weights_fingerprint`.
    """
    adapter = {
        name.replace(f".{reward.adapter}.", f".{REWARD}."): value
        for name, value in reward.adapters.tensors(reward.adapter).items()
    }
    trained = [*reward.head.state_dict().items(), *adapter.items()]
    fingerprint = reward.input_fingerprint() | {"head": hash_tensors(trained)} | weights
    if (directory / "model").is_dir():  # hash files, independent of the dtype they are loaded in
        fingerprint["weights"] = fingerprint["weights_rounded"] = _hash_files(directory / "model")
    return fingerprint


def _hash_files(directory: Path) -> str:
    return text_hash(" ".join(map(file_hash, sorted(directory.glob("[!.]*.safetensors")))))


def load_reward_model(
    path: str,
    policy: Llava,
    *,
    share_base_model: bool,
    captions: Mapping[str, str] | None = None,
    exact: bool = False,
    base_override: str = "",
) -> RewardModel:
    """Load a frozen reward model to score the responses of `policy`.

    Args:
        path: directory of a reward model or of its run.
        policy: the model whose responses are scored.
        share_base_model: use `policy` as base model or captioner if it is the same model; only
            valid if the base weights of `policy` are not trained.
        captions: captions besides those of training, by the SHA-256 of the image's bytes.
        exact: also refuse a base model that differs in dtype or quantization only.
        base_override: base model or captioner if it is no longer where it was in training; its
            weights have to be the same.

    Raises:
        UsageError: no reward model there, or its fingerprint differs from that of training.
    """
    directory, card = RewardCard.read(path)
    base = card.backbone_path(directory, base_override)
    head = ScalarHead.load(directory / "head.safetensors", policy.device)
    reward: RewardModel
    if card.kind == "llava_head":
        shared = share_base_model and base == policy.base
        llava = policy if shared else _load_llava(base, policy, card)
        reward = LlavaReward(llava, head, policy.builder)
    else:
        captioner = _load_captioner(
            card, directory, policy, share_base_model, captions, base_override
        )
        dtype = card.dtype(policy.output_weight.dtype)
        reward = load_caption_reward(base, captioner, policy, dtype)
        reward.head = head
    reward.adapter = _free_name(reward.adapters) if card.adapter else ""
    if card.adapter:
        active = reward.adapters.current
        reward.adapters.load(reward.adapter, directory / "adapter", trains=False)
        reward.adapters.switch(active)
    reward.head.requires_grad_(False)
    reward.mean, reward.std = card.mean, card.std
    _check_fingerprint(reward, directory, card, exact)
    return reward


def _free_name(adapters: Adapters) -> str:
    """Return the first of `reward`, `reward_2`, … that no adapter of the base model has."""
    names = (REWARD, *(f"{REWARD}_{number}" for number in range(2, len(adapters.names) + 2)))
    return next(name for name in names if name not in adapters.names)


def _load_captioner(
    card: RewardCard,
    directory: Path,
    policy: Llava,
    share_base_model: bool,
    captions: Mapping[str, str] | None,
    base_override: str,
) -> Captioner:
    """Load the captioner of training with its captions, so that none is generated twice."""
    captions = {**load_captions(directory / CAPTIONS), **(captions or {})}
    if card.fingerprint.get("captions") == GIVEN:
        return Captioner(None, card.caption_instruction, captions)
    base = card.captioner_path(directory, base_override)
    shared = share_base_model and base == policy.base
    llava = policy if shared else _load_llava(base, policy, card, CAPTIONER)
    return Captioner(llava, card.caption_instruction, captions)


def _load_llava(base: str, policy: Llava, card: RewardCard, part: str = "") -> Llava:
    """Load a LLaVA to the policy's device, in the dtype of training, with the policy's limits."""
    llava = Llava.load(
        base,
        device=policy.device,
        dtype=card.dtype(policy.output_weight.dtype, part),
        quantization=card.quantization(part),
    )
    llava.max_prefill_tokens = policy.max_prefill_tokens
    llava.prefix_cache.limit = policy.prefix_cache.limit
    llava.vision.cache.limit = policy.vision.cache.limit
    if disk := policy.vision.cache.disk:
        llava.vision.use_disk_cache(disk.root)
    return llava


def _check_fingerprint(reward: RewardModel, directory: Path, card: RewardCard, exact: bool) -> None:
    fingerprint = reward_fingerprint(reward, directory, reward.weights_fingerprint())
    names = fingerprint_mismatches(card.fingerprint, fingerprint)
    if names and differs_in_storage_only(names) and not exact:
        say(f"the reward model's weights are stored otherwise than in training ({names[0]})")
    elif names:
        differences = "; ".join(
            f"{name}: {card.fingerprint.get(name, 'none')[:24]} in training, "
            f"{fingerprint.get(name, 'none')[:24]} here"
            for name in names
        )
        raise UsageError(
            "the reward model would not read what it was trained to read",
            f"{directory}: {differences}",
            "restore the model, tokenizer and options it was trained with, or train it again",
        )
