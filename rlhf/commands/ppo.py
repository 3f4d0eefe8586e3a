"""The commands that train the policy: sft, ppo."""

from pathlib import Path
from typing import Any

from rlhf.commands.job import Job
from rlhf.commands.model_setup import (
    announce,
    load_trainable,
    metrics_writer,
    scorer_of,
)
from rlhf.commands.ppo_profile import profiled
from rlhf.commands.resume import checkpoint_of, drop_checkpoints
from rlhf.config.schema import Config, PPOConfig, check_training_sampling, kl_choice
from rlhf.data.collate import prompt_batch
from rlhf.data.input_files import input_file, read_prompts, read_with_images
from rlhf.data.records import DemonstrationRecord
from rlhf.data.tokenization import response_batch
from rlhf.diagnostics.examination import check_quick
from rlhf.errors import UsageError
from rlhf.functional import check_kl_choice
from rlhf.models.llava import Llava
from rlhf.models.loading import locate_model
from rlhf.models.lora import add_adapter
from rlhf.models.policy import POLICY, build_policy
from rlhf.ppo.trainer import PPOTrainer
from rlhf.rewards.reward_card import RewardCard
from rlhf.storage.model_card import write_model_card
from rlhf.tracking.console import say
from rlhf.training.sft_trainer import SFTTrainer

# Metrics of the last iteration that the summary repeats; metrics.jsonl has all of them.
SHOWN = (
    "objective/scores",
    "objective/rlhf_reward",
    "objective/kl",
    "tokens/responses_len_mean",
    "tokens/eos_rate",
    "val/explained_variance",
    "policy/entropy_avg",
)


def sft(job: Job) -> dict[str, Any]:
    """Train on demonstrations; leaves model/ or adapter/ in the run directory."""
    config, data = job.config, job.config.data
    path = input_file(data.demonstrations, "data.demonstrations")
    records, root = read_with_images(config, path, DemonstrationRecord)
    location = locate_model(config.model.path)
    full = config.model.train == "full"
    llava = load_trainable(config, location, fully=full)
    if full:
        llava.train_language_model(embeddings=True)
    else:
        add_adapter(llava.adapters, POLICY, config.model)
    prompts = prompt_batch(records, llava.builder, root, max_tokens=data.max_prompt_tokens)
    responses = response_batch([record.response for record in records], llava.builder)
    checkpoint = checkpoint_of(job, job.directory)
    with metrics_writer(job, job.directory, checkpoint, ("sft/loss",)) as writer:
        trainer = SFTTrainer(config, llava, prompts, responses, writer, job.directory)
        if checkpoint:
            trainer.restore(checkpoint)
        announce(llava, steps=trainer.steps)
        loss = trainer.run()
    metrics = {"loss": loss, "demonstrations": len(records), "steps": trainer.steps}
    _save(job, "sft", llava, metrics)
    drop_checkpoints(job.directory)
    return metrics


def ppo(job: Job) -> dict[str, Any]:
    """Tune a model against a reward model; leaves adapter/ or model/ in the run directory."""
    config = job.config
    check_quick(config)
    check_training_sampling(config.sampling)
    _check_kl(config.ppo)
    records, root = read_prompts(config)
    if not job.scorer:
        RewardCard.read(config.reward.path)  # before a model loads
    location, full = locate_model(config.model.path), config.model.train == "full"
    checkpoint = checkpoint_of(job, job.directory)
    llava = load_trainable(config, location, fully=full)
    policy = build_policy(
        llava,
        config.model,
        temperature=config.sampling.temperature,
        init_adapter=location.adapter,
        critic=config.ppo.critic,
        critic_init=_critic_start(config),
    )
    scorer = scorer_of(job, llava, share_trunk=not full)
    prompts = prompt_batch(records, llava.builder, root, max_tokens=config.data.max_prompt_tokens)
    with metrics_writer(job, job.directory, checkpoint, SHOWN) as writer:
        trainer = PPOTrainer(config, policy, scorer, prompts, writer, job.directory)
        if checkpoint:
            trainer.restore(checkpoint)
        announce(llava, steps=trainer.planned_steps)
        with profiled(job, location, trainer) as measured:
            trainer.run()
    last = {name: trainer.metrics[name] for name in SHOWN if name in trainer.metrics}
    metrics = {"iterations": trainer.iteration, "skipped_steps": trainer.skipped, **last}
    _save(job, "ppo", llava, metrics)
    policy.critic.save(job.directory)
    return metrics | measured | {"warnings": trainer.warnings}


def _save(job: Job, command: str, llava: Llava, metrics: dict[str, Any]) -> None:
    """Leave what was trained, model/ or adapter/, with its card."""
    full = job.config.model.train == "full"
    directory = job.directory / ("model" if full else "adapter")
    if full:
        llava.save(directory)
    else:
        llava.adapters.save(POLICY, directory, llava.base)
    write_model_card(directory, llava.base, command=command, metrics=metrics)


def _critic_start(config: Config) -> Path | None:
    """The reward model's adapter, where the critic begins from it.

    Raises:
        UsageError: the reward model has none, or the critic has no adapter to begin with.
    """
    if config.ppo.critic_init == "model":
        return None
    directory, card = RewardCard.read(config.reward.path)
    if card.kind != "llava_head" or not card.adapter or config.ppo.critic.startswith("shared"):
        raise UsageError(
            "the critic cannot begin from the reward model",
            f"ppo.critic_init=reward ppo.critic={config.ppo.critic}",
            "train the reward model with reward.train=lora, and use ppo.critic=adapter or separate",
        )
    return directory / "adapter"


def _check_kl(ppo: PPOConfig) -> None:
    """Refuse a KL penalty that pulls elsewhere than to the reference."""
    placement, kind = kl_choice(ppo)
    try:
        check_kl_choice(placement, kind)
    except ValueError as error:
        raise UsageError(
            f"this KL penalty does not lead to the optimum: {error}",
            f"ppo.kl_placement={placement} ppo.kl_estimator={kind}",
            "leave ppo.kl_estimator empty for the sound one",
        ) from None
    if ppo.advantage_estimator == "grpo" and placement == "loss":
        say("grpo divides scores by their spread but not the KL: kl_coef is no reward per nat here")
