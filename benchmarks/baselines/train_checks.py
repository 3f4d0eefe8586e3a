"""What trl cannot do with options and models, said before weights are read. Needs no trl."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from baselines.train_job import SCORED
from rlhf.cli.overrides import override_name
from rlhf.config.schema import Config
from rlhf.errors import UsageError
from rlhf.models.locations import ModelLocation
from rlhf.tracking.console import say

SAMPLES_PER_PROMPT = 4  # of RLOO and GRPO where ppo.samples_per_prompt is 1
_SAMPLED = {
    "iterations",
    "rollout_batch_size",
    "minibatch_size",
    "ppo_epochs",
    "lr",
    "lr_schedule",
    "adam_eps",
    "kl_coef",
    "clip_range",
    "missing_eos",
    "missing_eos_penalty",
    "microbatch_tokens",
}
# Options of section ppo that reach each trainer; max_grad_norm does not reach trl's PPO.
READ = {
    "trl_ppo": _SAMPLED | {"gamma", "gae_lambda", "clip_range_value", "vf_coef"},
    "trl_rloo": _SAMPLED | {"samples_per_prompt", "max_grad_norm"},
    "trl_grpo": _SAMPLED | {"samples_per_prompt", "max_grad_norm", "clip_range_high"},
    "trl_online_dpo": (_SAMPLED | {"max_grad_norm"}) - {"ppo_epochs", "clip_range"},
    "trl_dpo": {
        "lr",
        "lr_schedule",
        "adam_eps",
        "kl_coef",
        "max_grad_norm",
        "rollout_batch_size",
        "log_samples_every",
        "microbatch_tokens",
    },
}


def unread_options(trainer: str, words: Sequence[str]) -> list[str]:
    """Return the words that set an option of `rlhf ppo` which does not reach the trainer."""
    names = [(word, override_name(word)) for word in words]
    return [
        word
        for word, name in names
        if name.startswith(("ppo.", "parallel.", "reward.judge_path"))
        and name.removeprefix("ppo.") not in READ[trainer]
    ]


def checked_options(trainer: str, config: Config) -> Config:
    """Return the options with a group size that RLOO and GRPO can use.

    Raises:
        UsageError: trl cannot do what an option asks for.
    """
    model, ppo = config.model, config.ppo
    fix = "leave it out; the comparison trains a LoRA on weights that are not quantized"
    for name, wanted in (("train", "lora"), ("lora_type", "lora"), ("quantization", "none")):
        if (value := getattr(model, name)) != wanted:
            raise UsageError("trl is not run with this here", f"model.{name}={value}", fix)
    modes = ("none", "penalty") if trainer == "trl_ppo" else ("none", "penalty", "replace")
    if trainer in SCORED and ppo.missing_eos not in modes:
        fix = f"set ppo.missing_eos to {' or '.join(modes)}"
        where = f"ppo.missing_eos={ppo.missing_eos}"
        raise UsageError(f"{trainer} has no such rule for cut responses", where, fix)
    if trainer == "trl_online_dpo" and ppo.minibatch_size % 2:
        fix = "choose an even ppo.minibatch_size"
        where = f"ppo.minibatch_size={ppo.minibatch_size}"
        raise UsageError("an optimizer step does not hold whole pairs of responses", where, fix)
    return _grouped(config) if trainer in ("trl_rloo", "trl_grpo") else config


def _grouped(config: Config) -> Config:
    ppo = config.ppo
    size = ppo.samples_per_prompt
    if size == 1:
        size = SAMPLES_PER_PROMPT
        say(f"ppo.samples_per_prompt={size}: responses are compared with others to their prompt")
    if ppo.rollout_batch_size % size:
        where = f"ppo.rollout_batch_size={ppo.rollout_batch_size} ppo.samples_per_prompt={size}"
        fix = "choose a batch that the responses to a prompt divide"
        raise UsageError("an iteration does not hold whole groups of responses", where, fix)
    return replace(config, ppo=replace(ppo, samples_per_prompt=size))


def check_model(trainer: str, location: ModelLocation, model_type: str) -> None:
    """Refuse a model that trl cannot train, before its weights are read.

    Args:
        trainer: key of `train_job.MODULES`.
        location: where the model is.
        model_type: `model_type` of its config.json.

    Raises:
        UsageError: it is an adapter, or trl's PPO cannot be given its images.
    """
    if location.adapter is not None:
        what = "trl would compare the policy with the weights under the adapter"
        fix = "merge it first: rlhf export RUN export.merge=true output=MODEL"
        raise UsageError(what, str(location.adapter), fix)
    if trainer == "trl_ppo" and model_type != "llava":
        what = "trl's PPOTrainer takes no images; they are handed to LLaVA-1.5 alone"
        raise UsageError(what, f"{location.base}: {model_type}", "use trl_rloo or trl_grpo")


def check_settings(trainer: str, config: Config, settings: dict[str, Any]) -> None:
    """Refuse backward passes that do not divide an optimizer step.

    Raises:
        UsageError: gradient_accumulation_steps is no count, or does not divide the minibatch.
    """
    value = settings.get("gradient_accumulation_steps", 1)
    sizes = {"trl_ppo": 1, "trl_online_dpo": 1, "trl_dpo": config.reward.batch_size}
    size = sizes.get(trainer, config.ppo.minibatch_size)
    if type(value) is not int or value < 1 or size % value:
        what = f"an optimizer step of {trainer} cannot be divided like this"
        where = f"--set gradient_accumulation_steps={value}"
        raise UsageError(what, where, f"choose a divisor of {size}, responses or pairs a step")
