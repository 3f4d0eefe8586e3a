"""`rlhf ppo`: train a policy with PPO against a reward model."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from rlhf.commands.job import Job
from rlhf.commands.model_setup import (
    load_trainable,
    named_judge,
    named_reward,
    print_model_summary,
    resolve_model,
)
from rlhf.commands.ppo_profile import profiled
from rlhf.commands.resume import resume_checkpoint
from rlhf.commands.training_run import training_run
from rlhf.config.schema import Config
from rlhf.data.evaluation_split import read_training_prompts
from rlhf.data.record_set import Prompts
from rlhf.diagnostics.report import check_quick
from rlhf.errors import UsageError
from rlhf.evaluation.prompt_tests import PROMPT_TESTS
from rlhf.models.policy import build_policy
from rlhf.parallel.world import ALONE, World
from rlhf.ppo.options import check_training_options
from rlhf.ppo.trainer import PPOTrainer
from rlhf.rewards.reward_card import RewardCard
from rlhf.storage.json_files import JsonObject, read_json_or
from rlhf.tracking.console import say


def ppo(job: Job) -> dict[str, Any]:
    """Train a policy with PPO against a reward model; write adapter/ or model/ to the run.

    Returns:
        Iterations, skipped steps, the SUMMARY_METRICS of the last iteration, the profile if
        `ppo.profile` asks for one, and how often each health warning was raised.
    """
    config = job.config
    check_quick(config)
    world = job.world or ALONE
    _check_profile(config, world)
    check_training_options(config.ppo, config.sampling)
    records, root = read_training_prompts(config)
    if not job.scorer:
        _say_verdict(*RewardCard.read(config.reward.path))  # fails before a model loads
    (resolved, location), full = resolve_model(job), config.model.train == "full"
    checkpoint = resume_checkpoint(job, job.run_dir)
    llava = load_trainable(resolved, location, fully=full, stage="ppo")
    policy = build_policy(
        llava,
        resolved.model,
        temperature=config.sampling.temperature,
        init_adapter=location.adapter,
        critic=config.ppo.critic,
        critic_head=config.ppo.critic_head,
        critic_init=_critic_adapter(config),
    )
    limit, too_long = config.data.max_prompt_tokens, config.data.on_too_long
    trainer = PPOTrainer(
        policy,
        named_reward(job, llava),
        Prompts(records, root, max_prompt_tokens=limit, on_too_long=too_long),
        config.ppo,
        judge=named_judge(job, llava),
        sampling=config.sampling,
        seed=config.seed,
        run_dir=job.run_dir,
        run_config=config,
        world=world,
    )
    with training_run(job, trainer, checkpoint):
        print_model_summary(llava, steps=trainer.planned_steps)
        with profiled(job, location, trainer) as profile:
            trainer.run()
    trainer.save()
    return trainer.summary() | profile | {"warnings": trainer.warnings}


def _say_verdict(reward_model: Path, card: RewardCard) -> None:
    """Repeat what `rlhf reward` found out about the reward model, if its run or its card has it."""
    with suppress(KeyError, TypeError):
        found = read_json_or(reward_model.parent / "summary.json", JsonObject())
        share, low, high = (
            100 * found[name] for name in ("reward_model_accuracy", "accuracy_low", "accuracy_high")
        )
        interval = f"95 %: {low:.1f} to {high:.1f}"
        verdicts = "; ".join(
            f"{test.title.lower()}: {found[test.key]}" for test in PROMPT_TESTS if test.key in found
        )
        say(f"reward model: right in {share:.1f} % of held-out pairs ({interval}); {verdicts}")
    if learnt := card.training.get("learnt"):
        say(f"reward model: {learnt}")


def _check_profile(config: Config, world: World) -> None:
    """Refuse to profile several processes, whose measurements would be written over each other."""
    if config.ppo.profile and world.size > 1:
        what, fix = "only a run on one process is profiled", "leave ppo.profile out"
        raise UsageError(what, f"ppo.profile={config.ppo.profile}, {world.size} processes", fix)


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
