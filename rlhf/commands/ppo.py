"""`rlhf ppo`: train a policy with PPO against a reward model."""

from pathlib import Path
from typing import Any

from rlhf.commands.job import Job
from rlhf.commands.model_setup import (
    build_scorer,
    fitting,
    load_trainable,
    metrics_writer,
    print_model_summary,
    resolve_model,
    save_trained,
)
from rlhf.commands.ppo_profile import profiled
from rlhf.commands.resume import resume_checkpoint
from rlhf.config.resolve import kl_choice
from rlhf.config.schema import Config, PPOConfig
from rlhf.config.validation import check_training_sampling
from rlhf.data.collate import prompt_batch
from rlhf.data.input_files import read_prompts
from rlhf.diagnostics.report import check_quick
from rlhf.errors import UsageError
from rlhf.functional import check_kl_choice
from rlhf.models.policy import build_policy
from rlhf.ppo.trainer import PPOTrainer
from rlhf.rewards.llava_reward import LlavaReward
from rlhf.rewards.reward_card import RewardCard
from rlhf.tracking.console import say

# Metrics of the last iteration in the summary; metrics.jsonl has all metrics of all iterations.
SUMMARY_METRICS = (
    "objective/scores",
    "objective/rlhf_reward",
    "objective/kl",
    "tokens/responses_len_mean",
    "tokens/eos_rate",
    "val/explained_variance",
    "policy/entropy_avg",
)


def ppo(job: Job) -> dict[str, Any]:
    """Train a policy with PPO against a reward model; write adapter/ or model/ to the run.

    Returns:
        Iterations, skipped steps, the SUMMARY_METRICS of the last iteration, the profile if
        `ppo.profile` asks for one, and how often each health warning was raised.
    """
    config = job.config
    check_quick(config)
    check_training_sampling(config.sampling)
    _check_kl(config.ppo)
    records, root = read_prompts(config)
    if not job.scorer:
        RewardCard.read(config.reward.path)  # fails before a model loads
    (resolved, location), full = resolve_model(job), config.model.train == "full"
    checkpoint = resume_checkpoint(job, job.run_dir)
    llava = load_trainable(resolved, location, fully=full)
    policy = build_policy(
        llava,
        resolved.model,
        temperature=config.sampling.temperature,
        init_adapter=location.adapter,
        critic=config.ppo.critic,
        critic_init=_critic_adapter(config),
    )
    scorer = build_scorer(job, llava, share_base_model=not full)
    records = fitting(config, llava, records, root)
    if isinstance(scorer, LlavaReward) and scorer.llava is not llava:
        records = fitting(config, scorer.llava, records, root)
    prompts = prompt_batch(records, llava.builder, root, max_tokens=config.data.max_prompt_tokens)
    with metrics_writer(job, job.run_dir, checkpoint, SUMMARY_METRICS) as writer:
        trainer = PPOTrainer(config, policy, scorer, prompts, writer, job.run_dir)
        if checkpoint:
            trainer.restore(checkpoint)
        print_model_summary(llava, steps=trainer.planned_steps)
        with profiled(job, location, trainer) as profile:
            trainer.run()
    last_metrics = {x: trainer.metrics[x] for x in SUMMARY_METRICS if x in trainer.metrics}
    metrics = {
        "iterations": trainer.iteration,
        "skipped_steps": trainer.updater.skipped_steps,
        **last_metrics,
    }
    save_trained(job, "ppo", llava, metrics)
    policy.critic.save(job.run_dir)
    return metrics | profile | {"warnings": trainer.warnings}


def _critic_adapter(config: Config) -> Path | None:
    """Return the adapter of the reward model if the critic starts from it, else None.

    Raises:
        UsageError: the reward model has no adapter, or the critic has none to load it into.
    """
    if config.ppo.critic_init == "model":
        return None
    directory, card = RewardCard.read(config.reward.path)
    if card.kind != "llava_head" or not card.adapter or config.ppo.critic.startswith("shared"):
        raise UsageError(
            "the critic cannot start from the reward model",
            f"ppo.critic_init=reward ppo.critic={config.ppo.critic}",
            "train the reward model with reward.train=lora, and use ppo.critic=adapter or separate",
        )
    return directory / "adapter"


def _check_kl(ppo: PPOConfig) -> None:
    """Refuse a KL penalty whose gradient is not the gradient of the KL to the reference."""
    placement, kind = kl_choice(ppo)
    try:
        check_kl_choice(placement, kind)
    except ValueError as error:
        raise UsageError(
            f"this KL penalty does not lead to the optimum: {error}",
            f"ppo.kl_placement={placement} ppo.kl_estimator={kind}",
            "leave ppo.kl_estimator empty for the valid one",
        ) from None
    if ppo.advantage_estimator == "grpo" and placement == "loss":
        say(
            "grpo divides scores by their standard deviation, but not the KL: "
            "ppo.kl_coef is not in reward units here"
        )
