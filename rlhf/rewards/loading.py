"""Reward models to and from disk: build a fresh one, save it, load it beside a policy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from rlhf.config.schema import ModelConfig, RewardConfig
from rlhf.errors import UsageError, as_usage_error
from rlhf.models.fingerprints import stored_weights
from rlhf.models.llava import Llava
from rlhf.models.lora import add_adapter
from rlhf.models.scalar_head import ScalarHead
from rlhf.rewards.base import REWARD, RewardModel
from rlhf.rewards.caption_reward import CaptionReward
from rlhf.rewards.captioner import GIVEN, Captioner, load_captions
from rlhf.rewards.llava_reward import LlavaReward
from rlhf.rewards.reward_card import RewardCard, differs_in_storage_only, fingerprint_mismatches
from rlhf.storage.hashing import file_hash, hash_tensors, text_hash
from rlhf.tracking.console import say

CAPTIONS = "captions.jsonl"


def build_reward(
    config: RewardConfig,
    model: ModelConfig,
    llava: Llava,
    captions: Mapping[str, str] | None = None,
    init_adapter: Path | None = None,
) -> RewardModel:
    """A reward model on the trunk `llava`, with what `config.train` names trainable.

    Args:
        captions: caption_text reads only these, by content of the image; None: LLaVA describes.
        start: an adapter on the trunk, of supervised training; llava_head begins from it.

    Raises:
        UsageError: caption_text without a text model, or nothing to train and no trained head.
    """
    reward: RewardModel
    if config.kind == "llava_head":
        width = llava.hidden_size
        head = ScalarHead.identity(width + 1) if config.use_logprob_feature else ScalarHead(width)
        reward = LlavaReward(llava, head.to(llava.device), llava.builder)
    else:
        writer = llava if captions is None else None
        captioner = Captioner(writer, config.caption_instruction, captions)
        dtype = llava.output_weight.dtype
        reward = _caption_reward(config.text_model, captioner, llava, dtype)
    _make_trainable(reward, config, model, init_adapter)
    return reward


def save_reward(
    reward: RewardModel,
    directory: Path,
    llava: Llava,
    config: RewardConfig,
    training: dict[str, Any],
) -> None:
    """Write head, captions and adapter, the trunk too when it was trained in full, then the card.

    Args:
        llava: beside which it was trained.
        config: the options it was trained with.
        training: what `rlhf score` needs to find the training pairs again.
    """
    directory.mkdir(parents=True, exist_ok=True)
    adapter = REWARD in reward.adapters.names
    if adapter:
        reward.adapters.save(REWARD, directory / "adapter", reward.base)
    elif any(value.requires_grad for value in reward.backbone().parameters()):
        reward.save_backbone(directory / "model")
    if isinstance(reward, CaptionReward):
        reward.captioner.save(directory / CAPTIONS)
    reward.head.save(directory / "head.safetensors")
    RewardCard(
        kind=reward.kind,
        base=reward.base,
        adapter=adapter,
        mean=reward.mean,
        std=reward.std,
        captioner=llava.base if isinstance(reward, CaptionReward) else "",
        caption_instruction=config.caption_instruction,
        contract=reward_fingerprint(reward, directory),
        training=training,
    ).write(directory)


def reward_fingerprint(reward: RewardModel, directory: Path) -> dict[str, str]:
    """Everything a score depends on, by name."""
    trained = [*reward.head.state_dict().items(), *reward.adapters.tensors(REWARD).items()]
    contract = reward.input_fingerprint() | {"head": hash_tensors(trained)}
    contract |= stored_weights(reward.backbone(), backbone_quantization(reward))
    if (directory / "model").is_dir():  # exact, whatever they are loaded as
        contract["weights"] = contract["weights_rounded"] = _files_hash(directory / "model")
    writer = reward.captioner.llava if isinstance(reward, CaptionReward) else None
    if writer is not None:
        found = stored_weights(writer.model, writer.quantization)
        contract |= {f"captioner_{name}": value for name, value in found.items()}
    return contract


def backbone_quantization(reward: RewardModel) -> str:
    """How the trunk is stored; a text model is never quantized here."""
    return reward.llava.quantization if isinstance(reward, LlavaReward) else "none"


def load_reward(
    path: str,
    policy: Llava,
    *,
    share_base_model: bool,
    captions: Mapping[str, str] | None = None,
    exact: bool = False,
) -> RewardModel:
    """The reward model of `path`, frozen, reading what `policy` writes.

    Args:
        path: a reward model's directory or its run's.
        policy: whose responses are scored; its trunk is shared when it is the same one.
        share_trunk: the policy trains adapters only, so its bare trunk stays put.
        captions: more captions than those of training, by content of the image.
        exact: refuse weights that are merely stored otherwise, too.

    Raises:
        UsageError: no reward model there, or it would not read what it was trained to read.
    """
    directory, card = RewardCard.read(path)
    base = card.backbone_path(directory)
    shared = share_base_model and card.kind == "llava_head" and base == policy.base
    head = ScalarHead.load(directory / "head.safetensors", policy.device)
    reward: RewardModel
    if card.kind == "llava_head":
        trunk = policy if shared else _load_beside(base, policy, card)
        reward = LlavaReward(trunk, head, policy.builder)
    else:
        captioner = _captioner(card, directory, policy, share_base_model, captions)
        reward = _caption_reward(base, captioner, policy, card.dtype(policy.output_weight.dtype))
        reward.head = head
    before = reward.adapters.current
    if card.adapter:
        reward.adapters.load(REWARD, directory / "adapter", trains=False)
        reward.adapters.switch(before)
    reward.head.requires_grad_(False)
    reward.mean, reward.std = card.mean, card.std
    _check_fingerprint(reward, directory, card, exact)
    return reward


def _make_trainable(
    reward: RewardModel, config: RewardConfig, model: ModelConfig, start: Path | None
) -> None:
    begins = start is not None and isinstance(reward, LlavaReward)
    if begins and config.train == "full":
        raise UsageError(
            "full training cannot begin from an adapter",
            "reward.train=full",
            "use reward.train=lora or head, or a model.path with merged weights",
        )
    if start is not None and begins:
        reward.adapters.load(REWARD, start, trains=config.train == "lora")
    elif config.train == "lora":
        add_adapter(reward.adapters, REWARD, model)
    elif config.train == "full":
        if isinstance(reward, LlavaReward):
            reward.llava.precision = torch.float32
            reward.llava.model.float()  # of one dtype, so that it is read again as it was trained
            reward.llava.train_language_model()
        else:
            reward.backbone().float().requires_grad_(True)
    elif config.train == "none":
        reward.head.requires_grad_(False)
        if not reward.head.linear.weight.any():
            raise UsageError(
                "nothing is trained, and there is no trained head to use as it is",
                f"reward.train=none reward.kind={config.kind}",
                "name a sequence classifier with one label as reward.text_model, or train the head",
            )


def _captioner(
    card: RewardCard,
    directory: Path,
    policy: Llava,
    share_trunk: bool,
    captions: Mapping[str, str] | None,
) -> Captioner:
    """Who describes images as in training; what was described then is not described again."""
    known = {**load_captions(directory / CAPTIONS), **(captions or {})}
    if card.contract["captions"] == GIVEN:
        return Captioner(None, card.caption_instruction, known)
    shared = share_trunk and card.captioner == policy.base
    writer = policy if shared else _load_beside(card.captioner, policy, card)
    return Captioner(writer, card.caption_instruction, known)


def _check_fingerprint(reward: RewardModel, directory: Path, card: RewardCard, exact: bool) -> None:
    found = reward_fingerprint(reward, directory)
    faults = fingerprint_mismatches(card.contract, found)
    if faults and differs_in_storage_only(faults) and not exact:
        say(f"the reward model's weights are stored otherwise than in training ({faults[0]})")
    elif faults:
        differences = "; ".join(
            f"{name}: {card.contract[name][:24]} in training, {found.get(name, 'none')[:24]} here"
            for name in faults
        )
        raise UsageError(
            "the reward model would not read what it was trained to read",
            f"{directory}: {differences}",
            "restore the model, tokenizer and options it was trained with, or train it again",
        )


def _load_beside(base: str, policy: Llava, card: RewardCard) -> Llava:
    """A LLaVA of the card as it was stored in training, on the policy's device."""
    part = "captioner_" if base == card.captioner else ""
    return Llava.load(
        base,
        device=policy.device,
        dtype=card.dtype(policy.output_weight.dtype, part),
        quantization=card.contract.get(f"{part}quantization", "none"),
    )


def _caption_reward(
    base: str, captioner: Captioner, policy: Llava, dtype: torch.dtype
) -> CaptionReward:
    """A text model with a fresh head, or a sequence classifier with its own.

    Raises:
        UsageError: no text model named, it does not load, or it has several labels.
    """
    if not base:
        fix = "name a directory or hub id"
        raise UsageError("caption_text needs a text model", "reward.text_model", fix)
    with as_usage_error(
        f"{base} does not load as a text model", "its files", "check reward.text_model"
    ):
        tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
        names = config.architectures or [""]
        classifies = names[0].endswith("ForSequenceClassification")
        kind = AutoModelForSequenceClassification if classifies else AutoModel
        model: Any = kind.from_pretrained(
            base, dtype=dtype, trust_remote_code=False, use_safetensors=True
        )
    model.requires_grad_(False).to(policy.device)
    trunk, head = _split_classifier(model, base) if classifies else (model, None)
    head = head or ScalarHead(model.config.hidden_size)
    return CaptionReward(trunk, tokenizer, head.to(policy.device), captioner, policy.builder, base)


def _split_classifier(classifier: Any, base: str) -> tuple[Any, ScalarHead]:
    """Trunk and head of a classifier; an encoder's own head stays in it, ours passes it on."""
    if classifier.config.num_labels != 1:
        raise UsageError(
            f"a reward model has one label, this classifier {classifier.config.num_labels}",
            base,
            "name a text reward model",
        )
    if isinstance(getattr(classifier, "score", None), torch.nn.Linear):  # read at the last token
        return classifier.base_model, ScalarHead.from_linear(classifier.score)
    return classifier, ScalarHead.identity(1)


def _files_hash(directory: Path) -> str:
    """Of weights that lie beside the card, whatever they are loaded as."""
    return text_hash(" ".join(map(file_hash, sorted(directory.glob("*.safetensors")))))
